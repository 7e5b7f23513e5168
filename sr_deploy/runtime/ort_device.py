"""ONNX Runtime's device of a session: the CPU, or a GPU by one of its execution providers."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.device import gpu_present
from sr_deploy.core.errors import CannotRunHereError, DeviceMemoryError, MissingPackageError
from sr_deploy.core.providers import PROVIDERS, Provider, default_provider
from sr_deploy.core.run_options import Device, RunOptions
from sr_deploy.core.session import PeakMemory
from sr_deploy.runtime.adaptive.tiles import HostArrays, TorchArrays
from sr_deploy.runtime.cuda import OUT_OF_MEMORY, Cuda, cuda
from sr_deploy.runtime.gpu_arrays import GpuArrays
from sr_deploy.runtime.ort_profile import NodeRuns, read_profile
from sr_deploy.runtime.ort_providers import onnxruntime_module, short_reason, why_unusable
from sr_deploy.runtime.tensorrt_engine import MEMORY_DEFINITION
from sr_deploy.runtime.torch_device import CudaDevice, torch_with_cuda

CPU = PROVIDERS["onnxruntime"]
COPIES_WITHIN = "copies timed with it"
Shape = Tuple[int, ...]
Ran = Tuple[np.ndarray, float, Optional[float]]
"""An output, the time of the run, and that of the copies if it is apart, in ms."""


class OrtDevice:
    """The CPU, or a device to which onnxruntime copies arrays by itself, within a run's time."""

    def __init__(self, provider: Provider = CPU, index: int = 0, why_cpu: str = "") -> None:
        self.provider, self.index, self.why_cpu = provider, index, why_cpu
        self.is_cpu = provider.device == "cpu"
        self.place = str(Device(provider.device, index))
        self.name = "" if self.is_cpu else f"{provider.name}, device {index}"
        self.copies = COPIES_WITHIN
        self._driven: Tuple[str, ...] = ()
        self._elsewhere: List[str] = []
        self.torch_stream: Any = None

    @property
    def settings(self) -> Tuple[str, ...]:
        """How the device is driven, and the nodes that it does not run; empty for the CPU."""
        return () if self.is_cpu else (*self._driven, self.copies, *self._elsewhere)

    def providers(self, *, fp16: bool) -> List[Any]:
        """Return the argument `providers` of InferenceSession. fp16: the graph's type."""
        if self.is_cpu or self.provider.device == "coreml":
            return [self.provider.name]
        return [(self.provider.name, {"device_id": str(self.index)})]

    def run(self, session: Any, x: np.ndarray, y_shape: Shape, y_dtype: str) -> Ran:
        """Run on a contiguous array of the graph's type: (y, ms, ms of the copies or None)."""
        start = time.perf_counter()
        y = np.empty(y_shape, y_dtype)
        binding = session.io_binding()
        for bind, end, array in (
            (binding.bind_input, session.get_inputs()[0], x),
            (binding.bind_output, session.get_outputs()[0], y),
        ):
            bind(end.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        session.run_with_iobinding(binding)
        return y, (time.perf_counter() - start) * 1000, None

    def run_tensor(self, session: Any, x: Any, y_shape: Shape, dtypes: Sequence[str]) -> Any:
        """Run on a float32 tensor of torch's that is on the GPU, without waiting.

        dtypes: of the graph's input and output. Only where `torch_stream` is set.
        """
        raise NotImplementedError

    def arrays(self) -> HostArrays:
        """Return where the maps between the parts of an adaptive network live: on the GPU only if
        something here can cut tiles there."""
        return HostArrays()

    def release(self) -> None:
        """Free the memory that is kept between runs."""

    def observe(self, session: Any) -> NodeRuns:
        """Return what the profiled first run of a session ran, and record what ran elsewhere.

        Raises CannotRunHereError if the provider ran nothing.
        """
        profile = Path(session.end_profiling())
        nodes = read_profile(profile)
        profile.unlink()
        name = self.provider.name
        if name not in nodes.providers:
            count = sum(map(len, nodes.providers.values()))
            raise CannotRunHereError(
                f"onnxruntime would run all {count} nodes on the CPU instead of by {name}",
                hint="give --device cpu, if that is what you want",
            )
        elsewhere = nodes.describe_elsewhere(name)
        if elsewhere and elsewhere not in self._elsewhere:
            self._elsewhere.append(elsewhere)
        return nodes

    def reset_peak_memory(self) -> None: ...

    def peak_memory(self) -> Optional[PeakMemory]:
        return None

    def error(self, what: str, cause: Exception) -> CannotRunHereError:
        """Return the error for a failed run of `what`."""
        reason = short_reason(cause)
        if not self.is_cpu and _is_out_of_memory(str(cause)):
            return DeviceMemoryError(
                f"{self.name} ({self.place}) is out of memory while onnxruntime runs {what}: "
                f"{reason}",
                hint="use smaller images, tiles or networks, or end other programs on the GPU",
            )
        hint = "" if self.is_cpu else "give --device cpu, if this GPU is not supported"
        return CannotRunHereError(f"onnxruntime could not run {what}: {reason}", hint=hint)


class OrtCuda(OrtDevice):
    """An NVIDIA GPU: tensors are bound to its memory, and their copies are timed apart.

    Where torch can use the GPU, ONNX Runtime computes on a stream of torch's, so that tensors can
    be handed over without waiting.
    """

    def __init__(self, provider: Provider, index: int) -> None:
        super().__init__(provider, index)
        self._cuda = _cuda_binding(index)
        self._torch = torch_with_cuda(index)
        if self._torch is not None:
            self.torch_stream = self._torch.cuda.Stream(index)
        self.name = self._gpu_name()
        # TensorRT may use TF32 in FP32 graphs, and ONNX Runtime cannot forbid it.
        tf32 = "TF32 off" if provider.name == "CUDAExecutionProvider" else "TF32 as TensorRT likes"
        self._driven, self.copies = (tf32, "waits after each run"), "copies apart"
        self._free_before, _ = self._memory()
        self._ends: Any = None

    def providers(self, *, fp16: bool) -> List[Any]:
        common = {"device_id": str(self.index)}
        if self.torch_stream is not None:
            common["user_compute_stream"] = str(self.torch_stream.cuda_stream)
        # The arena grows to what is needed, not to powers of two: memory is measured.
        cuda_options = {**common, "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
        own = {
            "CUDAExecutionProvider": cuda_options,
            "TensorrtExecutionProvider": {**common, "trt_fp16_enable": str(fp16)},
        }
        providers = [(self.provider.name, own.get(self.provider.name, common))]
        if self.provider.name == "TensorrtExecutionProvider":
            providers.append(("CUDAExecutionProvider", cuda_options))
        return providers

    def run(self, session: Any, x: np.ndarray, y_shape: Shape, y_dtype: str) -> Ran:
        start = time.perf_counter()
        binding, x_device, y_device = self._bound(session, x, y_shape, y_dtype)
        x_device.update_inplace(x)
        before = time.perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        after = time.perf_counter()
        y = y_device.numpy()
        copies_s = before - start + time.perf_counter() - after
        return y, (after - before) * 1000, copies_s * 1000

    def release(self) -> None:
        self._ends = None

    def run_tensor(self, session: Any, x: Any, y_shape: Shape, dtypes: Sequence[str]) -> Any:
        torch, stream = self._torch, self.torch_stream
        x_dtype, y_dtype = (getattr(torch, name) for name in dtypes)
        current = torch.cuda.current_stream(self.index)
        stream.wait_stream(current)
        with torch.inference_mode(), torch.cuda.device(self.index), torch.cuda.stream(stream):
            x = x.to(x_dtype).contiguous()
            y = torch.empty(y_shape, dtype=y_dtype, device=x.device)
            binding = session.io_binding()
            for bind, end, tensor, dtype in (
                (binding.bind_input, session.get_inputs()[0], x, dtypes[0]),
                (binding.bind_output, session.get_outputs()[0], y, dtypes[1]),
            ):
                shape = tuple(tensor.shape)
                bind(end.name, "cuda", self.index, np.dtype(dtype), shape, tensor.data_ptr())
            options = onnxruntime_module().RunOptions()
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
            session.run_with_iobinding(binding, options)
            y = y.to(torch.float32)
        current.wait_stream(stream)
        return y

    def arrays(self) -> HostArrays:
        if self._torch is not None:
            return TorchArrays(CudaDevice(self.index, harness=False))
        return HostArrays() if self._cuda is None else GpuArrays(self._cuda)

    def peak_memory(self) -> Optional[PeakMemory]:
        free, total = self._memory()  # the arena does not shrink
        if not total:
            return None
        rise = max(self._free_before - free, 0)
        return PeakMemory(rise / 2**20, MEMORY_DEFINITION, (total - free) / 2**20, free / 2**20)

    def _memory(self) -> Tuple[int, int]:
        """Return the driver's free and total memory; 0 where nothing tells it."""
        if self._cuda is not None:
            return self._cuda.free_memory()
        if self._torch is not None:
            free, total = self._torch.cuda.mem_get_info(self.index)
            return free, total
        return 0, 0

    def _bound(self, session: Any, x: np.ndarray, y_shape: Shape, y_dtype: str) -> Any:
        """Return the binding and the tensors on the GPU, which are kept until the size changes."""
        if self._ends is None or self._ends[0] != x.shape:
            self._ends = None  # frees them before new ones are allocated
            make = onnxruntime_module().OrtValue.ortvalue_from_shape_and_type
            x_device = make(x.shape, x.dtype, "cuda", self.index)
            y_device = make(y_shape, np.dtype(y_dtype), "cuda", self.index)
            binding = session.io_binding()
            binding.bind_ortvalue_input(session.get_inputs()[0].name, x_device)
            binding.bind_ortvalue_output(session.get_outputs()[0].name, y_device)
            self._ends = x.shape, (binding, x_device, y_device)
        return self._ends[1]

    def _gpu_name(self) -> str:
        if self._cuda is not None:
            return self._cuda.gpu_name()
        if self._torch is not None:
            return self._torch.cuda.get_device_name(self.index)
        return f"NVIDIA GPU {self.index}"


def ort_device(run: RunOptions) -> OrtDevice:
    """Return the requested device; without a request GPU 0 if it can be used, else the CPU.

    Raises CannotRunHereError where ONNX Runtime cannot use the requested device.
    """
    provider, requested = run.requested_provider, run.requested_device
    if provider is None:
        if not gpu_present():
            return OrtDevice()
        provider = default_provider("cuda")
        reason, _ = why_unusable(provider, 0)
        if reason:
            return OrtDevice(why_cpu=f"onnxruntime cannot use the GPU: {reason}")
    index = 0 if requested is None else requested.index
    reason, hint = why_unusable(provider, index)
    if reason:
        where = Device(provider.device, index)
        raise CannotRunHereError(f"{provider.backend} cannot run on {where}: {reason}", hint=hint)
    return OrtCuda(provider, index) if provider.library else OrtDevice(provider, index)


def _is_out_of_memory(text: str) -> bool:
    marks = ("Failed to allocate memory", "Available memory of", *OUT_OF_MEMORY)
    return any(mark in text for mark in marks)


def _cuda_binding(index: int) -> Optional[Cuda]:
    """Return the connection that tells name and memory; None without a CUDA binding."""
    with contextlib.suppress(MissingPackageError, CannotRunHereError):
        return cuda(index)
    return None
