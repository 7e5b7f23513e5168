"""Between the planes of a video frame and RGB, by the frame's own matrix, range, depth and place of its chroma.

Not swscale: it takes BT.601 where it is not told, rounds coarsely on its fast paths, and treats chroma as lying between the
luma columns, which in nearly all video it does not: upscaled by 4 that shows as a fringe of one and a half pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List

import numpy as np

KR_KB = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
}
"""The weights of red and blue in luma, by ITU-T H.273's number of the matrix (which FFmpeg's colorspace is)."""
STEPS = {"444": (1, 1), "422": (2, 1), "420": (2, 2), "gray": (1, 1), "rgb": (1, 1)}
"""Luma columns and rows for each of chroma."""


@dataclass(frozen=True)
class Colour:
    """How the numbers of a frame's planes are meant."""

    layout: str
    """A key of STEPS. `rgb`: no matrix; planes in the order G, B, R, or packed."""
    depth: int
    """Bits of a sample: 8 to 16."""
    matrix: int = 1
    """A key of KR_KB."""
    full: bool = False
    """Whether black and white are 0 and 2^depth - 1 rather than 16 and 235 (of 8 bits)."""
    centred: bool = False
    """Whether chroma lies in the middle between two luma columns (MPEG-1, JPEG), not on the left one. By rows it always does."""

    @property
    def dtype(self) -> type:
        """The type of the RGB picture: uint8, or uint16 with the whole range 0..65535 for more than 8 bits."""
        return np.uint8 if self.depth == 8 else np.uint16


def rgb_from_frame(frame: Any, colour: Colour) -> np.ndarray:
    """Return an av.VideoFrame as (H, W, 3) RGB of `colour.dtype`. Luma outside black and white is clipped."""
    import cv2

    if colour.layout == "rgb" and not frame.format.name.startswith("gbrp"):
        return frame.to_ndarray(format="rgb24")  # between packed RGB formats nothing is computed
    planes = frame_planes(frame)
    h, w = planes[0].shape
    if colour.layout == "rgb":
        green, blue, red = planes
        merged = np.ascontiguousarray(np.stack([red, green, blue], axis=2))
        return merged if colour.depth == 8 else cv2.transform(merged, _grow(colour))
    if colour.layout == "gray":
        planes += [np.full_like(planes[0], 128 << (colour.depth - 8))] * 2
    x, y = STEPS[colour.layout]
    if (x, y) != (1, 1):
        at = np.array(
            [[1 / x, 0, -0.25 if colour.centred else 0], [0, 1 / y, -0.25 if y == 2 else 0]],
            np.float64,
        )
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        planes[1:] = [
            cv2.warpAffine(p, at, (w, h), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            for p in planes[1:]
        ]
    return cv2.transform(cv2.merge(planes), _to_rgb(colour))


def planes_from_rgb(rgb: np.ndarray, colour: Colour) -> List[np.ndarray]:
    """Return the planes of (H, W, 3) RGB of `colour.dtype`: [Y, U, V], or [G, B, R] where the layout is `rgb`."""
    import cv2

    x, y = STEPS[colour.layout]
    top = (1 << colour.depth) - 1
    if colour.layout == "rgb":
        planes = [rgb[..., c] for c in (1, 2, 0)]
        return (
            planes
            if colour.depth == 8
            else [(p.astype(np.float32) * (top / 65535) + 0.5).astype(np.uint16) for p in planes]
        )
    forward = _to_rgb(colour).astype(np.float64)
    back = np.linalg.inv(forward[:, :3])
    yuv = cv2.transform(rgb, np.hstack([back, -back @ forward[:, 3:]]).astype(np.float32))
    if colour.depth not in (8, 16):
        np.minimum(
            yuv, top, out=yuv
        )  # the bluest blue of the full range rounds to one more than there is
    if colour.layout == "gray":
        return [yuv[..., 0]]
    luma, *chroma = cv2.split(yuv)
    if (x, y) != (1, 1):
        row = np.array([0.5, 0.5] if colour.centred else [0.25, 0.5, 0.25])
        column = np.array([0.5, 0.5] if y == 2 else [1.0])
        anchor = (0 if colour.centred else 1, 0)
        border = cv2.BORDER_REPLICATE
        chroma = [
            cv2.sepFilter2D(p, -1, row, column, anchor=anchor, borderType=border)[::y, ::x]
            for p in chroma
        ]
    return [luma, *chroma]


def frame_planes(frame: Any) -> List[np.ndarray]:
    """Return views (h, w) of the planes of a planar frame, without the padding of their lines."""
    views = []
    for plane in frame.planes:
        samples = np.frombuffer(
            plane, np.uint8 if frame.format.components[0].bits == 8 else np.dtype("<u2")
        )
        views.append(samples.reshape(plane.height, -1)[:, : plane.width])
    return views


def _to_rgb(colour: Colour) -> np.ndarray:
    """Return the (3, 4) float32 matrix from samples (Y, U, V, 1) to RGB in the numbers of `colour.dtype`."""
    kr, kb = KR_KB[colour.matrix]
    kg = 1 - kr - kb
    unit = 1 << (colour.depth - 8)
    top = (1 << colour.depth) - 1
    black, luma, chroma = (0, top, top) if colour.full else (16 * unit, 219 * unit, 224 * unit)
    yuv = np.array(
        [
            [1, 0, 2 * (1 - kr)],
            [1, -2 * kb * (1 - kb) / kg, -2 * kr * (1 - kr) / kg],
            [1, 2 * (1 - kb), 0],
        ]
    )
    scaled = yuv / [luma, chroma, chroma] * np.iinfo(colour.dtype).max
    offset = scaled @ [-black, -128 * unit, -128 * unit]
    return np.hstack([scaled, offset[:, None]]).astype(np.float32)


def _grow(colour: Colour) -> np.ndarray:
    return np.eye(3, 4, dtype=np.float32) * np.float32(65535 / ((1 << colour.depth) - 1))
