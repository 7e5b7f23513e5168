"""Cuts of real images for a report: LR, bicubic, what each network makes of it, HR."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np

from sr_deploy.bench.evaluate import image_set, upscale_fitting
from sr_deploy.core.errors import CannotRunHereError, InputError, MissingPackageError
from sr_deploy.core.files import printable_name
from sr_deploy.core.images import (
    imresize,
    modcrop,
    png_bytes,
    read_rgb,
    rgb_from_nchw,
)
from sr_deploy.core.metrics import psnr_db
from sr_deploy.results.crops import CropSet, MethodCrop
from sr_deploy.runtime.opener import describe_all

CROP_PX = 144
"""Height and width of a cut in HR, less where the image is smaller; a multiple of 2, 3 and 4."""
MAX_IMAGES = 4
METRIC = "y"


@dataclass
class _Place:
    """One image, and where it is cut."""

    image: str
    lr: np.ndarray
    hr: np.ndarray
    box: Tuple[int, int, int, int]
    crops: List[MethodCrop] = field(default_factory=list)

    def add(self, name: str, image: np.ndarray) -> None:
        quality = psnr_db(self.cut(image), self.cut(self.hr), metric=METRIC, border=0)
        self.crops.append(
            MethodCrop(name, png_bytes(self.cut(image)), quality if np.isfinite(quality) else None)
        )

    def cut(self, image: np.ndarray, scale: int = 1) -> np.ndarray:
        top, left, height, width = (n // scale for n in self.box)
        return image[top : top + height, left : left + width]


def crops_of(
    given: Sequence[str], *, data: str = "", progress: Callable[[str], None] = lambda line: None
) -> List[CropSet]:
    """Return, per scale and image, the same cut by every variant of the checkpoints, graphs and engines that runs here.

    data: a folder of HR images, the first four are taken; empty: scikit-image's photographs. The cut is where bicubic is
    furthest from HR: no network has a say in it. Networks upscale the whole image. Raises an SrDeployError on bad input.
    """
    files = image_set(data).files[:MAX_IMAGES]
    places: Dict[int, List[_Place]] = {}
    names: List[str] = []
    for network in describe_all(given):
        try:
            session = network.open()
        except (CannotRunHereError, MissingPackageError) as e:
            progress(f"{network.artifact or network.name}: no crops: {e.message}")
            continue
        name = f"{network.name}, {session.backend} {session.precision}"
        name += f", {network.artifact}" if name in names else ""  # graphs of two sizes
        names.append(name)
        progress(f"{name}: crops of {len(files)} images")
        if session.scale not in places:
            places[session.scale] = [_place(path, session.scale) for path in files]
        for place in places[session.scale]:
            place.add(name, rgb_from_nchw(upscale_fitting(session, place.lr)[0].y))
    if not places:
        raise InputError(
            "nothing that crops are asked of runs on this machine",
            hint="leave --crops out, or give checkpoints",
        )
    return [
        CropSet(
            place.image,
            scale,
            place.box,
            METRIC,
            (*place.crops, MethodCrop("HR", png_bytes(place.cut(place.hr)))),
        )
        for scale, of_scale in places.items()
        for place in of_scale
    ]


def _place(path: Path, scale: int) -> _Place:
    hr = modcrop(read_rgb(path), scale)
    if min(hr.shape[:2]) < scale:
        raise InputError(
            f"{path} is too small to be cut at x{scale}: {hr.shape[0]}x{hr.shape[1]} pixels",
            hint="leave it out",
        )
    lr = imresize(hr, scale=1 / scale)
    bicubic = imresize(lr, scale=scale)
    place = _Place(printable_name(path), lr, hr, hardest(bicubic, hr, scale))
    place.crops.append(MethodCrop("LR", png_bytes(place.cut(lr, scale))))
    place.add("bicubic", bicubic)
    return place


def hardest(bicubic: np.ndarray, hr: np.ndarray, scale: int) -> Tuple[int, int, int, int]:
    """Return (top, left, height, width), in multiples of `scale`, of the cut where two (H, W, 3) uint8 images differ most.

    The first in reading order where several differ as much.
    """
    height, width = (min(CROP_PX, n) // scale * scale for n in hr.shape[:2])
    error = ((bicubic.astype(np.int64) - hr) ** 2).sum(axis=2)
    total = np.pad(
        error.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0))
    )  # (H+1, W+1): sums over all above and left
    sums = (
        total[height:, width:]
        - total[:-height, width:]
        - total[height:, :-width]
        + total[:-height, :-width]
    )
    sums = sums[::scale, ::scale]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(top) * scale, int(left) * scale, height, width
