"""torch's devices. The GPU is a stand-in: no test of ours has run on one."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from sr_deploy.core.errors import CannotRunHereError, DeviceMemoryError, InputError
from sr_deploy.core.run_options import RunOptions

torch = pytest.importorskip("torch", reason="torch is not installed")

from doubles.torch_cuda import StandInTorchCuda  # noqa: E402

from sr_deploy.runtime import torch_device as devices  # noqa: E402
from sr_deploy.runtime.torch_module import TorchSession, array_function, tensor_part  # noqa: E402

X = np.random.default_rng(0).random((1, 3, 6, 5), dtype=np.float32)
CUDA = RunOptions(device="cuda")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, x):
        assert not torch.is_grad_enabled()
        return torch.nn.functional.pixel_shuffle(self.conv(x), 2)


def open_net(**options):
    return TorchSession(Net(), scale=2, run=RunOptions(**options))


@pytest.fixture
def gpu(monkeypatch):
    return StandInTorchCuda(monkeypatch)


def test_on_the_cpu_nothing_is_recorded_but_what_was_asked_for():
    session = open_net()
    assert (session.place, session.device, session.settings) == ("cpu", "", "")
    assert session.peak_memory() is None and not session.takes_tensors
    for same in (RunOptions(device="cpu"), RunOptions(harness=True)):
        assert TorchSession(Net(), scale=2, run=same).settings == ""
    half = open_net(device="cpu", precision="bf16", channels_last=True)
    assert half.precision == "bf16"
    assert half.settings == "eager, channels-last, FP32 ends, casts timed with it"
    np.testing.assert_allclose(half.run(X), session.run(X), atol=0.02)


def test_a_gpu_is_the_default_and_its_times_are_device_events_with_copies_apart(gpu):
    session = open_net()
    assert (session.place, session.device) == ("cuda:0", "a stand-in GPU")
    timed = session.run_timed(X)
    np.testing.assert_array_equal(timed.y, open_net(device="cpu").run(X))
    assert (timed.ms, timed.copies_ms, timed.timer) == (1, 2, "device events")
    assert session.settings == "eager, NCHW, TF32 off, cudnn.benchmark off, copies apart"


def test_the_events_are_made_once(gpu):
    session = open_net()
    for _ in range(3):
        session.run(X)
    assert gpu.calls.count("new event") == 2


def flags():
    backends = torch.backends
    by_operator = [backends.cudnn.conv.fp32_precision] if hasattr(backends.cudnn, "conv") else []
    return [
        backends.cudnn.allow_tf32,
        backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
        torch.is_grad_enabled(),
        *by_operator,
    ]


@pytest.mark.parametrize("matmul", ["highest", "high"])
def test_torch_s_flags_are_set_around_the_run_only(gpu, matmul):
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, x):
            seen.append(flags())
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    torch.set_float32_matmul_precision(matmul)
    try:
        before = flags()
        strict = TorchSession(Watch(), scale=2, run=CUDA)
        loose = TorchSession(Watch(), scale=2, run=RunOptions(harness=True))
        strict.run(X)
        loose.run(X)
        assert flags() == before
    finally:
        torch.set_float32_matmul_precision("highest")
    assert [row[:4] for row in seen] == [
        [False, False, "highest", False],
        [True, False, "highest", True],
    ]
    assert [row[4:] for row in seen] in ([["ieee"], ["tf32"]], [[], []])
    assert "TF32 off" in strict.settings
    assert "convolutions may round to TF32 (torch's default)" in loose.settings


def test_each_copy_and_the_network_run_alone_so_that_no_launch_hides_behind_a_copy(gpu):
    open_net().run(X)
    assert gpu.calls[-5:].count("synchronize") == 3


def test_a_network_that_cannot_be_compiled_is_an_error(monkeypatch):
    def no_compiler(module):
        def run(x):
            raise RuntimeError("Triton is missing\nand more lines")

        return run

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(CannotRunHereError, match="torch.compile failed: Triton is missing$") as e:
        open_net(device="cpu", compile=True).run(X)
    assert "omit --compile" in e.value.hint


def test_a_cuda_graph_is_captured_for_each_size_and_replayed(gpu):
    session = open_net(cuda_graph=True)
    plain = open_net(device="cpu")
    for x in (X, X + 0.5, X[:, :, :4], X):
        np.testing.assert_array_equal(session.run(x), plain.run(x))
    assert gpu.calls.count("replay") == 4
    assert "one CUDA graph" in session.settings


def test_a_failed_capture_runs_eagerly_and_is_recorded(monkeypatch):
    error = RuntimeError("operation not permitted")
    gpu = StandInTorchCuda(monkeypatch, failing={"capture": error})
    before, session = gpu.stream, open_net(cuda_graph=True)
    np.testing.assert_array_equal(session.run(X), open_net(device="cpu").run(X))
    assert "no CUDA graph (operation not permitted)" in session.settings
    assert gpu.stream is before  # not the one of the capture


def test_memory_is_counted_by_torch_and_by_the_driver(gpu):
    peak = open_net().peak_memory()
    assert "torch.cuda.max_memory_allocated" in peak.definition
    assert (peak.mib, peak.in_use_mib) == (3, 2048)
    assert "reset peak" in gpu.calls


def test_out_of_memory_is_an_error_of_its_own(monkeypatch):
    gpu = StandInTorchCuda(monkeypatch)
    session = open_net()
    for error in (torch.cuda.OutOfMemoryError, RuntimeError):  # of the allocator, of the driver
        gpu.failing["run"] = error("CUDA error: out of memory\nand more lines")
        with pytest.raises(DeviceMemoryError, match="a stand-in GPU .cuda:0. is out of memory"):
            session.run(X)
        with pytest.raises(DeviceMemoryError):
            session.run_tensor(torch.from_numpy(X))


def test_a_network_that_runs_out_of_memory_keeps_none(gpu):
    kept = []

    class Full(Net):
        def forward(self, x):
            features = self.conv(x)
            kept.append(weakref.ref(features))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    session = TorchSession(Full(), scale=2, run=CUDA)
    with pytest.raises(DeviceMemoryError):
        session.run(X)
    try:
        session.run(X)
    except DeviceMemoryError:  # smaller tiles may be run here
        assert [reference() for reference in kept] == [None, None]


def test_other_errors_of_torch_name_the_gpu(monkeypatch):
    gpu = StandInTorchCuda(monkeypatch)
    session = open_net()
    gpu.failing["run"] = RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")
    with pytest.raises(CannotRunHereError, match="failed on a stand-in GPU .cuda:0.: cuDNN error"):
        session.run(X)


def test_tensors_on_the_device_are_run_without_waiting(gpu):
    session = open_net()
    assert session.takes_tensors
    y = session.run_tensor(torch.from_numpy(X))
    assert "synchronize" not in gpu.calls
    np.testing.assert_array_equal(y.numpy(), open_net(device="cpu").run(X))


def test_parts_of_adaptive_networks_take_arrays_or_tensors_and_leave_tensors_there(gpu):
    device, expected = devices.torch_device(CUDA), open_net(device="cpu").run(X)
    part = tensor_part(Net(), device)
    for x in (X, torch.from_numpy(X)):
        (y,) = part(x=x)
        assert isinstance(y, torch.Tensor) and gpu.calls[-1] == "synchronize"
        np.testing.assert_array_equal(device.to_host(y), expected)
    np.testing.assert_array_equal(array_function(Net(), device)(X), expected)


def test_closing_returns_the_memory(gpu):
    session = open_net()
    gpu.calls.clear()
    session.close()
    assert "empty cache" in gpu.calls
    with pytest.raises(InputError, match="this session is closed"):
        session.run(X)


@pytest.mark.parametrize(
    ("setup", "device", "message"),
    [
        ({}, "cuda:1", "there is one GPU, cuda:0"),
        ({"count": 2}, "cuda:2", "there are 2 GPUs"),
        ({"count": 0}, "cuda", "there are 0 GPUs"),
        ({"sm": (6, 1)}, "cuda", "built for sm_80, sm_90; a stand-in GPU is sm_61"),
        ({"failing": {"init": RuntimeError("driver is too old")}}, "cuda", "driver is too old"),
        ({"failing": {"probe": RuntimeError("no kernel image")}}, "cuda", "GPU: no kernel image"),
    ],
)
def test_a_requested_gpu_that_torch_cannot_use_is_an_error(monkeypatch, setup, device, message):
    StandInTorchCuda(monkeypatch, **setup)
    with pytest.raises(CannotRunHereError, match=message):
        open_net(device=device)


def test_a_torch_without_cuda_is_an_error_for_a_gpu_and_told_without_a_request(monkeypatch):
    if torch.version.cuda is not None:
        pytest.skip("this torch is built with CUDA")
    with pytest.raises(CannotRunHereError, match="torch cannot use cuda:0: .*built without CUDA"):
        open_net(device="cuda")
    monkeypatch.setattr(devices, "gpu_present", lambda: True)
    assert "torch cannot use the GPU" in open_net().why_cpu
    with pytest.raises(CannotRunHereError, match="--cuda-graph needs an NVIDIA GPU"):
        open_net(cuda_graph=True)


def test_a_device_that_torch_does_not_drive_is_an_error():
    with pytest.raises(CannotRunHereError, match="torch runs on cpu or cuda here, not on coreml"):
        open_net(device="coreml")


def test_newer_gpus_of_a_generation_run_its_code_and_ptx_runs_on_all_newer():
    assert devices._supports(["sm_80"], 89)
    assert not devices._supports(["sm_89"], 86)
    assert not devices._supports(["sm_80"], 90)
    assert devices._supports(["sm_80", "compute_80"], 120)


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch < 2.9 has one flag")
def test_a_program_s_own_flag_by_operator_is_kept(gpu):
    flag = torch.backends.cuda.matmul
    before = flag.fp32_precision
    try:
        flag.fp32_precision = "tf32"  # torch refuses to read its older flag now
        open_net().run(X)
        assert flag.fp32_precision == "tf32"
    finally:
        flag.fp32_precision = before
