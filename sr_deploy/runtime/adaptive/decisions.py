"""A picture of what an adaptive network decided: how much it computed, over the image."""

from __future__ import annotations

import numpy as np

LEGEND = "drawn over the image: blue, the least is wanted; yellow, half way; red, the most"
_COLOURS = np.array([(49, 104, 190), (240, 200, 60), (200, 40, 50)], np.float32)
_STRENGTH = 0.55


def decisions_picture(decided: np.ndarray, *, scale: int) -> np.ndarray:
    """Return (scale*H, scale*W, 3) uint8: luma, coloured by decisions; decided: (H, W, 2) float32, both 0..1, as a session keeps them."""
    at = np.clip(decided[..., 0], 0, 1) * (len(_COLOURS) - 1)
    below = np.minimum(at.astype(np.int64), len(_COLOURS) - 2)
    part = (at - below)[..., None]
    colour = _COLOURS[below] * (1 - part) + _COLOURS[below + 1] * part
    mixed = (1 - _STRENGTH) * 255 * decided[..., 1:] + _STRENGTH * colour
    return (
        np.rint(np.clip(mixed, 0, 255)).astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)
    )
