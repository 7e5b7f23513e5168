"""The accuracy gate: does an engine compute what its graph does?"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from sr_deploy.core.errors import BuildError
from sr_deploy.core.metrics import MIN_FP16_PSNR_DB, psnr_unit

MAX_MORE_CLIPPED = 0.01
"""The share of values that may lie outside 0..1 beyond the reference's own."""


def compared(outputs: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> Dict[str, Any]:
    """Compare an engine's outputs with FP32 references, (1, 3, H, W) float each; the worst image decides each number."""
    worst = {
        "psnr_db_vs_fp32": 120.0,
        "not_finite": 0,
        "dead_output": False,
        "more_clipped": 0.0,
        "images": len(outputs),
    }
    for y, reference in zip(outputs, references):
        if y.shape != reference.shape:
            raise BuildError(
                f"the engine returned {y.shape}, and its graph returns {reference.shape}"
            )
        y, reference = y.astype(np.float32), reference.astype(np.float32)
        if not np.isfinite(reference).all():
            raise BuildError(
                "the graph's own FP32 output is not finite: there is nothing to compare with",
                hint="export the graph again",
            )
        worst["not_finite"] += int(y.size - np.isfinite(y).sum())
        y = np.nan_to_num(y, nan=0.0, posinf=1.0, neginf=0.0)
        worst["psnr_db_vs_fp32"] = round(min(worst["psnr_db_vs_fp32"], psnr_unit(y, reference)), 2)
        worst["dead_output"] = worst["dead_output"] or bool(np.std(y) < 1e-6 < np.std(reference))
        worst["more_clipped"] = round(
            max(worst["more_clipped"], _clipped(y) - _clipped(reference)), 4
        )
    return worst


def refuse_inaccurate(found: Dict[str, Any], name: str) -> None:
    """Raise BuildError when `compared` found an output that is no image, or too far from FP32."""
    problems: List[str] = []
    if found["not_finite"]:
        problems.append(f"{found['not_finite']} values are not finite")
    if found["dead_output"]:
        problems.append("its output is one colour (black)")
    if found["more_clipped"] > MAX_MORE_CLIPPED:
        problems.append(f"{found['more_clipped']:.1%} more values than FP32's lie outside 0..1")
    if not found["psnr_db_vs_fp32"] >= MIN_FP16_PSNR_DB:
        problems.append(
            f"{found['psnr_db_vs_fp32']:.1f} dB against FP32, expected at least {MIN_FP16_PSNR_DB:.0f}"
        )
    if problems:
        raise BuildError(
            f"{name} does not compute what its graph does: {'; '.join(problems)}",
            hint="keep layers in FP32 with --fallback head-tail or --fallback NODE,NODE, or export it with --precision fp32",
        )


def _clipped(y: np.ndarray) -> float:
    margin = 1 / 255
    return float(((y < -margin) | (y > 1 + margin)).mean())
