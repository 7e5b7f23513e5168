"""Runs engines of TensorRT 8.5 to 11 and TensorRT for RTX, and reads the headers of their files."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError, CannotRunHereError, DeviceMemoryError
from sr_deploy.core.manifest import Manifest
from sr_deploy.core.session import PeakMemory, Session, TimedOutput
from sr_deploy.runtime.boards.layer_types import LOGGED
from sr_deploy.runtime.cuda import CapturedGraph, Cuda
from sr_deploy.runtime.torch_device import torch_with_cuda

# trt.nptype fails in 8.5.2 with numpy 1.24 and newer.
_DTYPES = {"FLOAT": np.float32, "HALF": np.float16}
_LOGS: Dict[str, Any] = {}
"""One logger per process and library: the library ignores a second one."""
MEMORY_DEFINITION = (
    "the driver's count of the GPU's memory in use, rise over opening and timing it; "
    "other processes count too"
)
_KEPT = ("INTERNAL_ERROR", "ERROR", "WARNING")
_OUR_GRAPH = "one CUDA graph"
_OWN_GRAPH = "CUDA graphs left to the library"
_RTX_GENERATIONS = (75, 80, 86, 89, 120, 121)


class TensorRTSession(Session):
    """An engine on the GPU, addressed by tensor names (8.5 and newer).

    The buffers of one size, and its CUDA graph where one can be captured, are kept until another
    size comes.
    """

    def __init__(
        self, trt: Any, artifact: Path, manifest: Manifest, gpu: Cuda, *, backend: str, title: str
    ) -> None:
        self.backend, self.backend_version = backend, trt.__version__
        self.precision, self.scale = manifest.precision_obtained, manifest.scale
        self.min_hw, self.max_hw = manifest.min_shape, manifest.max_shape
        self.halo_px, self.align_px = manifest.halo_px, manifest.align_px
        self.multiple = manifest.multiple
        self.device, self.place = gpu.gpu_name(), f"cuda:{gpu.index}"
        self._gpu, self._log, self._title = gpu, library_log(trt), title
        self._memory = GpuMemory(gpu)
        dla = manifest.build.get("dla")
        core = dla["core"] if isinstance(dla, dict) else None
        self._engine = deserialize_engine(trt, artifact, self._log, title, dla_core=core)
        self._input, self._output = manifest.input_name, manifest.output_name
        names = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        if names != {self._input, self._output}:
            expected = f"expected {self._input} and {self._output}"
            problem = f"{artifact.name} has the tensors {', '.join(sorted(names))}"
            raise ArtifactError(f"{problem}; {expected}")
        self._graph = _why_no_graph(core, gpu)
        self._context = self._create_context(trt)
        if self._context is None:
            raise self._error(f"could not prepare {artifact.name}", "free some of the GPU's memory")
        self._events = [gpu.event() for _ in range(4)]
        self._buffers: Optional[_Buffers] = None
        self._torch_can: Optional[bool] = None

    @property
    def settings(self) -> str:  # type: ignore[override]
        """How the engine was run so far."""
        facts = (self._graph, "one stream", "waits after each run", "copies apart")
        return ", ".join(filter(None, facts))

    @property
    def takes_tensors(self) -> bool:  # type: ignore[override]
        if self.multiple != 1:
            return False
        # Asked late: torch takes memory of the GPU, which would count as the engine's.
        if self._torch_can is None:
            self._torch_can = torch_with_cuda(self._gpu.index) is not None
        return self._torch_can

    def peak_memory(self) -> Optional[PeakMemory]:
        return self._memory.peak()

    def reset_peak_memory(self) -> None:
        self._memory.reset()

    def _create_context(self, trt: Any) -> Any:
        """Create the context; TensorRT for RTX captures CUDA graphs itself.

        Its kernels are specialised for a size before the first run, not during later ones.
        """
        if not hasattr(trt, "CudaGraphStrategy"):
            return self._engine.create_execution_context()
        runtime_config = self._engine.create_runtime_config()
        runtime_config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._graph = _OWN_GRAPH
        return self._engine.create_execution_context(runtime_config)

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        return self._run_timed(x_nchw).y

    def _run_timed(self, x_nchw: np.ndarray) -> TimedOutput:
        self._begin()
        buffers = self._buffers_for(x_nchw.shape)
        host_in, host_out = buffers.hosts()
        np.copyto(host_in, x_nchw, casting="same_kind")
        gpu, events = self._gpu, self._events
        gpu.record(events[0])
        gpu.to_device(buffers.device_in, host_in)
        gpu.record(events[1])
        buffers.launch()
        gpu.record(events[2])
        gpu.to_host(host_out, buffers.device_out)
        gpu.record(events[3])
        gpu.synchronize()
        copy_in, network, copy_out = (gpu.elapsed_ms(a, b) for a, b in zip(events, events[1:]))
        return TimedOutput(
            host_out.astype(np.float32),
            network,
            copies_ms=copy_in + copy_out,
            timer="device events",
        )

    def run_tensor(self, x: Any) -> Any:
        import torch

        gpu = self._gpu
        self._begin()
        stream = torch.cuda.ExternalStream(gpu.stream, gpu.index)
        current = torch.cuda.current_stream(gpu.index)
        stream.wait_stream(current)  # also for those who still read the last result
        buffers = self._buffers_for(tuple(x.shape))
        with torch.inference_mode(), torch.cuda.stream(stream):
            device_in, device_out = buffers.tensors()
            device_in.copy_(x)
            buffers.launch()
            y = device_out.to(torch.float32)
        current.wait_stream(stream)
        return y

    def _begin(self) -> None:
        self._gpu.activate()
        self._log.messages.clear()  # an error names what was logged since

    def _buffers_for(self, shape: Tuple[int, ...]) -> _Buffers:
        if self._buffers is not None and self._buffers.shape_in == shape:
            return self._buffers
        self._gpu.synchronize()  # the last run may have been one of tensors
        self._free_buffers()
        context, gpu = self._context, self._gpu
        if not context.set_input_shape(self._input, shape):
            raise self._error(f"refused an input of {shape}")
        out_shape = tuple(context.get_tensor_shape(self._output))
        types = self._dtype(self._input), self._dtype(self._output)
        buffers = _Buffers(gpu, (shape, out_shape), types)
        try:
            self._prepare(buffers)
        except BaseException:
            buffers.free()
            raise
        self._buffers = buffers
        self._memory.watch()
        return buffers

    def _prepare(self, buffers: _Buffers) -> None:
        """Give the context its memory, and set how it is launched."""
        context, gpu = self._context, self._gpu
        for name, address in ((self._input, buffers.device_in), (self._output, buffers.device_out)):
            if not context.set_tensor_address(name, address):
                raise self._error(f"refused the memory of {name}")
        self._enqueue()  # once before capturing: kernels that load lazily cannot be captured
        gpu.synchronize()
        buffers.launch = self._enqueue
        if self._graph == _OWN_GRAPH:
            self._enqueue()  # captures, from the second run on
            gpu.synchronize()
        elif self._graph in ("", _OUR_GRAPH):
            buffers.graph = gpu.capture(lambda: bool(context.execute_async_v3(gpu.stream)))
            self._graph = _OUR_GRAPH if buffers.graph else "no CUDA graph (capture failed)"
            buffers.launch = buffers.graph.launch if buffers.graph else self._enqueue

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._gpu.stream):
            raise self._error("failed to run the engine")

    def _error(self, problem: str, hint: str = "") -> CannotRunHereError:
        return run_error(self._log, f"{self._title} {problem}", hint)

    def _dtype(self, name: str) -> Any:
        return tensor_dtype(self._engine, name)

    def _release(self) -> None:
        self._gpu.activate()
        self._gpu.synchronize()  # the last run may have been one of tensors
        self._free_buffers()
        for event in self._events:
            self._gpu.free_event(event)
        self._context = self._engine = None

    def _free_buffers(self) -> None:
        """Free the buffers and the CUDA graph of the current size."""
        if self._buffers is not None:
            self._buffers.free()
            self._buffers = None


class GpuMemory:
    """The driver's count of a GPU's memory in use: its rise since this object was made."""

    def __init__(self, gpu: Cuda) -> None:
        self._gpu = gpu
        self._free_before, _ = gpu.free_memory()
        self._least_free = self._free_before

    def watch(self) -> None:
        """Take the memory in use now into account."""
        self._least_free = min(self._least_free, self._gpu.free_memory()[0])

    def reset(self) -> None:
        self._least_free, _ = self._gpu.free_memory()

    def peak(self) -> PeakMemory:
        self.watch()
        free, total = self._gpu.free_memory()
        rise = max(self._free_before - self._least_free, 0)
        return PeakMemory(rise / 2**20, MEMORY_DEFINITION, (total - free) / 2**20, free / 2**20)


def run_error(log: Any, problem: str, hint: str = "") -> CannotRunHereError:
    """Return the error of a run, with the reasons that the library logged."""
    reasons = logged_errors(log)
    error = DeviceMemoryError if "out of memory" in reasons.lower() else CannotRunHereError
    return error(f"{problem}{reasons}", hint=hint)


def tensor_dtype(engine: Any, name: str) -> Any:
    """Return numpy's type of an engine's tensor. Raises ArtifactError for another than floats."""
    kind = engine.get_tensor_dtype(name).name
    if kind not in _DTYPES:
        raise ArtifactError(f"the engine's {name} is {kind}; expected FLOAT or HALF")
    return _DTYPES[kind]


def _why_no_graph(dla_core: Optional[int], gpu: Cuda) -> str:
    """Return `no CUDA graph` with the reason; empty where one may be captured."""
    if dla_core is not None:
        return "no CUDA graph (DLA)"
    return "" if gpu.can_capture else f"no CUDA graph ({gpu.library})"


class _Buffers:
    """The memory of one size on the GPU: its input, its output and the CUDA graph on them.

    Page-locked arrays and torch's tensors, each (input, output), are made when they are needed.
    """

    def __init__(self, gpu: Cuda, shapes: Sequence[Tuple[int, ...]], dtypes: Sequence[Any]) -> None:
        self._gpu, self._ends = gpu, tuple(zip(shapes, dtypes))
        self.shape_in = shapes[0]
        sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in self._ends]
        self.device_in = gpu.allocate(sizes[0])
        try:
            self.device_out = gpu.allocate(sizes[1])
        except DeviceMemoryError:
            gpu.free(self.device_in)
            raise
        self.launch: Callable[[], None] = lambda: None
        self.graph: Optional[CapturedGraph] = None
        self._hosts: List[np.ndarray] = []

    def hosts(self) -> List[np.ndarray]:
        if not self._hosts:
            self._hosts = [self._gpu.host_array(shape, dtype) for shape, dtype in self._ends]
        return self._hosts

    def tensors(self) -> List[Any]:
        addresses = self.device_in, self.device_out
        return [
            self._gpu.tensor(address, shape, dtype)
            for address, (shape, dtype) in zip(addresses, self._ends)
        ]

    def free(self) -> None:
        if self.graph is not None:
            self.graph.free()
        self._gpu.free(self.device_in)
        self._gpu.free(self.device_out)


@dataclass(frozen=True)
class EngineHeader:
    """The header of an engine file."""

    version: str
    compute_capabilities: Tuple[int, ...]
    """Empty where the file does not name them."""


def read_header(path: Path) -> EngineHeader:
    """Read the version and, for TensorRT for RTX, the SM versions. Raises ArtifactError.

    The vendor does not document the header. RTX: found in engines of 1.7.1 (tag, version at byte
    24, SM bits at 32). TensorRT 8.6 and newer: as read by trtexec --getPlanVersionOnly; older
    engines have the tag, but no version there.
    """
    with open(path, "rb") as f:
        head = f.read(40)
    if len(head) < 40 or head[:4] not in (b"vtrt", b"ftrt"):
        raise ArtifactError(f"{path} is not a TensorRT engine")
    version = ".".join(str(b) for b in head[24:28])
    if head[:4] == b"ftrt":
        return EngineHeader(version, ())
    (bits,) = struct.unpack("<Q", head[32:40])
    capabilities = tuple(sm for i, sm in enumerate(_RTX_GENERATIONS) if bits >> i & 1)
    return EngineHeader(version, capabilities)


def deserialize_engine(
    trt: Any, path: Path, log: Any, title: str, *, dla_core: Optional[int] = None
) -> Any:
    """Deserialise an engine. This executes code in it: the caller has verified the file.

    Raises CannotRunHereError.
    """
    log.messages.clear()
    try:
        runtime = trt.Runtime(log)
    except TypeError:  # the Python binding, when the factory returned nothing
        runtime = None
    if runtime is None:
        raise CannotRunHereError(f"{title} could not start{logged_errors(log)}")
    if dla_core is not None:
        runtime.DLA_core = dla_core
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise CannotRunHereError(
            f"{title} {trt.__version__} cannot open {path.name}{logged_errors(log)}",
            hint="build it again on this machine",
        )
    return engine


def logged_errors(log: Any) -> str:
    """Return the errors that a library logged, as the end of a sentence."""
    reasons = [text for severity, text in log.messages if severity in ("ERROR", "INTERNAL_ERROR")]
    return ": " + "; ".join(dict.fromkeys(reasons)) if reasons else ", and gave no reason"


def library_log(trt: Any) -> Any:
    """Return the process's logger of `tensorrt` or `tensorrt_rtx`: it stores its messages."""
    if trt.__name__ not in _LOGS:

        class Log(trt.ILogger):
            def __init__(self) -> None:
                super().__init__()
                self.messages: List[Tuple[str, str]] = []

            def log(self, severity: Any, msg: str) -> None:
                if severity.name in _KEPT or msg.startswith(LOGGED):
                    self.messages.append((severity.name, msg))

            def warnings(self) -> List[str]:
                warnings = [text for severity, text in self.messages if severity == "WARNING"]
                return list(dict.fromkeys(warnings))

            def layers(self) -> str:
                """Return what a builder logged of an engine's layers; empty where it does not."""
                texts = [text for _, text in self.messages if text.startswith(LOGGED)]
                return "".join(texts[-1:])

        _LOGS[trt.__name__] = Log()
    return _LOGS[trt.__name__]
