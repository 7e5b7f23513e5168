"""A picture of what an adaptive network decided: how much it computed, over the image."""

from __future__ import annotations

import numpy as np

LEGEND = "drawn over the image: blue, the least was computed; yellow, half way; red, the most"
_COLOURS = np.array([(49, 104, 190), (240, 200, 60), (200, 40, 50)], np.float64)
_STRENGTH = 0.55


def decisions_picture(rgb: np.ndarray, decisions: np.ndarray, *, scale: int) -> np.ndarray:
    """Return (scale*H, scale*W, 3) uint8: the luma of an (H, W, 3) image, coloured by decisions, (H, W), 0..1.

    rgb: uint8, uint16 or float32 of 0..1.
    """
    largest = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(rgb.dtype, 1)
    grey = (rgb.astype(np.float64) / largest) @ (0.299, 0.587, 0.114)
    at = np.clip(decisions, 0, 1) * (len(_COLOURS) - 1)
    below = np.minimum(at.astype(np.int64), len(_COLOURS) - 2)
    part = (at - below)[..., None]
    colour = _COLOURS[below] * (1 - part) + _COLOURS[below + 1] * part
    mixed = (1 - _STRENGTH) * 255 * grey[..., None] + _STRENGTH * colour
    return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)
