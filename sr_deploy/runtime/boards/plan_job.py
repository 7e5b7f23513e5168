"""What a job holds of an adaptive network: a line, inputs and reference outputs for each part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import MissingPackageError
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.parts import AdaptivePlan, PlanPart
from sr_deploy.core.samples import sample_lr
from sr_deploy.runtime.boards.trtexec import JobLine
from sr_deploy.runtime.ort import raw_session

if TYPE_CHECKING:
    from sr_deploy.runtime.plan_build import PlanToBuild

CHECKED_SIDE = 40
CHECKED_BATCH = 2
_NUMPY = {"fp32": np.float32, "fp16": np.float16}


def draft_plan(build: PlanToBuild) -> AdaptivePlan:
    """Return the plan of the engines without what only their build can tell."""
    plan = build.plan
    parts = {
        role: replace(part, file=plan.engine_name(role), sha256="")
        for role, part in plan.parts.items()
    }
    engine = build.engine({})
    checks = {**plan.checks, "preflight": build.preflight()}
    return replace(plan, target=build.target.name, parts=parts, checks=checks, engine=engine)


def plan_text(build: PlanToBuild) -> str:
    """Return the text of the draft in the job's `desk/`."""
    return to_json(draft_plan(build))


def plan_lines(build: PlanToBuild) -> List[JobLine]:
    """Return the lines of job.txt, one for each part."""
    plan, typing = build.plan, "strong" if build.target.fp16_graph == "fp16" else "weak"
    return [
        JobLine(
            part.file,
            plan.engine_name(role),
            plan.precision_of(role),
            typing,
            part.shapes(1),
            (part.shapes(0), part.shapes(1), part.shapes(2)) if part.sizes else None,
            _checked_shapes(part),
        )
        for role, part in plan.parts.items()
    ]


def write_plan_files(folder: Path, build: PlanToBuild) -> None:
    """Write the inputs of each part, and what its graph gives for them.

    Nothing where onnxruntime is missing. Inputs are what earlier parts give, as far as they do.
    """
    plan = build.plan
    known: Dict[str, np.ndarray] = {}
    try:
        for role, part in plan.parts.items():
            inputs = _sample_inputs(plan, part, known)
            for i, array in enumerate(inputs.values()):
                array.tofile(str(folder / f"{part.file}.{i}.bin"))
            session = raw_session(str(build.source.parent / part.file))
            outputs = dict(zip(part.outputs, session.run(list(part.outputs), inputs)))
            for i, y in enumerate(outputs.values()):
                path = folder / "desk" / f"{plan.engine_name(role)}.{i}.npy"
                np.save(str(path), y.astype(np.float32))
            known.update({name: y for name, y in outputs.items() if y.ndim == 4})
    except MissingPackageError:
        return


def _checked_shapes(part: PlanPart) -> Dict[str, Tuple[int, ...]]:
    """Return the inputs' shapes for the accuracy check, whose outputs come back as text."""
    sizes = {}
    for name, (low, _, high) in part.sizes.items():
        side = min(max(CHECKED_BATCH if name == "N" else CHECKED_SIDE, low), high)
        sizes[name] = (low, side, high)
    return replace(part, sizes=sizes).shapes(1)


def _sample_inputs(
    plan: AdaptivePlan, part: PlanPart, known: Dict[str, np.ndarray]
) -> Dict[str, np.ndarray]:
    """Return values that a part may get. known: what earlier parts gave, by name."""
    inputs = {}
    for name, shape in _checked_shapes(part).items():
        dtype = _NUMPY[part.dtypes.get(name, "fp32")]
        inputs[name] = np.ascontiguousarray(_sample(plan, name, shape, known), dtype)
    return inputs


def _sample(
    plan: AdaptivePlan, name: str, shape: Sequence[int], known: Dict[str, np.ndarray]
) -> Any:
    if len(shape) < 4:  # a desired depth
        return np.full(shape, getattr(plan, "blocks", 2) / 2)
    same = [y for y in known.values() if y.shape[1] == shape[1]]
    if name in known or (same and shape[1] > 3):
        return _fitted(known[name] if name in known else same[0], shape)
    if shape[1] == 3:
        photographs = [nchw_from_rgb(rgb) for rgb in sample_lr(shape[2:], count=shape[0])]
        return np.resize(np.concatenate(photographs), shape)
    # A map of where the image is, or features that no part gives.
    ones = np.ones(shape, np.float32)
    ones[..., :1, :] = 0
    random = np.random.default_rng(0).standard_normal(shape)
    return ones if shape[1] == 1 else random


def _fitted(y: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Cut or mirror an array to a shape of as many channels."""
    missing = [(0, max(n - have, 0)) for n, have in zip(shape, y.shape)]
    y = np.pad(y, missing, mode="symmetric")
    return y[: shape[0], :, : shape[2], : shape[3]]
