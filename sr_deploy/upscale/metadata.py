"""What a picture's file says beside its pixels: EXIF (its orientation, sizes, thumbnail), and what OpenCV leaves out of others.

EXIF and TIFF are one structure: directories of 12-byte entries (tag, type, count, value or where it lies). OpenCV reads and
writes EXIF, XMP and ICC of PNG, JPEG and WebP, but nothing of TIFF, no transparent grey of PNG, no turn of AVIF, and takes
the values of PPM and PGM as they are: that much is done here.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from sr_deploy.core.sizes import HW
from sr_deploy.upscale.formats import png_chunks

ORIENTATION, EXIF_FOLDER, ICC, PHOTOMETRIC, EXTRA_SAMPLES = 0x0112, 0x8769, 0x8773, 0x0106, 0x0152
CMYK = 5
ASSOCIATED, UNASSOCIATED = 1, 2
_WIDTHS, _HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)
_SHORT, _LONG, _UNDEFINED = 3, 4, 7
_GAP = rb"(?:\s|#[^\n]*\n)+"
_PNM = re.compile(rb"P([2356])" + _GAP + rb"\d+" + _GAP + rb"\d+" + _GAP + rb"(\d+)\s")
_AVIF_TURNS = {
    (0, None): 1,
    (1, None): 8,
    (2, None): 3,
    (3, None): 6,
    (0, 0): 4,
    (0, 1): 2,
    (2, 0): 2,
    (2, 1): 4,
    (1, 0): 5,
    (1, 1): 7,
    (3, 0): 7,
    (3, 1): 5,
}
"""Quarter turns to the left, then mirrored (0: upside down, 1: left to right) -> EXIF's orientation."""


@dataclass(frozen=True)
class TiffFacts:
    """What a TIFF file says of its colours."""

    photometric: int = 2
    icc: bytes = b""
    """Empty where it has none."""
    extra: int = 0
    """What its fourth (or second) channel is: ASSOCIATED alpha, the colours multiplied by it, UNASSOCIATED alpha, or 0, unknown."""
    extra_at: int = 0
    """Where the file says that."""


def orientation(exif: bytes) -> int:
    """Return the orientation tag, 1 to 8; 1, upright, where there is none."""
    value = _values(exif).get(ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def resized(exif: bytes, hw: HW) -> bytes:
    """Return EXIF data for a picture of another size: sizes corrected, and no thumbnail of the old one."""
    data = bytearray(exif)
    try:
        order, first = _header(exif)
        offset = first
        for _ in range(2):  # the main directory, and that of the camera
            positions = _entries(exif, order, offset)
            for tag, position in positions.items():
                if tag in (*_WIDTHS, *_HEIGHTS):
                    struct.pack_into(
                        order + "HII",
                        data,
                        position + 2,
                        _LONG,
                        1,
                        hw[1] if tag in _WIDTHS else hw[0],
                    )
            if offset == first:  # what follows it is the thumbnail's
                struct.pack_into(order + "I", data, first + 2 + 12 * len(positions), 0)
            if EXIF_FOLDER not in positions:
                break
            (offset,) = struct.unpack_from(order + "I", exif, positions[EXIF_FOLDER] + 8)
    except (struct.error, ValueError):  # it is damaged: what is left of it is kept as it is
        return exif
    return bytes(data)


def upright(exif: bytes) -> bytes:
    """Return EXIF data that ask for no turn."""
    data = bytearray(exif)
    try:
        order, first = _header(exif)
        position = _entries(exif, order, first).get(ORIENTATION)
        if position is not None:
            struct.pack_into(order + "HIHH", data, position + 2, _SHORT, 1, 1, 0)
    except (struct.error, ValueError):
        return exif
    return bytes(data)


def exif_of_jpeg(data: bytes) -> bytes:
    """Return the EXIF block of a JPEG file; empty where it has none. For an OpenCV that cannot tell."""
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
        if data[position + 1] == 0xE1 and bytes(data[position + 4 : position + 10]) == b"Exif\0\0":
            return bytes(data[position + 10 : end])
        position = end
    return b""


def tiff_facts(data: bytes) -> TiffFacts:
    """Return what a TIFF file says of its colours; nothing known where its directory is damaged."""
    try:
        order, first = _header(data)
        positions, values = _entries(data, order, first), _values(data)
        icc = b""
        if ICC in positions:
            size, offset = struct.unpack_from(order + "II", data, positions[ICC] + 4)
            icc = bytes(data[offset : offset + size])
        return TiffFacts(
            values.get(PHOTOMETRIC, 2),
            icc,
            values.get(EXTRA_SAMPLES, 0),
            positions.get(EXTRA_SAMPLES, -8) + 8,
        )
    except (struct.error, ValueError):
        return TiffFacts()


def complete_tiff(path: Path, *, icc: bytes, alpha: bool) -> None:
    """Add a colour profile, and what a fourth channel is, to a TIFF file of one picture, just written by OpenCV."""
    with open(path, "r+b") as f:
        order, offset = _header(f.read(8))
        f.seek(offset)
        (count,) = struct.unpack(order + "H", f.read(2))
        entries: List[bytes] = [f.read(12) for _ in range(count)]
        end = f.seek(0, 2)
        f.write(b"\0" * (end % 2) + icc + b"\0" * (len(icc) % 2))
        place = f.tell()
        if icc:
            entries.append(struct.pack(order + "HHII", ICC, _UNDEFINED, len(icc), end + end % 2))
        if alpha:
            entries.append(struct.pack(order + "HHIHH", EXTRA_SAMPLES, _SHORT, 1, UNASSOCIATED, 0))
        entries.sort(key=lambda entry: struct.unpack_from(order + "H", entry))
        f.write(
            struct.pack(order + "H", len(entries)) + b"".join(entries) + struct.pack(order + "I", 0)
        )
        f.seek(4)
        f.write(struct.pack(order + "I", place))


def transparent_grey(png: bytes) -> Optional[int]:
    """Return the grey of a PNG file that is transparent, as OpenCV reads it; None where there is none."""
    depth, colours = png[24], png[25]
    for name, start, _ in png_chunks(png):
        if name == b"tRNS" and colours == 0:
            return struct.unpack_from(">H", png, start)[0] * (
                255 // (2**depth - 1) if depth < 8 else 1
            )
        if name == b"IDAT":
            break
    return None


def unscaled_maximum(data: bytes) -> Optional[int]:
    """Return the value that is white in a PPM or PGM file, where OpenCV does not bring it to 255 or 65535; else None."""
    match = _PNM.match(data[:4096])
    if match is None or match.group(1) in b"23" and int(match.group(2)) <= 255:
        return None
    return int(match.group(2)) or None


def turn_of_avif(data: bytes) -> int:
    """Return how an AVIF file is to be turned, as EXIF's orientation tells it. Its own EXIF does not count."""
    head = bytes(data[: max(bytes(data).find(b"mdat"), 0)])
    turned, mirrored = (
        re.search(rb"\0\0\0\x09" + name + rb"(.)", head, re.DOTALL) for name in (b"irot", b"imir")
    )
    key = turned.group(1)[0] & 3 if turned else 0, mirrored.group(1)[0] & 1 if mirrored else None
    return _AVIF_TURNS[key]


def _header(data: bytes) -> Tuple[str, int]:
    """The byte order and where the first directory lies."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
    if order is None:
        raise ValueError("no TIFF structure")
    return order, struct.unpack_from(order + "I", data, 4)[0]


def _entries(data: bytes, order: str, offset: int) -> Dict[int, int]:
    """Tag -> where its entry lies."""
    (count,) = struct.unpack_from(order + "H", data, offset)
    found = {}
    for position in range(offset + 2, offset + 2 + 12 * count, 12):
        found[struct.unpack_from(order + "H", data, position)[0]] = position
    return found


def _values(data: bytes) -> Dict[int, int]:
    """The single numbers of the main directory; empty where the data are damaged."""
    try:
        order, first = _header(data)
        found = {}
        for tag, position in _entries(data, order, first).items():
            kind, count = struct.unpack_from(order + "HI", data, position + 2)
            if kind in (_SHORT, _LONG) and count == 1:
                found[tag] = struct.unpack_from(
                    order + ("H" if kind == _SHORT else "I"), data, position + 8
                )[0]
        return found
    except (struct.error, ValueError):
        return {}
