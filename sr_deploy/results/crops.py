"""Crops of one place in an image, as each method reproduces it, for a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple


@dataclass(frozen=True)
class MethodCrop:
    """The crop of one method."""

    name: str
    """LR, bicubic, HR, or the network."""
    png: bytes
    psnr_db: Optional[float] = None
    """Of this crop against HR. None for LR and HR, and where both are equal."""


@dataclass(frozen=True)
class CropSet:
    """The crops of one image, all of the same place: LR first (with fewer pixels) and HR last."""

    image: str
    scale: int
    box_px: Tuple[int, int, int, int]
    """Top, left, height and width in the HR image."""
    metric: str
    """Of `psnr_db`."""
    crops: Tuple[MethodCrop, ...]
