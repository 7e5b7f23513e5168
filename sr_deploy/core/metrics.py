"""PSNR and SSIM of (H, W, 3) uint8 RGB, as super-resolution papers and the NTIRE challenge do."""

from __future__ import annotations

from typing import Tuple

import numpy as np

from sr_deploy.core.errors import InputError

METRICS = ("y", "rgb")
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
    a, b = _cropped_pair(sr, hr, metric, border)
    mse = float(np.mean((a - b) ** 2))
    return float("inf") if mse == 0 else 10 * float(np.log10(255.0**2 / mse))


def ssim(sr: np.ndarray, hr: np.ndarray, *, metric: str, border: int) -> float:
    """Return the structural similarity, -1..1.

    Wang et al. 2004: Gaussian 11x11, sigma 1.5, K 0.01 and 0.03, peak 255, over complete windows
    only. For "rgb" the mean of the three channels. Raises InputError like `psnr_db`, and if fewer
    than 11x11 pixels remain.
    """
    a, b = _cropped_pair(sr, hr, metric, border)
    if min(a.shape[:2]) < 11:
        raise InputError(
            f"SSIM needs 11x11 pixels inside the border, got {a.shape[0]}x{a.shape[1]}",
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
    """Return the PSNR in dB of two float arrays clipped to 0..1, peak 1; 120 for equal ones."""
    mse = float(np.mean((np.clip(a, 0, 1).astype(np.float64) - np.clip(b, 0, 1)) ** 2))
    return 120.0 if mse < 1e-12 else -10 * float(np.log10(mse))


def _cropped_pair(
    sr: np.ndarray, hr: np.ndarray, metric: str, border: int
) -> Tuple[np.ndarray, np.ndarray]:
    if sr.shape != hr.shape:
        raise InputError(f"cannot score an image of {sr.shape} against one of {hr.shape}")
    _check_metric(metric)
    if min(sr.shape[:2]) <= 2 * border:
        raise InputError(
            f"nothing remains of {sr.shape[0]}x{sr.shape[1]} pixels inside a border of {border}"
        )
    window = slice(border, -border) if border else slice(None)
    sr, hr = sr[window, window], hr[window, window]
    return (luma(sr), luma(hr)) if metric == "y" else (sr.astype(np.float64), hr.astype(np.float64))


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
