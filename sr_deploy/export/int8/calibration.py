"""Pictures for calibration: crops from which ranges are taken, and others that show the loss."""

from __future__ import annotations

import functools
import hashlib
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple, TypeVar

import numpy as np

from sr_deploy.core.degradation import degrade
from sr_deploy.core.errors import InputError
from sr_deploy.core.image_folders import HrImages, hr_images
from sr_deploy.core.images import image_hw, nchw_from_rgb, read_rgb
from sr_deploy.core.samples import mirrored_crop, sample_files, sample_set
from sr_deploy.core.sizes import HW, hw_text

CROP_HW = (64, 64)
"""The LR size of crops, if the network takes it."""
_PER_HALF, _PER_HALF_PX = 20, 20 * 180 * 180
"""Crops of a half, and their LR pixels together: of large ones there are fewer, but two."""
_SATURATED = 4
"""One of so many is among the most saturated crops of a half; the others are spread evenly."""
_LEAST = 4
"""Pictures smaller than a crop are mirrored, and unused if smaller than this part of it."""
_T = TypeVar("_T")
_GREY = 2.0
"""A mean difference of channels up to this (of 255) is grey."""


@dataclass(frozen=True)
class CropPair:
    """An LR crop and the HR crop it was made of."""

    lr: np.ndarray
    """(1, 3, h, w) float32, 0..1, RGB."""
    hr: np.ndarray
    """(scale*h, scale*w, 3) uint8, RGB."""


@dataclass(frozen=True)
class Calibration:
    """The crops of a folder of HR pictures."""

    ranges: Tuple[CropPair, ...]
    """Those that ranges are taken from."""
    held_out: Tuple[CropPair, ...]
    """Those that the loss is measured on; of other pictures, if there are several."""
    digest: str
    """A checksum of all crops."""
    notes: Tuple[str, ...] = ()
    """What the user should know: only one picture, only grey ones."""

    @property
    def hw(self) -> HW:
        """The LR size of the crops."""
        h, w = self.ranges[0].lr.shape[2:]
        return h, w


def read_calibration(
    folder: Path,
    *,
    scale: int,
    hw: HW = CROP_HW,
    degradation: str = "bi",
    data: Optional[Path] = None,
) -> Calibration:
    """Read HR pictures and make LR crops of `hw` of them, of 40 pictures at most.

    Which ones follows from the files alone: they are spread evenly, and each half also has its most
    saturated crops, since these reach the ends of ranges. data: a folder of HR pictures whose crops
    are held out; `folder` then gives ranges only. Raises InputError for a folder without pictures
    that can be used.
    """
    folders = [hr_images(part) for part in (folder, data) if part is not None]
    files = [file for images in folders for file in images.files]
    states = tuple((s.st_size, s.st_mtime_ns) for s in (file.stat() for file in files))
    return _calibration(tuple(folders), (scale, hw, degradation), states)


def sample_calibration(*, scale: int, hw: HW = CROP_HW, degradation: str = "bi") -> Calibration:
    """Return crops of the photographs that come with the packages, see `core.samples`."""
    images = HrImages(Path(sample_set()), tuple(sample_files()))
    found = _calibration((images,), (scale, hw, degradation), ())
    crops = f"{len(found.held_out)} crops of {sample_set()}"
    note = f"without --calibrate, the loss is measured on {crops}: pictures of yours tell more"
    return replace(found, notes=(*found.notes, note))


@functools.lru_cache(maxsize=4)
def _calibration(
    folders: Tuple[HrImages, ...],
    made: Tuple[int, HW, str],
    states: Tuple[Tuple[int, int], ...],
) -> Calibration:
    """Return the crops of one folder, or of two of which the second one's are held out.

    made: scale, size and degradation of LR crops. states: of the files, so that changed ones are
    read again.
    """
    scale, hw, degradation = made
    hr_hw = (scale * hw[0], scale * hw[1])
    count = min(max(_PER_HALF_PX // (hw[0] * hw[1]), 2), _PER_HALF)
    read = [_Pictures.of(images, hr_hw, 2 * count) for images in folders]
    notes = [note for pictures in read for note in pictures.notes]
    if len(read) == 2:
        halves = tuple(_chosen(list(itertools.chain(*p.crops)), count) for p in read)
    else:
        halves = _halves(read[0].crops, count)
        if len(read[0].crops) == 1:
            notes.append(
                "calibrated with one picture: the loss is measured on other crops of the same "
                "picture"
            )
    for half, pictures in zip(halves, [*read, *read]):
        if not half:
            raise InputError(
                f"{pictures.folder} cannot calibrate an x{scale} network: {pictures.found}; they "
                f"give crops of {hw_text(hr_hw)}",
                hint="give a folder of HR pictures, such as a part of DIV2K",
            )
    if max(crop.saturation for half in halves for crop in half) <= _GREY:
        notes.append("the pictures are grey: what colours need was not calibrated")
    ranges, held_out = (
        tuple(
            CropPair(nchw_from_rgb(degrade(crop.rgb, scale=scale, kind=degradation)), crop.rgb)
            for crop in half
        )
        for half in halves
    )
    return Calibration(ranges, held_out, _digest(ranges, held_out), tuple(notes))


@dataclass(frozen=True)
class _Pictures:
    """What can be cut out of the pictures of a folder."""

    folder: Path
    crops: List[List[_Crop]]
    """Of each picture that is used."""
    found: str
    notes: Tuple[str, ...]

    @staticmethod
    def of(images: HrImages, hw: HW, most: int) -> _Pictures:
        """Read `most` of the pictures, evenly spread."""
        least = (-(-hw[0] // _LEAST), -(-hw[1] // _LEAST))
        sides = [(path, image_hw(path)) for path in images.files]
        large = [path for path, (h, w) in sides if h >= least[0] and w >= least[1]]
        notes = [images.note] if images.note else []
        if len(large) < len(sides):
            count = len(sides) - len(large)
            notes.append(
                f"{count} of {len(sides)} pictures are smaller than {hw_text(least)}, and unused"
            )
        return _Pictures(
            images.folder,
            [_crops(read_rgb(path), hw) for path in _spread(large, most)],
            f"{len(large)} of its {len(sides)} pictures have {hw_text(least)} pixels or more",
            tuple(notes),
        )


class _Crop(NamedTuple):
    """An HR crop that may be chosen."""

    rgb: np.ndarray
    saturation: float
    """The mean difference of the largest and the smallest channel, 0..255."""


def _crops(rgb: np.ndarray, hw: HW) -> List[_Crop]:
    """Return crops that cover a picture and overlap by a half at most; mirrored if it is small."""
    rgb = mirrored_crop(rgb, [max(side, n) for side, n in zip(rgb.shape, hw)])
    rows, columns = (
        np.linspace(0, side - n, 1 + (side - n) * 2 // n).astype(int)
        for side, n in zip(rgb.shape, hw)
    )
    crops = [rgb[y : y + hw[0], x : x + hw[1]] for y in rows for x in columns]
    return [_Crop(crop, _saturation(crop)) for crop in crops]


def _saturation(rgb: np.ndarray) -> float:
    return float(np.ptp(rgb, axis=2).mean())


def _halves(pictures: Sequence[List[_Crop]], count: int) -> Tuple[List[_Crop], List[_Crop]]:
    """Return the chosen crops of both halves, which have no picture in common if there are two."""
    if len(pictures) == 1:
        (crops,) = pictures
        if len(crops) == 1:
            crops = _parts(crops[0].rgb)
        pictures = [crops[: len(crops) // 2], crops[len(crops) // 2 :]]
    halves: Tuple[List[_Crop], List[_Crop]] = ([], [])
    for crops in pictures:
        min(halves, key=len).extend(crops)
    return _chosen(halves[0], count), _chosen(halves[1], count)


def _parts(rgb: np.ndarray) -> List[_Crop]:
    """Return both sides of a picture that is no larger than a crop, mirrored to its size."""
    side = rgb.shape[1] // 2
    return [
        _Crop(np.ascontiguousarray(mirrored_crop(part, rgb.shape[:2])), _saturation(part))
        for part in (rgb[:, :side], rgb[:, side:])
    ]


def _chosen(crops: List[_Crop], count: int) -> List[_Crop]:
    """Return crops that are spread evenly, and the most saturated ones."""
    most = -(-count // _SATURATED)
    vivid = sorted(range(len(crops)), key=lambda i: -crops[i].saturation)[:most]
    others = [i for i in range(len(crops)) if i not in vivid]
    taken = sorted([*vivid, *_spread(others, count - len(vivid))])
    return [_Crop(crops[i].rgb.copy(), crops[i].saturation) for i in taken]


def _spread(items: Sequence[_T], most: int) -> List[_T]:
    """Return so many items at most, evenly spread."""
    if len(items) <= most:
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, most)]


def _digest(*halves: Sequence[CropPair]) -> str:
    digest = hashlib.sha256()
    for half in halves:
        digest.update(b"half")
        for pair in half:
            digest.update(pair.lr.tobytes() + pair.hr.tobytes())
    return digest.hexdigest()[:12]
