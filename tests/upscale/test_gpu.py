"""Upscaling on a GPU. It is a stand-in: no test of ours has run on one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sr_deploy.core.errors import CannotRunHereError, DeviceMemoryError, InputError
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import PeakMemory
from sr_deploy.upscale import upscaler, workers
from sr_deploy.upscale.memory import MemorySharing
from sr_deploy.upscale.options import UpscaleOptions
from sr_deploy.upscale.upscaler import Upscaler

torch = pytest.importorskip("torch", reason="torch is not installed")

from doubles.torch_cuda import GIB, StandInTorchCuda  # noqa: E402

BY_TORCH = RunOptions(runtime="torch")

MIB = 2**20
WEIGHTS = 100 * MIB


@pytest.fixture
def gpu(monkeypatch):
    stand_in = StandInTorchCuda(monkeypatch)
    stand_in.late_copies(monkeypatch)
    # The tests before have left memory of any size to this process.
    monkeypatch.setattr(upscaler, "resident_bytes", lambda: 200 * MIB)
    return stand_in


class Limited:
    """Mixed into a session: a GPU of `has` bytes, whose network needs some for itself and pixels.

    `real_per_px` is what tiles really need, `told_per_px` what the probes see.
    """

    device, place, takes_tensors = "a stand-in GPU", "cuda:0", True
    has, told_per_px, real_per_px, peak, free = 8 * GIB, 4000, 4000, 0, 6 * GIB

    def run_tensor(self, x):
        px = x.shape[2] * x.shape[3]
        self.peak = max(self.peak, WEIGHTS + self.told_per_px * px)
        if WEIGHTS + self.real_per_px * px > self.has:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\n..")
        return torch.from_numpy(self._run(x.numpy()))

    def reset_peak_memory(self):
        self.peak = 0

    def peak_memory(self):
        return PeakMemory(self.peak / MIB, "as the stand-in says", None, self.free / MIB)


@pytest.fixture
def make(gpu, sessions):
    def make(kind="blur", **facts):
        return type("Session", (Limited, sessions[kind]), facts)()

    return make


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["blur", "windows", "whole"])
def test_images_and_frames_are_those_of_the_host(make, sessions, noise, kind):
    images = [noise((41, 70)) // n for n in (1, 2, 3)]
    host, upscaler = Upscaler(sessions[kind](), tile=40), Upscaler(make(kind), tile=40)
    for image, frame in zip(images, upscaler.frames(iter(images))):
        np.testing.assert_array_equal(frame, host(image))
        np.testing.assert_array_equal(upscaler(image), frame)
    assert upscaler.device_ms > 0 and host.device_ms is None
    assert upscaler.seam_difference == pytest.approx(host.seam_difference)
    assert upscaler.describe() == host.describe()


def test_the_next_image_is_begun_before_a_result_is_awaited(make, noise):
    upscaler, taken = Upscaler(make()), []
    frames = upscaler.frames(taken.append(n) or noise((8, 8)) for n in range(4))
    for n in range(4):
        next(frames)
        assert len(taken) == min(n + 2, 4)


def test_tiles_fit_the_bound_on_the_gpus_memory(make, noise):
    session = make()
    upscaler = Upscaler(session, max_memory=4 * GIB)
    assert upscaler.plan((300, 300)).whole
    small = Upscaler(session := make(), max_memory=GIB // 2)
    small(noise((600, 600)))
    assert not small.plan((600, 600)).whole and small.plan((600, 600)).exact
    assert WEIGHTS < session.peak <= small._gpu._estimate <= GIB // 2
    report = small.memory_report()
    assert "GPU memory: estimated 4" in report and "bound 512 MiB" in report
    assert "OVER" not in report.split("GPU memory")[1]


def test_the_default_bound_is_a_share_of_the_free_memory(make):
    upscaler = Upscaler(make(free=2 * GIB))
    upscaler.plan((200, 200))
    assert upscaler._gpu.bound == pytest.approx(WEIGHTS + 1.5 * GIB, abs=MIB)
    sharing = MemorySharing(processes=6, on_same_gpu=3)
    shared = Upscaler(make(free=2 * GIB), sharing=sharing)
    shared.plan((200, 200))
    assert shared._gpu.bound == pytest.approx(WEIGHTS + GIB / 2, abs=MIB)


def test_workers_share_a_given_bound_on_the_gpu_and_on_the_machine(make):
    upscaler = Upscaler(
        make(), max_memory=6 * GIB, sharing=MemorySharing(processes=6, on_same_gpu=3)
    )
    assert (upscaler.max_memory, upscaler._gpu.bound) == (GIB, 2 * GIB)


def test_a_bound_below_the_smallest_tile_is_refused(make, noise):
    sharing = MemorySharing(on_same_gpu=64)
    with pytest.raises(InputError, match="300x300 cannot .* within 32 MiB of a stand-in") as caught:
        Upscaler(make(), max_memory=2 * GIB, sharing=sharing)(noise((300, 300)))
    assert "need about 1" in caught.value.message
    assert caught.value.hint.startswith("raise --max-memory, end other programs")
    with pytest.raises(InputError, match="cannot be upscaled within 100 MiB") as caught:
        Upscaler(make(free=1000))(noise((300, 300)))
    assert caught.value.hint.startswith("end other programs on the GPU")


def test_a_small_image_that_does_not_fit_is_tiled_too(make, sessions, noise):
    image = noise((100, 120))  # of a size that needs no probes
    upscaler = Upscaler(make(has=WEIGHTS + 10 * MIB))
    np.testing.assert_array_equal(upscaler(image), Upscaler(sessions["blur"]())(image))
    assert not upscaler._measured and not upscaler.plan((100, 120)).whole


def test_when_the_memory_runs_out_tiles_are_halved_and_it_is_said_once(make, gpu, sessions, noise):
    lines = []
    session = make(has=WEIGHTS + 300 * MIB)  # less than the driver says is free
    upscaler = Upscaler(session, log=lines.append)
    images = [noise((400, 500)) // n for n in (1, 2)]
    host = Upscaler(sessions["blur"]())
    for image, frame in zip(images, upscaler.frames(iter(images))):
        np.testing.assert_array_equal(frame, host(image))
    assert len(lines) == 1 and lines[0].startswith("a stand-in GPU (cuda:0) is out of memory: CUDA")
    assert lines[0].endswith("going on with smaller tiles")
    assert "empty cache" in gpu.calls
    h, w = upscaler.plan((400, 500)).tile_hw
    assert 4000 * h * w <= 300 * MIB < 4000 * 2.5 * h * w


def test_a_session_that_takes_no_tensors_is_bounded_too(sessions, noise):
    """TensorRT on a board without torch: the tiles come and go through the host's memory."""
    lines = []

    class OnBoard(sessions["blur"]):
        device, place, peak, free = "a stand-in board", "cuda:0", 0, GIB

        def _run(self, x):
            px = x.shape[2] * x.shape[3]
            if px > 70_000:
                raise DeviceMemoryError("the board is out of memory")
            self.peak = max(self.peak, WEIGHTS + 1000 * px)
            return super()._run(x)

        reset_peak_memory, peak_memory = Limited.reset_peak_memory, Limited.peak_memory

    image, session = noise((400, 500)), OnBoard()
    upscaler = Upscaler(session, log=lines.append)
    np.testing.assert_array_equal(upscaler(image), Upscaler(sessions["blur"]())(image))
    assert lines == ["the board is out of memory: going on with smaller tiles"]
    assert "GPU memory: estimated" in upscaler.memory_report()
    bounded = Upscaler(OnBoard(), max_memory=2 * GIB, sharing=MemorySharing(on_same_gpu=16))
    assert 18_000 < np.prod(bounded.plan((400, 500)).tile_hw) <= 28 * MIB / 1000 / 1.3


def test_where_the_larger_probe_does_not_fit_the_smaller_one_bounds_the_tiles(make, noise):
    session = make(has=WEIGHTS + 100 * MIB)  # for 26214 pixels; the probes have 16384 and 65536
    upscaler = Upscaler(session, max_memory=GIB)
    upscaler(noise((300, 300)))
    assert session.peak <= upscaler._gpu._estimate <= GIB
    bounded = Upscaler(make(has=WEIGHTS + 100 * MIB), max_memory=128 * MIB)
    with pytest.raises(InputError, match="within 128 MiB"):  # the machine's, of which more is used
        bounded.plan((300, 300))
    assert bounded._gpu.max_px((300, 300)) <= 128 * MIB / 4000


def test_other_sizes_keep_to_the_smaller_tiles(make, noise):
    session = make(has=WEIGHTS + 300 * MIB, told_per_px=1)
    upscaler = Upscaler(session)
    upscaler(noise((400, 500)))
    for hw in ((400, 500), (900, 900), (7, 90_000)):
        assert np.prod(upscaler.plan(hw).tile_hw) <= 400 * 500 / 2


@pytest.mark.parametrize("size", [None, (64, 64)])
def test_when_the_smallest_tile_does_not_fit_it_is_an_error(make, noise, size):
    facts = {} if size is None else {"min_hw": size, "max_hw": size}
    session = make(has=WEIGHTS // 2, **facts)
    with pytest.raises(
        DeviceMemoryError, match="out of memory: CUDA.*; a tile of .* is the smallest"
    ) as caught:
        Upscaler(session)(noise((300, 300)))
    assert "--device cpu" in caught.value.hint


def test_without_facts_on_the_memory_tiles_are_as_large_as_they_can_be(make, noise):
    session = make(peak_memory=lambda self: None, has=WEIGHTS + 100 * MIB)
    upscaler = Upscaler(session)
    upscaler(noise((300, 300)))
    assert not upscaler.plan((300, 300)).whole
    assert "GPU memory: unknown" in upscaler.memory_report()


def test_the_hosts_need_is_that_of_page_locked_memory(make, noise, monkeypatch):
    """The libraries of CUDA, which the probes load, do not count as a need of pixels."""
    upscaler = Upscaler(make())
    upscaler(noise((200, 200)))
    assert upscaler._need.bytes_per_px == 2 * 12 * (1 + 2 * 4)


def test_the_precision_is_part_of_what_resumes(make, sessions):
    assert Upscaler(sessions["blur"](), identity="abc").identity == "abc"
    assert Upscaler(make(), identity="abc").identity == "abc"
    assert Upscaler(make(precision="fp16"), identity="abc").identity == "abc in fp16"


def test_the_device_is_named_and_why_it_is_not_the_gpu(make, sessions):
    assert Upscaler(make(precision="fp16")).where == "test on a stand-in GPU (cuda:0), in fp16"
    session = sessions["blur"]()
    assert Upscaler(session).where == "test on the CPU"
    session.why_cpu = "torch cannot use the GPU: it is too old"
    assert Upscaler(session).where == "test on the CPU (torch cannot use the GPU: it is too old)"


@pytest.mark.parametrize(
    "given, gpus, expected",
    [
        ({}, 0, [(None, 3)] * 3),
        ({}, 1, [(None, 3)] * 3),
        ({}, 2, [("cuda:0", 2), ("cuda:1", 1), ("cuda:0", 2)]),
        ({"device": "cuda"}, 4, [("cuda:0", 1), ("cuda:1", 1), ("cuda:2", 1)]),
        ({"runtime": "onnxruntime-cuda"}, 2, [("cuda:0", 2), ("cuda:1", 1), ("cuda:0", 2)]),
        ({"device": "cuda:1"}, 4, [("cuda:1", 3)] * 3),
        ({"device": "cpu"}, 4, [("cpu", 3)] * 3),
        ({"runtime": "onnxruntime"}, 4, [(None, 3)] * 3),
    ],
)
def test_workers_take_turns_at_the_gpus(monkeypatch, given, gpus, expected):
    monkeypatch.setattr(workers, "gpu_count", lambda: gpus)
    run = RunOptions(cuda_graph=False, **given)
    found = [workers.device_of_worker(run, number, 3) for number in range(3)]
    assert [(run.device, sharing) for run, sharing in found] == expected
    assert all(dataclasses.replace(each, device=run.device) == run for each, _ in found)


def test_a_worker_whose_gpu_cannot_be_used_says_so_and_takes_the_first(monkeypatch, gpu):
    monkeypatch.setattr(workers, "gpu_count", lambda: 2)
    lines = []
    options = UpscaleOptions("fsrcnn-w16_x4", workers=2, max_memory=4 * GIB, run=BY_TORCH)
    upscaler = workers.upscaler_of_worker(options, 1, 2, lines.append)
    assert upscaler.session.place == "cuda:0" and upscaler._gpu.bound == 2 * GIB
    assert lines == [
        "torch cannot use cuda:1: there is one GPU, cuda:0; worker 2 runs where the first one does"
    ]
    asked = dataclasses.replace(options, run=RunOptions(device="cuda", runtime="torch"))
    with pytest.raises(CannotRunHereError, match="torch cannot use cuda:1: there is one GPU"):
        workers.upscaler_of_worker(asked, 1, 2, lines.append)


def test_a_worker_uses_the_gpu_of_its_turn(gpu):
    gpu.count = 2
    options = UpscaleOptions("fsrcnn-w16_x4", workers=2, max_memory=4 * GIB, run=BY_TORCH)
    upscaler = workers.upscaler_of_worker(options, 1, 2, print)
    assert upscaler.where == "torch on a stand-in GPU 1 (cuda:1)"
    assert (upscaler.max_memory, upscaler._gpu.bound) == (2 * GIB, 4 * GIB)
