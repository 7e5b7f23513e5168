"""torch's device of a session: the CPU, or an NVIDIA GPU with its events, copies and memory.

All calls of `torch.cuda` are in `CudaDevice`, so that a stand-in can replace them without a GPU.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Tuple

import numpy as np

from sr_deploy.core.device import gpu_present, usable_cores
from sr_deploy.core.errors import CannotRunHereError, DeviceMemoryError, first_line
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import BackendInfo, PeakMemory, TimedOutput
from sr_deploy.runtime.adaptive.tiles import TorchArrays
from sr_deploy.runtime.cuda import OUT_OF_MEMORY

MEMORY_DEFINITION = (
    "torch.cuda.max_memory_allocated over opening it and its timed images, weights included"
)
TYPE = "cuda"
_MIB = 2**20
_WARM_UP_RUNS = 3
"""Before a capture: cuDNN chooses its kernels, and the allocator grows."""


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
        """Return torch's version, and how it drives networks of several parts (`tensor_part`).

        Limits torch's threads to the cores of this process.
        """
        import torch

        # torch counted the cores when it was first imported.
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
        settings = ("eager", "NCHW", "copies timed with it") if self.name else ()
        threads, arrays = torch.get_num_threads(), TorchArrays(self)
        return BackendInfo("torch", torch.__version__, threads, self, settings, arrays=arrays)

    def computing(self) -> ContextManager[None]:
        """Return the context in which networks run."""
        return contextlib.nullcontext()

    def to_device(self, values: Any) -> Any:
        """Return an array, or a tensor on the device, as a tensor on the device."""
        import torch

        return torch.from_numpy(values) if isinstance(values, np.ndarray) else values

    def to_host(self, tensor: Any) -> np.ndarray:
        return tensor.numpy()

    def wait(self) -> None:
        """Wait until all that is queued has been computed."""

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

    def __init__(self, index: int, *, harness: bool) -> None:
        """harness: see `RunOptions.harness`."""
        import torch

        self.why_cpu = ""
        self._cuda = torch.cuda
        self.where = torch.device(TYPE, index)
        self.place, self._index, self._harness = f"cuda:{index}", index, harness
        self.name = self._cuda.get_device_name(index)
        rounding = "convolutions may round to TF32 (torch's default)" if harness else "TF32 off"
        self.settings = (rounding, "cudnn.benchmark off")
        self._events: List[Any] = []
        self._streams: Dict[str, Any] = {}

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Set the GPU, the autograd mode and torch's flags.

        Out of memory becomes DeviceMemoryError, other errors of torch CannotRunHereError.
        """
        import torch

        try:
            with self._cuda.device(self._index), _fp32_rounding(tf32=self._harness):
                with torch.inference_mode(not self._harness):
                    yield
        except RuntimeError as e:
            reason = first_line(e)
            if not _is_out_of_memory(e):
                raise CannotRunHereError(
                    f"torch failed on {self.name} ({self.place}): {reason}"
                ) from e
            # The frames hold the tensors of the network that failed.
            traceback.clear_frames(e.__traceback__)
            self._cuda.empty_cache()
            raise DeviceMemoryError(
                f"{self.name} ({self.place}) is out of memory: {reason}",
                hint="use smaller images, tiles or networks, or end other programs on the GPU",
            ) from e

    def to_device(self, values: Any) -> Any:
        return super().to_device(values).to(self.where)

    def to_host(self, tensor: Any) -> np.ndarray:
        return tensor.cpu().numpy()

    def wait(self) -> None:
        self._cuda.synchronize(self._index)

    def timed(self, network: Callable[[Any], Any], x_nchw: np.ndarray) -> TimedOutput:
        import torch

        with self.computing():
            pinned = self.pinned(torch.from_numpy(x_nchw))
            x, in_ms = self._span(lambda: pinned.to(self.where, non_blocking=True))
            y, ms = self._span(lambda: network(x))
            result = self.pinned_like(y)
            _, out_ms = self._span(lambda: result.copy_(y, non_blocking=True))
            return TimedOutput(result.numpy(), ms, in_ms + out_ms, timer="device events")

    def _span(self, work: Callable[[], Any]) -> Tuple[Any, float]:
        """Do what is queued by `work`, alone on the GPU; return its result and the time in ms."""
        if not self._events:
            self._events = [self._cuda.Event(enable_timing=True) for _ in range(2)]
        start, end = self._events
        start.record()
        result = work()
        end.record()
        self._cuda.synchronize(self._index)
        return result, start.elapsed_time(end)

    @contextlib.contextmanager
    def streaming(self) -> Iterator[None]:
        """As `computing`, on a stream that does not wait for the copies of `upload`, `download`."""
        with self.computing(), self._cuda.stream(self._stream("compute")):
            yield

    def event(self) -> Any:
        """Return a new event to time what the current stream does."""
        return self._cuda.Event(enable_timing=True)

    def upload(self, array: np.ndarray) -> Any:
        """Copy an array to the device. The current stream waits for it, the host does not."""
        import torch

        uploads, current = self._stream("upload"), self._cuda.current_stream(self._index)
        host = self.pinned_like(torch.from_numpy(np.empty(array.shape, array.dtype)))
        host.numpy()[...] = array
        with self._cuda.stream(uploads):
            tensor = host.to(self.where, non_blocking=True)
        current.wait_stream(uploads)
        self.used_on(tensor, current)
        return tensor

    def download(self, tensor: Any) -> Tuple[Any, Any]:
        """Copy a tensor to page-locked memory: (the copy, an event that tells when it is there)."""
        downloads = self._stream("download")
        arrived = self._cuda.Event(blocking=True)  # leaves the core to the decoder and the encoder
        host = self.pinned_like(tensor)
        downloads.wait_stream(self._cuda.current_stream(self._index))
        with self._cuda.stream(downloads):
            host.copy_(tensor, non_blocking=True)
            arrived.record()
        self.used_on(tensor, downloads)
        return host, arrived

    def used_on(self, tensor: Any, stream: Any) -> None:
        """Keep a tensor's memory until a stream that did not allocate it has used it."""
        tensor.record_stream(stream)

    def _stream(self, name: str) -> Any:
        if name not in self._streams:
            self._streams[name] = self._cuda.Stream(self._index)
        return self._streams[name]

    def pinned(self, tensor: Any) -> Any:
        """Return a CPU tensor in page-locked memory."""
        return tensor.pin_memory()

    def pinned_like(self, tensor: Any) -> Any:
        """Return an empty page-locked CPU tensor of a tensor's shape and type."""
        import torch

        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)

    def capture(self, network: Callable[[Any], Any], x: Any) -> Any:
        """Return a `_CudaGraph` of `network` for inputs like `x`. Raises RuntimeError."""
        # torch's own stream for captures is one for all GPUs.
        stream, before = self._stream("capture"), self._cuda.current_stream(self._index)
        stream.wait_stream(before)
        static_x = x.clone()
        with self._cuda.stream(stream):
            for _ in range(_WARM_UP_RUNS):
                network(static_x)
        before.wait_stream(stream)
        graph = self._cuda.CUDAGraph()
        try:
            with self._cuda.graph(graph, stream=stream):
                y = network(static_x)
        finally:  # a capture that fails leaves its stream as the current one
            self._cuda.set_stream(before)
        return _CudaGraph(graph, static_x, y)

    def reset_peak_memory(self) -> None:
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats(self._index)

    def peak_memory(self) -> Optional[PeakMemory]:
        free, total = self._cuda.mem_get_info(self._index)
        allocated = self._cuda.max_memory_allocated(self._index)
        cached = self._cuda.memory_reserved(self._index) - self._cuda.memory_allocated(self._index)
        return PeakMemory(
            allocated / _MIB, MEMORY_DEFINITION, (total - free) / _MIB, (free + cached) / _MIB
        )

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
        module = module.eval().requires_grad_(False)
        self._module = module.to(device.where, self._dtype, **layout)
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
        copies = ("copies apart",) if self._device.name else ()
        return ", ".join((*parts, *self._device.settings, *copies))

    def __call__(self, x: Any) -> Any:
        """Run on a tensor of the device, on its current stream, without waiting."""
        if not self._captures or self._why_no_graph:
            return self._forward(x)
        if self._graph is None or self._graph.shape != x.shape:
            self._graph = None
            try:
                self._graph = self._device.capture(self._forward, x)
            except RuntimeError as e:
                if _is_out_of_memory(e):
                    raise
                self._why_no_graph = first_line(e)
                return self._forward(x)
        return self._graph(x)

    def release(self) -> None:
        self._module = self._graph = None

    def _forward(self, x: Any) -> Any:
        import torch

        try:
            return self._module(x.to(self._dtype, **self._layout)).to(torch.float32)
        except Exception as e:
            # The compiler's errors share no base class with those of its back ends.
            if not self._compiled or _is_out_of_memory(e):
                raise
            raise CannotRunHereError(
                f"torch.compile failed: {first_line(e)}",
                hint="omit --compile; it needs a C++ compiler on a CPU, Triton on a GPU",
            ) from e


@contextlib.contextmanager
def _fp32_rounding(*, tf32: bool) -> Iterator[None]:
    """Set torch's flags around a run: TF32 in convolutions as given, in no other operator."""
    import torch

    backends = torch.backends
    # torch 2.9 and newer have flags by operator, which override the older ones.
    conv: Any = getattr(backends.cudnn, "conv", None)
    operators: List[Any] = [conv, backends.cuda.matmul] if conv is not None else []
    before = [operator.fp32_precision for operator in operators]
    try:
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:  # the program has set the newer flag only
        matmul = "highest"
    try:
        torch.set_float32_matmul_precision("highest")
        with backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=tf32):
            if conv is not None:
                conv.fp32_precision = "tf32" if tf32 else "ieee"
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        for operator, value in zip(operators, before):
            operator.fp32_precision = value


def _is_out_of_memory(e: Exception) -> bool:
    """Whether torch's allocator, the driver or a library of CUDA had too little memory."""
    import torch

    oom = isinstance(e, torch.cuda.OutOfMemoryError)
    return oom or any(text in str(e) for text in OUT_OF_MEMORY)


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


def torch_with_cuda(index: int) -> Any:
    """Return torch if it can use the GPU; None if not, or if it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return None if why_no_cuda(index) else torch


def why_no_cuda(index: int) -> str:
    """Return why torch cannot use GPU number `index`; empty if it can."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        torch.cuda.init()
        count = torch.cuda.device_count()
    except (RuntimeError, AssertionError) as e:  # no driver, or one that is too old
        return f"torch {torch.__version__}: {first_line(e)}"
    if index >= count:
        return f"there are {count} GPUs" if count != 1 else "there is one GPU, cuda:0"
    major, minor = torch.cuda.get_device_capability(index)
    built_for, name = torch.cuda.get_arch_list(), torch.cuda.get_device_name(index)
    if not _supports(built_for, 10 * major + minor):
        return (
            f"torch {torch.__version__} is built for {', '.join(built_for)}; "
            f"{name} is sm_{major}{minor}"
        )
    try:
        compute_something(index)
    except RuntimeError as e:  # in use by another process alone, full, or broken
        return f"{name}: {first_line(e)}"
    return ""


def why_no_precision(index: int, precision: str) -> str:
    """Return why a usable GPU lacks a precision; empty if it has it."""
    import torch

    major, minor = torch.cuda.get_device_capability(index)
    if precision != "bf16" or major >= 8:
        return ""
    return f"convolutions in bf16 need SM 8.0 or newer; the GPU is SM {major}.{minor}"


def compute_something(index: int) -> None:
    """Run a kernel on a GPU. Raises RuntimeError."""
    import torch

    (torch.ones(1, device=torch.device(TYPE, index)) + 1).item()


def gpu_count() -> int:
    """Return the number of GPUs by torch; 0 without a GPU or torch."""
    if not gpu_present():
        return 0
    try:
        import torch
    except ImportError:
        return 0
    return int(torch.cuda.device_count())


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
    return CudaDevice(index, harness=run.harness)


def _cpu(run: RunOptions, why_cpu: str = "") -> TorchDevice:
    if run.cuda_graph:
        raise CannotRunHereError(
            "--cuda-graph needs an NVIDIA GPU that torch can use"
            + (f"; {why_cpu}" if why_cpu else ", and there is none"),
            hint="omit --cuda-graph",
        )
    return TorchDevice(why_cpu)
