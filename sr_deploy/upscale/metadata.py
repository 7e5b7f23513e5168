"""Metadata of picture files: EXIF (orientation, sizes, thumbnail), and what OpenCV does not read.

EXIF and TIFF have the same structure: directories of 12-byte entries (tag, type, count, value or
its offset). OpenCV reads and writes EXIF, XMP and ICC profiles of PNG, JPEG and WebP. It ignores
those of TIFF, the transparent grey of PNG, the orientation of AVIF, and the maximum value of PPM
and PGM, which are handled here.
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
_AVIF_ORIENTATIONS = {  # fmt: skip
    (0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6,
    (0, 0): 4, (0, 1): 2, (2, 0): 2, (2, 1): 4,
    (1, 0): 5, (1, 1): 7, (3, 0): 7, (3, 1): 5,
}  # fmt: skip
"""(left quarter turns, then mirrored: 0 top to bottom, 1 left to right) -> EXIF's orientation."""


@dataclass(frozen=True)
class TiffFacts:
    """The properties of a TIFF file's colours."""

    photometric: int = 2
    icc: bytes = b""
    extra: int = 0
    """Of the last channel: ASSOCIATED alpha (colours are multiplied by it), UNASSOCIATED, or 0."""
    extra_at: int = 0  # the offset of that value in the file


def read_orientation(exif: bytes) -> int:
    """Return the orientation tag, 1 to 8. Without one: 1, upright."""
    value = _values(exif).get(ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def resize_exif(exif: bytes, hw: HW) -> bytes:
    """Set the sizes in EXIF data to (h, w) and remove the thumbnail. Damaged data is kept."""
    data = bytearray(exif)
    try:
        order, first = _header(exif)
        offset = first
        for _ in range(2):  # the main directory, then the camera's
            positions = _entries(exif, order, offset)
            for tags, size in ((_HEIGHTS, hw[0]), (_WIDTHS, hw[1])):
                for position in (positions[tag] for tag in tags if tag in positions):
                    struct.pack_into(order + "HII", data, position + 2, _LONG, 1, size)
            if offset == first:  # remove the link to the next directory, the thumbnail's
                struct.pack_into(order + "I", data, first + 2 + 12 * len(positions), 0)
            if EXIF_FOLDER not in positions:
                break
            (offset,) = struct.unpack_from(order + "I", exif, positions[EXIF_FOLDER] + 8)
    except (struct.error, ValueError):
        return exif
    return bytes(data)


def with_upright_orientation(exif: bytes) -> bytes:
    """Return the EXIF data with its orientation, if any, set to 1."""
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
    """Return the EXIF data of a JPEG file, or b"". For OpenCV versions that cannot."""
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
        if data[position + 1] == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            return data[position + 10 : end]
        position = end
    return b""


def read_tiff_facts(data: bytes) -> TiffFacts:
    """Read the properties of a TIFF file's colours. Defaults if its directory is damaged."""
    try:
        order, first = _header(data)
        positions, values = _entries(data, order, first), _values(data)
        icc = b""
        if ICC in positions:
            size, offset = struct.unpack_from(order + "II", data, positions[ICC] + 4)
            icc = data[offset : offset + size]
        extra_at = positions.get(EXTRA_SAMPLES, -8) + 8
        return TiffFacts(values.get(PHOTOMETRIC, 2), icc, values.get(EXTRA_SAMPLES, 0), extra_at)
    except (struct.error, ValueError):
        return TiffFacts()


def complete_tiff(path: Path, *, icc: bytes, alpha: bool) -> None:
    """Add a colour profile and the kind of the alpha channel to a TIFF file of OpenCV."""
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
        f.write(struct.pack(order + "H", len(entries)))
        f.write(b"".join(entries) + struct.pack(order + "I", 0))
        f.seek(4)
        f.write(struct.pack(order + "I", place))


def transparent_grey(png: bytes) -> Optional[int]:
    """Return the grey value of a PNG file that is transparent, as OpenCV scales it, or None."""
    depth, colours = png[24], png[25]
    for name, start, _ in png_chunks(png):
        if name == b"tRNS" and colours == 0:
            scale = 255 // (2**depth - 1) if depth < 8 else 1
            return struct.unpack_from(">H", png, start)[0] * scale
        if name == b"IDAT":
            break
    return None


def unscaled_maximum(data: bytes) -> Optional[int]:
    """Return the maximum of a PPM or PGM file if OpenCV does not scale it to the dtype's."""
    match = _PNM.match(data[:4096])
    if match is None or match.group(1) in b"23" and int(match.group(2)) <= 255:
        return None
    return int(match.group(2)) or None


def avif_orientation(data: bytes) -> int:
    """Return the orientation of an AVIF file's pixels, numbered as in EXIF."""
    head = data[: max(data.find(b"mdat"), 0)]
    turned, mirrored = (
        re.search(rb"\0\0\0\x09" + name + rb"(.)", head, re.DOTALL) for name in (b"irot", b"imir")
    )
    turns = turned.group(1)[0] & 3 if turned else 0
    return _AVIF_ORIENTATIONS[turns, mirrored.group(1)[0] & 1 if mirrored else None]


def _header(data: bytes) -> Tuple[str, int]:
    """Return the byte order and the offset of the first directory."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise ValueError("no TIFF structure")
    return order, struct.unpack_from(order + "I", data, 4)[0]


def _entries(data: bytes, order: str, offset: int) -> Dict[int, int]:
    """Return tag -> offset of its entry."""
    (count,) = struct.unpack_from(order + "H", data, offset)
    positions = range(offset + 2, offset + 2 + 12 * count, 12)
    return {struct.unpack_from(order + "H", data, position)[0]: position for position in positions}


def _values(data: bytes) -> Dict[int, int]:
    """Return the single integers of the main directory. Empty if the data is damaged."""
    values = {}
    try:
        order, first = _header(data)
        for tag, position in _entries(data, order, first).items():
            kind, count = struct.unpack_from(order + "HI", data, position + 2)
            if kind in (_SHORT, _LONG) and count == 1:
                code = order + ("H" if kind == _SHORT else "I")
                values[tag] = struct.unpack_from(code, data, position + 8)[0]
    except (struct.error, ValueError):
        return {}
    return values
