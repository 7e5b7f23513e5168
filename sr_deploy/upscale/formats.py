"""Picture formats: what they can hold, and the detection of a file's format and damage."""

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
    """A format that can be written."""

    name: str
    suffixes: Tuple[str, ...]
    alpha: bool = False
    deep: bool = False  # 16 bits per channel
    grey: bool = True  # one channel
    exif: bool = False
    icc: bool = False
    side: int = 1 << 20  # the largest height and width


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
"""The suffixes of pictures in a folder. Results of formats that are not written become PNG."""

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
    """Return the format of a name's suffix. None if it cannot be written."""
    return next((f for f in FORMATS if path.suffix.lower() in f.suffixes), None)


def format_for(path: Path) -> Format:
    """Return the format of a result by its name. Raises InputError if it cannot be written."""
    target = format_of_name(path)
    if target is None:
        suffixes = ", ".join(f.suffixes[0] for f in FORMATS)
        problem = (
            f"the format '{path.suffix}' is not supported"
            if path.suffix
            else "its name has no suffix, and there is no such folder"
        )
        raise InputError(f"cannot write {path}: {problem}", hint=f"use one of {suffixes}")
    return target


def content_format(head: bytes) -> str:
    """Return the name of a file's format by its first bytes, such as `PNG`. Empty if unknown."""
    return next((name for magic, name in _MAGIC if re.match(magic, head, re.DOTALL)), "")


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture, by its content or name. Raises InputError."""
    try:
        with open(path, "rb") as f:
            return bool(content_format(f.read(64))) or path.suffix.lower() in PICTURE_SUFFIXES
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from e


def find_damage(data: bytes) -> str:
    """Return the evidence that a PNG or JPEG file is damaged. Empty if there is none.

    OpenCV up to 4.x fills the missing part of a truncated JPEG file with grey, and reads PNG chunks
    with wrong checksums.
    """
    check = {"PNG": _png_damage, "JPEG": _jpeg_damage}.get(content_format(data[:16]))
    try:
        return check(data) if check is not None else ""
    except struct.error:
        return "it ends inside a header"


def png_chunks(data: bytes) -> Iterator[Tuple[bytes, int, int]]:
    """Yield (name, start, end) of each chunk's content in a PNG file. Raises struct.error."""
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
