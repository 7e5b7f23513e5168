"""`OutputSize`: the size of results where it is not the network's scale, and the resampling to it.

The network runs at its own scale. Its result is then resampled, by Lanczos' filter, or by the mean
of the pixels that fall together where it becomes less than half as large.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

import numpy as np

from sr_deploy.core.errors import InputError
from sr_deploy.core.sizes import HW
from sr_deploy.upscale.opencv import opencv

LARGEST_FACTOR = 64.0


@dataclass(frozen=True)
class OutputSize:
    """How large results are. Without values: as the network makes them."""

    factor: Optional[float] = None  # of both sides, 1 to LARGEST_FACTOR
    box: Optional[HW] = None  # (h, w) that the result just fits into, with its aspect ratio

    def __post_init__(self) -> None:
        if self.factor is not None and self.box is not None:
            raise InputError("--outscale and --outsize are both given", hint="remove one")
        if self.factor is not None and not 1 <= self.factor <= LARGEST_FACTOR:
            raise InputError(
                f"--outscale {self.factor:g}: expected 1 to {LARGEST_FACTOR:g}, such as 3.5"
            )

    @property
    def given(self) -> bool:
        return self.factor is not None or self.box is not None

    def label(self, scale: int) -> str:
        """Return what a result's name gets, given the network's scale: `x4`, `3840x2160`.

        >>> OutputSize(factor=3.5).label(4)
        'x3.5'
        """
        if self.box is not None:
            return wh_text(self.box)
        return f"x{scale if self.factor is None else self.factor:g}"

    def factor_for(self, hw: HW, *, turned: bool = False) -> Optional[float]:
        """Return the factor for an image of (h, w). None: that of the network.

        turned: the image is shown with its sides swapped, which `box` refers to. Raises InputError
        if it is larger than the box.
        """
        if self.box is None:
            return self.factor
        h, w = hw[::-1] if turned else hw
        factor = min(self.box[0] / h, self.box[1] / w)
        if factor < 1:
            raise InputError(
                f"it has {wh_text((h, w))} pixels (width x height), which do not fit into "
                f"--outsize {wh_text(self.box)}",
                hint="give a larger size",
            )
        return factor

    def of(self, hw: HW, scale: int, *, turned: bool = False, even: bool = False) -> HW:
        """Return the size of the result of an image of (h, w) by a network of `scale`.

        turned: see `factor_for`. even: both sides are made even, as video formats need it; not
        where the network's own size is taken. Raises InputError.
        """
        factor = self.factor_for(hw, turned=turned)
        if factor is None:
            return hw[0] * scale, hw[1] * scale
        step = 2 if even else 1
        box = self.box if self.box is None or not turned else self.box[::-1]

        def side(axis: int) -> int:
            n = step * round(hw[axis] * factor / step)
            if box is not None:
                n = min(n, box[axis] - box[axis] % step)
            return max(n, step)

        return side(0), side(1)


NETWORK_SIZE = OutputSize()


def parse_wh(text: str) -> HW:
    """Read `3840x2160`, width x height, and return (h, w). Raises InputError.

    >>> parse_wh("3840x2160")
    (2160, 3840)
    """
    match = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", text.strip())
    if match is None or not all(map(int, match.groups())):
        raise InputError(f"--outsize {text}: expected WIDTHxHEIGHT in pixels, such as 3840x2160")
    return int(match.group(2)), int(match.group(1))


def wh_text(hw: HW) -> str:
    """Return a size (h, w) as width x height, as screens and videos have it."""
    return f"{hw[1]}x{hw[0]}"


def resample(image: np.ndarray, hw: HW) -> np.ndarray:
    """Resize (H, W[, C]), uint8, uint16 or float32, to (h, w). The dtype is kept."""
    if image.shape[:2] == hw:
        return image
    cv2 = opencv()
    small = 2 * hw[0] < image.shape[0] or 2 * hw[1] < image.shape[1]
    how = cv2.INTER_AREA if small else cv2.INTER_LANCZOS4
    resized: np.ndarray = cv2.resize(image, (hw[1], hw[0]), interpolation=how)
    return resized.reshape(*hw, *image.shape[2:])
