"""Picture containers: one module for each, which reads its metadata, looks for damage, and embeds.

Metadata have one form in every container (see `formats.py`); the containers' wrappers are theirs.
"""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from typing import Any, Callable, Dict, List, Tuple

from sr_deploy.core.pictures.containers import bmff, jpeg, png, simple, tiff, webp
from sr_deploy.core.pictures.formats import RESOLUTION, Metadata

_READERS: Dict[str, Callable[[bytes], Metadata]] = {
    "PNG": png.read_metadata,
    "JPEG": jpeg.read_metadata,
    "TIFF": tiff.read_metadata,
    "WebP": webp.read_metadata,
    "GIF": simple.read_gif_metadata,
    "BMP": simple.read_bmp_metadata,
    "PPM": simple.read_pnm_metadata,
    "PGM": simple.read_pnm_metadata,
    "PBM": simple.read_pnm_metadata,
    "JPEG 2000": bmff.read_jp2_metadata,
    "AVIF": bmff.read_avif_metadata,
}
_EMBEDDERS: Dict[str, Callable[[memoryview, Metadata], Tuple[List[Any], List[str]]]] = {
    "PNG": png.embed,
    "JPEG": jpeg.embed,
    "TIFF": tiff.embed,
    "WebP": webp.embed,
    "BMP": simple.embed_in_bmp,
}
_PAGES: Dict[str, Callable[[bytes], int]] = {
    "GIF": simple.count_gif_frames,
    "PNG": png.count_frames,
    "WebP": webp.count_frames,
    "TIFF": tiff.count_pages,
    "AVIF": bmff.count_avif_frames,
}
UNREADABLE = "metadata that cannot be read"
_MOST_DPI = 65535


def read_metadata(data: bytes, name: str) -> Metadata:
    """Return the metadata of a file in the format `name`: kind -> value, in its one form."""
    reader = _READERS.get(name)
    try:
        found = reader(data) if reader is not None else {}
    except (struct.error, ValueError, IndexError, KeyError, zlib.error):
        return {UNREADABLE: True}
    if RESOLUTION in found:
        x, y, unit = found[RESOLUTION]
        if not 0 < min(x, y) <= max(x, y) < _MOST_DPI:
            del found[RESOLUTION]
            found["impossible resolution"] = True
        elif not unit:
            ratio = Fraction(x / y).limit_denominator(1000)
            found[RESOLUTION] = (ratio.numerator, ratio.denominator, unit)
    return found


def embed(data: memoryview, name: str, metadata: Metadata) -> Tuple[List[Any], List[str]]:
    """Put metadata into a file of OpenCV. Return the file in pieces, and the kinds left out."""
    embedder = _EMBEDDERS.get(name)
    return embedder(data, metadata) if metadata and embedder is not None else ([data], [])


def count_pages(data: bytes, name: str) -> int:
    """Return the number of frames or pages. 1 if the file's structure is damaged."""
    counter = _PAGES.get(name)
    try:
        return counter(data) if counter is not None else 1
    except (struct.error, ValueError, IndexError, KeyError):
        return 1
