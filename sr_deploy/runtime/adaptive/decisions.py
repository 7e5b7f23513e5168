"""A picture of the decisions of an adaptive network: how much it computed at each pixel."""

from __future__ import annotations

from typing import Sequence, Tuple

import numpy as np

LEGEND = "drawn over the image: blue is the least work, yellow half, red the most"
_COLOURS = np.array([(49, 104, 190), (240, 200, 60), (200, 40, 50)], np.float32)
_STRENGTH = 0.55


def decisions_picture(decisions: np.ndarray, *, scale: int) -> np.ndarray:
    """Return (scale*H, scale*W, 3) uint8: the luma, coloured by the decisions.

    decisions: (H, W, 2) float32 in 0..1, decision and luma, as a session records them.
    """
    mixed = (1 - _STRENGTH) * 255 * decisions[..., 1:] + _STRENGTH * _colours(decisions[..., 0])
    pixels = np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def legend_of(levels: Sequence[str]) -> Tuple[Tuple[str, str], ...]:
    """Return the colour of each level of work, the least first: `(("d1", "#3168be"), ...)`."""
    colours = _colours(np.linspace(0, 1, len(levels)))
    return tuple(
        (level, "#" + "".join(f"{int(round(c)):02x}" for c in colour))
        for level, colour in zip(levels, colours.tolist())
    )


def _colours(decisions: np.ndarray) -> np.ndarray:
    """Return the colours of decisions in 0..1: (...) -> (..., 3) float, 0..255."""
    position = np.clip(decisions, 0, 1) * (len(_COLOURS) - 1)
    lower = np.minimum(position.astype(np.int64), len(_COLOURS) - 2)
    part = (position - lower)[..., None]
    return _COLOURS[lower] * (1 - part) + _COLOURS[lower + 1] * part
