"""What a picture's file says beside its pixels: EXIF (its orientation, sizes, thumbnail), and the colour profile of a TIFF file.

EXIF and TIFF are one structure: directories of 12-byte entries (tag, type, count, value or where it lies). OpenCV reads and
writes EXIF, XMP and ICC of PNG, JPEG and WebP, but nothing of TIFF: that much is done here.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Dict, List, Tuple

from sr_deploy.core.sizes import HW

ORIENTATION, EXIF_FOLDER, ICC, PHOTOMETRIC = 0x0112, 0x8769, 0x8773, 0x0106
CMYK = 5
_WIDTHS, _HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)
_SHORT, _LONG, _UNDEFINED = 3, 4, 7


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
                    struct.pack_into(order + "HII", data, position + 2, _LONG, 1, hw[1] if tag in _WIDTHS else hw[0])
            if offset == first:  # what follows it is the thumbnail's
                struct.pack_into(order + "I", data, first + 2 + 12 * len(positions), 0)
            if EXIF_FOLDER not in positions:
                break
            (offset,) = struct.unpack_from(order + "I", exif, positions[EXIF_FOLDER] + 8)
    except (struct.error, ValueError):  # it is damaged: what is left of it is kept as it is
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


def tiff_facts(data: bytes) -> Tuple[int, bytes]:
    """Return a TIFF file's photometric interpretation (5: CMYK) and its ICC profile, empty where it has none."""
    try:
        order, first = _header(data)
        positions = _entries(data, order, first)
        icc = b""
        if ICC in positions:
            size, offset = struct.unpack_from(order + "II", data, positions[ICC] + 4)
            icc = bytes(data[offset : offset + size])
        return _values(data).get(PHOTOMETRIC, 2), icc
    except (struct.error, ValueError):
        return 2, b""


def add_icc_to_tiff(path: Path, icc: bytes) -> None:
    """Append a colour profile to a TIFF file of one picture, just written by OpenCV."""
    with open(path, "r+b") as f:
        order, offset = _header(f.read(8))
        f.seek(offset)
        (count,) = struct.unpack(order + "H", f.read(2))
        entries: List[bytes] = [f.read(12) for _ in range(count)]
        end = f.seek(0, 2)
        f.write(b"\0" * (end % 2) + icc + b"\0" * (len(icc) % 2))
        place = f.tell()
        entries.append(struct.pack(order + "HHII", ICC, _UNDEFINED, len(icc), end + end % 2))
        entries.sort(key=lambda entry: struct.unpack_from(order + "H", entry))
        f.write(struct.pack(order + "H", count + 1) + b"".join(entries) + struct.pack(order + "I", 0))
        f.seek(4)
        f.write(struct.pack(order + "I", place))


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
                found[tag] = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), data, position + 8)[0]
        return found
    except (struct.error, ValueError):
        return {}
