"""The CUDA calls needed to run an engine, through cuda-python or, where that is missing, pycuda.

cuda-python has two names: `cuda.bindings.runtime` (12.6 and newer) and `cuda.cudart` (11.8, the
last release for Python 3.8 and JetPack 5). Addresses, streams and events are plain handles. Every
status is checked.
"""

from __future__ import annotations

import abc
import contextlib
from typing import Any, Callable, Dict, Optional

import numpy as np

from sr_deploy.core.errors import CannotRunHereError, MissingPackageError

_OPENED: Optional[Cuda] = None


class Cuda(abc.ABC):
    """Device 0 of those the process may see, and one stream on it. Memory is freed by `free`."""

    stream: int
    """The stream's handle, as TensorRT takes it."""
    library: str
    can_capture: bool
    """Whether work can be captured as a CUDA graph."""

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
    def synchronize(self) -> None:
        """Wait for the stream."""

    @abc.abstractmethod
    def event(self) -> Any:
        """Record and return an event at this point of the stream."""

    @abc.abstractmethod
    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the time between two events that have happened."""

    def capture(self, work: Callable[[], bool]) -> Optional[Callable[[], None]]:
        """Capture the work that `work` puts on the stream as a CUDA graph.

        Returns a function that launches it; None when the work cannot be captured.
        """
        return None


def cuda() -> Cuda:
    """Return the process's connection to the GPU.

    Raises CannotRunHereError without a GPU, MissingPackageError without a library.
    """
    global _OPENED
    if _OPENED is None:
        runtime = _cuda_python()
        _OPENED = _CudaPython(runtime) if runtime is not None else _PyCuda()
    return _OPENED


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

    def __init__(self, runtime: Any) -> None:
        self._cuda = runtime
        try:
            count = self._checked(runtime.cudaGetDeviceCount())
        except RuntimeError as e:  # cuda-python's own, when it cannot open a driver library
            raise CannotRunHereError(f"no NVIDIA GPU can be used here: {e}") from e
        if not count:
            raise CannotRunHereError("no NVIDIA GPU can be used here: CUDA sees none")
        self._checked(runtime.cudaSetDevice(0))
        flag = runtime.cudaStreamNonBlocking
        self.stream = int(self._checked(runtime.cudaStreamCreateWithFlags(flag)))

    def compute_capability(self) -> int:
        kind, get = self._cuda.cudaDeviceAttr, self._cuda.cudaDeviceGetAttribute
        major = self._checked(get(kind.cudaDevAttrComputeCapabilityMajor, 0))
        minor = self._checked(get(kind.cudaDevAttrComputeCapabilityMinor, 0))
        return int(major) * 10 + int(minor)

    def gpu_name(self) -> str:
        name: bytes = self._checked(self._cuda.cudaGetDeviceProperties(0)).name
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

    def synchronize(self) -> None:
        self._checked(self._cuda.cudaStreamSynchronize(self.stream))

    def event(self) -> Any:
        event = self._checked(self._cuda.cudaEventCreate())
        self._checked(self._cuda.cudaEventRecord(event, self.stream))
        return event

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return float(self._checked(self._cuda.cudaEventElapsedTime(start, end)))

    def capture(self, work: Callable[[], bool]) -> Optional[Callable[[], None]]:
        c = self._cuda
        mode = c.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._checked(c.cudaStreamBeginCapture(self.stream, mode))
        queued = work()
        status, graph = c.cudaStreamEndCapture(self.stream)
        if not queued or status != c.cudaError_t.cudaSuccess:
            c.cudaGetLastError()  # clears it
            return None
        # CUDA 11 also takes an error node and a log buffer; CUDA 12 takes flags.
        instantiate = getattr(c, "cudaGraphInstantiateWithFlags", c.cudaGraphInstantiate)
        executable = self._checked(instantiate(graph, 0))
        self._checked(c.cudaGraphDestroy(graph))
        return lambda: self._checked(c.cudaGraphLaunch(executable, self.stream))

    def _checked(self, returned: Any) -> Any:
        status, *values = returned
        if status != self._cuda.cudaError_t.cudaSuccess:
            _, name = self._cuda.cudaGetErrorName(status)
            _, description = self._cuda.cudaGetErrorString(status)
            text = f"{_text(name)} ({_text(description)})"
            if "NoDevice" in text or "InsufficientDriver" in text:
                raise CannotRunHereError(f"no NVIDIA GPU can be used here: {text}")
            hint = "does another program use the GPU's memory?" if "emory" in text else ""
            raise CannotRunHereError(f"CUDA failed: {text}", hint=hint)
        return values[0] if len(values) == 1 else tuple(values)


class _PyCuda(Cuda):
    """Uses the driver API in the primary context. pycuda's releases cannot capture graphs."""

    library, can_capture = "pycuda", False

    def __init__(self) -> None:
        try:
            import pycuda.driver as driver
        except ImportError as e:
            raise MissingPackageError(
                "cuda-python", needed_for="running TensorRT engines", extra="gpu"
            ) from e
        self._driver = driver
        try:
            import pycuda.autoprimaryctx  # noqa: F401
        except (driver.Error, RuntimeError) as e:
            raise CannotRunHereError(f"no NVIDIA GPU can be used here: {e}") from e
        self._stream = driver.Stream()
        self.stream = self._stream.handle
        self._allocations: Dict[int, Any] = {}

    def compute_capability(self) -> int:
        major, minor = self._driver.Device(0).compute_capability()
        return major * 10 + minor

    def gpu_name(self) -> str:
        return self._driver.Device(0).name()

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

    def synchronize(self) -> None:
        self._call(self._stream.synchronize)

    def event(self) -> Any:
        return self._driver.Event().record(self._stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return float(end.time_since(start))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._driver.Error as e:
            raise CannotRunHereError(f"CUDA failed: {e}") from e


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
