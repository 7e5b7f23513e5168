"""JPEG 2000 and AVIF: boxes of (size, name, content)."""

from __future__ import annotations

import struct
from typing import Dict, Iterator, List, Optional, Tuple

from sr_deploy.core.pictures.formats import (
    CICP,
    CREDENTIALS,
    EXIF,
    GAIN_MAP,
    ICC,
    RESOLUTION,
    THUMBNAIL,
    XMP,
    Metadata,
)

_XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_EXIF_UUIDS = (b"JpgTiffExif->JP2", bytes.fromhex("0537cdab9d0c4431a72afa561f2a113e"))
_GEO_UUID = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03")
_INCH = 0.0254
_ORIENTATIONS = {  # fmt: skip
    (0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6,
    (0, 0): 4, (0, 1): 2, (2, 0): 2, (2, 1): 4,
    (1, 0): 5, (1, 1): 7, (3, 0): 7, (3, 1): 5,
}  # fmt: skip
"""(left quarter turns, then mirrored: 0 top to bottom, 1 left to right) -> EXIF's orientation."""


def boxes(data: bytes, start: int, end: int) -> Iterator[Tuple[bytes, int, int]]:
    """Yield (name, start, end) of the content of each box between two offsets."""
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        size = size or end - start
        if size < head:
            raise ValueError("a box is shorter than its head")
        yield name, start + head, min(start + size, end)
        start += size


def read_jp2_metadata(data: bytes) -> Metadata:
    """Return kind -> value."""
    found: Metadata = {}
    if data[:4] == b"\xff\x4f\xff\x51":  # the bare codestream
        return found
    for name, start, end in boxes(data, 0, len(data)):
        content = data[start:end]
        if name == b"uuid" and content[:16] == _XMP_UUID:
            found[XMP] = content[16:]
        elif name == b"uuid" and content[:16] in _EXIF_UUIDS:
            found[EXIF] = content[22:] if content[16:22] == b"Exif\0\0" else content[16:]
        elif name == b"uuid":
            found["place on the earth" if content[:16] == _GEO_UUID else "a box uuid"] = True
        elif name == b"jumb":
            found[CREDENTIALS] = True
        elif name == b"jp2h":
            _read_jp2_header(data, start, end, found)
        elif name not in (b"jP  ", b"ftyp", b"jp2c", b"rreq"):
            found[f"box {name.decode('latin-1').strip()}"] = True
    return found


def _read_jp2_header(data: bytes, start: int, end: int, found: Metadata) -> None:
    for name, a, b in boxes(data, start, end):
        if name == b"colr" and data[a] in (2, 3):
            found[ICC] = data[a + 3 : b]
        elif name == b"colr" and data[a] == 5:
            found[CICP] = struct.pack(
                ">BBBB", *(n & 255 for n in struct.unpack_from(">HHH", data, a + 3)), 1
            )
        elif name == b"res ":
            for _, at, _ in boxes(data, a, b):
                y1, y2, x1, x2, ye, xe = struct.unpack_from(">HHHHbb", data, at)
                if y2 and x2:
                    x, y = x1 / x2 * 10**xe * _INCH, y1 / y2 * 10**ye * _INCH
                    found[RESOLUTION] = (x, y, "inch")


def jp2_problem(data: bytes) -> str:
    """Return why OpenCV's pixels of a JPEG 2000 file would be wrong, or an empty string."""
    for name, start, end in boxes(data, 0, len(data)) if data[:2] == b"\0\0" else ():
        for inner, at, _ in boxes(data, start, end) if name == b"jp2h" else ():
            if inner == b"colr" and data[at] == 1:
                (space,) = struct.unpack_from(">I", data, at + 3)
                if space in (12, 14):
                    return f"has {'CMYK' if space == 12 else 'L*a*b*'} colours"
    return ""


def jp2_depth(data: bytes) -> int:
    """Return the bits per channel in the codestream's header."""
    at = data.find(b"\xff\x4f\xff\x51")
    return (data[at + 42] & 0x7F) + 1 if at >= 0 else 8


class Avif:
    """The boxes of an AVIF file that describe its items. Raises ValueError or struct.error."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.names: Dict[int, Tuple[bytes, bytes]] = {}  # item -> type, and content type
        self.places: Dict[int, List[Tuple[int, int]]] = {}  # item -> offsets and sizes
        self.links: List[Tuple[bytes, int]] = []  # the type of a reference, and its item
        self.primary = 0
        self._properties: List[Tuple[bytes, int, int]] = []
        self._owned: Dict[int, List[int]] = {}
        self._idat = 0
        meta = next(((a, b) for n, a, b in boxes(data, 0, len(data)) if n == b"meta"), None)
        if meta is None:
            raise ValueError("there is no meta box")
        for name, start, end in sorted(boxes(data, meta[0] + 4, meta[1])):
            reader = getattr(self, f"_read_{name.decode('latin-1')}", None)
            if reader is not None:
                reader(start, end)

    def properties(self) -> List[Tuple[bytes, int, int]]:
        """Return the properties (name, start, end) of the primary item."""
        return [self._properties[i - 1] for i in self._owned.get(self.primary, []) if i]

    def all_properties(self) -> List[Tuple[bytes, int, int]]:
        """Return the properties of all items."""
        return self._properties

    def content(self, item: int) -> bytes:
        """Return an item's bytes."""
        return b"".join(self.data[at : at + size] for at, size in self.places.get(item, []))

    def _read_pitm(self, start: int, end: int) -> None:
        self.primary = self._number(start + 4, 2 if self.data[start] == 0 else 4)

    def _read_idat(self, start: int, end: int) -> None:
        self._idat = start

    def _read_iinf(self, start: int, end: int) -> None:
        head = 6 if self.data[start] == 0 else 8
        for name, a, b in boxes(self.data, start + head, end):
            if name == b"infe" and self.data[a] >= 2:
                size = 2 if self.data[a] == 2 else 4
                item, at = self._number(a + 4, size), a + 6 + size
                texts = self.data[at + 4 : b].split(b"\0")
                self.names[item] = (self.data[at : at + 4], texts[1] if len(texts) > 1 else b"")

    def _read_iref(self, start: int, end: int) -> None:
        size = 2 if self.data[start] == 0 else 4
        for name, a, _ in boxes(self.data, start + 4, end):
            self.links.append((name, self._number(a, size)))

    def _read_iprp(self, start: int, end: int) -> None:
        for name, a, b in boxes(self.data, start, end):
            if name == b"ipco":
                self._properties = list(boxes(self.data, a, b))
            elif name == b"ipma":
                self._read_ipma(a)

    def _read_ipma(self, start: int) -> None:
        version, flags = self.data[start], self.data[start + 3]
        (count,) = struct.unpack_from(">I", self.data, start + 4)
        at, size = start + 8, 2 if version == 0 else 4
        for _ in range(count):
            item, n = self._number(at, size), self.data[at + size]
            at += size + 1
            wide = 2 if flags & 1 else 1
            mask = 0x7FFF if wide == 2 else 0x7F
            self._owned[item] = [self._number(at + wide * i, wide) & mask for i in range(n)]
            at += wide * n

    def _read_iloc(self, start: int, end: int) -> None:
        version = self.data[start]
        sizes, more = self.data[start + 4], self.data[start + 5]
        wide, at = 2 if version < 2 else 4, start + 6
        count, at = self._number(at, wide), at + wide
        for _ in range(count):
            item, at = self._number(at, wide), at + wide
            method = 0
            if version:
                method, at = self._number(at, 2) & 15, at + 2
            base, at = self._number(at + 2, more >> 4), at + 2 + (more >> 4)
            extents, at = self._number(at, 2), at + 2
            base += self._idat if method == 1 else 0
            for _ in range(extents):
                at += more & 15 if version else 0
                offset, at = self._number(at, sizes >> 4), at + (sizes >> 4)
                size, at = self._number(at, sizes & 15), at + (sizes & 15)
                self.places.setdefault(item, []).append((base + offset, size))

    def _number(self, at: int, size: int) -> int:
        if at + size > len(self.data):
            raise ValueError("a box ends too early")
        return int.from_bytes(self.data[at : at + size], "big")


def read_avif_metadata(data: bytes) -> Metadata:
    """Return kind -> value."""
    avif = Avif(data)
    found: Metadata = {}
    for item, (name, content_type) in avif.names.items():
        if name == b"Exif":
            raw = avif.content(item)
            exif = raw[4 + int.from_bytes(raw[:4], "big") :]
            found[EXIF] = exif[6:] if exif.startswith(b"Exif\0\0") else exif
        elif name == b"mime" and content_type == b"application/rdf+xml":
            found[XMP] = avif.content(item)
        elif name == b"tmap":
            found[GAIN_MAP] = True
        elif name == b"mime":
            found[f"data of the type {content_type.decode('latin-1')}"] = True
    if any(name == b"thmb" for name, _ in avif.links):
        found[THUMBNAIL] = True
    if any(name == b"jumb" for name, _, _ in boxes(data, 0, len(data))):
        found[CREDENTIALS] = True
    for name, start, end in avif.properties():
        if name == b"colr" and data[start : start + 4] in (b"prof", b"rICC"):
            found[ICC] = data[start + 4 : end]
        elif name == b"colr" and data[start : start + 4] == b"nclx":
            found.update(_tag_of_nclx(data, start))
        elif name == b"pasp":
            x, y = struct.unpack_from(">II", data, start)
            if x != y:
                found["ratio of a pixel's sides"] = True
        elif name in (b"clli", b"mdcv", b"cclv"):
            found["HDR mastering data"] = True
    if any(name == b"auxC" and b"depth" in data[a:b] for name, a, b in avif.all_properties()):
        found["depth map"] = True
    return found


def _tag_of_nclx(data: bytes, start: int) -> Metadata:
    primaries, transfer, _ = struct.unpack_from(">HHH", data, start + 4)
    if (primaries, transfer) in ((1, 13), (1, 2), (2, 2), (1, 1), (1, 6), (2, 13)):
        return {}  # sRGB, or what is shown as sRGB
    return {CICP: bytes([primaries & 255, transfer & 255, 0, 1])}  # the matrix is undone


def avif_problem(data: bytes) -> str:
    """Return why OpenCV's pixels of an AVIF file would be wrong, or an empty string."""
    crops = any(name == b"clap" for name, _, _ in Avif(data).properties())
    return "is cropped by its container, which OpenCV ignores" if crops else ""


def avif_depth(data: bytes) -> int:
    """Return the bits per channel."""
    for name, start, _ in Avif(data).properties():
        if name == b"av1C":
            flags = data[start + 2]
            return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    return 8


def avif_orientation(data: bytes) -> int:
    """Return the orientation of the pixels, numbered as in EXIF."""
    turns = 0
    mirrored: Optional[int] = None
    for name, start, _ in Avif(data).properties():
        if name == b"irot":
            turns = data[start] & 3
        elif name == b"imir":
            mirrored = data[start] & 1
    return _ORIENTATIONS[turns, mirrored]


def count_avif_frames(data: bytes) -> int:
    """Return the number of an animation's frames; 1 for a still picture."""
    if data[8:12] != b"avis":
        return 1
    at = data.find(b"stsz")
    return max(int(struct.unpack_from(">I", data, at + 12)[0]), 1) if at >= 0 else 1
