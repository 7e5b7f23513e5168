"""Metadata in their one form (see `formats.py`): EXIF and other TIFF structures, IPTC, XMP, ICC.

EXIF and TIFF have the same structure: directories of 12-byte entries (tag, type, count, value or
its offset), in BigTIFF of 20 bytes.
"""

from __future__ import annotations

import re
import struct
from typing import Dict, Iterator, List, Optional, Tuple, Union
from xml.etree import ElementTree

from sr_deploy.core.pictures.formats import CICP, ICC, IPTC, THUMBNAIL, XMP, Metadata
from sr_deploy.core.sizes import HW

ORIENTATION, EXIF_FOLDER, GPS_FOLDER, INTEROP_FOLDER = 0x0112, 0x8769, 0x8825, 0xA005
MAKER_NOTE = 0x927C
SHORT, LONG, UNDEFINED = 3, 4, 7
TYPES = {1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 6: "b", 7: "c", 8: "h", 9: "i", 10: "ii",
         11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # fmt: skip
"""Type of a value -> its format in `struct`."""
_WIDTHS, _HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)
_HDR = {16: "PQ (SMPTE 2084)", 18: "HLG (ARIB STD-B67)"}
_IPTC_RESOURCE, _THUMBNAIL_RESOURCES = 0x0404, (0x0409, 0x040C)
_IGNORED_RESOURCES = (0x03ED, 0x0425)  # the resolution, as in the file itself; a checksum of IPTC
_HAS_EXTENDED = re.compile(rb"""\s*\w+:HasExtendedXMP\s*=\s*("[^"]*"|'[^']*')""")
_RDF = re.compile(rb"<rdf:RDF\b[^>]*>(.*)</rdf:RDF>", re.DOTALL)

Tree = Dict[int, Union[Tuple[int, bytes], "Tree"]]
"""A directory: tag -> (type, value in the structure's byte order), or a directory of its own."""


class Structure:
    """The directories of a TIFF file or EXIF block. Raises ValueError or struct.error."""

    def __init__(self, data: Union[bytes, memoryview]) -> None:
        self.data = data
        mark = bytes(data[:4])
        known = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
        if mark not in known:
            raise ValueError("no TIFF structure")
        self.order = known[mark]
        self.big = b"+" in mark
        self.word, self._entry = ("Q", 20) if self.big else ("I", 12)
        self.first: int = self.unpack(self.word, 8 if self.big else 4)[0]

    def unpack(self, code: str, offset: int) -> Tuple[int, ...]:
        return struct.unpack_from(self.order + code, self.data, offset)

    def entries(self, offset: int) -> Tuple[Dict[int, int], int]:
        """Return tag -> offset of its entry in a directory, and that of the next directory."""
        code = "Q" if self.big else "H"
        (count,) = self.unpack(code, offset)
        if count * self._entry > len(self.data):
            raise ValueError("the directory is longer than the file")
        start = offset + struct.calcsize(code)
        end = start + count * self._entry
        places = range(start, end, self._entry)
        return {self.unpack("H", place)[0]: place for place in places}, self.unpack(self.word, end)[
            0
        ]

    def value(self, place: int) -> Tuple[int, bytes]:
        """Return the type and bytes of an entry's value."""
        kind, count = self.unpack("H" + self.word, place + 2)
        size = struct.calcsize("=" + TYPES.get(kind, "c")) * count
        inside = place + self._entry - struct.calcsize("=" + self.word)
        room = struct.calcsize("=" + self.word)
        offset = inside if size <= room else self.unpack(self.word, inside)[0]
        if offset + size > len(self.data):
            raise ValueError("a value lies beyond the end of the file")
        return kind, bytes(self.data[offset : offset + size])

    def numbers(self, entries: Dict[int, int], tag: int) -> Tuple[int, ...]:
        """Return the integers of a tag, or an empty tuple."""
        if tag not in entries:
            return ()
        kind, raw = self.value(entries[tag])
        code = TYPES.get(kind, "c")
        if code not in "BHIQhi":
            return ()
        return struct.unpack(f"{self.order}{len(raw) // struct.calcsize('=' + code)}{code}", raw)

    def directories(self) -> Iterator[Dict[int, int]]:
        """Yield the entries of the main directories, each once."""
        offset, seen = self.first, set()
        while offset and offset not in seen:
            seen.add(offset)
            entries, offset = self.entries(offset)
            yield entries

    def tree(self, entries: Dict[int, int], depth: int = 0) -> Tree:
        """Return a directory with those of EXIF, GPS and interoperability in it."""
        tree: Tree = {}
        for tag, place in entries.items():
            if tag in (EXIF_FOLDER, GPS_FOLDER, INTEROP_FOLDER):
                if depth < 2:
                    inner, _ = self.entries(self.numbers(entries, tag)[0])
                    tree[tag] = self.tree(inner, depth + 1)
            else:
                tree[tag] = self.value(place)
        return tree


def pack_tree(order: str, tree: Tree, at: int) -> bytes:
    """Return a directory that starts at the offset `at`, with the values and directories in it."""
    start = at + 2 + 12 * len(tree) + 4
    rows, body = [], b""
    for tag in sorted(tree):
        value = tree[tag]
        if isinstance(value, dict):
            raw = pack_tree(order, value, start + len(body))
            kind, count, field = LONG, 1, struct.pack(order + "I", start + len(body))
        else:
            kind, raw = value
            count = len(raw) // struct.calcsize("=" + TYPES.get(kind, "c"))
            inside = len(raw) <= 4
            field = raw.ljust(4, b"\0") if inside else struct.pack(order + "I", start + len(body))
            raw = b"" if inside else raw
        rows.append(struct.pack(order + "HHI", tag, kind, count) + field)
        body += raw + b"\0" * (len(raw) % 2)
    return struct.pack(order + "H", len(tree)) + b"".join(rows) + b"\0" * 4 + body


def in_byte_order(tree: Tree, source: str, target: str) -> Tree:
    """Return a directory with its values in another byte order."""
    if source == target:
        return tree
    out: Tree = {}
    for tag, value in tree.items():
        if isinstance(value, dict):
            out[tag] = in_byte_order(value, source, target)
        else:
            kind, raw = value
            code = TYPES.get(kind, "c")[0]
            n = len(raw) // struct.calcsize("=" + code)
            numbers = struct.unpack(f"{source}{n}{code}", raw)
            out[tag] = (kind, struct.pack(f"{target}{n}{code}", *numbers))
    return out


def exif_from_tree(order: str, tree: Tree) -> bytes:
    """Return an EXIF block with the directories of `tree`."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "I", 8) + pack_tree(order, tree, 8)


def remove_maker_note(tree: Tree) -> bool:
    """Remove the maker's note, whose offsets do not survive a move. Return whether it was there."""
    inner = tree.get(EXIF_FOLDER)
    return isinstance(inner, dict) and inner.pop(MAKER_NOTE, None) is not None


def read_orientation(exif: bytes) -> int:
    """Return the orientation tag, 1 to 8. Without one: 1, upright."""
    try:
        structure = Structure(exif)
        value = structure.numbers(structure.entries(structure.first)[0], ORIENTATION) or (1,)
    except (struct.error, ValueError):
        return 1
    return value[0] if 1 <= value[0] <= 8 else 1


def resize_exif(exif: bytes, hw: HW) -> bytes:
    """Set the sizes in EXIF data to (h, w) and remove the thumbnail. Damaged data is kept."""
    data = bytearray(exif)
    try:
        structure = Structure(exif)
        order, offset = structure.order, structure.first
        for _ in range(2):  # the main directory, then the camera's
            positions, _following = structure.entries(offset)
            for tags, size in ((_HEIGHTS, hw[0]), (_WIDTHS, hw[1])):
                for position in (positions[tag] for tag in tags if tag in positions):
                    struct.pack_into(order + "HII", data, position + 2, LONG, 1, size)
            if offset == structure.first:  # remove the link to the next directory, the thumbnail's
                struct.pack_into(order + "I", data, offset + 2 + 12 * len(positions), 0)
            if EXIF_FOLDER not in positions:
                break
            offset = structure.numbers(positions, EXIF_FOLDER)[0]
    except (struct.error, ValueError, IndexError):
        return exif
    return bytes(data)


def with_upright_orientation(exif: bytes) -> bytes:
    """Return the EXIF data with its orientation, if any, set to 1."""
    data = bytearray(exif)
    try:
        structure = Structure(exif)
        position = structure.entries(structure.first)[0].get(ORIENTATION)
        if position is not None:
            struct.pack_into(structure.order + "HIHH", data, position + 2, SHORT, 1, 1, 0)
    except (struct.error, ValueError):
        return exif
    return bytes(data)


def iptc_of_photoshop(resources: bytes) -> Metadata:
    """Return the kinds in Photoshop's image resources. Raises struct.error."""
    found: Metadata = {}
    position = 0
    while position + 8 <= len(resources) and resources[position + 1 : position + 4] == b"BIM":
        (number,) = struct.unpack_from(">H", resources, position + 4)
        position += 7 + resources[position + 6]
        position += position % 2
        (size,) = struct.unpack_from(">I", resources, position)
        if number == _IPTC_RESOURCE:
            found[IPTC] = resources[position + 4 : position + 4 + size]
        elif number in _THUMBNAIL_RESOURCES:
            found[THUMBNAIL] = True
        elif number not in _IGNORED_RESOURCES:
            found["Photoshop's image resources"] = True
        position += 4 + size + size % 2
    return found


def photoshop_of_iptc(iptc: bytes) -> bytes:
    """Return Photoshop's image resource with IPTC data."""
    head = b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc))
    return head + iptc + b"\0" * (len(iptc) % 2)


def merge_extended_xmp(main: bytes, extended: bytes) -> Metadata:
    """Return the packet of JPEG's two parts as XMP."""
    lost: Metadata = {XMP: main, "extended XMP": True}
    outer, inner = _RDF.search(main), _RDF.search(extended)
    if outer is None or inner is None:
        return lost
    rest = _HAS_EXTENDED.sub(b"", outer.group(1))
    if not re.sub(rb"<rdf:Description[^>]*/>|\s", b"", rest) and b"=" not in re.sub(
        rb"""(xmlns:\w+|rdf:about)\s*=\s*("[^"]*"|'[^']*')""", b"", rest
    ):
        return {XMP: extended}  # the main part only points to the other
    merged = main[: outer.start(1)] + rest + inner.group(1) + main[outer.end(1) :]
    try:
        ElementTree.fromstring(merged.decode("utf-8").strip("\ufeff\0 \n"))
    except (ElementTree.ParseError, UnicodeDecodeError):
        return lost
    return {XMP: merged}


def profile_problem(profile: bytes) -> str:
    """Return why bytes are no ICC profile, or an empty string."""
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return "damaged colour profile"
    return "incomplete colour profile" if _profile_size(profile) > len(profile) else ""


def _profile_size(profile: bytes) -> int:
    return int(struct.unpack_from(">I", profile)[0])


def hdr_transfer(metadata: Metadata) -> Optional[str]:
    """Return the name of an HDR transfer function that a tag or profile states, or None."""
    tags: List[bytes] = [metadata.get(CICP, b"")]
    profile = metadata.get(ICC, b"")
    if not profile_problem(profile):
        (count,) = struct.unpack_from(">I", profile, 128)
        for i in range(min(count, (len(profile) - 132) // 12)):
            name, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * i)
            if name == b"cicp":
                tags.append(profile[offset + 8 : offset + 12])
    return next((_HDR[tag[1]] for tag in tags if len(tag) > 1 and tag[1] in _HDR), None)
