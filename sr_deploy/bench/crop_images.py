"""Crops of real images for a report: LR, bicubic, the result of each network, and HR."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.bench.evaluate import finite_or_none, image_set, upscale_fitting
from sr_deploy.core.errors import ArtifactError, InputError, MissingPackageError
from sr_deploy.core.files import printable_name
from sr_deploy.core.images import imresize, modcrop, png_bytes, read_rgb
from sr_deploy.core.metrics import psnr_db
from sr_deploy.core.session import Session
from sr_deploy.core.sizes import hw_text
from sr_deploy.results.crops import CropSet, MethodCrop, WorkMap
from sr_deploy.runtime.adaptive.base import AdaptiveSession
from sr_deploy.runtime.adaptive.decisions import decisions_picture, legend_of
from sr_deploy.runtime.opener import describe_all

CROP_PX = 144
"""Height and width of a crop in HR, less if the image is smaller; a multiple of 2, 3 and 4."""
MAX_IMAGES = 4
METRIC = "y"
Box = Tuple[int, int, int, int]
"""Top, left, height and width in HR pixels, multiples of the scale."""


def parse_box(text: str) -> Box:
    """Read `TOP,LEFT,HEIGHT,WIDTH` in HR pixels. Raises InputError."""
    parts = text.split(",")
    if len(parts) != 4 or not all(p.strip().isascii() and p.strip().isdigit() for p in parts):
        raise InputError(
            f"'{text}' is not a box; expected TOP,LEFT,HEIGHT,WIDTH in HR pixels",
            hint="for example: --box 96,300,144,144",
        )
    top, left, height, width = map(int, parts)
    if min(height, width) < 1:
        raise InputError(f"the box {text} is empty", hint="give a height and width above 0")
    return top, left, height, width


@dataclass
class _CroppedImage:
    """An image, the box that is cropped, and the crops made so far."""

    name: str
    lr: np.ndarray
    hr: np.ndarray
    box: Box
    crops: List[MethodCrop] = field(default_factory=list)
    maps: List[WorkMap] = field(default_factory=list)

    def upscale(self, name: str, session: Session) -> None:
        """Add the crop of a network, and of an adaptive one the map of its work."""
        adaptive = session if isinstance(session, AdaptiveSession) else None
        if adaptive is not None:
            adaptive.decisions = []
            adaptive.reset_work()
        self.add(name, upscale_fitting(session, self.lr).rgb)
        if adaptive is not None and adaptive.decisions and len(adaptive.decisions) == 1:
            picture = decisions_picture(adaptive.decisions[0], scale=1)
            _draw_frame(picture, tuple(n // session.scale for n in self.box))
            text = str(adaptive.executed_work()).partition("; ms")[0] + ")"
            legend = legend_of(adaptive.levels)
            self.maps.append(WorkMap(name, png_bytes(picture), legend, text))

    def add(self, method: str, image: np.ndarray) -> None:
        """Add the crop of an image of HR size, with its PSNR."""
        crop = self.crop(image)
        psnr = psnr_db(crop, self.crop(self.hr), metric=METRIC, border=0)
        self.crops.append(MethodCrop(method, png_bytes(crop), finite_or_none(psnr)))

    def crop(self, image: np.ndarray, scale: int = 1) -> np.ndarray:
        top, left, height, width = (n // scale for n in self.box)
        return image[top : top + height, left : left + width]


def crops_of(
    networks: Sequence[str],
    *,
    data: str = "",
    box: Optional[Box] = None,
    progress: Callable[[str], None] = lambda line: None,
) -> List[CropSet]:
    """Return, per scale and image, the same crop by every network that can run here.

    data: a folder of HR images, of which the first four are used; empty: scikit-image's
    photographs. box: the part of each image; None: where bicubic differs most from HR, which
    favours no network. Networks upscale the whole image. Raises an SrDeployError for bad input.
    """
    images = image_set(data)
    files = images.files[:MAX_IMAGES]
    for note in images.notes([]):
        progress(note)
    images_by_scale: Dict[int, List[_CroppedImage]] = {}
    names: List[str] = []
    for network in describe_all(networks):
        try:
            session = network.open()
        except (ArtifactError, MissingPackageError) as e:
            progress(f"{network.artifact or network.name}: no crops: {e.message}")
            continue
        name = f"{network.name}, {session.backend} {session.precision}"
        name += f", {network.artifact}" if name in names else ""  # graphs of two sizes
        names.append(name)
        progress(f"{name}: crops of {len(files)} images")
        with session:
            scale = session.scale
            if scale not in images_by_scale:
                images_by_scale[scale] = [_select_crop(path, scale, box) for path in files]
            for image in images_by_scale[scale]:
                image.upscale(name, session)
    if not images_by_scale:
        raise InputError(
            "none of the networks given for crops can run on this machine",
            hint="omit --crops, or give checkpoints",
        )
    return [
        CropSet(
            image.name,
            scale,
            image.box,
            METRIC,
            (*image.crops, MethodCrop("HR", png_bytes(image.crop(image.hr)))),
            tuple(image.maps),
            box_given=box is not None,
        )
        for scale, images in images_by_scale.items()
        for image in images
    ]


def _draw_frame(picture: np.ndarray, box: Tuple[int, ...]) -> None:
    """Draw a white frame of one pixel inside a box of (H, W, 3) uint8."""
    top, left, height, width = box
    part = picture[top : top + height, left : left + width]
    part[[0, -1]] = 255
    part[:, [0, -1]] = 255


def _check_box(path: Path, box: Box, hw: Tuple[int, ...], scale: int) -> None:
    """Raise InputError unless a box lies in an image and on the grid of LR pixels."""
    top, left, height, width = box
    text = ",".join(map(str, box))
    if any(n % scale for n in box):
        nearest = ",".join(str(max(round(n / scale), i // 2) * scale) for i, n in enumerate(box))
        raise InputError(
            f"the box {text} does not lie on LR pixels: at x{scale} all four numbers are multiples "
            f"of {scale}",
            hint=f"--box {nearest}",
        )
    if top + height > hw[0] or left + width > hw[1]:
        raise InputError(
            f"the box {text} is not inside {path}, which has {hw_text((hw[0], hw[1]))} pixels",
            hint="the order is TOP,LEFT,HEIGHT,WIDTH; --data names a folder with other images",
        )


def _select_crop(path: Path, scale: int, box: Optional[Box]) -> _CroppedImage:
    """Read an HR image, and choose its crop. The result contains the crops of LR and bicubic."""
    hr = modcrop(read_rgb(path), scale)
    if min(hr.shape[:2]) < scale:
        raise InputError(
            f"{path} is too small to be cropped at x{scale}: {hr.shape[0]}x{hr.shape[1]} pixels",
            hint="remove it",
        )
    if box is not None:
        _check_box(path, box, hr.shape[:2], scale)
    lr = imresize(hr, scale=1 / scale)
    bicubic = imresize(lr, scale=scale)
    box = box or largest_error_box(bicubic, hr, scale)
    image = _CroppedImage(printable_name(path), lr, hr, box)
    image.crops.append(MethodCrop("LR", png_bytes(image.crop(lr, scale))))
    image.add("bicubic", bicubic)
    return image


def largest_error_box(bicubic: np.ndarray, hr: np.ndarray, scale: int) -> Box:
    """Return the box where two (H, W, 3) uint8 images differ most, the first in reading order."""
    height, width = (min(CROP_PX, n) // scale * scale for n in hr.shape[:2])
    error = ((bicubic.astype(np.int64) - hr) ** 2).sum(axis=2)
    # Summed-area table, (H+1, W+1): the sum over all pixels above and to the left.
    total = np.pad(error.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    sums = (
        total[height:, width:]
        - total[:-height, width:]
        - total[height:, :-width]
        + total[:-height, :-width]
    )
    sums = sums[::scale, ::scale]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(top) * scale, int(left) * scale, height, width
