"""Small cuts of one place in a picture, as each method gives it: what a report shows side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple


@dataclass(frozen=True)
class MethodCrop:
    """One method's cut."""

    name: str
    """LR, bicubic, HR, or what upscaled it."""
    png: bytes
    psnr_db: Optional[float] = None
    """Of this cut against HR; None for LR and HR themselves, and where both are equal."""


@dataclass(frozen=True)
class CropSet:
    """The cuts of one image, LR first and HR last; all show the same place, LR in fewer pixels."""

    image: str
    scale: int
    box_px: Tuple[int, int, int, int]
    """Top, left, height and width in the HR image."""
    metric: str
    """Of `psnr_db`."""
    crops: Tuple[MethodCrop, ...]
