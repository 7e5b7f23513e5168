"""Real photographs for checks and demonstrations, where no data set is given: those that scikit-image carries."""

from __future__ import annotations

from pathlib import Path
from typing import List, Sequence

import numpy as np

from sr_deploy.core.errors import MissingPackageError
from sr_deploy.core.images import read_rgb

SAMPLE_SET = "scikit-image photographs"
_FILES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def sample_files() -> List[Path]:
    """Return the photographs' paths. Raises MissingPackageError without scikit-image."""
    try:
        import skimage
    except ImportError as e:
        raise MissingPackageError(
            "scikit-image", needed_for="using its sample photographs", extra="export", cause=e
        ) from e
    folder = Path(skimage.__file__).parent / "data"
    return [folder / name for name in _FILES]


def sample_lr(hw: Sequence[int], *, count: int) -> List[np.ndarray]:
    """Return `count` different crops (h, w, 3) uint8 RGB of the photographs, mirrored at their borders where larger."""
    crops = []
    for path in sample_files()[:count]:
        rgb = read_rgb(path)
        rows, columns = (np.arange(n) % (2 * size) for n, size in zip(hw, rgb.shape))
        rows, columns = (
            np.minimum(i, 2 * size - 1 - i) for i, size in zip((rows, columns), rgb.shape)
        )
        crops.append(rgb[rows][:, columns])
    return crops
