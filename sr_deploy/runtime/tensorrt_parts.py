"""The parts of an adaptive network as engines of TensorRT, on arrays that stay on the GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.parts import AdaptivePlan, OpenParts, PlanPart
from sr_deploy.core.session import BackendInfo, PeakMemory
from sr_deploy.runtime.cuda import Cuda
from sr_deploy.runtime.gpu_arrays import GpuArray, GpuArrays
from sr_deploy.runtime.tensorrt_engine import (
    GpuMemory,
    deserialize_engine,
    library_log,
    run_error,
    tensor_dtype,
)


class EngineDevice:
    """The GPU of a plan's engines, as `BackendInfo.device`."""

    why_cpu = ""
    settings = ("no CUDA graph", "one stream", "waits after each part", "copies timed with it")

    def __init__(self, gpu: Cuda) -> None:
        self.name, self.place = gpu.gpu_name(), f"cuda:{gpu.index}"
        self.memory = GpuMemory(gpu)
        self.parts: List[EnginePart] = []

    def release(self) -> None:
        for part in self.parts:
            part.release()

    def reset_peak_memory(self) -> None:
        self.memory.reset()

    def peak_memory(self) -> Optional[PeakMemory]:
        return self.memory.peak()


class EnginePart:
    """An engine with named inputs and outputs. It takes arrays of either kind, and gives arrays on
    the GPU, which have been computed when it returns."""

    def __init__(
        self, trt: Any, path: Path, part: PlanPart, arrays: GpuArrays, gpu: Cuda, *, title: str
    ) -> None:
        """Raises ArtifactError for other tensors, CannotRunHereError."""
        self._name, self._title, self._part = path.name, title, part
        self._arrays, self._gpu, self._log = arrays, gpu, library_log(trt)
        self._engine = deserialize_engine(trt, path, self._log, title)
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        expected = [*part.inputs, *part.outputs]
        if sorted(names) != sorted(expected):
            raise ArtifactError(
                f"{path.name} does not fit its plan: it has the tensors {', '.join(names)}; "
                f"expected {', '.join(expected)}",
                hint="build it again",
            )
        tiles = all(shape[0] == "N" for shape in (*part.inputs.values(), *part.outputs.values()))
        self._batch = part.sizes["N"][2] if tiles else 0
        """The most tiles that it takes; 0 if it takes no tiles."""
        self._dtypes = {name: np.dtype(tensor_dtype(self._engine, name)) for name in names}
        self._context = self._engine.create_execution_context()
        if self._context is None:
            hint = "free some of the GPU's memory"
            raise run_error(self._log, f"{title} could not prepare {path.name}", hint)

    def __call__(self, **inputs: Any) -> List[GpuArray]:
        """Raises InputError for a size that it was not built for, DeviceMemoryError.

        More tiles than the engine takes are run in turns.
        """
        self._gpu.activate()
        self._log.messages.clear()
        taken = {name: self._taken(name, inputs[name]) for name in self._part.inputs}
        count = max(array.shape[0] for array in taken.values())
        outputs: Dict[str, GpuArray] = {}
        for first in range(0, count, self._batch or count):
            self._run(taken, outputs, first, count)
        self._gpu.synchronize()
        return [outputs[name] for name in self._part.outputs]

    def _run(
        self, taken: Dict[str, GpuArray], outputs: Dict[str, GpuArray], first: int, count: int
    ) -> None:
        """Queue the tiles from `first` on, as many as the engine takes; add to `outputs`."""
        bound: Dict[str, GpuArray] = {}
        for name, array in taken.items():
            bound[name] = array.items(first, self._batch or count) if self._batch else array
            if not self._context.set_input_shape(name, bound[name].shape):
                raise self._refused(name, bound[name].shape)
        for name in self._part.outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            if -1 in shape:
                raise run_error(self._log, f"{self._title} does not tell the shape of {name}")
            if name not in outputs:
                whole = (count, *shape[1:]) if self._batch else shape
                outputs[name] = self._arrays.empty(whole, np.empty(0, self._dtypes[name]))
            bound[name] = outputs[name].items(first, shape[0]) if self._batch else outputs[name]
        for name, array in bound.items():
            if not self._context.set_tensor_address(name, array.address):
                raise run_error(self._log, f"{self._title} refused the memory of {name}")
        if not self._context.execute_async_v3(self._gpu.stream):
            raise run_error(self._log, f"{self._title} failed to run {self._name}")

    def release(self) -> None:
        self._gpu.activate()
        self._context = self._engine = None

    def _taken(self, name: str, values: Any) -> GpuArray:
        """Return an input as an array on the GPU of the engine's type."""
        if not isinstance(values, GpuArray):
            values = np.asarray(values).astype(self._dtypes[name], copy=False)
            return self._arrays.to_device(values)
        if values.dtype != self._dtypes[name]:
            raise ArtifactError(
                f"{self._name} does not fit its plan: its {name} is {self._dtypes[name]}, and the "
                f"part before it gives {values.dtype}",
                hint="export and build it again",
            )
        return values

    def _refused(self, name: str, shape: Sequence[int]) -> InputError:
        low, _, high = ([*self._part.shapes(i)[name]] for i in range(3))
        return InputError(
            f"{self._name} takes {name} from {_text(low)} to {_text(high)}, not {_text(shape)}",
            hint="use smaller images or tiles (--tile), or export it for larger sizes",
        )


def open_engine_parts(
    library: Tuple[Any, str], folder: Path, plan: AdaptivePlan, gpu: Cuda, *, title: str
) -> OpenParts:
    """Open the engines of a plan on one GPU.

    library: the module, and the name of its backend. Raises ArtifactError for an engine with other
    tensors than the plan's.
    """
    trt, backend = library
    device, arrays = EngineDevice(gpu), GpuArrays(gpu)
    made = plan.engine
    precision = made.precision_obtained if made else ""
    info = BackendInfo(
        backend, trt.__version__, None, device, precision=precision or "unknown", arrays=arrays
    )
    parts: Dict[str, Any] = {}
    for role, part in plan.parts.items():
        device.parts.append(EnginePart(trt, folder / part.file, part, arrays, gpu, title=title))
        parts[role] = device.parts[-1]
    device.memory.watch()
    return OpenParts(parts, info)


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
