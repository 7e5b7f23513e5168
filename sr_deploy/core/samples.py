"""Photographs from scikit-image, used for checks and demonstrations if no data set is given."""

from __future__ import annotations

from pathlib import Path
from typing import List, Sequence

import numpy as np

from sr_deploy.core.errors import MissingPackageError
from sr_deploy.core.images import read_rgb

SAMPLE_SET = "scikit-image photographs"
_FILES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def sample_files() -> List[Path]:
    """Return the paths of the photographs. Raises MissingPackageError without scikit-image."""
    try:
        import skimage
    except ImportError as e:
        raise MissingPackageError(
            "scikit-image", needed_for="using its sample photographs", extra="export", cause=e
        ) from e
    folder = Path(skimage.__file__).parent / "data"
    return [folder / name for name in _FILES]


def sample_lr(hw: Sequence[int], *, count: int) -> List[np.ndarray]:
    """Return (h, w, 3) uint8 RGB crops of `count` photographs, mirrored where they are smaller."""
    crops = []
    for path in sample_files()[:count]:
        rgb = read_rgb(path)
        missing = [max(n - size, 0) for n, size in zip(hw, rgb.shape)]
        rgb = np.pad(rgb, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
        crops.append(rgb[: hw[0], : hw[1]])
    return crops
