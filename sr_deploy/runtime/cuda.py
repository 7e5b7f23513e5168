"""The CUDA calls needed to run an engine, through cuda-python or, where that is missing, pycuda.

cuda-python has two names: `cuda.bindings.runtime` (12.6 and newer) and `cuda.cudart` (11.8, the
last release for Python 3.8 and JetPack 5). Addresses, streams and events are plain handles. Every
status is checked.
"""

from __future__ import annotations

import abc
import atexit
import contextlib
import threading
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import CannotRunHereError, DeviceMemoryError, MissingPackageError

OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
"""In errors of CUDA and its libraries: of the driver, of cuBLAS and cuDNN 8, of cuDNN 9."""
_OPENED: Dict[int, Cuda] = {}


@dataclass(frozen=True)
class CapturedGraph:
    """A CUDA graph: launched on the stream it was captured on."""

    launch: Callable[[], None]
    free: Callable[[], None]


@dataclass(frozen=True)
class DeviceBox:
    """The top left front of a box in an array of planes in device memory."""

    address: int
    """Of the array's first plane."""
    rows: int
    """Of each of its planes."""
    row_bytes: int
    top: int = 0
    left_bytes: int = 0


class Cuda(abc.ABC):
    """One GPU of those the process may see, and a stream on it. Memory is freed by `free`."""

    index: int
    stream: int
    """The stream's handle, as TensorRT takes it."""
    library: str
    can_capture: bool
    """Whether work can be captured as a CUDA graph."""

    def activate(self) -> None:  # noqa: B027 - optional
        """Make this GPU the one that the calling thread's CUDA calls are for."""

    @abc.abstractmethod
    def free_memory(self) -> Tuple[int, int]:
        """Return the driver's count of free bytes, and the GPU's bytes in all."""

    @abc.abstractmethod
    def compute_capability(self) -> int:
        """Return the SM version, 72 for 7.2."""

    @abc.abstractmethod
    def gpu_name(self) -> str: ...

    @abc.abstractmethod
    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory."""

    @abc.abstractmethod
    def free(self, address: int) -> None: ...

    @abc.abstractmethod
    def host_array(self, shape: Any, dtype: Any) -> np.ndarray:
        """Return page-locked host memory as an array; it lives as long as the array."""

    @abc.abstractmethod
    def to_device(self, address: int, array: np.ndarray) -> None:
        """Queue a copy of a contiguous array on the stream."""

    @abc.abstractmethod
    def to_host(self, array: np.ndarray, address: int) -> None: ...

    @abc.abstractmethod
    def copy_box(self, to: DeviceBox, of: DeviceBox, size: Tuple[int, int, int]) -> None:
        """Queue a copy of (planes, rows, bytes of a row) within device memory."""

    @abc.abstractmethod
    def set_zero(self, address: int, size_bytes: int) -> None:
        """Queue zeros for all bytes."""

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Wait for the stream."""

    @abc.abstractmethod
    def event(self) -> Any:
        """Return a new event, to be recorded any number of times."""

    @abc.abstractmethod
    def record(self, event: Any) -> None:
        """Record an event at this point of the stream."""

    def free_event(self, event: Any) -> None:  # noqa: B027 - optional
        """Destroy an event."""

    @abc.abstractmethod
    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the time between two events that have happened."""

    def capture(self, work: Callable[[], bool]) -> Optional[CapturedGraph]:
        """Capture the work that `work` puts on the stream; None when it cannot be captured."""
        return None

    def tensor(self, address: int, shape: Tuple[int, ...], dtype: Any) -> Any:
        """Return device memory as a torch tensor, without copying it."""
        import torch

        interface = {
            "data": (address, False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "version": 2,
        }
        memory = type("Memory", (), {"__cuda_array_interface__": interface})()
        return torch.as_tensor(memory, device=f"cuda:{self.index}")


def cuda(index: int = 0) -> Cuda:
    """Return the process's connection to a GPU, and activate it.

    Raises CannotRunHereError without that GPU, MissingPackageError without a library.
    """
    if index not in _OPENED:
        runtime = _cuda_python()
        _OPENED[index] = _CudaPython(runtime, index) if runtime is not None else _PyCuda(index)
    _OPENED[index].activate()
    return _OPENED[index]


def why_binding_too_new(binding: int, driver: int) -> str:
    """Return why a binding of CUDA 12.9 (12090) fails with a driver for 11.4; empty if it fits.

    Within one major version, newer bindings run with older drivers.
    """
    if driver >= binding or driver // 1000 == binding // 1000:
        return ""
    names = [f"{version // 1000}.{version % 1000 // 10}" for version in (binding, driver)]
    return f"cuda-python is for CUDA {names[0]}, but the driver supports CUDA {names[1]} at most"


def _cuda_python() -> Any:
    with contextlib.suppress(ImportError):
        from cuda.bindings import runtime

        return runtime
    with contextlib.suppress(ImportError):
        from cuda import cudart

        return cudart
    return None


class _CudaPython(Cuda):
    """Uses the runtime API, which shares the primary context with TensorRT."""

    library, can_capture = "cuda-python", True

    def __init__(self, runtime: Any, index: int) -> None:
        self._cuda, self.index = runtime, index
        try:
            self._check_versions()
            count = self._checked(runtime.cudaGetDeviceCount())
        except RuntimeError as e:  # cuda-python's own, when it cannot open a driver library
            raise CannotRunHereError(f"no NVIDIA GPU can be used here: {e}") from e
        _check_index(index, count)
        self.activate()
        flag = runtime.cudaStreamNonBlocking
        self.stream = int(self._checked(runtime.cudaStreamCreateWithFlags(flag)))

    def activate(self) -> None:
        self._checked(self._cuda.cudaSetDevice(self.index))

    def free_memory(self) -> Tuple[int, int]:
        self.activate()
        free, total = self._checked(self._cuda.cudaMemGetInfo())
        return int(free), int(total)

    def compute_capability(self) -> int:
        kind, get = self._cuda.cudaDeviceAttr, self._cuda.cudaDeviceGetAttribute
        major = self._checked(get(kind.cudaDevAttrComputeCapabilityMajor, self.index))
        minor = self._checked(get(kind.cudaDevAttrComputeCapabilityMinor, self.index))
        return int(major) * 10 + int(minor)

    def gpu_name(self) -> str:
        name: bytes = self._checked(self._cuda.cudaGetDeviceProperties(self.index)).name
        return name.decode(errors="replace").rstrip("\0")

    def allocate(self, size_bytes: int) -> int:
        return int(self._checked(self._cuda.cudaMalloc(size_bytes)))

    def free(self, address: int) -> None:
        self._checked(self._cuda.cudaFree(address))

    def host_array(self, shape: Any, dtype: Any) -> np.ndarray:
        import ctypes
        import weakref

        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._checked(self._cuda.cudaMallocHost(size)))
        buffer = (ctypes.c_byte * size).from_address(address)
        weakref.finalize(buffer, self._cuda.cudaFreeHost, address)
        return np.frombuffer(buffer, dtype=dtype).reshape(shape)

    def to_device(self, address: int, array: np.ndarray) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        copy = (address, array.ctypes.data, array.nbytes, kind, self.stream)
        self._checked(self._cuda.cudaMemcpyAsync(*copy))

    def to_host(self, array: np.ndarray, address: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        copy = (array.ctypes.data, address, array.nbytes, kind, self.stream)
        self._checked(self._cuda.cudaMemcpyAsync(*copy))

    def copy_box(self, to: DeviceBox, of: DeviceBox, size: Tuple[int, int, int]) -> None:
        c, (planes, rows, row_bytes) = self._cuda, size
        copy = c.cudaMemcpy3DParms()
        copy.dstPtr = c.make_cudaPitchedPtr(to.address, to.row_bytes, to.row_bytes, to.rows)
        copy.srcPtr = c.make_cudaPitchedPtr(of.address, of.row_bytes, of.row_bytes, of.rows)
        copy.dstPos = c.make_cudaPos(to.left_bytes, to.top, 0)
        copy.srcPos = c.make_cudaPos(of.left_bytes, of.top, 0)
        copy.extent = c.make_cudaExtent(row_bytes, rows, planes)
        copy.kind = c.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._checked(c.cudaMemcpy3DAsync(copy, self.stream))

    def set_zero(self, address: int, size_bytes: int) -> None:
        self._checked(self._cuda.cudaMemsetAsync(address, 0, size_bytes, self.stream))

    def synchronize(self) -> None:
        self._checked(self._cuda.cudaStreamSynchronize(self.stream))

    def event(self) -> Any:
        return self._checked(self._cuda.cudaEventCreate())

    def record(self, event: Any) -> None:
        self._checked(self._cuda.cudaEventRecord(event, self.stream))

    def free_event(self, event: Any) -> None:
        self._checked(self._cuda.cudaEventDestroy(event))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return float(self._checked(self._cuda.cudaEventElapsedTime(start, end)))

    def capture(self, work: Callable[[], bool]) -> Optional[CapturedGraph]:
        c = self._cuda
        mode = c.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._checked(c.cudaStreamBeginCapture(self.stream, mode))
        queued = work()
        status, graph = c.cudaStreamEndCapture(self.stream)
        executable: List[Any] = []
        if status == c.cudaError_t.cudaSuccess:
            if queued:
                # CUDA 11 also takes an error node and a log buffer; CUDA 12 takes flags.
                instantiate = getattr(c, "cudaGraphInstantiateWithFlags", c.cudaGraphInstantiate)
                status, *executable = instantiate(graph, 0)
            self._checked(c.cudaGraphDestroy(graph))
        if not queued or status != c.cudaError_t.cudaSuccess:
            c.cudaGetLastError()  # clears it
            return None
        return CapturedGraph(
            lambda: self._checked(c.cudaGraphLaunch(executable[0], self.stream)),
            lambda: self._checked(c.cudaGraphExecDestroy(executable[0])),
        )

    def _check_versions(self) -> None:
        """Raise CannotRunHereError if the driver is missing or too old for the binding."""
        driver = int(self._checked(self._cuda.cudaDriverGetVersion()))
        if not driver:
            raise CannotRunHereError("no NVIDIA GPU can be used here: there is no driver")
        binding = int(self._checked(self._cuda.cudaRuntimeGetVersion()))
        reason = why_binding_too_new(binding, driver)
        if reason:
            version = f"cuda-python<{driver // 1000 + 1}"
            raise CannotRunHereError(
                f"no NVIDIA GPU can be used here: {reason}",
                hint=f"pip install '{version}', or install a newer driver",
            )

    def _checked(self, returned: Any) -> Any:
        status, *values = returned
        if status != self._cuda.cudaError_t.cudaSuccess:
            _, name = self._cuda.cudaGetErrorName(status)
            _, description = self._cuda.cudaGetErrorString(status)
            text = f"{_text(name)} ({_text(description)})"
            if status == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
                hint = "end other programs that use the GPU's memory, or use a smaller size"
                raise DeviceMemoryError(f"CUDA failed: {text}", hint=hint)
            if "NoDevice" in text or "InsufficientDriver" in text:
                raise CannotRunHereError(f"no NVIDIA GPU can be used here: {text}")
            raise CannotRunHereError(f"CUDA failed: {text}")
        return values[0] if len(values) == 1 else tuple(values)


class _PyCuda(Cuda):
    """Uses the driver API in the primary context. pycuda's releases cannot capture graphs."""

    library, can_capture = "pycuda", False

    def __init__(self, index: int) -> None:
        try:
            import pycuda.driver as driver
        except ImportError as e:
            raise MissingPackageError("cuda-python", needed_for="running TensorRT engines") from e
        self._driver, self.index = driver, index
        try:
            driver.init()
            _check_index(index, driver.Device.count())
            self._context = driver.Device(index).retain_primary_context()
            self._pushed = threading.local()
            self._push()
        except (driver.Error, RuntimeError) as e:
            raise CannotRunHereError(f"no NVIDIA GPU can be used here: {e}") from e
        self._stream = driver.Stream()
        self.stream = self._stream.handle
        self._allocations: Dict[int, Any] = {}

    def activate(self) -> None:
        active = None
        with contextlib.suppress(self._driver.Error):  # this thread has no context yet
            active = self._driver.Context.get_device()
        if active != self._driver.Device(self.index):
            self._push()

    def _push(self) -> None:
        if not hasattr(self._pushed, "contexts"):
            self._pushed.contexts = contexts = _PushedContexts(self._driver)
            if threading.current_thread() is threading.main_thread():
                atexit.register(contexts.pop)
        self._context.push()
        self._pushed.contexts.count += 1

    def free_memory(self) -> Tuple[int, int]:
        self.activate()
        return self._driver.mem_get_info()

    def compute_capability(self) -> int:
        major, minor = self._driver.Device(self.index).compute_capability()
        return major * 10 + minor

    def gpu_name(self) -> str:
        return self._driver.Device(self.index).name()

    def allocate(self, size_bytes: int) -> int:
        memory = self._call(self._driver.mem_alloc, size_bytes)
        self._allocations[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        self._allocations.pop(address).free()

    def host_array(self, shape: Any, dtype: Any) -> np.ndarray:
        return self._call(self._driver.pagelocked_empty, shape, dtype)

    def to_device(self, address: int, array: np.ndarray) -> None:
        self._call(self._driver.memcpy_htod_async, address, array, self._stream)

    def to_host(self, array: np.ndarray, address: int) -> None:
        self._call(self._driver.memcpy_dtoh_async, array, address, self._stream)

    def copy_box(self, to: DeviceBox, of: DeviceBox, size: Tuple[int, int, int]) -> None:
        copy = self._driver.Memcpy3D()
        copy.set_dst_device(to.address)
        copy.set_src_device(of.address)
        copy.dst_pitch, copy.dst_height = to.row_bytes, to.rows
        copy.src_pitch, copy.src_height = of.row_bytes, of.rows
        copy.dst_x_in_bytes, copy.dst_y = to.left_bytes, to.top
        copy.src_x_in_bytes, copy.src_y = of.left_bytes, of.top
        copy.depth, copy.height, copy.width_in_bytes = size
        self._call(copy, self._stream)

    def set_zero(self, address: int, size_bytes: int) -> None:
        self._call(self._driver.memset_d8_async, address, 0, size_bytes, self._stream)

    def synchronize(self) -> None:
        self._call(self._stream.synchronize)

    def event(self) -> Any:
        return self._driver.Event()

    def record(self, event: Any) -> None:
        event.record(self._stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return float(end.time_since(start))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._driver.MemoryError as e:
            hint = "end other programs that use the GPU's memory, or use a smaller size"
            raise DeviceMemoryError(f"CUDA failed: {e}", hint=hint) from e
        except self._driver.Error as e:
            raise CannotRunHereError(f"CUDA failed: {e}") from e


class _PushedContexts:
    """Pops what a thread has pushed when it ends: pycuda ends the process otherwise."""

    def __init__(self, driver: Any) -> None:
        self._driver, self.count = driver, 0

    def pop(self) -> None:
        while self.count:
            self.count -= 1
            with contextlib.suppress(self._driver.Error):
                self._driver.Context.pop()

    __del__ = pop


def _check_index(index: int, count: int) -> None:
    if not count:
        raise CannotRunHereError("no NVIDIA GPU can be used here: CUDA sees none")
    if index >= count:
        raise CannotRunHereError(
            f"there is no GPU cuda:{index}: CUDA sees {count}", hint="give --device cuda:0"
        )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
