"""ONNX Runtime on its devices. The GPUs are a stand-in: no test of ours has run on one."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")

from doubles.onnxruntime_cuda import CUDA, TENSORRT, StandInOrtCuda  # noqa: E402

from sr_deploy.core.errors import CannotRunHereError, DeviceMemoryError, InputError  # noqa: E402
from sr_deploy.core.manifest import read_manifest  # noqa: E402
from sr_deploy.core.providers import PROVIDERS  # noqa: E402
from sr_deploy.core.run_options import CPU_RUN, RunOptions  # noqa: E402
from sr_deploy.runtime import ort_device as devices  # noqa: E402
from sr_deploy.runtime.ort import OnnxRuntimeSession  # noqa: E402

X = np.random.default_rng(1).random((1, 3, 16, 24), dtype=np.float32)
ON_CUDA = RunOptions(device="cuda")
TORCH_WITH_CUDA = devices.torch_with_cuda


@pytest.fixture(autouse=True)
def no_other_library(monkeypatch):
    """This machine's torch and CUDA binding play no part."""
    monkeypatch.setattr(devices, "torch_with_cuda", lambda index: None)
    monkeypatch.setattr(devices, "_cuda_binding", lambda index: None)
    monkeypatch.setattr(devices, "gpu_present", lambda: True)


@pytest.fixture
def binding(monkeypatch):
    """A stand-in for the CUDA binding."""

    class Gpu:
        free = 6 * 2**30

        def gpu_name(self):
            return "a stand-in GPU"

        def free_memory(self):
            return self.free, 8 * 2**30

    gpu = Gpu()
    monkeypatch.setattr(devices, "_cuda_binding", lambda index: gpu)
    return gpu


def open_tiny(tiny, run=ON_CUDA, **options):
    path = tiny(**options)
    return OnnxRuntimeSession(path, read_manifest(path), run)


@pytest.mark.smoke
def test_a_graph_runs_on_the_gpu_with_its_copies_apart(tiny, monkeypatch):
    ort = StandInOrtCuda(monkeypatch)
    session = open_tiny(tiny)
    assert (session.backend, session.place, session.threads) == ("onnxruntime-cuda", "cuda:0", None)
    assert session.device == "NVIDIA GPU 0" and session.precision == "fp32"
    assert session.settings == "TF32 off, waits after each run, copies apart"
    assert session.nodes.providers == {CUDA: session.nodes.providers[CUDA]}
    timed = session.run_timed(X)
    np.testing.assert_allclose(timed.y, open_tiny(tiny, CPU_RUN).run(X), atol=1e-5)
    assert timed.ms > 0 and timed.copies_ms > 0 and timed.timer == "wall clock"
    ((name, options),) = ort.sessions[0].asked
    assert name == CUDA and options["use_tf32"] == "0" and options["device_id"] == "0"
    assert not session.takes_tensors
    session.close()


def test_the_gpu_is_the_default_where_it_can_be_used(tiny, monkeypatch):
    StandInOrtCuda(monkeypatch)
    assert open_tiny(tiny, RunOptions()).place == "cuda:0"
    assert open_tiny(tiny, CPU_RUN).place == "cpu"


def test_without_the_package_the_cpu_runs_and_says_why(tiny, monkeypatch):
    session = open_tiny(tiny, RunOptions())
    assert session.place == "cpu" and session.settings == ""
    assert "onnxruntime cannot use the GPU: " in session.why_cpu
    assert f"has no {CUDA}" in session.why_cpu
    monkeypatch.setattr(devices, "gpu_present", lambda: False)
    assert open_tiny(tiny, RunOptions()).why_cpu == ""


def test_an_fp16_graph_is_computed_in_fp16_as_the_profile_shows(tiny, monkeypatch):
    StandInOrtCuda(monkeypatch, half=True)
    session = open_tiny(tiny, precision="fp16")
    assert session.precision == "fp16"
    assert set(session.nodes.types[CUDA]) == {"fp16"}
    assert session.run(X).dtype == np.float32
    assert open_tiny(tiny, CPU_RUN, precision="fp16").precision == "fp32"


def test_nodes_on_the_cpu_are_named_in_the_settings(tiny, monkeypatch):
    StandInOrtCuda(monkeypatch, on_cpu=["shuffle"])
    settings = open_tiny(tiny).settings
    assert settings.endswith(", 1 of 2 nodes by CPUExecutionProvider: shuffle")


def test_a_session_that_fell_back_entirely_is_refused(tiny, monkeypatch):
    StandInOrtCuda(monkeypatch, ignored=True)
    with pytest.raises(CannotRunHereError, match="by CPUExecutionProvider instead of CUDAExec"):
        open_tiny(tiny)


def test_a_session_that_was_opened_again_with_other_options_is_refused(tiny, monkeypatch):
    StandInOrtCuda(monkeypatch, reopened=True)
    with pytest.raises(CannotRunHereError, match="instead of CUDAExecutionProvider as asked"):
        open_tiny(tiny)


def test_a_session_whose_nodes_all_ran_on_the_cpu_is_refused(tiny, monkeypatch):
    StandInOrtCuda(monkeypatch, on_cpu=["conv", "shuffle"])
    with pytest.raises(CannotRunHereError, match="all 2 nodes on the CPU instead of by CUDAExec"):
        open_tiny(tiny)


def test_without_a_request_the_cpu_runs_what_the_gpu_cannot_and_says_why(tiny, monkeypatch):
    ort = StandInOrtCuda(monkeypatch, on_cpu=["conv", "shuffle"])
    session = open_tiny(tiny, RunOptions())
    assert (session.backend, session.place, session.settings) == ("onnxruntime", "cpu", "")
    assert "all 2 nodes on the CPU" in session.why_cpu
    ort.failing["open"] = "CUDA failure 2: out of memory"
    with pytest.raises(DeviceMemoryError, match="is out of memory"):
        open_tiny(tiny, RunOptions())


def test_a_graph_without_a_manifest_runs_on_the_gpu(tiny, monkeypatch):
    StandInOrtCuda(monkeypatch)
    session = OnnxRuntimeSession(tiny(hw=(8, 8), high=(32, 40)), run=ON_CUDA)
    assert (session.scale, session.place) == (2, "cuda:0")
    for hw in ((9, 12), (9, 12), (16, 8)):
        assert session.run(np.zeros((1, 3, *hw), np.float32)).shape == (1, 3, 2 * hw[0], 2 * hw[1])


def test_tensorrt_leaves_what_it_cannot_do_to_cuda(tiny, monkeypatch):
    ort = StandInOrtCuda(monkeypatch)
    session = open_tiny(tiny, RunOptions(runtime="onnxruntime-tensorrt"), precision="fp16")
    (first, options), (second, _) = ort.sessions[0].asked
    assert (first, options["trt_fp16_enable"], second) == (TENSORRT, "True", CUDA)
    assert session.precision == "fp16" and session.backend == "onnxruntime-tensorrt"
    assert session.settings.startswith("TF32 as TensorRT likes, ")


@pytest.mark.parametrize(
    "backend", ["onnxruntime-rtx", "onnxruntime-directml", "onnxruntime-coreml"]
)
def test_other_providers_copy_by_themselves(tiny, monkeypatch, backend):
    ort = StandInOrtCuda(monkeypatch, available=[PROVIDERS[backend].name])
    session = open_tiny(tiny, RunOptions(runtime=backend))
    assert session.device and session.settings == "copies timed with it"
    timed = session.run_timed(X)
    np.testing.assert_allclose(timed.y, open_tiny(tiny, CPU_RUN).run(X), atol=1e-5)
    assert timed.copies_ms is None and {b[1] for b in ort.sessions[0].bound} == {"cpu"}


def test_memory_is_the_driver_s_count(tiny, monkeypatch, binding):
    StandInOrtCuda(monkeypatch)
    session = open_tiny(tiny)
    assert session.device == "a stand-in GPU"
    binding.free -= 100 * 2**20
    peak = session.peak_memory()
    assert (peak.mib, peak.in_use_mib) == (100, 2148) and "driver's count" in peak.definition
    monkeypatch.setattr(devices, "_cuda_binding", lambda index: None)
    assert open_tiny(tiny).peak_memory() is None


@pytest.mark.parametrize(
    "message",
    [
        "bfc_arena.cc:359 AllocateRawInternal Failed to allocate memory for requested buffer of",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUDNN failure 4000: CUDNN_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_out_of_memory_is_an_error_of_its_own(tiny, monkeypatch, binding, message):
    ort = StandInOrtCuda(monkeypatch)
    session = open_tiny(tiny)
    ort.failing["run"] = message
    with pytest.raises(
        DeviceMemoryError, match=r"a stand-in GPU \(cuda:0\) is out of memory.*16x24"
    ):
        session.run(X)


def test_another_failed_run_says_why(tiny, monkeypatch):
    ort = StandInOrtCuda(monkeypatch)
    session = open_tiny(tiny)
    ort.failing["run"] = "CUDA failure 209: no kernel image is available"
    with pytest.raises(CannotRunHereError, match="at 16x24: CUDA failure 209") as e:
        session.run(X)
    assert "--device cpu" in e.value.hint and not isinstance(e.value, DeviceMemoryError)


def test_a_gpu_that_cannot_be_used_is_an_error_where_it_is_requested(tiny, monkeypatch):
    StandInOrtCuda(monkeypatch, device="CUDA failure 35: CUDA driver version is insufficient")
    with pytest.raises(
        CannotRunHereError, match="onnxruntime-cuda cannot run on cuda:0.*CUDA failure 35"
    ):
        open_tiny(tiny)
    session = open_tiny(tiny, RunOptions())
    assert session.place == "cpu" and "CUDA failure 35" in session.why_cpu


def test_a_gpu_that_is_not_there_is_an_error(tiny, monkeypatch):
    StandInOrtCuda(monkeypatch, count=2)
    assert open_tiny(tiny, RunOptions(device="cuda:1")).place == "cuda:1"
    with pytest.raises(CannotRunHereError, match="cuda:2: .*invalid device ordinal"):
        open_tiny(tiny, RunOptions(device="cuda:2"))


def test_an_engine_of_the_cpu_is_not_run_on_a_gpu(tiny, tmp_path, monkeypatch):
    from sr_deploy.runtime.build import engine_from_onnx
    from sr_deploy.runtime.ort_engine import OnnxRuntimeBackend

    StandInOrtCuda(monkeypatch)
    (engine,) = engine_from_onnx(tiny(), tmp_path, target="cpu")
    manifest = read_manifest(engine)
    session = OnnxRuntimeBackend().open(engine, manifest)
    assert (session.place, session.why_cpu) == ("cpu", "")
    with pytest.raises(CannotRunHereError, match="engine of target 'cpu'.*runs on cpu"):
        OnnxRuntimeBackend().open(engine, manifest, ON_CUDA)
    with pytest.raises(InputError, match="unknown runtime"):
        RunOptions(runtime="tensort")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensors_of_torch_are_taken_on_its_stream_without_waiting(tiny, monkeypatch, precision):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from doubles.torch_cuda import StandInTorchCuda

    ort = StandInOrtCuda(monkeypatch)
    StandInTorchCuda(monkeypatch)
    monkeypatch.setattr(torch.cuda, "Stream", stand_in_stream(torch.cuda.Stream))
    monkeypatch.setattr(devices, "torch_with_cuda", TORCH_WITH_CUDA)
    session = open_tiny(tiny, precision=precision)
    assert session.takes_tensors and session.device == "a stand-in GPU"
    (opened,) = ort.sessions
    assert opened.asked[0][1]["user_compute_stream"] == "4096"
    y = session.run_tensor(torch.from_numpy(X))
    assert y.dtype == torch.float32 and opened.asynchronous == 1
    np.testing.assert_allclose(y.numpy(), session.run(X), atol=1e-6)
    assert {bound[1:] for bound in opened.bound} == {("cuda", 0)}
    ort.failing["run"] = "CUDA failure 2: out of memory"
    with pytest.raises(DeviceMemoryError, match="16x24"):
        session.run_tensor(torch.from_numpy(X))


def stand_in_stream(base):
    class Stream(base):
        cuda_stream = 4096

    return Stream


def test_tiles_of_an_image_stay_on_the_gpu(tiny, noise, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from doubles.torch_cuda import StandInTorchCuda

    from sr_deploy.runtime.device_tiles import DeviceTiles
    from sr_deploy.runtime.tiled import HostTiles
    from sr_deploy.runtime.tiling import plan_tiles

    path, image = tiny(hw=(8, 8), high=(32, 40)), noise((41, 70), np.uint8)
    outs = [np.zeros((82, 140, 3), np.uint8) for _ in range(2)]
    session = OnnxRuntimeSession(path, read_manifest(path), CPU_RUN)
    plan = plan_tiles((41, 70), session)
    HostTiles(session).start(plan, image, outs[0], white=255)()
    ort = StandInOrtCuda(monkeypatch)
    StandInTorchCuda(monkeypatch).late_copies(monkeypatch)
    monkeypatch.setattr(torch.cuda, "Stream", stand_in_stream(torch.cuda.Stream))
    monkeypatch.setattr(devices, "torch_with_cuda", TORCH_WITH_CUDA)
    session = OnnxRuntimeSession(path, read_manifest(path), ON_CUDA)
    DeviceTiles(session).start(plan, image, outs[1], white=255)()
    assert ort.sessions[-1].asynchronous == plan.tiles > 1
    assert np.abs(outs[0].astype(int) - outs[1]).max() <= 1
