from __future__ import annotations

import math

import numpy as np
import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.metrics import METRICS, border_px, luma, psnr_db, ssim


def image(h=40, w=50, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def similar(seed=0):
    hr = image(seed=seed).astype(int)
    hr = (hr + np.roll(hr, 1, 0) + np.roll(hr, 1, 1)) // 3
    return np.clip(hr + np.random.default_rng(seed + 1).integers(-9, 10, hr.shape), 0, 255).astype(
        np.uint8
    ), hr.astype(np.uint8)


@pytest.mark.parametrize("offset", [1, 5, 100])
@pytest.mark.parametrize("border", [0, 4])
def test_psnr_of_a_constant_offset(offset, border):
    hr = image() // 4
    sr = hr + np.uint8(offset)
    assert psnr_db(sr, hr, metric="rgb", border=border) == pytest.approx(
        20 * math.log10(255 / offset)
    )
    # A grey offset moves limited-range luma by 219/255 of it.
    assert psnr_db(sr, hr, metric="y", border=border) == pytest.approx(
        20 * math.log10(255 / (offset * 219 / 255)), abs=1e-9
    )


def test_luma_is_bt601_limited_range_and_not_rounded():
    rgb = np.array(
        [[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [1, 0, 0]]], np.uint8
    )
    assert luma(rgb)[0] == pytest.approx([16, 235, 81.481, 144.553, 40.966, 16 + 65.481 / 255])


@pytest.mark.parametrize("metric", METRICS)
def test_equal_images_are_infinitely_good(metric):
    assert psnr_db(image(), image(), metric=metric, border=2) == math.inf
    assert ssim(image(), image(), metric=metric, border=2) == pytest.approx(1)


@pytest.mark.parametrize(
    "metric, scale, border", [("y", 2, 2), ("y", 4, 4), ("rgb", 2, 4), ("rgb", 4, 4)]
)
def test_the_border_is_as_published_and_does_not_count(metric, scale, border):
    assert border_px(metric, scale) == border
    sr, hr = similar()
    spoilt = sr.copy()
    spoilt[:border], spoilt[-border:], spoilt[:, :border], spoilt[:, -border:] = 0, 255, 0, 255
    for measure in (psnr_db, ssim):
        assert measure(spoilt, hr, metric=metric, border=border) == measure(
            sr, hr, metric=metric, border=border
        )
        assert measure(spoilt, hr, metric=metric, border=border - 1) < measure(
            sr, hr, metric=metric, border=border - 1
        )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("seed", [0, 7])
def test_ssim_equals_scikit_image(metric, border, seed):
    skimage = pytest.importorskip(
        "skimage.metrics", reason="scikit-image, the oracle, is not installed"
    )
    sr, hr = similar(seed)
    window = slice(border, -border or None)
    a, b = (
        x[window, window]
        for x in ((luma(sr), luma(hr)) if metric == "y" else (sr.astype(float), hr.astype(float)))
    )
    kwargs = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 255,
    }
    channel = {"channel_axis": 2} if metric == "rgb" else {}
    assert ssim(sr, hr, metric=metric, border=border) == pytest.approx(
        skimage.structural_similarity(a, b, **kwargs, **channel), abs=1e-9
    )


@pytest.mark.parametrize("a, b", [(10, 20), (0, 255)])
def test_ssim_of_two_constant_images_is_its_luminance_term(a, b):
    c1 = (0.01 * 255) ** 2
    sr, hr = (np.full((16, 16, 3), v, np.uint8) for v in (a, b))
    assert ssim(sr, hr, metric="rgb", border=0) == pytest.approx(
        (2 * a * b + c1) / (a * a + b * b + c1)
    )


@pytest.mark.parametrize("measure", [psnr_db, ssim])
def test_what_cannot_be_scored_is_an_error(measure):
    with pytest.raises(InputError, match=r"\(40, 50, 3\) against one of \(40, 48, 3\)"):
        measure(image(), image(40, 48), metric="y", border=2)
    with pytest.raises(InputError, match="unknown metric 'lpips'; expected y or rgb"):
        measure(image(), image(), metric="lpips", border=2)
    with pytest.raises(InputError, match="nothing remains of 8x50 pixels inside a border of 4"):
        measure(image(8), image(8), metric="y", border=4)


def test_ssim_needs_its_window():
    assert ssim(image(19), image(19), metric="y", border=4) == pytest.approx(1)
    with pytest.raises(InputError, match="11x11 pixels inside the border, got 10x42"):
        ssim(image(18), image(18), metric="y", border=4)
