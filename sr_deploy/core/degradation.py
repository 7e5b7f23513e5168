"""Degradations: how an LR image is made from an HR one, as the papers train and test.

- `bi`: MATLAB's bicubic `imresize`
- `bd`: x3 only; 7x7 Gaussian blur of sigma 1.6 with replicated borders, then every third pixel
- `dn`: x3 only; `bi`, then Gaussian noise of sigma 30, clipped to uint8
"""

from __future__ import annotations

from typing import Optional

import numpy as np

from sr_deploy.core.errors import InputError
from sr_deploy.core.images import imresize

DEGRADATIONS = ("bi", "bd", "dn")
GIVEN = "given"
"""Stands in rows for a degradation where the LR images were given."""
DN_SIGMA = 30.0


def check_degradation(kind: str, scale: int) -> None:
    """Raise InputError unless `kind` is defined at `scale`."""
    if kind not in DEGRADATIONS:
        raise InputError(f"unknown degradation '{kind}'; expected {', '.join(DEGRADATIONS)}")
    if kind != "bi" and scale != 3:
        raise InputError(
            f"the degradation '{kind}' is defined at x3, not at x{scale}",
            hint="use an x3 network, or --degradation bi",
        )


def degrade(
    hr: np.ndarray, *, scale: int, kind: str = "bi", rng: Optional[np.random.Generator] = None
) -> np.ndarray:
    """Return the LR image of an HR image: (scale*h, scale*w, 3) uint8 RGB -> (h, w, 3) uint8.

    rng: source of the noise of `dn`; None: a new generator of seed 0, so that every call returns
    the same image. Raises InputError.
    """
    check_degradation(kind, scale)
    if kind == "bd":
        return _gaussian_7x7(hr)[1::3, 1::3]
    lr = imresize(hr, scale=1 / scale)
    return lr if kind == "bi" else add_noise(lr, rng or np.random.default_rng(0))


def add_noise(lr: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the noise of `dn` to a uint8 image: N(0, 30), rounded and clipped to uint8."""
    return np.clip(np.rint(lr + rng.normal(0.0, DN_SIGMA, lr.shape)), 0, 255).astype(np.uint8)


def _gaussian_7x7(image: np.ndarray) -> np.ndarray:
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.6**2))
    taps /= taps.sum()
    x = image.astype(np.float64)
    for axis in (0, 1):
        n = x.shape[axis]
        padded = np.pad(x, [(3, 3) if a == axis else (0, 0) for a in range(x.ndim)], mode="edge")
        x = sum(t * np.take(padded, range(i, i + n), axis=axis) for i, t in enumerate(taps))
    return np.clip(np.floor(x + 0.5), 0, 255).astype(np.uint8)
