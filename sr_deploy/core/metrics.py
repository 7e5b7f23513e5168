"""PSNR and SSIM as the super-resolution papers and the NTIRE challenge take them. Images are (H, W, 3) uint8 RGB."""

from __future__ import annotations

import numpy as np

from sr_deploy.core.errors import InputError

METRICS = ("y", "rgb")
MIN_FP16_PSNR_DB = 50.0
"""What half precision may cost: the least PSNR of an FP16 output against the FP32 one, by `psnr_unit`."""


def border_px(metric: str, scale: int) -> int:
    """Return the pixels cut from every side before scoring: `scale` for Y, as papers do; 4 for RGB, as NTIRE does."""
    _check_metric(metric)
    return {"y": scale, "rgb": 4}[metric]


def luma(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) float64 Y of BT.601, limited range 16..235, not rounded."""
    return rgb.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255.0 + 16.0


def psnr_db(sr: np.ndarray, hr: np.ndarray, *, metric: str, border: int) -> float:
    """Return the peak signal-to-noise ratio in dB, peak 255; infinite for equal images.

    `metric` is "y" (float luma) or "rgb" (all three channels). Raises InputError when the sizes differ or nothing is
    left inside the border.
    """
    a, b = _scored(sr, hr, metric, border)
    mse = float(np.mean((a - b) ** 2))
    return float("inf") if mse == 0 else 10 * float(np.log10(255.0**2 / mse))


def ssim(sr: np.ndarray, hr: np.ndarray, *, metric: str, border: int) -> float:
    """Return the structural similarity, -1..1 (Wang et al. 2004: Gaussian 11x11, sigma 1.5, K 0.01 and 0.03, peak 255).

    Over the valid part of the window only; for "rgb" the mean of the three channels. Raises InputError like `psnr_db`,
    and when fewer than 11x11 pixels are left.
    """
    a, b = _scored(sr, hr, metric, border)
    if min(a.shape[:2]) < 11:
        raise InputError(
            f"SSIM needs 11x11 pixels inside the border, here are {a.shape[0]}x{a.shape[1]}",
            hint="use larger images",
        )
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mu_a, mu_b = _blur(a), _blur(b)
    var_a, var_b, cov = _blur(a * a) - mu_a**2, _blur(b * b) - mu_b**2, _blur(a * b) - mu_a * mu_b
    similarity = (
        (2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    )
    return float(similarity.mean())


def psnr_unit(a: np.ndarray, b: np.ndarray) -> float:
    """Return the PSNR in dB of two float arrays, any shape, clipped to 0..1, peak 1; 120 for equal ones."""
    mse = float(np.mean((np.clip(a, 0, 1).astype(np.float64) - np.clip(b, 0, 1)) ** 2))
    return 120.0 if mse < 1e-12 else -10 * float(np.log10(mse))


def _scored(sr: np.ndarray, hr: np.ndarray, metric: str, border: int) -> tuple:
    if sr.shape != hr.shape:
        raise InputError(f"cannot score an image of {sr.shape} against one of {hr.shape}")
    _check_metric(metric)
    if min(sr.shape[:2]) <= 2 * border:
        raise InputError(
            f"nothing is left of {sr.shape[0]}x{sr.shape[1]} pixels inside a border of {border}"
        )
    window = slice(border, -border) if border else slice(None)
    sr, hr = sr[window, window], hr[window, window]
    return (luma(sr), luma(hr)) if metric == "y" else (sr.astype(np.float64), hr.astype(np.float64))


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise InputError(f"unknown metric '{metric}'; expected {' or '.join(METRICS)}")


def _blur(x: np.ndarray) -> np.ndarray:
    """Gaussian 11x11, sigma 1.5, along the first two axes; only where the whole window lies inside."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    for axis in (0, 1):
        n = x.shape[axis] - 10
        x = sum(t * np.take(x, range(i, i + n), axis=axis) for i, t in enumerate(taps))
    return x
