"""The parts of an adaptive network, run by OpenVINO.

On a GPU of Intel's this was never run.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

import numpy as np

from sr_deploy.core.device import usable_cores
from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.parts import AdaptivePlan, OpenParts, PlanPart
from sr_deploy.core.precisions import precision_of_counts
from sr_deploy.core.session import BackendInfo, PeakMemory
from sr_deploy.runtime.openvino_session import (
    Layers,
    OpenVinoDevice,
    compiled_graph,
    imported_engine,
    layers_of,
    openvino_module,
    openvino_version,
    run_error,
)


@dataclass(frozen=True)
class HostedGpu:
    """A GPU to which OpenVINO copies arrays by itself, within a run's time."""

    name: str
    place: str
    why_cpu: str = ""
    settings: Tuple[str, ...] = ("copies timed with it",)

    def release(self) -> None: ...

    def reset_peak_memory(self) -> None: ...

    def peak_memory(self) -> Optional[PeakMemory]:
        return None


def open_openvino_parts(folder: Path, plan: AdaptivePlan, device: OpenVinoDevice) -> OpenParts:
    """Open the parts of a plan on a device: engines, or graphs, which are compiled first.

    Each part compiles kernels for every shape that it meets, and keeps those of the latest ones.
    """
    parts = {}
    workers = usable_cores() if device.is_cpu and plan.concurrent else 1
    for role, part in plan.parts.items():
        asked, path = plan.precision_of(role), folder / part.file
        streams = workers if role in plan.concurrent else 1
        if plan.engine is None:
            open_model = partial(compiled_graph, str(path), asked, device, part.file, streams)
        else:
            open_model = partial(
                imported_engine, path.read_bytes(), asked, device, str(path), streams
            )
        parts[role] = OpenVinoPart(open_model, part, device)
    layers = [opened.layers.precisions for opened in parts.values()]
    kinds = {kind for counts in layers for kind in counts}
    counts = {kind: sum(each.get(kind, 0) for each in layers) for kind in sorted(kinds)}
    backend = "openvino" if device.is_cpu else "openvino-gpu"
    info = BackendInfo(
        backend,
        openvino_version(),
        usable_cores(),
        None if device.is_cpu else HostedGpu(device.full_name, device.place),
        precision=precision_of_counts(counts) or "fp32",
        workers=workers,
    )
    return OpenParts(dict(parts), info)


class OpenVinoPart:
    """A compiled part. Calls take arrays by name and return new ones.

    Each thread has a request of its own, which the others do not wait for.
    """

    layers: Layers
    """What computes in which precision."""

    def __init__(
        self, open_model: Callable[[], Any], part: PlanPart, device: OpenVinoDevice
    ) -> None:
        """open_model: compiles or imports the model. It is called again after a failed run.

        Raises ArtifactError for a model with other inputs or outputs than `part` has.
        """
        self._open_model, self._part = open_model, part
        self._where = "" if device.is_cpu else device.full_name
        self._compiled = self._opened()
        self._of_thread = threading.local()

    def _opened(self) -> Any:
        compiled, part = self._open_model(), self._part
        self.layers = layers_of(compiled)
        for ends, shapes in ((compiled.inputs, part.inputs), (compiled.outputs, part.outputs)):
            if [end.any_name for end in ends] != list(shapes):
                found = ", ".join(end.any_name for end in ends)
                raise ArtifactError(
                    f"{part.file} does not fit its plan: it has {found}", hint="export it again"
                )
        self._types = {
            end.any_name: end.get_element_type().to_dtype()
            for end in (*compiled.inputs, *compiled.outputs)
        }
        return compiled

    def _request(self) -> Any:
        """Return the request of this thread, which a failed run ends."""
        request = getattr(self._of_thread, "request", None)
        if request is None:
            if self._compiled is None:
                self._compiled = self._opened()
            request = self._of_thread.request = self._compiled.create_infer_request()
        return request

    def __call__(self, **inputs: Any) -> List[np.ndarray]:
        request, tensor = self._request(), openvino_module().Tensor
        arrays = {name: np.ascontiguousarray(x, self._types[name]) for name, x in inputs.items()}
        shapes = self._part.output_shapes({name: x.shape for name, x in arrays.items()})
        outputs = [
            np.empty(shape, self._types[name])
            for name, shape in zip(self._part.outputs, shapes or [])
        ]
        try:
            # The request does not own these arrays: all stay referenced until it has run.
            for name, x in arrays.items():
                request.set_tensor(name, tensor(x, shared_memory=True))
            for name, y in zip(self._part.outputs, outputs):
                request.set_tensor(name, tensor(y, shared_memory=True))
            request.infer()
            if shapes is None:
                outputs = [np.array(request.get_tensor(n).data) for n in self._part.outputs]
        except RuntimeError as e:
            self._compiled, self._of_thread = None, threading.local()  # see OpenVinoSession
            raise run_error(self._part.file, self._where, e) from e
        return outputs
