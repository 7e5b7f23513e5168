"""The parts of an adaptive network, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Sequence

import numpy as np

from sr_deploy.core.device import usable_cores
from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.parts import AdaptivePlan, OpenParts, Part, PlanPart
from sr_deploy.core.session import BackendInfo
from sr_deploy.runtime.graph_probe import DTYPES
from sr_deploy.runtime.ort import raw_session
from sr_deploy.runtime.ort_device import COPIES_WITHIN, OrtDevice
from sr_deploy.runtime.ort_providers import onnxruntime_module


def open_ort_parts(folder: Path, plan: AdaptivePlan, device: OrtDevice) -> OpenParts:
    """Open the parts of a plan on one device. Raises ArtifactError for other tensors."""
    device.copies = COPIES_WITHIN
    version, threads = onnxruntime_module().__version__, usable_cores()
    info = BackendInfo(device.provider.backend, version, threads, device)
    parts = {role: _open(folder / part.file, part, device) for role, part in plan.parts.items()}
    return OpenParts(parts, info)


def _open(path: Path, part: PlanPart, device: OrtDevice) -> Part:
    session = raw_session(str(path), alone=False, device=device)
    _check_ends(path, part, session)
    dtypes = {end.name: DTYPES[end.type] for end in session.get_inputs()}
    observed = device.is_cpu

    def run(**inputs: Any) -> List[np.ndarray]:
        nonlocal observed
        arrays = {name: np.ascontiguousarray(x, dtypes[name]) for name, x in inputs.items()}
        try:
            outputs: List[np.ndarray] = session.run(None, arrays)
        except Exception as e:  # onnxruntime's errors share no base class
            raise device.error(path.name, e) from e
        if not observed:
            observed = True
            device.observe(session)
        return outputs

    return run


def _check_ends(path: Path, part: PlanPart, session: Any) -> None:
    """Raise ArtifactError unless a graph has the tensors of its plan."""
    for ends, shapes in (
        (session.get_inputs(), part.inputs),
        (session.get_outputs(), part.outputs),
    ):
        same = [end.name for end in ends] == list(shapes) and all(
            end.type in DTYPES and _fits(end.shape, shapes[end.name]) for end in ends
        )
        if not same:
            found = ", ".join(f"{end.name} {end.shape}" for end in ends)
            raise ArtifactError(
                f"{path} does not fit its plan: it has {found}", hint="export it again"
            )


def _fits(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    return len(found) == len(expected) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(found, expected)
    )
