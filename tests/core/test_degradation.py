from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.degradation import DEGRADATIONS, add_noise, check_degradation, degrade
from sr_deploy.core.errors import InputError
from sr_deploy.core.images import imresize


def picture(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def test_bi_is_the_bicubic():
    for scale in (2, 3, 4):
        hr = picture(6 * scale, 8 * scale)
        assert np.array_equal(degrade(hr, scale=scale), imresize(hr, scale=1 / scale))


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_the_size_is_a_third(kind):
    lr = degrade(picture(36, 51), scale=3, kind=kind)
    assert lr.shape == (12, 17, 3) and lr.dtype == np.uint8


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_bd_leaves_a_constant_image_as_it_is(value):
    lr = degrade(np.full((18, 24, 3), value, np.uint8), scale=3, kind="bd")
    assert (lr == value).all()


def test_bd_of_an_impulse_is_the_gaussian_at_every_third_pixel():
    hr = np.zeros((21, 24, 3), np.uint8)
    hr[10, 13] = 255  # the LR pixel (3, 4) is taken there
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.6**2))
    taps = (taps / taps.sum())[::3]  # 3 px before, at, and after
    expected = np.zeros((7, 8))
    expected[2:5, 3:6] = np.floor(255 * np.outer(taps, taps) + 0.5)
    lr = degrade(hr, scale=3, kind="bd")
    assert all(np.array_equal(lr[:, :, c], expected) for c in range(3)) and lr[3, 4, 0] > 0


def test_bd_replicates_the_border():
    """An edge 3 px from the border: padding the image by its own border changes nothing."""
    step = np.zeros((30, 30, 3), np.uint8)
    step[:, 3:] = 240
    wide = np.pad(step, ((9, 9), (9, 9), (0, 0)), mode="edge")
    assert np.array_equal(
        degrade(step, scale=3, kind="bd"), degrade(wide, scale=3, kind="bd")[3:-3, 3:-3]
    )


def test_the_noise_of_dn_has_sigma_30_and_no_mean():
    noise = degrade(np.full((300, 300, 3), 128, np.uint8), scale=3, kind="dn").astype(float) - 128
    assert abs(noise.std() - 30) < 0.5 and abs(noise.mean()) < 0.7
    r, g, _ = noise.reshape(-1, 3).T
    assert abs(np.corrcoef(r, g)[0, 1]) < 0.04, "the channels share their noise"


def test_the_noise_of_dn_is_added_to_the_bicubic_and_clipped():
    hr = picture(30, 30)
    assert np.array_equal(
        degrade(hr, scale=3, kind="dn", rng=np.random.default_rng(7)),
        add_noise(imresize(hr, scale=1 / 3), np.random.default_rng(7)),
    )
    for value, limit in ((0, np.min), (255, np.max)):
        flat = degrade(np.full((90, 90, 3), value, np.uint8), scale=3, kind="dn")
        assert limit(flat) == value and 0.4 < (flat == value).mean() < 0.6


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_the_same_call_gives_the_same_image_and_leaves_the_hr_alone(kind):
    hr = picture(24, 24)
    before = hr.copy()
    first, second = (degrade(hr, scale=3, kind=kind) for _ in range(2))
    assert np.array_equal(first, second) and np.array_equal(hr, before)


def test_another_generator_gives_other_noise():
    hr = picture(24, 24)
    first, second = (
        degrade(hr, scale=3, kind="dn", rng=np.random.default_rng(seed)) for seed in (1, 2)
    )
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    "kind, scale, words",
    [
        ("bd", 2, "'bd' is defined at x3, not at x2"),
        ("dn", 4, "'dn' is defined at x3"),
        ("jpeg", 3, "unknown degradation 'jpeg'; expected bi, bd, dn"),
    ],
)
def test_what_is_not_defined_is_refused(kind, scale, words):
    with pytest.raises(InputError, match=words):
        check_degradation(kind, scale)
    with pytest.raises(InputError, match=words):
        degrade(picture(12, 12), scale=scale, kind=kind)
