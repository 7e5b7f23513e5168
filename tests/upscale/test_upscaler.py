from __future__ import annotations

import numpy as np
import pytest

import sr_deploy
from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.runtime.tiling import smallest_tile
from sr_deploy.upscale.upscaler import Upscaler


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["blur", "windows", "unshuffled"])
def test_tiled_equals_whole(sessions, noise, kind):
    session = sessions[kind]()
    for hw in ((1, 1), (3, 90), (37, 101), (64, 72), (65, 71)):
        image = noise(hw, np.float32)
        whole = Upscaler(session)(image)
        for extra in (0, 5, 17):
            upscaler = Upscaler(session, tile=smallest_tile(session, 0) + extra)
            assert np.abs(upscaler(image) - whole).max() < 1e-6, (hw, extra)
            assert upscaler.seam_difference == 0


@pytest.mark.parametrize("kind", ["blur", "windows", "unshuffled"])
def test_a_static_session_gives_the_whole_images_result_if_its_plan_is_exact(sessions, noise, kind):
    whole_session, exact = sessions[kind](), 0
    for size in (16, 32, 40):
        static = sessions[kind]()
        static.min_hw = static.max_hw = (size, size)
        for n in (1, 6, 8, 20, 21, 24, 31, 32, 40, 48, 50, 64, 72, 73, 104):
            image = noise((n, max(n - 8, 1)), np.float32)
            upscaler = Upscaler(static)
            difference = np.abs(upscaler(image) - Upscaler(whole_session)(image)).max()
            plan = upscaler.plan(image.shape[:2])
            exact += plan.exact
            assert difference < 1e-6 or not plan.exact, (size, n)
            assert (
                "equal to the whole image's result" in upscaler.describe() or plan.whole
            ) == plan.exact
    assert exact > 10


def test_the_difference_of_inexact_tiles_is_measured_and_reported(sessions, noise):
    session = sessions["whole"]()
    image = noise((90, 80), np.float32)
    upscaler = Upscaler(session, tile=40)
    difference = np.abs(upscaler(image) - Upscaler(session)(image)).max()
    assert difference > 1e-3 and upscaler.seam_difference > 1e-3
    assert (
        f"differs from the whole image's result, by up to {upscaler.seam_difference:.2g}"
        in upscaler.describe()
    )


def test_a_flat_image_has_no_difference_to_measure(sessions):
    upscaler = Upscaler(sessions["whole"](), tile=40)
    upscaler(np.full((90, 80, 3), 7, np.uint8))
    assert upscaler.seam_difference < 1e-6


@pytest.mark.parametrize("dtype, largest", [(np.uint8, 255), (np.uint16, 65535)])
def test_integers_are_rounded_and_clipped(sessions, dtype, largest):
    class Times(sessions["blur"]):
        factor = 1.0

        def network(self, x):
            return x * np.float32(self.factor)

    session = Times()
    every = np.arange(0, largest + 1, max(largest // 1000, 1)).astype(dtype)
    image = np.repeat(every[:, None, None], 3, axis=2)
    assert (Upscaler(session)(image)[::2] == image).all(), "an identity changed values"
    session.factor = 3.0
    assert (Upscaler(session)(image)[::2] == np.minimum(image.astype(np.int64) * 3, largest)).all()
    session.factor = -1.0
    assert not Upscaler(session)(image).any()


def test_floats_are_neither_clipped_nor_rounded(sessions):
    class Twice(sessions["blur"]):
        def network(self, x):
            return x * 2

    assert sr_deploy.upscale_image(
        np.full((2, 2, 3), 0.8, np.float32), Twice()
    ).max() == np.float32(1.6)


def test_not_a_number_is_an_error(sessions, noise):
    class Broken(sessions["blur"]):
        def network(self, x):
            return x * np.float32(np.nan)

    with pytest.raises(ArtifactError, match="contains NaN"):
        Upscaler(Broken())(noise((4, 4)))


@pytest.mark.parametrize(
    "shape, dtype",
    [((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((4, 4, 3), np.float64), ((0, 4, 3), np.uint8)],
)
def test_other_arrays_are_refused(sessions, shape, dtype):
    with pytest.raises(InputError, match=r"expected an \(H, W, 3\) image"):
        sr_deploy.upscale_image(np.zeros(shape, dtype), sessions["blur"]())


@pytest.mark.smoke
def test_frames_are_upscaled_one_by_one_and_planned_once(sessions, noise):
    upscaler = Upscaler(sessions["blur"](), tile=20)
    frames = list(upscaler.frames(noise((30, 40)) for _ in range(3)))
    assert [f.shape for f in frames] == [(60, 80, 3)] * 3
    assert all((f == frames[0]).all() for f in frames)


def test_only_a_few_shapes_are_fed(sessions, noise):
    session = sessions["windows"]()
    Upscaler(session, tile=48)(noise((200, 211)))
    probes = 2
    assert len(set(session.fed)) <= 4 + probes, "memory is kept for each shape"


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, variant", [("asrn_x3", "d2"), ("imdeception_x2", "c4"), ("imdeception_x4", "c4-nla")]
)
def test_shipped_networks_in_tiles_are_as_whole(noise, model, variant):
    pytest.importorskip("torch")
    from sr_deploy.runtime.opener import open_session

    session = open_session(model, variant)
    assert session.halo_px is not None
    side = smallest_tile(session, 0)
    image = noise((side + 37, side + 6), np.float32)
    upscaler = Upscaler(session, tile=side)
    assert np.abs(upscaler(image) - Upscaler(session)(image)).max() <= 1e-4
    assert not upscaler.plan(image.shape[:2]).whole
