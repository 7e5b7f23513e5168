"""Pictures for calibration: crops from which ranges are taken, and others that show the loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

import numpy as np


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
    """Those that the loss is measured on."""
    digest: str
    """A checksum of all crops."""
    notes: Tuple[str, ...] = ()
    """What the user should know: only one picture, only grey ones."""


def read_calibration(
    folder: Path, *, scale: int, multiple: int = 1, min_hw: Tuple[int, int] = (1, 1)
) -> Calibration:
    """Read HR pictures and make LR crops of them, `bi`.

    multiple, min_hw: of the sides of LR crops that the network takes. Raises InputError for a
    folder without usable pictures.
    """
    raise NotImplementedError
