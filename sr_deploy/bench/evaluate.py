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
from sr_deploy.runtime.tiled import run_tiles
from sr_deploy.runtime.tiling import OVERLAP_PX, plan_tiles


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
        done, how = upscale_fitting(session, lr)
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


def upscale_fitting(session: Session, rgb: np.ndarray) -> Tuple[Timed, str]:
    """Upscale (H, W, 3) uint8 with a session that may not take its size. Return the result, its time, and how it was run.

    A static graph, or a dynamic one made for smaller or larger images, gets a few overlapping tiles, mirrored where the
    image is smaller. Pixels near the borders of tiles may then differ from the result of the whole image, which the second
    value tells.
    """
    plan = plan_tiles((rgb.shape[0], rgb.shape[1]), session, few_tiles=True)
    s = session.scale
    out = np.empty((plan.hw[0] * s, plan.hw[1] * s, 3), np.float32)

    def store(core: np.ndarray, part: np.ndarray) -> None:
        part[...] = core.transpose(1, 2, 0)

    run = run_tiles(session, plan, rgb, out, to_input=nchw_from_rgb, store=store)
    done = Timed(out.transpose(2, 0, 1)[None], run.ms, run.copies_ms, run.timer)
    if plan.whole:
        return done, "whole"
    overlap = min(session.halo_px or OVERLAP_PX, min(plan.tile_hw) // 4)
    tiles = f"tiled {hw_text(plan.tile_hw)}, overlap {overlap} px"
    return done, f"{tiles}: near borders not what the whole image gives"
