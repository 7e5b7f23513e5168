"""The few calls of CUDA that running an engine takes, through cuda-python where it is installed and pycuda elsewhere.

cuda-python is asked under both of its names: `cuda.bindings.runtime` (12.6 and newer) and `cuda.cudart` (11.8, the last for
Python 3.8 and JetPack 5). Addresses, streams and events are plain handles; every status is checked.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Optional

import numpy as np

from sr_deploy.core.errors import CannotRunHereError, MissingPackageError

_OPENED: Optional[Cuda] = None


class Cuda:
    """One GPU, device 0 of those the process may see, and one stream on it. Memory is given back by `free`."""

    stream: int
    """The stream's handle, as TensorRT takes it."""
    library: str
    can_capture: bool
    """Whether work can be recorded as a CUDA graph."""

    def compute_capability(self) -> int:
        """Return the SM version, 72 for 7.2."""
        raise NotImplementedError

    def gpu_name(self) -> str:
        raise NotImplementedError

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory."""
        raise NotImplementedError

    def free(self, address: int) -> None:
        raise NotImplementedError

    def host_array(self, shape: Any, dtype: Any) -> np.ndarray:
        """Return page-locked host memory as an array; it lives as long as the array."""
        raise NotImplementedError

    def to_device(self, address: int, array: np.ndarray) -> None:
        """Queue a copy of a contiguous array on the stream."""
        raise NotImplementedError

    def to_host(self, array: np.ndarray, address: int) -> None:
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait for the stream."""
        raise NotImplementedError

    def event(self) -> Any:
        """Record and return an event at this point of the stream."""
        raise NotImplementedError

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the time between two events that have happened."""
        raise NotImplementedError

    def capture(self, work: Callable[[], bool]) -> Optional[Callable[[], None]]:
        """Record what `work` puts on the stream as a CUDA graph and return what launches it; None when it cannot be recorded."""
        return None


def cuda() -> Cuda:
    """Return the process's one connection to the GPU. Raises CannotRunHereError without a GPU, MissingPackageError."""
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
    """By the runtime API, which shares the primary context with TensorRT."""

    library, can_capture = "cuda-python", True

    def __init__(self, runtime: Any) -> None:
        self._cuda = runtime
        try:
            count = self._checked(runtime.cudaGetDeviceCount())
        except RuntimeError as e:  # cuda-python's own, when no driver library can be opened
            raise CannotRunHereError(f"no NVIDIA GPU can be used here: {e}") from e
        if not count:
            raise CannotRunHereError("no NVIDIA GPU can be used here: CUDA sees none")
        self._checked(runtime.cudaSetDevice(0))
        self.stream = int(
            self._checked(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        )

    def compute_capability(self) -> int:
        kind = self._cuda.cudaDeviceAttr
        major = self._checked(
            self._cuda.cudaDeviceGetAttribute(kind.cudaDevAttrComputeCapabilityMajor, 0)
        )
        minor = self._checked(
            self._cuda.cudaDeviceGetAttribute(kind.cudaDevAttrComputeCapabilityMinor, 0)
        )
        return int(major) * 10 + int(minor)

    def gpu_name(self) -> str:
        return (
            self._checked(self._cuda.cudaGetDeviceProperties(0))
            .name.decode(errors="replace")
            .rstrip("\0")
        )

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
        self._checked(
            self._cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self.stream)
        )

    def to_host(self, array: np.ndarray, address: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._checked(
            self._cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self.stream)
        )

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
        self._checked(
            c.cudaStreamBeginCapture(
                self.stream, c.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            )
        )
        done = work()
        status, graph = c.cudaStreamEndCapture(self.stream)
        if not done or status != c.cudaError_t.cudaSuccess:
            c.cudaGetLastError()  # clears it
            return None
        # CUDA 11 takes an error node and a log buffer as well; CUDA 12 flags.
        instantiate = getattr(c, "cudaGraphInstantiateWithFlags", c.cudaGraphInstantiate)
        executable = self._checked(instantiate(graph, 0))
        self._checked(c.cudaGraphDestroy(graph))
        return lambda: self._checked(c.cudaGraphLaunch(executable, self.stream))

    def _checked(self, returned: Any) -> Any:
        status, *values = returned
        if status != self._cuda.cudaError_t.cudaSuccess:
            _, name = self._cuda.cudaGetErrorName(status)
            _, words = self._cuda.cudaGetErrorString(status)
            text = f"{_text(name)} ({_text(words)})"
            if "NoDevice" in text or "InsufficientDriver" in text:
                raise CannotRunHereError(f"no NVIDIA GPU can be used here: {text}")
            hint = "is the GPU's memory taken by another program?" if "emory" in text else ""
            raise CannotRunHereError(f"CUDA failed: {text}", hint=hint)
        return values[0] if len(values) == 1 else tuple(values)


class _PyCuda(Cuda):
    """By the driver API, in the primary context. pycuda's releases cannot record graphs."""

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
        self._held: dict = {}

    def compute_capability(self) -> int:
        major, minor = self._driver.Device(0).compute_capability()
        return major * 10 + minor

    def gpu_name(self) -> str:
        return self._driver.Device(0).name()

    def allocate(self, size_bytes: int) -> int:
        memory = self._called(self._driver.mem_alloc, size_bytes)
        self._held[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        self._held.pop(address).free()

    def host_array(self, shape: Any, dtype: Any) -> np.ndarray:
        return self._called(self._driver.pagelocked_empty, shape, dtype)

    def to_device(self, address: int, array: np.ndarray) -> None:
        self._called(self._driver.memcpy_htod_async, address, array, self._stream)

    def to_host(self, array: np.ndarray, address: int) -> None:
        self._called(self._driver.memcpy_dtoh_async, array, address, self._stream)

    def synchronize(self) -> None:
        self._called(self._stream.synchronize)

    def event(self) -> Any:
        return self._driver.Event().record(self._stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return float(end.time_since(start))

    def _called(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._driver.Error as e:
            raise CannotRunHereError(f"CUDA failed: {e}") from e


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
