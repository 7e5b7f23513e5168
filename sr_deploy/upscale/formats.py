"""The picture formats we write and what each can hold, and what a file really is, by its first bytes."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional, Tuple

from sr_deploy.core.errors import InputError


@dataclass(frozen=True)
class Format:
    """A format we write."""

    name: str
    suffixes: Tuple[str, ...]
    alpha: bool = False
    deep: bool = False
    """16 bit per channel."""
    grey: bool = True
    """One channel."""
    exif: bool = False
    icc: bool = False
    side: int = 1 << 20
    """The most pixels a side."""


FORMATS = (
    Format("PNG", (".png",), alpha=True, deep=True, exif=True, icc=True),
    Format("JPEG", (".jpg", ".jpeg", ".jpe"), exif=True, icc=True, side=65500),
    Format("TIFF", (".tif", ".tiff"), alpha=True, deep=True, icc=True),
    Format("WebP", (".webp",), alpha=True, grey=False, exif=True, icc=True, side=16383),
    Format("BMP", (".bmp", ".dib"), alpha=True),
    Format("PPM", (".ppm", ".pnm"), deep=True, grey=False),
    Format("PGM", (".pgm",), deep=True),
)
PNG = FORMATS[0]
PICTURE_SUFFIXES = tuple(s for f in FORMATS for s in f.suffixes) + (".pbm", ".gif", ".jp2", ".avif")
"""Files of a folder with these are taken; those that we do not write become PNG."""

_MAGIC = (
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"BM", "BMP"),
    (rb"P[36]\s", "PPM"),
    (rb"P[25]\s", "PGM"),
    (rb"P[14]\s", "PBM"),
    (rb"GIF8[79]a", "GIF"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"....ftypavi[fs]", "AVIF"),
)
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)


def format_of_name(path: Path) -> Optional[Format]:
    """Return the format of a name's suffix, None where it is none that we write."""
    return next((f for f in FORMATS if path.suffix.lower() in f.suffixes), None)


def format_for(path: Path) -> Format:
    """Return the format of a result's name. Raises InputError where it is none that we write."""
    found = format_of_name(path)
    if found is None:
        known = ", ".join(f.suffixes[0] for f in FORMATS)
        what = (
            f"'{path.suffix}' is no format we write"
            if path.suffix
            else "its name does not say a format, and there is no such folder"
        )
        raise InputError(f"cannot write {path}: {what}", hint=f"give a name ending in {known}")
    return found


def content_of(head: bytes) -> str:
    """Return what a file is by its first bytes, `PNG` or `GIF` say; empty where that is unknown."""
    return next((name for magic, name in _MAGIC if re.match(magic, head, re.DOTALL)), "")


def is_picture(path: Path) -> bool:
    """Tell whether a file is a picture by its content, or at least by its name. Raises InputError when it cannot be read."""
    try:
        with open(path, "rb") as f:
            return bool(content_of(f.read(64))) or path.suffix.lower() in PICTURE_SUFFIXES
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from e


def damage(data: bytes) -> str:
    """Say what shows that a PNG or JPEG file is not whole; empty where nothing does.

    OpenCV up to 4.x fills what a truncated JPEG file lacks with grey, and reads PNG chunks whose checksums are wrong.
    """
    kind = content_of(data[:16])
    try:
        return _png_damage(data) if kind == "PNG" else _jpeg_damage(data) if kind == "JPEG" else ""
    except struct.error:
        return "it ends inside a header"


def png_chunks(data: bytes) -> Iterator[Tuple[bytes, int, int]]:
    """Yield each chunk of a PNG file: its name, where its content starts and where that ends. Raises struct.error at the file's end."""
    position = 8
    while position < len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        yield name, position + 8, position + 8 + size
        position += 12 + size


def _png_damage(data: bytes) -> str:
    for name, start, end in png_chunks(data):
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(data[start - 4 : end]) != checksum:
            return f"the checksum of its chunk {name.decode('latin-1')} is wrong"
        if name == b"IEND":
            return ""
    return "it ends before its last chunk"


def _jpeg_damage(data: bytes) -> str:
    position = 2
    while True:
        match = _JPEG_MARKER.search(data, position)
        if match is None:
            return "it ends before its end marker"
        marker, position = data[match.start() + 1], match.end()
        if marker == 0xD9:
            return ""
        if marker != 0x01:
            position += struct.unpack_from(">H", data, position)[0]
