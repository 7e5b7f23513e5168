"""Quality: PSNR and SSIM of a session on HR images, whose LR is made by a degradation or given."""

from __future__ import annotations

import contextlib
import functools
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, ContextManager, Iterable, List, Optional, Tuple

import numpy as np

from sr_deploy.core.degradation import GIVEN, check_degradation, degrade
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import printable_name
from sr_deploy.core.image_folders import (
    HrImages,
    check_lr_size,
    hr_images,
    is_named_hr,
    lr_images,
)
from sr_deploy.core.images import imresize, modcrop, nchw_from_rgb, read_rgb, rgb_from_nchw
from sr_deploy.core.metrics import border_px, psnr_db, ssim
from sr_deploy.core.samples import sample_files, sample_set
from sr_deploy.core.session import ExecutedWork, Session
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.runtime.tiled import run_tiles
from sr_deploy.runtime.tiling import OVERLAP_PX, TilePlan, plan_tiles


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
    macs: Optional[int] = None
    """Multiply-accumulates that an adaptive network executed for it; None for other networks."""


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
    work: Optional[ExecutedWork] = None
    """Of an adaptive network, over all images."""


@dataclass(frozen=True)
class UpscaledImage:
    """A result that is scored, with its time."""

    rgb: np.ndarray
    """(scale*h, scale*w, 3) uint8, clipped and rounded."""
    ms: float
    """Time of the network, summed over its tiles."""
    copies_ms: Optional[float]
    timer: str
    tiling: str
    """How the image was run, as in `Quality`."""
    finite: bool
    work: Optional[ExecutedWork]


Planner = Callable[[HW], TilePlan]
"""Returns the tiles that an image of (h, w) LR pixels is run in."""


@dataclass(frozen=True)
class ImageSet:
    """A named set of HR images, and of their LR images if those are given."""

    name: str
    files: Tuple[Path, ...]
    hr: Optional[HrImages] = None
    """The folder they come from; None for scikit-image's photographs."""
    lr_folder: Optional[Path] = None
    """The folder of their LR images; None: a degradation makes them."""

    def pairs(self, scale: int) -> List[Tuple[Path, Optional[Path]]]:
        """Return each HR file with its LR file, if those are given.

        Raises InputError if HR and LR do not match by name.
        """
        if self.lr_folder is None or self.hr is None:
            return [(path, None) for path in self.files]
        lr_files = self.hr.lr_files(self.lr_folder, scale)
        return [(path, lr_files[path]) for path in self.files]

    def notes(self, scales: Iterable[int]) -> List[str]:
        """Return what a user should know about the folders inside that were taken."""
        notes = [self.hr.note] if self.hr else []
        if self.lr_folder is not None:
            notes += [lr_images(self.lr_folder, scale).note for scale in sorted(set(scales))]
        return list(filter(None, notes))


def image_set(folder: str = "", lr_folder: str = "") -> ImageSet:
    """Return the HR images of a folder; scikit-image's photographs for an empty name.

    lr_folder: of their LR images; empty: a degradation makes them. A folder named HR gets its
    parent's name. Raises InputError if there are no images, or not only HR images, see `hr_images`.
    """
    if not folder:
        if lr_folder:
            raise InputError(
                f"{lr_folder} has LR images of no HR images", hint="give their folder with --data"
            )
        return ImageSet(sample_set(), tuple(sample_files()))
    hr = hr_images(Path(folder))
    resolved = hr.folder.resolve()
    named = resolved.parent if is_named_hr(resolved.name) else resolved
    name, files = printable_name(named), hr.files
    return ImageSet(name, files, hr, Path(lr_folder) if lr_folder else None)


def lr_of(
    hr: np.ndarray, files: Tuple[Path, Optional[Path]], *, scale: int, degradation: str = "bi"
) -> np.ndarray:
    """Return the LR image of an HR image: (scale*h, scale*w, 3) uint8 RGB -> (h, w, 3) uint8.

    files: that of `hr` and that of LR; without one, `degradation` makes LR. The noise of `dn`
    depends on the file's name only, so it is the same in every set. Raises InputError.
    """
    hr_file, lr_file = files
    if lr_file is not None:
        lr = read_rgb(lr_file)
        check_lr_size(lr_file, lr.shape, hr_file, hr.shape, scale)
        return lr
    rng = np.random.default_rng(zlib.crc32(os.fsencode(hr_file.name)))
    return degrade(hr, scale=scale, kind=degradation, rng=rng)


class Bicubic(Session):
    """MATLAB's bicubic upscaling, rounded to uint8: the first row of papers' tables."""

    backend, backend_version, precision = "bicubic", "", "fp64"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    halo_px = 3

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        return nchw_from_rgb(imresize(rgb_from_nchw(x_nchw), scale=self.scale))


def evaluate(
    session: Session,
    images: ImageSet,
    *,
    metric: str,
    degradation: str = "bi",
    turn: Callable[[], ContextManager[None]] = contextlib.nullcontext,
    plan: Optional[Planner] = None,
) -> Quality:
    """Score a session on a set of images.

    metric: "y" (float luma, border = scale) or "rgb" (uint8, border 4). degradation: makes LR of a
    set without LR images. turn: each image is within one. plan: the tiles of images; None: as in
    `upscale_fitting`. Raises InputError naming the first image that cannot be used.
    """
    check_degradation(degradation, session.scale)
    border = border_px(metric, session.scale)
    scores: List[ImageScore] = []
    tilings: List[str] = []
    work: Optional[ExecutedWork] = None
    for files in images.pairs(session.scale):
        with turn():
            path, hr = files[0], modcrop(read_rgb(files[0]), session.scale)
            _check_size(path, hr.shape, border)
            lr = lr_of(hr, files, scale=session.scale, degradation=degradation)
            done = upscale_fitting(session, lr, plan)
            tilings.append(done.tiling)
            work = done.work if work is None or done.work is None else work + done.work
            score = ImageScore(
                image=printable_name(path),
                psnr_db=psnr_db(done.rgb, hr, metric=metric, border=border),
                ssim=ssim(done.rgb, hr, metric=metric, border=border),
                lr_hw=(lr.shape[0], lr.shape[1]),
                ms=done.ms,
                copies_ms=done.copies_ms,
                timer=done.timer,
                finite=done.finite,
                macs=None if done.work is None else done.work.macs,
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
        degradation=degradation if images.lr_folder is None else GIVEN,
        work=work,
    )


@functools.lru_cache(maxsize=16)
def bicubic_psnr_db(
    images: ImageSet, *, scale: int, metric: str, degradation: str = "bi"
) -> Optional[float]:
    """Return bicubic's mean PSNR in dB on a set, by `evaluate`'s arguments; None if infinite.

    It is computed once in a process.
    """
    border, scores = border_px(metric, scale), []
    for files in images.pairs(scale):
        hr = modcrop(read_rgb(files[0]), scale)
        lr = lr_of(hr, files, scale=scale, degradation=degradation)
        sr = imresize(lr, scale=scale)
        scores.append(psnr_db(sr, hr, metric=metric, border=border))
    return finite_or_none(float(np.mean(scores)))


def check_images(images: ImageSet, *, metrics: Iterable[str], scales: Iterable[int]) -> None:
    """Read every image of a set. Raises InputError naming the first that cannot be scored."""
    scales = sorted(set(scales))
    lr_files = {scale: dict(images.pairs(scale)) for scale in scales}
    for path in images.files if scales else ():
        shape = read_rgb(path).shape
        for scale in scales:
            for metric in sorted(metrics):
                h, w = (n - n % scale for n in shape[:2])
                _check_size(path, (h, w), border_px(metric, scale))
            lr_file = lr_files[scale][path]
            if lr_file is not None:
                check_lr_size(lr_file, read_rgb(lr_file).shape, path, shape, scale)


def _check_size(path: Path, shape: Tuple[int, ...], border: int) -> None:
    if min(shape[:2]) < 11 + 2 * border:
        raise InputError(
            f"{path} is too small to be scored: {shape[0]}x{shape[1]} pixels", hint="remove it"
        )


def finite_or_none(value: float) -> Optional[float]:
    """Return `value`; None for an infinite PSNR, which JSON cannot represent."""
    return value if np.isfinite(value) else None


def upscale_fitting(
    session: Session, rgb: np.ndarray, planner: Optional[Planner] = None
) -> UpscaledImage:
    """Upscale (H, W, 3) uint8 by a session that may not accept its size.

    planner: plans the tiles; None: the image whole, or the fewest tiles if the session does not
    accept its size. Tiles overlap by what the network depends on, so that the result is that of the
    whole image. Where that is unknown or more than a tile can have, pixels near the borders of
    tiles differ from it.
    """
    hw = rgb.shape[0], rgb.shape[1]
    plan = plan_tiles(hw, session) if planner is None else planner(hw)
    s, finite = session.scale, True
    out = np.empty((plan.hw[0] * s, plan.hw[1] * s, 3), np.uint8)

    def store(core: np.ndarray, part: np.ndarray) -> None:
        nonlocal finite
        finite = finite and bool(np.isfinite(core.min()) and np.isfinite(core.max()))
        part[...] = rgb_from_nchw(core[None])

    session.reset_work(own=hw[0] * hw[1] / plan.fed_px, fed_px=plan.fed_px)
    run = run_tiles(session, plan, rgb, out, to_input=nchw_from_rgb, store=store)
    tiling, work = _tiling(plan, session), session.executed_work()
    return UpscaledImage(out, run.ms, run.copies_ms, run.timer, tiling, finite, work)


def _tiling(plan: TilePlan, session: Session) -> str:
    if plan.whole:
        return "whole"
    if plan.exact:
        size = f" of {hw_text(plan.tile_hw)}" if session.fixed_hw is not None else ""
        return f"exact tiles{size}"
    overlap = min(session.halo_px or OVERLAP_PX, min(plan.tile_hw) // 4)
    tiles = f"tiled {hw_text(plan.tile_hw)}, overlap {overlap} px"
    return f"{tiles}: near borders not what the whole image gives"
