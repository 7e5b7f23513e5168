"""The accuracy check: does an engine compute the same as its graph?"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from sr_deploy.core.errors import BuildError
from sr_deploy.core.metrics import MIN_FP16_PSNR_DB, psnr_unit

MAX_MORE_CLIPPED = 0.01
"""How much larger than the reference's the share of values outside 0..1 may be."""


def compare_outputs(
    outputs: Sequence[np.ndarray], references: Sequence[np.ndarray]
) -> Dict[str, Any]:
    """Compare outputs with FP32 references, (1, 3, H, W) float each. The worst image counts.

    Raises BuildError when the shapes differ or a reference is not finite.
    """
    psnr_db, not_finite, dead, more_clipped = 120.0, 0, False, 0.0
    for y, reference in zip(outputs, references):
        if y.shape != reference.shape:
            raise BuildError(f"the engine returned {y.shape}; its graph returns {reference.shape}")
        y, reference = y.astype(np.float32), reference.astype(np.float32)
        if not np.isfinite(reference).all():
            problem = "the graph's own FP32 output is not finite"
            raise BuildError(problem, hint="export the graph again")
        not_finite += int(y.size - np.isfinite(y).sum())
        y = np.nan_to_num(y, nan=0.0, posinf=1.0, neginf=0.0)
        psnr_db = min(psnr_db, psnr_unit(y, reference))
        dead = dead or bool(np.std(y) < 1e-6 < np.std(reference))
        more_clipped = max(more_clipped, _clipped(y) - _clipped(reference))
    return {
        "psnr_db_vs_fp32": round(psnr_db, 2),
        "not_finite": not_finite,
        "dead_output": dead,
        "more_clipped": round(more_clipped, 4),
        "images": len(outputs),
    }


FP16_HINT = (
    "export it again with --fallback auto, keep layers in FP32 with --fallback NODE,NODE, or "
    "export it with --precision fp32"
)


def refuse_inaccurate(
    accuracy: Dict[str, Any],
    name: str,
    min_psnr_db: float = MIN_FP16_PSNR_DB,
    hint: str = FP16_HINT,
    against: str = "FP32",
) -> None:
    """Raise BuildError when the result of `compare_outputs` is not accurate enough.

    against: what it was compared with.
    """
    problems: List[str] = []
    if accuracy["not_finite"]:
        problems.append(f"{accuracy['not_finite']} values are not finite")
    if accuracy["dead_output"]:
        problems.append("its output is one colour (black)")
    if accuracy["more_clipped"] > MAX_MORE_CLIPPED:
        problems.append(f"{accuracy['more_clipped']:.1%} more values than in FP32 are outside 0..1")
    psnr_db = accuracy["psnr_db_vs_fp32"]
    if not psnr_db >= min_psnr_db:
        expected = f"expected at least {min_psnr_db:.0f}"
        problems.append(f"{psnr_db:.1f} dB against {against}, {expected}")
    if problems:
        raise BuildError(
            f"the output of {name} differs from that of its graph: {'; '.join(problems)}",
            hint=hint,
        )


def _clipped(y: np.ndarray) -> float:
    margin = 1 / 255
    return float(((y < -margin) | (y > 1 + margin)).mean())
