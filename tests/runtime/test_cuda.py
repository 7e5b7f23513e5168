"""The calls of CUDA, through a stand-in for cuda-python's runtime module."""

from __future__ import annotations

import gc
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sr_deploy.core.errors import (
    CannotRunHereError,
    DeviceMemoryError,
    MissingPackageError,
    how_to_install,
)
from sr_deploy.runtime import cuda as module
from sr_deploy.runtime.cuda import cuda, why_binding_too_new


class StandInRuntime:
    """cuda-python's functions: they return a status, then their results."""

    cudaStreamNonBlocking = 1  # noqa: N815
    cudaError_t = types.SimpleNamespace(  # noqa: N815
        cudaSuccess=0, cudaErrorMemoryAllocation="cudaErrorMemoryAllocation"
    )
    cudaStreamCaptureMode = cudaMemcpyKind = cudaDeviceAttr = types.SimpleNamespace(  # noqa: N815
        cudaStreamCaptureModeThreadLocal=1,
        cudaMemcpyHostToDevice=1,
        cudaMemcpyDeviceToHost=2,
        cudaDevAttrComputeCapabilityMajor=1,
        cudaDevAttrComputeCapabilityMinor=2,
    )

    def __init__(self, **results):
        self.results, self.calls = results, []

    def cudaGetErrorName(self, status):  # noqa: N802
        return 0, status.encode()

    def cudaGetErrorString(self, status):  # noqa: N802
        return 0, b"in words"

    def __getattr__(self, name):
        defaults = {
            "cudaDriverGetVersion": (0, 12040),
            "cudaRuntimeGetVersion": (0, 12090),
            "cudaGetDeviceCount": (0, 2),
            "cudaStreamCreateWithFlags": (0, 9),
            "cudaEventCreate": (0, "event"),
            "cudaMemGetInfo": (0, 3, 8),
            "cudaStreamEndCapture": (0, "graph"),
            "cudaGraphInstantiate": (0, "executable"),
            "cudaDeviceGetAttribute": (0, 8),
        }

        def call(*arguments):
            self.calls.append((name, *arguments))
            return self.results.get(name, defaults.get(name, (0,)))

        if name == "cudaGraphInstantiateWithFlags":
            raise AttributeError(name)
        return call


@pytest.fixture
def use(monkeypatch):
    def put(**results):
        runtime = StandInRuntime(**results)
        monkeypatch.setattr(module, "_OPENED", {})
        monkeypatch.setattr(module, "_cuda_python", lambda: runtime)
        return runtime

    return put


def test_each_gpu_has_one_connection_which_is_activated(use):
    runtime = use()
    second = cuda(1)
    assert cuda(1) is second and second.index == 1 and cuda(0).index == 0
    assert runtime.calls.count(("cudaSetDevice", 1)) == 3
    assert second.free_memory() == (3, 8)
    with pytest.raises(CannotRunHereError, match="there is no GPU cuda:2: CUDA sees 2"):
        cuda(2)


def test_memory_is_that_of_this_gpu_while_another_one_is_active(use):
    runtime = use()
    first = cuda(0)
    cuda(1)
    assert first.free_memory() == (3, 8)
    assert runtime.calls[-2:] == [("cudaSetDevice", 0), ("cudaMemGetInfo",)]


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ({"cudaGetDeviceCount": (0, 0)}, "CUDA sees none"),
        ({"cudaDriverGetVersion": (0, 0)}, "there is no driver"),
        ({"cudaGetDeviceCount": ("cudaErrorNoDevice",)}, "no NVIDIA GPU .*cudaErrorNoDevice"),
        (
            {"cudaRuntimeGetVersion": (0, 13010)},
            "cuda-python is for CUDA 13.1, but the driver supports CUDA 12.4 at most",
        ),
    ],
)
def test_why_there_is_no_gpu(use, results, words):
    use(**results)
    with pytest.raises(CannotRunHereError, match=words) as e:
        cuda()
    if "cudaRuntimeGetVersion" in results:
        assert e.value.hint == "pip install 'cuda-python<13', or install a newer driver"


def test_a_binding_that_is_newer_within_its_major_version_fits():
    assert why_binding_too_new(12090, 12020) == ""
    assert why_binding_too_new(11080, 12020) == ""
    assert "CUDA 12.0" in why_binding_too_new(12000, 11040)


def test_too_little_memory_is_an_error_of_its_own(use):
    use(cudaMalloc=("cudaErrorMemoryAllocation",))
    with pytest.raises(DeviceMemoryError, match="cudaErrorMemoryAllocation"):
        cuda().allocate(1)
    use(cudaMalloc=("cudaErrorIllegalAddress (an illegal memory access)",))
    with pytest.raises(CannotRunHereError, match="illegal memory") as e:
        cuda().allocate(1)
    assert not isinstance(e.value, DeviceMemoryError)


def test_a_graph_is_freed_and_one_that_cannot_be_instantiated_is_none(use):
    runtime = use()
    graph = cuda().capture(lambda: True)
    graph.launch()
    graph.free()
    assert [name for name, *_ in runtime.calls[-2:]] == ["cudaGraphLaunch", "cudaGraphExecDestroy"]
    runtime = use(cudaGraphInstantiate=("cudaErrorNotSupported", None))
    assert cuda().capture(lambda: True) is None
    assert ("cudaGetLastError",) in runtime.calls and ("cudaGraphDestroy", "graph") in runtime.calls
    runtime = use()
    assert cuda().capture(lambda: False) is None
    assert ("cudaGraphDestroy", "graph") in runtime.calls


def test_events_are_recorded_again_and_destroyed(use):
    runtime = use()
    gpu = cuda()
    event = gpu.event()
    gpu.record(event)
    gpu.record(event)
    gpu.free_event(event)
    names = [name for name, *_ in runtime.calls]
    assert names.count("cudaEventCreate") == names.count("cudaEventDestroy") == 1
    assert names.count("cudaEventRecord") == 2


def test_without_a_binding_the_hint_names_packages_that_can_be_installed(monkeypatch):
    monkeypatch.setattr(module, "_OPENED", {})
    monkeypatch.setattr(module, "_cuda_python", lambda: None)
    with pytest.raises(MissingPackageError, match="cuda-python") as e:
        cuda()
    assert e.value.hint == how_to_install("cuda-python")


def test_copies_are_of_the_whole_array(use):
    runtime = use()
    array = np.zeros((2, 3), np.float32)
    cuda().to_device(64, array)
    assert ("cudaMemcpyAsync", 64, array.ctypes.data, 24, 1, 9) in runtime.calls


class StandInPycuda(types.ModuleType):
    """pycuda's driver with two GPUs: `get_device` fails in a thread that has no context."""

    Error, MemoryError = RuntimeError, MemoryError

    def __init__(self):
        super().__init__("pycuda.driver")
        self.pushed = []

        def device(index):
            context = types.SimpleNamespace(push=lambda: self.pushed.append(index))
            return Device(index, lambda: context)

        class Device(tuple):
            def __new__(cls, index, retain):
                made = super().__new__(cls, (index,))
                made.retain_primary_context = retain
                return made

        def active():
            if not self.pushed:
                raise RuntimeError("invalid device context")
            return device(self.pushed[-1])

        device.count = lambda: 2
        self.init, self.Device = lambda: None, device
        self.Context = types.SimpleNamespace(get_device=active, pop=lambda: self.pushed.pop())
        self.Stream = lambda: types.SimpleNamespace(handle=5)
        self.mem_get_info = lambda: (self.pushed[-1], 8)


def test_pycuda_activates_the_gpu_of_the_call_in_any_thread(monkeypatch):
    driver, at_exit = StandInPycuda(), []
    monkeypatch.setattr(module.atexit, "register", at_exit.append)
    monkeypatch.setitem(sys.modules, "pycuda", types.ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr(sys.modules["pycuda"], "driver", driver, raising=False)
    monkeypatch.setattr(module, "_OPENED", {})
    monkeypatch.setattr(module, "_cuda_python", lambda: None)
    first, second = cuda(0), cuda(1)
    assert (first.free_memory(), second.free_memory()) == ((0, 8), (1, 8))
    here, driver.pushed = driver.pushed, []

    def use_and_end():
        first.activate()
        first.activate()
        assert driver.pushed == [0]

    with ThreadPoolExecutor(1) as threads:
        threads.submit(use_and_end).result()
    gc.collect()
    assert driver.pushed == []  # pycuda ends the process otherwise
    driver.pushed = here
    for pop in at_exit:
        pop()
    assert driver.pushed == []
    with pytest.raises(CannotRunHereError, match="there is no GPU cuda:2: CUDA sees 2"):
        cuda(2)
