"""GIF, BMP and the Netpbm formats."""

from __future__ import annotations

import re
import struct
from typing import Any, Iterator, List, Optional, Tuple

from sr_deploy.core.pictures.formats import COMMENTS, ICC, RESOLUTION, XMP, Metadata

_GAP = rb"(?:\s|#[^\n]*\n)+"
_PNM = re.compile(
    rb"P([1-6])" + _GAP + rb"\d+" + _GAP + rb"\d+(?:" + _GAP + rb"(\d+))?\s", re.DOTALL
)
_INCH = 0.0254
_COMMENT, _APPLICATION, _CONTROL, _IMAGE, _EXTENSION = 0xFE, 0xFF, 0xF9, 0x2C, 0x21
_XMP_TRAILER = 258


def _gif_blocks(data: bytes) -> Iterator[Tuple[int, int, int]]:
    """Yield (label, start, end) of a GIF file's images and extensions."""
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[position] in (_IMAGE, _EXTENSION):
        label = data[position] if data[position] == _IMAGE else data[position + 1]
        position += 2
        if label == _IMAGE:
            flags = data[position + 7]
            position += 9 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        start = position
        while data[position]:
            position += data[position] + 1
        position += 1
        yield label, start, position


def count_gif_frames(data: bytes) -> int:
    """Return the number of frames. Raises IndexError."""
    return max(sum(label == _IMAGE for label, _, _ in _gif_blocks(data)), 1)


def read_gif_metadata(data: bytes) -> Metadata:
    """Return kind -> value."""
    found: Metadata = {}
    for label, start, end in _gif_blocks(data):
        name = data[start + 1 : start + 12]
        if label == _COMMENT:
            text = _joined(data[start:end]).decode("utf-8", "replace")
            found[COMMENTS] = (*found.get(COMMENTS, ()), text.replace("\0", " "))
        elif label == _APPLICATION and name == b"XMP DataXMP":
            found[XMP] = data[start + 12 : end - _XMP_TRAILER]
        elif label == _APPLICATION and name == b"ICCRGBG1012":
            found[ICC] = _joined(data[start + 12 : end])
        elif label == _APPLICATION and name not in (b"NETSCAPE2.0", b"ANIMEXTS1.0"):
            found["application data"] = True
        elif label not in (_APPLICATION, _CONTROL, _IMAGE):
            found["plain text of GIF"] = True
    return found


def _joined(blocks: bytes) -> bytes:
    out, position = b"", 0
    while position < len(blocks) and blocks[position]:
        out += blocks[position + 1 : position + 1 + blocks[position]]
        position += blocks[position] + 1
    return out


def read_bmp_metadata(data: bytes) -> Metadata:
    """Return kind -> value."""
    found: Metadata = {}
    (header,) = struct.unpack_from("<I", data, 14)
    if header >= 40:
        bits, method = struct.unpack_from("<HI", data, 28)
        x, y = struct.unpack_from("<ii", data, 38)
        if x > 0 and y > 0:
            found[RESOLUTION] = (x * _INCH, y * _INCH, "inch")
        if bits == 32 and method == 0:
            (offset,) = struct.unpack_from("<I", data, 10)
            if len(set(data[offset + 3 :: 4])) > 1:
                found["the fourth channel of BMP, which has no meaning"] = True
    if header >= 108:
        space = data[70:74]
        if space in (b"DEBM", b"MBED") and header >= 124:
            offset, size = struct.unpack_from("<II", data, 14 + 112)
            found[ICC] = data[14 + offset : 14 + offset + size]
        elif space == b"\0\0\0\0":
            found["gamma and primaries of BMP"] = True
        elif space in (b"KNIL", b"LINK"):
            found["a link to a colour profile"] = True
    return found


def bmp_has_alpha(data: bytes) -> bool:
    """Return whether a BMP file's masks name an alpha channel."""
    header, bits, method = struct.unpack_from("<I10xHI", data, 14)
    if bits != 32 or method not in (3, 6):
        return False
    at = 14 + 40 + 12
    return (header >= 56 or method == 6) and any(data[at : at + 4])


def bmp_green_bits(data: bytes) -> Optional[int]:
    """Return the bits of green in a BMP file of 16 bits a pixel, else None."""
    header, bits, method = struct.unpack_from("<I10xHI", data, 14)
    if header < 40 or bits != 16:
        return None
    return 6 if method == 3 and struct.unpack_from("<I", data, 14 + 44)[0] == 0x7E0 else 5


def embed_in_bmp(data: memoryview, metadata: Metadata) -> Tuple[List[Any], List[str]]:
    """Set the resolution. Return the file in pieces, and the kinds left out."""
    x, y, unit = metadata[RESOLUTION]
    if not unit:
        return [data], [RESOLUTION]
    return [data[:38], struct.pack("<ii", round(x / _INCH), round(y / _INCH)), data[46:]], []


def read_pnm_metadata(data: bytes) -> Metadata:
    """Return kind -> value: the comments in the header."""
    match = _PNM.match(data[:65536])
    lines = re.findall(rb"#([^\n]*)\n", match.group(0)) if match else []
    texts = tuple(line.strip().decode("utf-8", "replace") for line in lines)
    return {COMMENTS: texts} if texts else {}


def unscaled_maximum(data: bytes) -> Optional[int]:
    """Return the maximum of a PPM or PGM file if OpenCV does not scale it to the dtype's."""
    match = _PNM.match(data[:65536])
    if match is None or match.group(1) not in b"2356" or match.group(2) is None:
        return None
    if match.group(1) in b"23" and int(match.group(2)) <= 255:
        return None
    return int(match.group(2)) or None
