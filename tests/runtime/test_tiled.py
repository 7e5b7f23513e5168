from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.session import TimedOutput
from sr_deploy.runtime.tiled import run_tiles
from sr_deploy.runtime.tiling import plan_tiles, plan_whole


def to_input(part):
    return np.ascontiguousarray(part.transpose(2, 0, 1)[None])


def store(core, out):
    out[...] = core.transpose(1, 2, 0)


def upscaled(session, image, plan):
    out = np.full((2 * image.shape[0], 2 * image.shape[1], 3), np.nan, np.float32)
    return out, run_tiles(session, plan, image, out, to_input=to_input, store=store)


@pytest.mark.smoke
@pytest.mark.parametrize("size", [(16, 16), (24, 40), (64, 8)])
def test_an_exact_plan_gives_the_whole_image_and_no_difference(sessions, noise, size):
    image, static = noise((37, 50), np.float32), sessions["blur"]()
    static.min_hw = static.max_hw = size
    plan = plan_tiles((37, 50), static)
    whole, _ = upscaled(sessions["blur"](), image, plan_whole((37, 50)))
    out, run = upscaled(static, image, plan)
    assert plan.exact and np.abs(out - whole).max() < 1e-6 and run.seam_difference == 0
    assert set(static.fed) == {size} and len(static.fed) == plan.tiles


@pytest.mark.parametrize("hw", [(37, 50), (40, 13), (21, 61)])
@pytest.mark.parametrize("kind", ["windows", "unshuffled"])
def test_tiles_equal_the_whole_image_where_sessions_mirror_the_far_border(
    sessions, noise, kind, hw
):
    image, session = noise(hw, np.float32), sessions[kind]()
    plan = plan_tiles(hw, session, tile={"windows": 32, "unshuffled": 12}[kind])
    whole, _ = upscaled(session, image, plan_whole(hw))
    tiled, run = upscaled(session, image, plan)
    assert plan.exact and plan.tiles > 1 and np.abs(tiled - whole).max() < 1e-6


def test_the_difference_at_the_seams_is_measured(sessions, noise):
    image = noise((40, 40), np.float32)
    image[:, 20:] += 1  # the right tiles have other means
    session = sessions["whole"]()
    _, run = upscaled(session, image, plan_tiles((40, 40), session, tile=36))
    assert 0.05 < run.seam_difference < 1


@pytest.mark.parametrize("size", [(3, 64), (64, 3), (1, 1)])
def test_beyond_the_image_pixels_are_mirrored(sessions, noise, size):
    image, static = noise(size, np.float32), sessions["whole"]()
    static.min_hw = static.max_hw = (64, 64)
    seen = []
    static.network = lambda x: seen.append(x) or x
    upscaled(static, image, plan_tiles(size, static))
    padding = ((0, 64 - size[0]), (0, 64 - size[1]), (0, 0))
    np.testing.assert_array_equal(seen[0], to_input(np.pad(image, padding, mode="symmetric")))


def test_times_are_summed(sessions, noise, monkeypatch):
    session = sessions["blur"]()
    for copies_ms, expected in ((None, None), (0.5, 2.0)):
        monkeypatch.setattr(
            session,
            "_run_timed",
            lambda x, c=copies_ms: TimedOutput(session._run(x), 3.0, c, "events"),
        )
        plan = plan_tiles((40, 40), session, tile=24)
        _, run = upscaled(session, noise((40, 40), np.float32), plan)
        assert plan.tiles == 4
        assert (run.ms, run.copies_ms, run.timer) == (12.0, expected, "events")
