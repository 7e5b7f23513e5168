"""PSNR and SSIM of (H, W, 3) uint8 RGB, as super-resolution papers and the NTIRE challenge do."""

from __future__ import annotations

from typing import Iterator, Tuple

import numpy as np

from sr_deploy.core.errors import InputError

METRICS = ("y", "rgb")
_WINDOW = 11
_STRIP_PX = 2**19
"""The pixels of a strip, at least one row."""
MIN_FP16_PSNR_DB = 50.0
"""Minimum `psnr_unit` of an FP16 output against the FP32 one."""


def border_px(metric: str, scale: int) -> int:
    """Return the pixels cropped per side: `scale` for Y, as in papers; 4 for RGB, as in NTIRE."""
    _check_metric(metric)
    return {"y": scale, "rgb": 4}[metric]


def luma(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) float64 Y of BT.601, limited range 16..235, not rounded."""
    weighted: np.ndarray = rgb.astype(np.float64) @ np.array([65.481, 128.553, 24.966])
    return weighted / 255.0 + 16.0


def psnr_db(sr: np.ndarray, hr: np.ndarray, *, metric: str, border: int) -> float:
    """Return the peak signal-to-noise ratio in dB, peak 255; infinite for equal images.

    metric: "y" (float luma) or "rgb" (all three channels). Raises InputError if the sizes differ or
    nothing remains inside the border.
    """
    squares = count = 0.0
    for a, b in _strips(sr, hr, metric, border):
        squares, count = squares + float(((a - b) ** 2).sum()), count + a.size
    mse = squares / count
    return float("inf") if mse == 0 else 10 * float(np.log10(255.0**2 / mse))


def ssim(sr: np.ndarray, hr: np.ndarray, *, metric: str, border: int) -> float:
    """Return the structural similarity, -1..1.

    Wang et al. 2004: Gaussian 11x11, sigma 1.5, K 0.01 and 0.03, peak 255, over complete windows
    only. For "rgb" the mean of the three channels. Raises InputError like `psnr_db`, and if fewer
    than 11x11 pixels remain.
    """
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    h, w = (n - 2 * border for n in sr.shape[:2])
    total = count = 0.0
    for a, b in _strips(sr, hr, metric, border, shared=_WINDOW - 1):
        if min(h, w) < _WINDOW:
            raise InputError(
                f"SSIM needs 11x11 pixels inside the border, got {h}x{w}",
                hint="use larger images",
            )
        mu_a, mu_b = _blur(a), _blur(b)
        var_a, var_b = _blur(a * a) - mu_a**2, _blur(b * b) - mu_b**2
        cov = _blur(a * b) - mu_a * mu_b
        similarity = (
            (2 * mu_a * mu_b + c1)
            * (2 * cov + c2)
            / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
        )
        total, count = total + float(similarity.sum()), count + similarity.size
    return total / count


def psnr_unit(a: np.ndarray, b: np.ndarray) -> float:
    """Return the PSNR in dB of two float arrays clipped to 0..1, peak 1; 120 for equal ones."""
    mse = float(np.mean((np.clip(a, 0, 1).astype(np.float64) - np.clip(b, 0, 1)) ** 2))
    return 120.0 if mse < 1e-12 else -10 * float(np.log10(mse))


def _strips(
    sr: np.ndarray, hr: np.ndarray, metric: str, border: int, *, shared: int = 0
) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Yield both images inside the border in strips of rows, as float64, from top to bottom.

    Images are scored in strips because several 8K images in float64 would take gigabytes. shared:
    the rows that a strip shares with the next one.
    """
    if sr.shape != hr.shape:
        raise InputError(f"cannot score an image of {sr.shape} against one of {hr.shape}")
    _check_metric(metric)
    if min(sr.shape[:2]) <= 2 * border:
        raise InputError(
            f"nothing remains of {sr.shape[0]}x{sr.shape[1]} pixels inside a border of {border}"
        )
    window = slice(border, -border) if border else slice(None)
    sr, hr = sr[window, window], hr[window, window]
    rows = max(1, _STRIP_PX // sr.shape[1])
    for top in range(0, max(sr.shape[0] - shared, 1), rows):
        a, b = (image[top : top + rows + shared] for image in (sr, hr))
        yield (luma(a), luma(b)) if metric == "y" else (a.astype(np.float64), b.astype(np.float64))


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise InputError(f"unknown metric '{metric}'; expected {' or '.join(METRICS)}")


def _blur(x: np.ndarray) -> np.ndarray:
    """Gaussian 11x11, sigma 1.5, along the first two axes; complete windows only."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    for axis in (0, 1):
        n = x.shape[axis] - 10
        x = sum(t * np.take(x, range(i, i + n), axis=axis) for i, t in enumerate(taps))
    return x
