"""JPEG: segments of (marker, size, content), and scans of entropy-coded data between them."""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Set, Tuple

from sr_deploy.core.pictures.formats import (
    COMMENTS,
    CREDENTIALS,
    EXIF,
    GAIN_MAP,
    ICC,
    IPTC,
    RESOLUTION,
    THUMBNAIL,
    XMP,
    Metadata,
)
from sr_deploy.core.pictures.metadata import (
    iptc_of_photoshop,
    merge_extended_xmp,
    photoshop_of_iptc,
)

_MARKER = re.compile(rb"\xff+[^\x00\xff]", re.DOTALL)
_SOI, _EOI, _SOS, _DRI, _TEM, _COM = 0xD8, 0xD9, 0xDA, 0xDD, 0x01, 0xFE
_RESTARTS = range(0xD0, 0xD8)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE, _LOSSLESS, _ARITHMETIC = {0xC2, 0xC6, 0xCA, 0xCE}, {0xC3, 0xC7, 0xCB, 0xCF}, 0xC9
_EXIF_HEAD = b"Exif\0\0"
_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED_HEAD = b"http://ns.adobe.com/xmp/extension/\0"
_ICC_HEAD = b"ICC_PROFILE\0"
_PHOTOSHOP_HEAD = b"Photoshop 3.0\0"
_OTHERS = (  # marker, head of the content, kind
    (0xE2, b"MPF\0", "further pictures"),
    (0xE2, b"FPXR\0", "FlashPix data"),
    (0xE2, b"urn:iso:std:iso:ts:21496:-1", GAIN_MAP),
    (0xE0, b"JFXX\0", THUMBNAIL),
    (0xEB, b"JP", CREDENTIALS),
)
_IGNORED = ((0xEE, b"Adobe"), (0xEC, b"Ducky"), (0xE0, b"JFIF\0"))
_ROOM = 65533  # bytes of content in a segment
GARBAGE = bytes((i * 73 + 41) % 251 + 1 for i in range(64))
"""Entropy-coded data that means nothing. It has no 255, which would be a marker."""


@dataclass
class _Scan:
    """What has been seen of the frame and its scans."""

    frame: int = 0
    hw: Tuple[int, int] = (0, 0)
    parts: Dict[int, Tuple[int, int]] = field(default_factory=dict)  # component -> factors (v, h)
    missing: Dict[int, Set[int]] = field(default_factory=dict)  # component -> coefficients
    interval: int = 0
    expected: int = 0  # restart markers in the current scan
    ends: List[int] = field(default_factory=list)  # of all entropy-coded data
    scans: int = 0


def segments(data: Any) -> Iterator[Tuple[int, int, int, int]]:
    """Yield (marker, its offset, start, end of the content) up to the end marker.

    Raises struct.error, or ValueError without an end marker.
    """
    position = 2
    while True:
        match = _MARKER.search(data, position)
        if match is None:
            raise ValueError("it ends before its end marker")
        marker, start = data[match.end() - 1], match.end()
        if marker in _RESTARTS or marker in (_EOI, _TEM, _SOI):
            yield marker, match.start(), start, start
            if marker == _EOI:
                return
            position = start
        else:
            position = start + struct.unpack_from(">H", data, start)[0]
            yield marker, match.start(), start + 2, position


def find_damage(data: bytes) -> str:
    """Return the evidence of damage, or an empty string. Raises struct.error."""
    try:
        return _read_scans(data)[1]
    except ValueError as e:
        return str(e)


def with_garbage(data: bytes, *, everywhere: bool) -> bytes:
    """Return the file with garbage behind its entropy-coded data, for the decoder.

    A decoder stops at the last block of a scan and ignores garbage. Where data is missing, which an
    end marker hides, it decodes garbage, and the pixels differ. libjpeg warns on stderr about such
    bytes before a marker. So the only scan of a file is cut there, unless `everywhere`: then every
    scan and restart interval is tested. Arithmetic coding leaves out zeros at the end: no garbage.
    """
    scan, _ = _read_scans(data)
    if scan.frame >= _ARITHMETIC:
        return data
    if not everywhere:
        return data[: scan.ends[-1]] + GARBAGE if scan.scans == 1 else data
    bounds = [0, *scan.ends, len(data)]
    return GARBAGE.join(data[a:b] for a, b in zip(bounds, bounds[1:]))


def has_parts(data: bytes) -> bool:
    """Return whether there are several scans or restart intervals."""
    return len(_read_scans(data)[0].ends) > 1


def _read_scans(data: bytes) -> Tuple[_Scan, str]:
    """Return the structure of a file, and the evidence of damage in it."""
    scan, in_scan, problem = _Scan(), False, ""
    for marker, at, start, end in segments(data):
        if in_scan:
            scan.ends.append(at)
        if marker in _RESTARTS:
            scan.expected -= 1
            continue
        if in_scan and scan.expected > 0:
            problem = problem or "a part of its picture data is missing"
        in_scan = marker == _SOS
        if marker in _FRAMES:
            _read_frame(data, start, marker, scan)
        elif marker == _DRI:
            (scan.interval,) = struct.unpack_from(">H", data, start)
        elif in_scan:
            _read_scan_header(data[start:end], scan)
    if not problem and (not scan.scans or any(scan.missing.values())):
        problem = "the last of its scans are missing"
    return scan, problem


def _read_frame(data: bytes, start: int, marker: int, scan: _Scan) -> None:
    _, h, w, n = struct.unpack_from(">BHHB", data, start)
    scan.frame, scan.hw = marker, (h, w)
    for i in range(n):
        number, factors, _ = struct.unpack_from(">BBB", data, start + 6 + 3 * i)
        scan.parts[number] = (factors & 15, factors >> 4)
        scan.missing[number] = set(range(64))


def _read_scan_header(header: bytes, scan: _Scan) -> None:
    """Note what a scan completes, and the restart markers that it must have."""
    numbers = [header[1 + 2 * i] for i in range(header[0])]
    first, last, bits = header[1 + 2 * header[0] :][:3]
    for number in numbers:
        if scan.frame not in _PROGRESSIVE:
            scan.missing[number] = set()
        elif bits & 15 == 0:
            scan.missing[number] -= set(range(first, last + 1))
    scan.scans += 1
    scan.expected = 0
    if scan.interval and scan.frame not in _LOSSLESS and scan.hw[0]:
        most = [max(factors[axis] for factors in scan.parts.values()) for axis in (0, 1)]
        blocks = 1
        for size, largest, axis in zip(scan.hw, most, (0, 1)):
            if len(numbers) > 1:
                blocks *= _up(size, 8 * largest)
            else:
                blocks *= _up(_up(size * scan.parts[numbers[0]][axis], largest), 8)
        scan.expected = _up(blocks, scan.interval) - 1


def _up(a: int, b: int) -> int:
    return -(-a // b)


def read_metadata(data: bytes) -> Metadata:
    """Return kind -> value."""
    found: Metadata = {}
    profile: Dict[int, bytes] = {}
    extended: Dict[int, bytes] = {}
    photoshop = b""
    end = 0
    for marker, _, start, end in segments(data):
        content = data[start:end]
        if marker == _COM:
            text = content.rstrip(b"\0")
            try:
                comment = text.decode("utf-8")
            except UnicodeDecodeError:
                comment = text.decode("latin-1")
            found[COMMENTS] = (*found.get(COMMENTS, ()), comment.replace("\0", " "))
        elif marker == 0xE0 and content.startswith(b"JFIF\0"):
            _read_density(content, found)
        elif marker == 0xE1 and content.startswith(_EXIF_HEAD):
            found.setdefault(EXIF, content[len(_EXIF_HEAD) :])
        elif marker == 0xE1 and content.startswith(_XMP_HEAD):
            found.setdefault(XMP, content[len(_XMP_HEAD) :])
        elif marker == 0xE1 and content.startswith(_EXTENDED_HEAD):
            at = len(_EXTENDED_HEAD) + 32
            extended[struct.unpack_from(">I", content, at + 4)[0]] = content[at + 8 :]
        elif marker == 0xE2 and content.startswith(_ICC_HEAD):
            profile[content[12]] = content[14:]
        elif marker == 0xED and content.startswith(_PHOTOSHOP_HEAD):
            photoshop += content[len(_PHOTOSHOP_HEAD) :]
        elif 0xE0 <= marker <= 0xEF:
            _read_other(marker, content, found)
    if profile:
        found[ICC] = b"".join(profile[i] for i in sorted(profile))
    if photoshop:
        found.update(iptc_of_photoshop(photoshop))
    if extended:
        found.update(merge_extended_xmp(found.get(XMP, b""), b"".join(_sorted(extended))))
    if b"hdrgm:" in found.get(XMP, b"") or b'"GainMap"' in found.get(XMP, b""):
        found[GAIN_MAP] = True
    if data[end:].strip(b"\0") and "further pictures" not in found:
        found["data behind its end"] = True
    return found


def _sorted(pieces: Dict[int, bytes]) -> List[bytes]:
    return [pieces[key] for key in sorted(pieces)]


def _read_density(content: bytes, found: Metadata) -> None:
    unit, x, y = struct.unpack_from(">BHH", content, 7)
    if unit in (1, 2) and x and y:
        inch = 2.54 if unit == 2 else 1
        found[RESOLUTION] = (x * inch, y * inch, "inch")
    elif x != y and x and y:
        found[RESOLUTION] = (x, y, "")
    if content[12] and content[13]:
        found[THUMBNAIL] = True


def _read_other(marker: int, content: bytes, found: Metadata) -> None:
    for known, head, kind in _OTHERS:
        if marker == known and content.startswith(head):
            found[kind] = True
            return
    if not any(marker == known and content.startswith(head) for known, head in _IGNORED):
        found[f"application data (APP{marker - 0xE0})"] = True


def embed(data: memoryview, metadata: Metadata) -> Tuple[List[Any], List[str]]:
    """Insert segments behind JFIF's. Return the file in pieces, and the kinds left out."""
    marker, _, start, end = next(segments(data))
    if marker != 0xE0:
        start = end = 2
    jfif = bytearray(data[start:end] if marker == 0xE0 else b"JFIF\0\1\1\0\0\1\0\1\0\0")
    if RESOLUTION in metadata:
        x, y, unit = metadata[RESOLUTION]
        sizes = (max(round(v), 1) for v in (x, y))
        struct.pack_into(">BHH", jfif, 7, bool(unit), *(min(v, 65535) for v in sizes))
    new, lost = [_segment(0xE0, bytes(jfif))], []
    photoshop = photoshop_of_iptc(metadata[IPTC]) if IPTC in metadata else b""
    for kind, number, content in (
        (EXIF, 0xE1, _EXIF_HEAD + metadata.get(EXIF, b"")),
        (IPTC, 0xED, _PHOTOSHOP_HEAD + photoshop),
    ):
        if kind in metadata and len(content) <= _ROOM:
            new.append(_segment(number, content))
        elif kind in metadata:
            lost.append(kind)
    new += _xmp_segments(metadata.get(XMP, b""))
    profile = metadata.get(ICC, b"")
    room = _ROOM - 14
    count = -(-len(profile) // room)
    for i in range(count):
        piece = profile[i * room : (i + 1) * room]
        new.append(_segment(0xE2, _ICC_HEAD + bytes([i + 1, count]) + piece))
    for comment in metadata.get(COMMENTS, ()):
        raw = comment.encode("utf-8", "replace")
        new += [_segment(_COM, raw[i : i + _ROOM]) for i in range(0, len(raw), _ROOM)]
    return [data[:2], *new, data[end:]], lost


def _xmp_segments(packet: bytes) -> List[bytes]:
    """Return the segments of a packet: a large one is split by Adobe's rules."""
    if not packet:
        return []
    if len(_XMP_HEAD) + len(packet) <= _ROOM:
        return [_segment(0xE1, _XMP_HEAD + packet)]
    name = hashlib.md5(packet).hexdigest().upper().encode()
    stub = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/'
        b'22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/'
        b'xmp/note/" xmpNote:HasExtendedXMP="' + name + b'"/></rdf:RDF></x:xmpmeta>'
    )
    pieces = [_segment(0xE1, _XMP_HEAD + stub)]
    room = _ROOM - len(_EXTENDED_HEAD) - 40
    for at in range(0, len(packet), room):
        head = _EXTENDED_HEAD + name + struct.pack(">II", len(packet), at)
        pieces.append(_segment(0xE1, head + packet[at : at + room]))
    return pieces


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
