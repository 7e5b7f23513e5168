"""torch's device of a session: the CPU, or an NVIDIA GPU with its events, copies and memory.

All calls of `torch.cuda` are in `CudaDevice`, so that a stand-in can replace them without a GPU.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Callable, ContextManager, List, Optional, Tuple

import numpy as np

from sr_deploy.core.device import gpu_present, usable_cores
from sr_deploy.core.errors import CannotRunHereError, DeviceMemoryError
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import BackendInfo, PeakMemory, TimedOutput

MEMORY_DEFINITION = (
    "torch.cuda.max_memory_allocated over opening it and its timed images, weights included"
)
TYPE = "cuda"
_MIB = 2**20


class TorchDevice:
    """The CPU."""

    place, name = "cpu", ""
    settings: Tuple[str, ...] = ()
    """How the device computes, as rows record it."""

    def __init__(self, why_cpu: str = "") -> None:
        import torch

        self.why_cpu = why_cpu
        self.where: Any = torch.device("cpu")

    def info(self) -> BackendInfo:
        """Return torch's version; limit its threads to the cores of this process."""
        import torch

        # torch counted the cores when it was first imported.
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
        return BackendInfo("torch", torch.__version__, torch.get_num_threads(), self)

    def computing(self) -> ContextManager[None]:
        """Return the context in which networks run."""
        return contextlib.nullcontext()

    def to_device(self, array: np.ndarray) -> Any:
        """Return an array as a tensor on the device."""
        import torch

        return torch.from_numpy(array)

    def to_host(self, tensor: Any) -> np.ndarray:
        return tensor.numpy()

    def timed(self, network: Callable[[Any], Any], x_nchw: np.ndarray) -> TimedOutput:
        """Run a network of tensors on an array, and time it."""
        import torch

        start = time.perf_counter()
        with torch.inference_mode():
            y = network(torch.from_numpy(x_nchw)).numpy()
        return TimedOutput(y, (time.perf_counter() - start) * 1000)

    def capture(self, network: Callable[[Any], Any], x: Any) -> Any:
        """Return a CUDA graph of a network for inputs of one size; None where there is none."""
        return None

    def reset_peak_memory(self) -> None: ...

    def peak_memory(self) -> Optional[PeakMemory]:
        return None

    def release(self) -> None:
        """Return unused memory to the driver."""


class CudaDevice(TorchDevice):
    """A GPU, and events on its current stream. The copies are pinned and timed apart."""

    def __init__(self, index: int, *, tf32: bool) -> None:
        import torch

        self.why_cpu = ""
        self._cuda = torch.cuda
        self.where = torch.device(TYPE, index)
        self.place, self._index, self._tf32 = f"cuda:{index}", index, tf32
        self.name = self._cuda.get_device_name(index)
        rounding = "convolutions may round to TF32 (torch's default)" if tf32 else "TF32 off"
        self.settings = (rounding, "cudnn.benchmark off", "copies apart")
        self._events: List[Any] = []

    @contextlib.contextmanager
    def computing(self) -> Any:
        """Set the GPU and the settings of cuDNN; out of memory becomes DeviceMemoryError."""
        import torch

        flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=self._tf32)
        try:
            with torch.inference_mode(), self._cuda.device(self._index), flags:
                yield
        except self._cuda.OutOfMemoryError as e:
            raise DeviceMemoryError(
                f"{self.name} ({self.place}) is out of memory: {str(e).splitlines()[0][:200]}",
                hint="use smaller images, tiles or networks, or end other programs on the GPU",
            ) from e

    def to_device(self, array: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(array).to(self.where)

    def to_host(self, tensor: Any) -> np.ndarray:
        return tensor.cpu().numpy()

    def timed(self, network: Callable[[Any], Any], x_nchw: np.ndarray) -> TimedOutput:
        import torch

        with self.computing():
            if not self._events:
                self._events = [self._cuda.Event(enable_timing=True) for _ in range(4)]
            before, start, end, after = self._events
            pinned = self.pinned(torch.from_numpy(x_nchw))
            before.record()
            x = pinned.to(self.where, non_blocking=True)
            start.record()
            y = network(x)
            end.record()
            result = self.pinned_like(y)
            result.copy_(y, non_blocking=True)
            after.record()
            self._cuda.synchronize(self._index)
            copies_ms = before.elapsed_time(start) + end.elapsed_time(after)
            ms = start.elapsed_time(end)
            return TimedOutput(result.numpy(), ms, copies_ms, timer="device events")

    def pinned(self, tensor: Any) -> Any:
        """Return a CPU tensor in page-locked memory."""
        return tensor.pin_memory()

    def pinned_like(self, tensor: Any) -> Any:
        """Return an empty page-locked CPU tensor of a tensor's shape and type."""
        import torch

        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)

    def capture(self, network: Callable[[Any], Any], x: Any) -> Any:
        """Return a `_CudaGraph` of `network` for inputs like `x`. Raises RuntimeError."""
        warm_up = self._cuda.Stream(self._index)
        warm_up.wait_stream(self._cuda.current_stream(self._index))
        static_x = x.clone()
        with self._cuda.stream(warm_up):
            for _ in range(3):  # cuDNN chooses its kernels, and the allocator grows
                network(static_x)
        self._cuda.current_stream(self._index).wait_stream(warm_up)
        graph = self._cuda.CUDAGraph()
        with self._cuda.graph(graph):
            y = network(static_x)
        return _CudaGraph(graph, static_x, y)

    def reset_peak_memory(self) -> None:
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats(self._index)

    def peak_memory(self) -> Optional[PeakMemory]:
        free, total = self._cuda.mem_get_info(self._index)
        allocated = self._cuda.max_memory_allocated(self._index)
        return PeakMemory(allocated / _MIB, MEMORY_DEFINITION, (total - free) / _MIB)

    def free_bytes(self) -> int:
        """Return the memory that the driver and torch's own cache have free."""
        free, _ = self._cuda.mem_get_info(self._index)
        cached = self._cuda.memory_reserved(self._index) - self._cuda.memory_allocated(self._index)
        return int(free + cached)

    def release(self) -> None:
        self._cuda.empty_cache()


class _CudaGraph:
    """A captured network for one size. Its output is overwritten by the next call."""

    def __init__(self, graph: Any, x: Any, y: Any) -> None:
        self._graph, self._x, self._y = graph, x, y
        self.shape = x.shape

    def __call__(self, x: Any) -> Any:
        self._x.copy_(x, non_blocking=True)
        self._graph.replay()
        return self._y


class TorchNetwork:
    """A module on a device: (1, 3, H, W) float32 tensors to float32 tensors.

    `settings` says how it is driven; it may change with the first run of a size.
    """

    def __init__(self, module: Any, device: TorchDevice, run: RunOptions = DEFAULT_RUN) -> None:
        import torch

        types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        self.precision = run.precision or "fp32"
        self._dtype = types[self.precision]
        layout = {"memory_format": torch.channels_last} if run.channels_last else {}
        self._module = module.eval().to(device.where, self._dtype, **layout)
        self._layout, self._device = layout, device
        self._compiled = run.compile
        if run.compile:
            self._module = torch.compile(self._module)
        self._captures = run.cuda_graph
        self._graph: Any = None
        self._why_no_graph = ""

    @property
    def settings(self) -> str:
        mode = "torch.compile" if self._compiled else "eager"
        parts = [mode, "channels-last" if self._layout else "NCHW"]
        if self.precision != "fp32":
            parts.append("FP32 ends, casts timed with it")
        if self._captures:
            failed = f"no CUDA graph ({self._why_no_graph})" if self._why_no_graph else ""
            parts.append(failed or "one CUDA graph")
        return ", ".join((*parts, *self._device.settings))

    def __call__(self, x: Any) -> Any:
        """Run on a tensor of the device, on its current stream, without waiting."""
        if not self._captures or self._why_no_graph:
            return self._forward(x)
        if self._graph is None or self._graph.shape != x.shape:
            self._graph = None
            try:
                self._graph = self._device.capture(self._forward, x)
            except RuntimeError as e:
                if "out of memory" in str(e):
                    raise
                self._why_no_graph = str(e).splitlines()[0][:120]
                return self._forward(x)
        return self._graph(x)

    def release(self) -> None:
        self._module = self._graph = None

    def _forward(self, x: Any) -> Any:
        import torch

        return self._module(x.to(self._dtype, **self._layout)).to(torch.float32)


def torch_device(run: RunOptions = DEFAULT_RUN) -> TorchDevice:
    """Return the requested device; without a request the first GPU that torch can use, else CPU.

    Raises CannotRunHereError where torch cannot use the requested device.
    """
    requested = run.requested_device
    if requested is None:
        if not gpu_present():
            return _cpu(run)
        reason = why_no_cuda(0)
        return _cpu(run, f"torch cannot use the GPU: {reason}") if reason else _cuda(0, run)
    if requested.kind == "cpu":
        return _cpu(run)
    if requested.kind != "cuda":
        raise CannotRunHereError(
            f"torch runs on cpu or cuda here, not on {requested}",
            hint="export the network and run its ONNX graph there",
        )
    reason = why_no_cuda(requested.index)
    if reason:
        raise CannotRunHereError(
            f"torch cannot use {requested}: {reason}",
            hint="give --device cpu, or install a torch that fits the GPU and its driver",
        )
    return _cuda(requested.index, run)


def why_no_cuda(index: int) -> str:
    """Return why torch cannot use GPU number `index`; empty if it can."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        torch.cuda.init()
        count = torch.cuda.device_count()
    except (RuntimeError, AssertionError) as e:  # no driver, or one that is too old
        return f"torch {torch.__version__}: {str(e).splitlines()[0]}"
    if index >= count:
        return f"there are {count} GPUs" if count != 1 else "there is one GPU, cuda:0"
    major, minor = torch.cuda.get_device_capability(index)
    built_for = torch.cuda.get_arch_list()
    if not _supports(built_for, 10 * major + minor):
        name = torch.cuda.get_device_name(index)
        return (
            f"torch {torch.__version__} is built for {', '.join(built_for)}; "
            f"{name} is sm_{major}{minor}"
        )
    return ""


def _supports(built_for: List[str], sm: int) -> bool:
    """Whether code for one of the architectures runs on `sm`: the same major version, or PTX."""
    versions = [(kind, int(digits)) for kind, digits in map(_split_arch, built_for) if digits]
    return not versions or any(
        v <= sm and (kind == "compute" or v // 10 == sm // 10) for kind, v in versions
    )


def _split_arch(name: str) -> Tuple[str, str]:
    kind, _, version = name.partition("_")
    return kind, "".join(c for c in version if c.isdigit())


def _cuda(index: int, run: RunOptions) -> TorchDevice:
    return CudaDevice(index, tf32=run.tf32)


def _cpu(run: RunOptions, why_cpu: str = "") -> TorchDevice:
    if run.cuda_graph:
        raise CannotRunHereError(
            "--cuda-graph needs an NVIDIA GPU that torch can use"
            + (f"; {why_cpu}" if why_cpu else ", and there is none"),
            hint="omit --cuda-graph",
        )
    return TorchDevice(why_cpu)
