"""Tiles on a GPU. It is a stand-in: no test of ours has run on one."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.errors import ArtifactError, DeviceMemoryError
from sr_deploy.runtime.tiled import HostTiles
from sr_deploy.runtime.tiling import plan_tiles, plan_whole

torch = pytest.importorskip("torch", reason="torch is not installed")

from doubles.torch_cuda import StandInTorchCuda  # noqa: E402

from sr_deploy.runtime.device_tiles import DeviceTiles  # noqa: E402

WHITE = {np.uint8: 255, np.uint16: 65535, np.float32: 1}


@pytest.fixture
def gpu(monkeypatch):
    stand_in = StandInTorchCuda(monkeypatch)
    stand_in.late_copies(monkeypatch)
    return stand_in


def on_gpu(session_class):
    """Return a session like `session_class` that takes tensors, in one buffer for each size."""

    class OnGpu(session_class):
        device, place, takes_tensors = "a stand-in GPU", "cuda:0", True

        def __init__(self):
            super().__init__()
            self.buffers = {}

        def run_tensor(self, x):
            assert x.dtype == torch.float32 and x.is_contiguous() and x.shape[:2] == (1, 3)
            y = torch.from_numpy(self._run(x.numpy()))
            buffer = self.buffers.setdefault(y.shape, torch.empty_like(y))
            return buffer.copy_(y)  # valid until the next run, as a CUDA graph's

    return OnGpu()


def both(session_class, image, plan):
    """Return the results and runs of the host and of the device."""
    results = []
    for session in (session_class(), on_gpu(session_class)):
        out = np.full((2 * plan.hw[0], 2 * plan.hw[1], 3), 77, image.dtype)
        tiles = DeviceTiles(session) if session.takes_tensors else HostTiles(session)
        run = tiles.start(plan, image, out, white=WHITE[image.dtype.type])()
        results.append((out, run))
    return results


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("kind", ["blur", "windows", "whole"])
@pytest.mark.parametrize("hw", [(1, 1), (3, 90), (41, 70)])
def test_the_result_is_the_hosts_to_the_last_bit(gpu, sessions, noise, kind, dtype, hw):
    class Wide(sessions[kind]):  # values beyond 0..1 are clipped
        def network(self, x):
            return super().network(x) * np.float32(1.7) - np.float32(0.3)

    image = noise(hw, dtype)
    static = Wide()
    static.min_hw = static.max_hw = (32, 40)
    for plan in (plan_whole(hw), plan_tiles(hw, Wide(), tile=36), plan_tiles(hw, static)):
        (expected, on_host), (out, on_device) = both(Wide, image, plan)
        np.testing.assert_array_equal(out, expected)
        assert on_device.seam_difference == pytest.approx(on_host.seam_difference, rel=1e-6)
        assert on_device.timer == "device events"


def test_tiles_of_one_size_follow_each_other(gpu, sessions, noise):
    """Engines and CUDA graphs are prepared for a size."""
    session = on_gpu(sessions["windows"])
    plan = plan_tiles((200, 205), session, tile=48)
    out = np.zeros((400, 410, 3), np.uint8)
    DeviceTiles(session).start(plan, noise((200, 205)), out, white=255)()
    sizes = session.fed
    changes = sum(a != b for a, b in zip(sizes, sizes[1:]))
    assert len(sizes) == plan.tiles > 9 and changes == len(set(sizes)) - 1 > 0
    np.testing.assert_array_equal(out, both(sessions["windows"], noise((200, 205)), plan)[0][0])


def test_images_overlap_and_do_not_mix(gpu, sessions, noise):
    session = on_gpu(sessions["blur"])
    tiles, plan = DeviceTiles(session), plan_tiles((30, 40), session, tile=20)
    images = [noise((30, 40)) // (1 + n) for n in range(3)]
    outs = [np.zeros((60, 80, 3), np.uint8) for _ in images]
    waits = [tiles.start(plan, image, out, white=255) for image, out in zip(images, outs)]
    for wait, image, out in zip(waits, images, outs):
        wait()
        np.testing.assert_array_equal(out, both(sessions["blur"], image, plan)[0][0])


def test_the_host_waits_for_a_tile_after_the_next_one_is_queued(gpu, sessions, noise):
    session = on_gpu(sessions["blur"])
    tiles, plan = DeviceTiles(session), plan_tiles((20, 60), session, tile=26)
    assert plan.tiles == 3
    finish = tiles.start(plan, noise((20, 60)), np.zeros((40, 120, 3), np.uint8), white=255)
    assert gpu.waits == 2 and "synchronize" not in gpu.calls
    finish()
    assert gpu.waits == 4  # the last tile, and what is known of all


@pytest.mark.parametrize("tiles_before", [0, 2])
def test_when_the_memory_runs_out_the_image_before_is_whole(gpu, sessions, noise, tiles_before):
    session = on_gpu(sessions["blur"])
    tiles, plan = DeviceTiles(session), plan_tiles((20, 60), session, tile=26)
    image, out = noise((20, 60)), np.zeros((40, 120, 3), np.uint8)
    wait, run, left = tiles.start(plan, image, out, white=255), session.run_tensor, tiles_before

    def failing(x):
        nonlocal left
        if left == 0:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        left -= 1
        return run(x)

    session.run_tensor = failing
    with pytest.raises(DeviceMemoryError, match="a stand-in GPU .cuda:0. is out of memory"):
        tiles.start(plan, 255 - image, np.zeros_like(out), white=255)
    wait()
    np.testing.assert_array_equal(out, both(sessions["blur"], image, plan)[0][0])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_not_a_number_anywhere_is_an_error(gpu, sessions, noise, dtype):
    class Broken(sessions["blur"]):
        def network(self, x):
            y = x.copy()
            y[0, 1, 2, 3] = np.nan
            return y

    session = on_gpu(Broken)
    image = noise((9, 9), dtype)
    wait = DeviceTiles(session).start(
        plan_whole((9, 9)), image, np.zeros((18, 18, 3), dtype), white=WHITE[dtype]
    )
    with pytest.raises(ArtifactError, match="output contains NaN"):
        wait()
