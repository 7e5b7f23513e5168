"""Quality: PSNR and SSIM of a session on a folder of HR images, with LR made by a degradation."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, List, Optional, Tuple

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
from sr_deploy.core.samples import sample_files, sample_set
from sr_deploy.core.session import Session, TimedOutput
from sr_deploy.core.sizes import hw_text
from sr_deploy.runtime.tiled import run_tiles
from sr_deploy.runtime.tiling import OVERLAP_PX, plan_tiles


@dataclass(frozen=True)
class ImageScore:
    """Scores and time of one image."""

    image: str
    psnr_db: float
    ssim: float
    lr_hw: Tuple[int, int]
    ms: float = field(compare=False)
    """Time of the network; for a tiled image the sum over its tiles."""
    copies_ms: Optional[float] = None
    timer: str = ""
    finite: bool = True
    """Whether all pixels are finite. NaN is scored as black, infinity as white."""


@dataclass(frozen=True)
class Quality:
    """Scores of a set: plain means over its images."""

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
    """A named set of HR images."""

    name: str
    files: Tuple[Path, ...]


def image_set(folder: str = "") -> ImageSet:
    """Return the images of an HR folder; of scikit-image's photographs for an empty name.

    A folder named HR gets its parent's name. Raises InputError if there are no images.
    """
    if not folder:
        return ImageSet(sample_set(), tuple(sample_files()))
    path = Path(folder)
    resolved = path.resolve()
    named = resolved.parent if resolved.name.upper() == "HR" else resolved
    return ImageSet(printable_name(named), tuple(image_files(path)))


class Bicubic(Session):
    """MATLAB's bicubic upscaling, rounded to uint8: the first row of papers' tables."""

    backend, backend_version, precision = "bicubic", "", "fp64"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        return nchw_from_rgb(imresize(rgb_from_nchw(x_nchw), scale=self.scale))


def evaluate(
    session: Session, images: ImageSet, *, metric: str, degradation: str = "bi"
) -> Quality:
    """Score a session on a set of images.

    metric: "y" (float luma, border = scale) or "rgb" (uint8, border 4). The noise of the
    degradation `dn` depends on the file name only, so an image gets the same noise in every set.
    Raises InputError naming the first image that cannot be used.
    """
    check_degradation(degradation, session.scale)
    border = border_px(metric, session.scale)
    scores: List[ImageScore] = []
    tilings: List[str] = []
    for path in images.files:
        hr = modcrop(read_rgb(path), session.scale)
        _check_size(path, hr.shape, border)
        rng = np.random.default_rng(zlib.crc32(os.fsencode(path.name)))
        lr = degrade(hr, scale=session.scale, kind=degradation, rng=rng)
        timed, tiling = upscale_fitting(session, lr)
        tilings.append(tiling)
        sr = rgb_from_nchw(timed.y)
        score = ImageScore(
            image=printable_name(path),
            psnr_db=psnr_db(sr, hr, metric=metric, border=border),
            ssim=ssim(sr, hr, metric=metric, border=border),
            lr_hw=(lr.shape[0], lr.shape[1]),
            ms=timed.ms,
            copies_ms=timed.copies_ms,
            timer=timed.timer,
            finite=bool(np.isfinite(timed.y).all()),
        )
        scores.append(score)
    return Quality(
        set=images.name,
        metric=metric,
        border_px=border,
        psnr_db=float(np.mean([score.psnr_db for score in scores])),
        ssim=float(np.mean([score.ssim for score in scores])),
        tiling="; ".join(dict.fromkeys(sorted(tilings, reverse=True))),
        images=tuple(scores),
        degradation=degradation,
    )


def check_images(images: ImageSet, *, metrics: Iterable[str], scales: Iterable[int]) -> None:
    """Read every image of a set. Raises InputError naming the first that cannot be scored."""
    pairs = [(metric, scale) for metric in sorted(metrics) for scale in sorted(scales)]
    for path in images.files if pairs else ():
        rgb = read_rgb(path)
        for metric, scale in pairs:
            _check_size(path, modcrop(rgb, scale).shape, border_px(metric, scale))


def _check_size(path: Path, shape: Tuple[int, ...], border: int) -> None:
    if min(shape[:2]) < 11 + 2 * border:
        raise InputError(
            f"{path} is too small to be scored: {shape[0]}x{shape[1]} pixels", hint="remove it"
        )


def finite_or_none(value: float) -> Optional[float]:
    """Return `value`; None for an infinite PSNR, which JSON cannot represent."""
    return value if np.isfinite(value) else None


def upscale_fitting(session: Session, rgb: np.ndarray) -> Tuple[TimedOutput, str]:
    """Upscale (H, W, 3) uint8 by a session that may not accept its size.

    Returns the result with its time, and how it was run. If the session does not accept the size,
    the image is run as a few overlapping tiles, mirrored where it is smaller than a tile. Pixels
    near the borders of tiles may then differ from the result of the whole image.
    """
    plan = plan_tiles((rgb.shape[0], rgb.shape[1]), session, few_tiles=True)
    s = session.scale
    out = np.empty((plan.hw[0] * s, plan.hw[1] * s, 3), np.float32)

    def store(core: np.ndarray, part: np.ndarray) -> None:
        part[...] = core.transpose(1, 2, 0)

    run = run_tiles(session, plan, rgb, out, to_input=nchw_from_rgb, store=store)
    # The last digits of luma depend on the memory layout: keep that of a session's own output.
    y = np.ascontiguousarray(out.transpose(2, 0, 1)[None])
    timed = TimedOutput(y, run.ms, run.copies_ms, run.timer)
    if plan.whole:
        return timed, "whole"
    overlap = min(session.halo_px or OVERLAP_PX, min(plan.tile_hw) // 4)
    tiles = f"tiled {hw_text(plan.tile_hw)}, overlap {overlap} px"
    return timed, f"{tiles}: near borders not what the whole image gives"
