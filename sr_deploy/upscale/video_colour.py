"""Conversion between the planes of a video frame and RGB.

swscale is not used. It assumes BT.601 if not told otherwise, rounds coarsely on its fast paths, and
places chroma between the luma columns, which is wrong for nearly all video: after upscaling by 4
this shows as a fringe of one and a half pixels.
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
"""Number of the matrix in ITU-T H.273 (FFmpeg's colorspace) -> weights of red and blue in luma."""
STEPS = {"444": (1, 1), "422": (2, 1), "420": (2, 2), "gray": (1, 1), "rgb": (1, 1)}
"""Layout -> luma columns and rows per chroma sample."""


@dataclass(frozen=True)
class Colour:
    """The meaning of the samples in a frame's planes."""

    layout: str  # a key of STEPS; `rgb` has no matrix, its planes are G, B, R or packed
    depth: int  # bits per sample, 8 to 16
    matrix: int = 1  # a key of KR_KB
    full: bool = False  # whether black and white are 0 and 2^depth - 1, not 16 and 235 (in 8 bits)
    centred: bool = False
    """Whether chroma lies between two luma columns (MPEG-1, JPEG), not on the left one."""

    @property
    def dtype(self) -> type:
        """Of RGB pictures: uint8, or for more than 8 bits uint16 in the full range."""
        return np.uint8 if self.depth == 8 else np.uint16


def rgb_from_frame(frame: Any, colour: Colour) -> np.ndarray:
    """Convert an av.VideoFrame to (H, W, 3) RGB of `colour.dtype`, clipped to black and white."""
    import cv2

    if colour.layout == "rgb" and not frame.format.name.startswith("gbrp"):
        return frame.to_ndarray(format="rgb24")  # reorders bytes only
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
        dx, dy = -0.25 if colour.centred else 0, -0.25 if y == 2 else 0
        at = np.array([[1 / x, 0, dx], [0, 1 / y, dy]], np.float64)
        flags, border = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
        planes[1:] = [
            cv2.warpAffine(p, at, (w, h), flags=flags, borderMode=border) for p in planes[1:]
        ]
    return cv2.transform(cv2.merge(planes), _to_rgb(colour))


def planes_from_rgb(rgb: np.ndarray, colour: Colour) -> List[np.ndarray]:
    """Convert (H, W, 3) RGB of `colour.dtype` to [Y, U, V], or [G, B, R] for the layout `rgb`."""
    import cv2

    x, y = STEPS[colour.layout]
    top = (1 << colour.depth) - 1
    if colour.layout == "rgb":
        planes = [rgb[..., c] for c in (1, 2, 0)]
        if colour.depth == 8:
            return planes
        return [(p.astype(np.float32) * (top / 65535) + 0.5).astype(np.uint16) for p in planes]
    forward = _to_rgb(colour).astype(np.float64)
    back = np.linalg.inv(forward[:, :3])
    yuv = cv2.transform(rgb, np.hstack([back, -back @ forward[:, 3:]]).astype(np.float32))
    if colour.depth not in (8, 16):
        np.minimum(yuv, top, out=yuv)  # the bluest blue of the full range rounds to top + 1
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
    """Return (h, w) views of the planes of a planar frame, without the lines' padding."""
    dtype = np.dtype(np.uint8 if frame.format.components[0].bits == 8 else "<u2")
    planes = frame.planes
    return [np.frombuffer(p, dtype).reshape(p.height, -1)[:, : p.width] for p in planes]


def _to_rgb(colour: Colour) -> np.ndarray:
    """Return the (3, 4) float32 matrix from samples (Y, U, V, 1) to RGB of `colour.dtype`."""
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
