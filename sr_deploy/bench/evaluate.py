"""Quality: PSNR and SSIM of a session on a folder of HR images, LR made by one of the papers' degradations."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np

from sr_deploy.core.degradation import check_degradation, degrade
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import printable_name
from sr_deploy.core.images import (
    image_files,
    imresize,
    modcrop,
    nchw_from_rgb,
    read_rgb,
    rgb_from_nchw,
)
from sr_deploy.core.metrics import border_px, psnr_db, ssim
from sr_deploy.core.samples import SAMPLE_SET, sample_files
from sr_deploy.core.session import Session, Timed
from sr_deploy.core.sizes import hw_text

DEFAULT_OVERLAP_PX = 16
"""Of tiles whose network's reach is not known, or is the whole image."""


@dataclass(frozen=True)
class ImageScore:
    """One image's scores, and what it took."""

    image: str
    psnr_db: float
    ssim: float
    lr_hw: Tuple[int, int]
    ms: float = field(compare=False)
    """Of the network alone; of a tiled image the sum of its tiles."""
    copies_ms: Optional[float] = None
    timer: str = ""
    finite: bool = True
    """Whether every pixel came out as a number; not-a-number is scored as black, infinity as white."""


@dataclass(frozen=True)
class Quality:
    """The scores of a set: plain means over its images."""

    set: str
    metric: str
    border_px: int
    psnr_db: float
    ssim: float
    tiling: str
    images: Tuple[ImageScore, ...]
    degradation: str = "bi"


@dataclass(frozen=True)
class ImageSet:
    """HR images with the set's name."""

    name: str
    files: Tuple[Path, ...]


def image_set(folder: str = "") -> ImageSet:
    """Return the images of an HR folder, or scikit-image's photographs for an empty name.

    A folder named HR is called by its parent's name. Raises InputError when there are no images.
    """
    if not folder:
        return ImageSet(SAMPLE_SET, tuple(sample_files()))
    path = Path(folder)
    resolved = path.resolve()
    named = resolved.parent if resolved.name.upper() == "HR" else resolved
    return ImageSet(printable_name(named), tuple(image_files(path)))


class Bicubic(Session):
    """MATLAB's bicubic in place of a network, its result rounded to uint8: the papers' first row."""

    backend, backend_version, precision = "bicubic", "", "fp64"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        return nchw_from_rgb(imresize(rgb_from_nchw(x_nchw), scale=self.scale))


def evaluate(
    session: Session, images: ImageSet, *, metric: str, degradation: str = "bi"
) -> Quality:
    """Score a session on a set: `metric` "y" (float luma, border = scale) or "rgb" (uint8, border 4).

    The noise of the degradation `dn` is drawn from the file's name: an image gets the same one in every set and every call.
    Raises InputError naming the image that cannot be used.
    """
    check_degradation(degradation, session.scale)
    border = border_px(metric, session.scale)
    scores: List[ImageScore] = []
    tilings: List[str] = []
    for path in images.files:
        hr = _scorable(path, session.scale, border)
        rng = np.random.default_rng(zlib.crc32(os.fsencode(path.name)))
        lr = degrade(hr, scale=session.scale, kind=degradation, rng=rng)
        done, how = upscale_fitting(session, nchw_from_rgb(lr))
        tilings.append(how)
        sr = rgb_from_nchw(done.y)
        psnr, similarity = (
            score(sr, hr, metric=metric, border=border) for score in (psnr_db, ssim)
        )
        finite = bool(np.isfinite(done.y).all())
        scores.append(
            ImageScore(
                printable_name(path),
                psnr,
                similarity,
                (lr.shape[0], lr.shape[1]),
                done.ms,
                done.copies_ms,
                done.timer,
                finite,
            )
        )
    mean_psnr, mean_ssim = (
        float(np.mean([getattr(s, key) for s in scores])) for key in ("psnr_db", "ssim")
    )
    tiling = "; ".join(dict.fromkeys(sorted(tilings, reverse=True)))
    return Quality(
        images.name, metric, border, mean_psnr, mean_ssim, tiling, tuple(scores), degradation
    )


def check_images(images: ImageSet, *, metric: str, scale: int) -> None:
    """Read every image of a set. Raises InputError naming the first that `evaluate` could not score."""
    for path in images.files:
        _scorable(path, scale, border_px(metric, scale))


def _scorable(path: Path, scale: int, border: int) -> np.ndarray:
    hr = modcrop(read_rgb(path), scale)
    if min(hr.shape[:2]) < 11 + 2 * border:
        raise InputError(
            f"{path} is too small to be scored: {hr.shape[0]}x{hr.shape[1]} pixels",
            hint="leave it out",
        )
    return hr


def upscale_fitting(session: Session, x: np.ndarray) -> Tuple[Timed, str]:
    """Upscale x (1, 3, H, W) with a session that may not take its size; return the result with its time, and how it was done.

    A static graph, or a dynamic one made for smaller or larger images, gets overlapping tiles, mirrored where the image is
    smaller. That is not what the network makes of the whole image: pixels near tile borders and image borders differ, so
    the second value says so.
    """
    h, w = x.shape[2:]
    tile = session.nearest_hw((h, w))
    if tile == (h, w):
        return session.timed(x), "whole"
    bottom, right = max(tile[0] - h, 0), max(tile[1] - w, 0)
    padded = x
    while bottom or right:  # mirroring adds at most the image itself each time
        step = min(bottom, padded.shape[2]), min(right, padded.shape[3])
        padded = np.pad(padded, ((0, 0), (0, 0), (0, step[0]), (0, step[1])), mode="symmetric")
        bottom, right = bottom - step[0], right - step[1]
    s = session.scale
    out = np.zeros((1, 3, padded.shape[2] * s, padded.shape[3] * s), dtype=np.float32)
    parts: List[Timed] = []
    overlap = min(
        session.halo_px or DEFAULT_OVERLAP_PX, min(tile) // 4
    )  # a quarter: few tiles are worth more here
    for top, keep_top, end_top in _spans(padded.shape[2], tile[0], overlap):
        for left, keep_left, end_left in _spans(padded.shape[3], tile[1], overlap):
            part = np.ascontiguousarray(padded[:, :, top : top + tile[0], left : left + tile[1]])
            parts.append(session.timed(part))
            inside = parts[-1].y[
                :,
                :,
                (keep_top - top) * s : (end_top - top) * s,
                (keep_left - left) * s : (end_left - left) * s,
            ]
            out[:, :, keep_top * s : end_top * s, keep_left * s : end_left * s] = inside
    copies = [p.copies_ms for p in parts if p.copies_ms is not None]
    done = Timed(
        out[:, :, : h * s, : w * s],
        sum(p.ms for p in parts),
        sum(copies) if copies else None,
        parts[-1].timer,
    )
    return (
        done,
        f"tiled {hw_text(tile)}, overlap {overlap} px: near borders not what the whole image gives",
    )


def _spans(size: int, tile: int, overlap: int) -> List[Tuple[int, int, int]]:
    """(start, first kept, end of kept) of tiles that cover `size`, each kept up to `overlap` from where the next one starts."""
    starts = list(range(0, max(size - tile, 0), tile - 2 * overlap)) + [size - tile]
    spans, kept = [], 0
    for start, following in zip(starts, [*starts[1:], None]):
        end = size if following is None else following + overlap
        spans.append((start, kept, end))
        kept = end
    return spans
