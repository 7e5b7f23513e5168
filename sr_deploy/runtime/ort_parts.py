"""The parts of an adaptive network, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from sr_deploy.core.device import usable_cores
from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.parts import AdaptivePlan, OpenParts, Part, PlanPart
from sr_deploy.core.precisions import is_quantised
from sr_deploy.core.session import BackendInfo
from sr_deploy.runtime.adaptive.tiles import HostArrays
from sr_deploy.runtime.graph_probe import DTYPES
from sr_deploy.runtime.ort import raw_session
from sr_deploy.runtime.ort_device import COPIES_WITHIN, OrtDevice
from sr_deploy.runtime.ort_profile import NodeRuns
from sr_deploy.runtime.ort_providers import onnxruntime_module


def open_ort_parts(folder: Path, plan: AdaptivePlan, device: OrtDevice) -> OpenParts:
    """Open the parts of a plan on one device. Raises ArtifactError for other tensors."""
    device.copies, arrays = COPIES_WITHIN, device.arrays()
    version, threads = onnxruntime_module().__version__, usable_cores()
    precision = plan.engine.precision_obtained if plan.engine else plan.graph_precision
    if device.is_cpu and not is_quantised(precision) or not precision:
        precision = "fp32"  # the CPU computes FP16 graphs in FP32 too
    backend = device.provider.backend
    workers = threads if device.is_cpu and plan.concurrent else 1
    info = BackendInfo(
        backend, version, threads, device, precision=precision, workers=workers, arrays=arrays
    )
    parts: Dict[str, Part] = {}
    for role, part in plan.parts.items():
        path = folder / part.file
        if type(arrays) is HostArrays:
            parts[role] = _open(path, part, device, alone=role in plan.concurrent)
        else:
            parts[role] = _open_bound(path, part, device, arrays)
    return OpenParts(parts, info)


def observed_part(path: Path, part: PlanPart, device: OrtDevice) -> NodeRuns:
    """Run a part once at its smallest sizes on a GPU; return what ran where, and in what."""
    session = _session(path, part, device)
    types = {end.name: DTYPES[end.type] for end in session.get_inputs()}
    session.run(None, {name: np.ones(n, types[name]) for name, n in part.shapes(0).items()})
    return device.observe(session)


def _session(path: Path, part: PlanPart, device: OrtDevice, threads: Optional[int] = None) -> Any:
    fp16 = part.dtype == "fp16"
    session = raw_session(str(path), alone=False, device=device, fp16=fp16, threads=threads)
    _check_ends(path, part, session)
    return session


def _open(path: Path, part: PlanPart, device: OrtDevice, *, alone: bool) -> Part:
    """alone: whether one thread computes each call on the CPU."""
    session = _session(path, part, device, 1 if alone else None)
    types = {end.name: DTYPES[end.type] for end in session.get_inputs()}
    observed = device.is_cpu

    def run(**inputs: Any) -> List[np.ndarray]:
        nonlocal observed
        arrays = {name: np.ascontiguousarray(x, types[name]) for name, x in inputs.items()}
        try:
            outputs: List[np.ndarray] = session.run(None, arrays)
        except Exception as e:  # onnxruntime's errors share no base class
            raise device.error(path.name, e) from e
        if not observed:
            observed = True
            device.observe(session)
        return outputs

    return run


def _open_bound(path: Path, part: PlanPart, device: OrtDevice, arrays: HostArrays) -> Part:
    """Open a part that takes and gives arrays on the GPU.

    Outputs whose shapes the plan does not tell are small, and come to the host.
    """
    session = _session(path, part, device)
    ends = (*session.get_inputs(), *session.get_outputs())
    types = {end.name: np.dtype(DTYPES[end.type]) for end in ends}
    observed = False

    def run(**inputs: Any) -> List[Any]:
        nonlocal observed
        bound = {name: _taken(path, name, inputs[name], types[name], arrays) for name in inputs}
        arrays.wait()  # onnxruntime has a stream of its own
        told = part.told_shapes({name: x.shape for name, x in bound.items()})
        outputs = {
            name: None if shape is None else arrays.blank(shape, types[name])
            for name, shape in told.items()
        }
        binding = session.io_binding()
        for bind, values in ((binding.bind_input, bound), (binding.bind_output, outputs)):
            for name, x in values.items():
                if x is None:
                    binding.bind_output(name, "cpu")
                else:
                    shape = tuple(int(n) for n in x.shape)
                    bind(name, "cuda", device.index, types[name], shape, arrays.address(x))
        try:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as e:  # onnxruntime's errors share no base class
            raise device.error(path.name, e) from e
        if not observed:
            observed = True
            device.observe(session)
        found = zip(outputs.values(), binding.get_outputs())
        return [value.numpy() if y is None else y for y, value in found]

    return run


def _taken(path: Path, name: str, values: Any, dtype: np.dtype, arrays: HostArrays) -> Any:
    """Return an input on the GPU, of the graph's type. Raises ArtifactError for another one."""
    if isinstance(values, np.ndarray):
        return arrays.to_device(np.ascontiguousarray(values, dtype))
    if str(values.dtype).rpartition(".")[2] != dtype.name:
        raise ArtifactError(
            f"{path.name} does not fit its plan: its {name} is {dtype.name}, and the part before "
            f"it gives {values.dtype}",
            hint="export it again",
        )
    return values


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
