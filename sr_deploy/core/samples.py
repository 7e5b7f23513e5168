"""Photographs for checks and demonstrations if no data set is given.

Those of scikit-image, where it and OpenCV are installed; else three crops of them that come with
this package: astronaut (NASA, public domain), chelsea (Stefan van der Walt, CC0), coffee (Rachel
Michetti, CC0).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import List, Sequence

import numpy as np

from sr_deploy.core.images import read_rgb

SAMPLE_SET = "scikit-image photographs"
CROP_SET = "photograph-crops"
"""Also the name of their folder."""
_FILES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
_CROPS = ("astronaut.npy", "chelsea.npy", "coffee.npy")


def sample_set() -> str:
    """Return the name of the set that `sample_files` returns: of each, results differ."""
    return SAMPLE_SET if _have_photographs() else CROP_SET


def sample_files() -> List[Path]:
    """Return the paths of the photographs, or of the crops where these cannot be had."""
    if not _have_photographs():
        return shipped_crops()
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [folder / name for name in _FILES]


def shipped_crops() -> List[Path]:
    """Return the paths of the crops, (256, 256, 3) uint8 RGB, which need no other package."""
    return [Path(__file__).with_name(CROP_SET) / name for name in _CROPS]


def sample_lr(hw: Sequence[int], *, count: int) -> List[np.ndarray]:
    """Return (h, w, 3) uint8 RGB crops of `count` photographs, mirrored where they are smaller."""
    return [mirrored_crop(read_rgb(path), hw) for path in sample_files()[:count]]


def mirrored_crop(rgb: np.ndarray, hw: Sequence[int]) -> np.ndarray:
    """Return the first (h, w) pixels of an image, which is mirrored where it is smaller."""
    missing = [max(n - size, 0) for n, size in zip(hw, rgb.shape)]
    rgb = np.pad(rgb, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
    return rgb[: hw[0], : hw[1]]


def _have_photographs() -> bool:
    return all(_is_installed(name) for name in ("skimage", "cv2"))


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # a test put None into sys.modules
        return False
