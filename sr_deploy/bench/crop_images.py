"""Crops of real images for a report: LR, bicubic, the result of each network, and HR."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np

from sr_deploy.bench.evaluate import finite_or_none, image_set, upscale_fitting
from sr_deploy.core.errors import ArtifactError, InputError, MissingPackageError
from sr_deploy.core.files import printable_name
from sr_deploy.core.images import imresize, modcrop, png_bytes, read_rgb, rgb_from_nchw
from sr_deploy.core.metrics import psnr_db
from sr_deploy.results.crops import CropSet, MethodCrop
from sr_deploy.runtime.opener import describe_all

CROP_PX = 144
"""Height and width of a crop in HR, less if the image is smaller; a multiple of 2, 3 and 4."""
MAX_IMAGES = 4
METRIC = "y"
Box = Tuple[int, int, int, int]
"""Top, left, height and width in HR pixels, multiples of the scale."""


@dataclass
class _CroppedImage:
    """An image, the box that is cropped, and the crops made so far."""

    name: str
    lr: np.ndarray
    hr: np.ndarray
    box: Box
    crops: List[MethodCrop] = field(default_factory=list)

    def add(self, method: str, image: np.ndarray) -> None:
        """Add the crop of an image of HR size, with its PSNR."""
        crop = self.crop(image)
        psnr = psnr_db(crop, self.crop(self.hr), metric=METRIC, border=0)
        self.crops.append(MethodCrop(method, png_bytes(crop), finite_or_none(psnr)))

    def crop(self, image: np.ndarray, scale: int = 1) -> np.ndarray:
        top, left, height, width = (n // scale for n in self.box)
        return image[top : top + height, left : left + width]


def crops_of(
    networks: Sequence[str], *, data: str = "", progress: Callable[[str], None] = lambda line: None
) -> List[CropSet]:
    """Return, per scale and image, the same crop by every network that can run here.

    data: a folder of HR images, of which the first four are used; empty: scikit-image's
    photographs. The crop is where bicubic differs most from HR, so it favours no network. Networks
    upscale the whole image. Raises an SrDeployError for bad input.
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
                images_by_scale[scale] = [_select_crop(path, scale) for path in files]
            for image in images_by_scale[scale]:
                image.add(name, rgb_from_nchw(upscale_fitting(session, image.lr)[0].y))
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
        )
        for scale, images in images_by_scale.items()
        for image in images
    ]


def _select_crop(path: Path, scale: int) -> _CroppedImage:
    """Read an HR image, and choose its crop. The result contains the crops of LR and bicubic."""
    hr = modcrop(read_rgb(path), scale)
    if min(hr.shape[:2]) < scale:
        raise InputError(
            f"{path} is too small to be cropped at x{scale}: {hr.shape[0]}x{hr.shape[1]} pixels",
            hint="remove it",
        )
    lr = imresize(hr, scale=1 / scale)
    bicubic = imresize(lr, scale=scale)
    image = _CroppedImage(printable_name(path), lr, hr, largest_error_box(bicubic, hr, scale))
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
