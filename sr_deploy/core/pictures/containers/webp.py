"""WebP: a RIFF file of chunks (name, size, content), padded to even sizes."""

from __future__ import annotations

import struct
from typing import Any, Iterator, List, Tuple

from sr_deploy.core.pictures.formats import CREDENTIALS, EXIF, ICC, XMP, Metadata

_HAS_ICC, _HAS_ALPHA, _HAS_EXIF, _HAS_XMP = 0x20, 0x10, 0x08, 0x04
_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")


def chunks(data: Any) -> Iterator[Tuple[bytes, int, int]]:
    """Yield (name, start, end) of each chunk's content. Raises struct.error."""
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        yield name, position + 8, position + 8 + size
        position += 8 + size + size % 2


def count_frames(data: bytes) -> int:
    """Return the number of an animation's frames; 1 for a still picture."""
    return max(sum(name == b"ANMF" for name, _, _ in chunks(data)), 1)


def read_metadata(data: bytes) -> Metadata:
    """Return kind -> value."""
    found: Metadata = {}
    for name, start, end in chunks(data):
        if name == b"ICCP":
            found[ICC] = data[start:end]
        elif name == b"EXIF":
            exif = data[start:end]
            found[EXIF] = exif[6:] if exif.startswith(b"Exif\0\0") else exif
        elif name == b"XMP ":
            found[XMP] = data[start:end]
        elif name == b"C2PA":
            found[CREDENTIALS] = True
        elif name not in _PIXELS:
            found[f"chunk {name.decode('latin-1')}"] = True
    return found


def embed(data: memoryview, metadata: Metadata) -> Tuple[List[Any], List[str]]:
    """Write the extended form. Return the file in pieces, and the kinds left out: none."""
    flags, size = 0, b""
    pixels: List[Tuple[bytes, Any]] = []
    for name, start, end in chunks(data):
        if name == b"VP8X":
            flags, size = data[start] & _HAS_ALPHA, bytes(data[start + 4 : start + 10])
        elif name in _PIXELS:
            pixels.append((name, data[start:end]))
            if name == b"VP8L":
                bits = struct.unpack_from("<I", data, start + 1)[0]
                flags |= _HAS_ALPHA * (bits >> 28 & 1)
                size = size or _size(bits & 0x3FFF, bits >> 14 & 0x3FFF)
            elif name == b"VP8 ":
                w, h = struct.unpack_from("<HH", data, start + 6)
                size = size or _size((w & 0x3FFF) - 1, (h & 0x3FFF) - 1)
    before: List[Tuple[bytes, Any]] = []
    after: List[Tuple[bytes, Any]] = []
    for kind, flag, name, place in (
        (ICC, _HAS_ICC, b"ICCP", before),
        (EXIF, _HAS_EXIF, b"EXIF", after),
        (XMP, _HAS_XMP, b"XMP ", after),
    ):
        if kind in metadata:
            flags |= flag
            place.append((name, metadata[kind]))
    head = [(b"VP8X", struct.pack("<I", flags) + size)]
    pieces: List[Any] = []
    for name, content in (*head, *before, *pixels, *after):
        pieces += [struct.pack("<4sI", name, len(content)), content, b"\0" * (len(content) % 2)]
    total = 4 + sum(len(piece) for piece in pieces)
    return [struct.pack("<4sI4s", b"RIFF", total, b"WEBP"), *pieces], []


def _size(w_less_1: int, h_less_1: int) -> bytes:
    return w_less_1.to_bytes(3, "little") + h_less_1.to_bytes(3, "little")
