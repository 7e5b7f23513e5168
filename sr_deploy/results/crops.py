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
class WorkMap:
    """How much an adaptive network computed at each place of an image."""

    name: str
    """The network."""
    png: bytes
    """The whole image, coloured, with a frame around the crop."""
    levels: Tuple[Tuple[str, str], ...]
    """What the colours mean, from the least work to the most, and each as `#rrggbb`."""
    work: str
    """The work executed, and the part of the pixels that took each way."""


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
    maps: Tuple[WorkMap, ...] = ()
    """Of the adaptive networks."""
    box_given: bool = False
    """The user chose the place; else it is where bicubic is worst."""
