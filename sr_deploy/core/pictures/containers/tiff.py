"""TIFF: directories of tags, each of a picture."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

from sr_deploy.core.pictures.formats import EXIF, GAMMA, ICC, IPTC, RESOLUTION, XMP, Metadata
from sr_deploy.core.pictures.metadata import (
    EXIF_FOLDER,
    GPS_FOLDER,
    LONG,
    ORIENTATION,
    SHORT,
    UNDEFINED,
    Structure,
    Tree,
    exif_from_tree,
    in_byte_order,
    iptc_of_photoshop,
    pack_tree,
    remove_maker_note,
)

CMYK = 5
ASSOCIATED, UNASSOCIATED = 1, 2
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _STRIP_SIZES, _X, _Y, _PLANAR, _UNIT = 273, 277, 279, 282, 283, 284, 296
_TILES, _TILE_SIZES, _SUB_IFDS, _EXTRA, _FORMAT = 324, 325, 330, 338, 339
_XMP, _IPTC, _PHOTOSHOP, _ICC, _DNG = 700, 33723, 34377, 34675, 50706
_DEFLATE = (8, 32946)
_REDUCED, _MASK = 1, 4
_RAW_COLOURS = (32803, 34892)
_STRUCTURE = {  # of the pixels; and what is read apart
    *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 282),
    *(283, 284, 290, 291, 292, 293, 296, 297, 317, 320, 322, 323, 324, 325, 326, 327, 328, 330),
    *(338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531),
    *(_XMP, _IPTC, _PHOTOSHOP, _ICC),
}
_DESCRIPTIONS = {  # those which EXIF has, too
    *(269, 270, 271, 272, ORIENTATION, 285, 305, 306, 315, 316, 33432, EXIF_FOLDER, GPS_FOLDER),
    *(18246, 18249, 40091, 40092, 40093, 40094, 40095),
}
_COLOURS = (301, 318, 319, 532)
_PLACES = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)


@dataclass(frozen=True)
class Facts:
    """The properties of the first picture's pixels."""

    photometric: int = 2
    samples: int = 1
    bits: int = 8
    extra: Tuple[int, ...] = ()
    """Of the channels after the colours: ASSOCIATED alpha (colours are multiplied by it), or
    UNASSOCIATED, or 0."""
    extra_at: int = 0  # the offset of the first of these values in the file
    planar: bool = False
    problem: str = ""  # why its pixels cannot be used


def read_facts(data: bytes) -> Facts:
    """Return the properties of the pixels. Defaults if the directory is damaged."""
    try:
        structure = Structure(data)
        entries, _ = structure.entries(structure.first)

        def first(tag: int, default: int) -> int:
            return (structure.numbers(entries, tag) or (default,))[0]

        extra = structure.numbers(entries, _EXTRA)
        facts = Facts(
            photometric=first(_PHOTOMETRIC, 2),
            samples=first(_SAMPLES, 1),
            bits=first(_BITS, 1),
            extra=extra,
            extra_at=entries.get(_EXTRA, 0) + (12 if structure.big else 8) if extra else 0,
            planar=first(_PLANAR, 1) == 2,
        )
        raw = _DNG in entries or facts.photometric in _RAW_COLOURS
        return Facts(
            **{**facts.__dict__, "problem": _problem(facts, raw, _thumbnail(structure, entries))}
        )
    except (struct.error, ValueError, IndexError):
        return Facts()


def _thumbnail(structure: Structure, entries: Dict[int, int]) -> bool:
    """Return whether the first picture is a smaller copy of another."""

    def pixels(directory: Dict[int, int]) -> int:
        sizes = [structure.numbers(directory, tag) or (0,) for tag in (_WIDTH, _HEIGHT)]
        return sizes[0][0] * sizes[1][0]

    if (structure.numbers(entries, _SUBFILE) or (0,))[0] & _REDUCED:
        return True
    inner = structure.numbers(entries, _SUB_IFDS)
    return any(pixels(structure.entries(at)[0]) > pixels(entries) for at in inner)


def _problem(facts: Facts, raw: bool, thumbnail: bool) -> str:
    if raw:
        return "is a raw photograph"
    if thumbnail:
        return "begins with a thumbnail of its picture, as raw photographs do"
    if facts.photometric == CMYK:
        return "has CMYK colours"
    if facts.photometric in (8, 9, 10):
        return "has L*a*b* colours"
    if facts.planar and facts.samples > 1 and facts.bits > 8:
        return "has its channels one after the other, in 16 bits, which OpenCV misreads"
    if facts.photometric in (0, 1) and facts.samples > 1:
        return "has grey with alpha or other channels, which OpenCV cannot read"
    if len(facts.extra) > 1:
        return f"has {len(facts.extra)} channels besides its colours"
    return ""


def count_pages(data: bytes) -> int:
    """Return the number of pictures, without smaller copies of the first and masks."""
    structure = Structure(data)
    kinds = [structure.numbers(d, _SUBFILE) or (0,) for d in structure.directories()]
    return max(sum(not kind[0] & (_REDUCED | _MASK) for kind in kinds[1:]) + 1, 1)


def short_strip(data: bytes) -> bool:
    """Return whether a strip or tile has less data than pixels, where that is told (deflate)."""
    structure, entries, places = _strips(data)
    if (structure.numbers(entries, _COMPRESSION) or (1,))[0] not in _DEFLATE:
        return False
    for offset, size in places:
        inflater = zlib.decompressobj()
        try:
            inflater.decompress(data[offset : offset + size])
        except zlib.error:
            return True
        if not inflater.eof:
            return True
    return False


def with_garbage(data: bytes, garbage: bytes) -> bytes:
    """Return the file with garbage behind each strip or tile, for the decoder.

    It stops at a strip's last pixel and ignores garbage. Where data is missing, pixels differ.
    """
    structure, entries, places = _strips(data)
    if (structure.numbers(entries, _COMPRESSION) or (1,))[0] == 1 or not places:
        return data
    offsets_tag, sizes_tag = (_STRIPS, _STRIP_SIZES) if _STRIPS in entries else (
        _TILES, _TILE_SIZES,
    )  # fmt: skip
    out, moved = bytearray(data + b"\0" * (len(data) % 2)), []
    for offset, size in places:
        moved.append(len(out))
        out += data[offset : offset + size] + garbage
        out += b"\0" * (len(out) % 2)
    sizes = [size + len(garbage) for _, size in places]
    kind, code = (16, "Q") if structure.big else (LONG, "I")
    for tag, numbers in ((offsets_tag, moved), (sizes_tag, sizes)):
        packed = struct.pack(f"{structure.order}{len(numbers)}{code}", *numbers)
        place = entries[tag]
        head = struct.pack(structure.order + "H" + structure.word, kind, len(numbers))
        out[place + 2 : place + 2 + len(head)] = head
        if len(numbers) > 1:
            packed, at = struct.pack(structure.order + structure.word, len(out)), packed
            out += at
        out[place + 2 + len(head) : place + 2 + len(head) + len(packed)] = packed
    return bytes(out)


def _strips(data: bytes) -> Tuple[Structure, Dict[int, int], List[Tuple[int, int]]]:
    structure = Structure(data)
    entries, _ = structure.entries(structure.first)
    tags = (_STRIPS, _STRIP_SIZES) if _STRIPS in entries else (_TILES, _TILE_SIZES)
    offsets, sizes = (structure.numbers(entries, tag) for tag in tags)
    return structure, entries, list(zip(offsets, sizes))


def read_metadata(data: bytes) -> Metadata:
    """Return kind -> value."""
    structure = Structure(data)
    entries, _ = structure.entries(structure.first)
    found: Metadata = {}
    for tag, kind in ((_ICC, ICC), (_XMP, XMP), (_IPTC, IPTC)):
        if tag in entries:
            found[kind] = structure.value(entries[tag])[1]
    if _PHOTOSHOP in entries:
        found = {**iptc_of_photoshop(structure.value(entries[_PHOTOSHOP])[1]), **found}
    if _X in entries and _Y in entries:
        found.update(_resolution(structure, entries))
    described = {tag: at for tag, at in entries.items() if tag in _DESCRIPTIONS}
    tree = structure.tree(described)
    tree.pop(ORIENTATION, None)  # OpenCV applies it
    if remove_maker_note(tree):
        found["the maker's note"] = True
    if tree:
        found[EXIF] = exif_from_tree(structure.order, tree)
    for tag in set(entries) - _STRUCTURE - _DESCRIPTIONS:
        if tag in _COLOURS:
            found[f"{GAMMA} of TIFF"] = True
        else:
            found["place on the earth" if tag in _PLACES else f"TIFF tag {tag}"] = True
    return found


def _resolution(structure: Structure, entries: Dict[int, int]) -> Metadata:
    unit = (structure.numbers(entries, _UNIT) or (2,))[0]
    values = []
    for tag in (_X, _Y):
        above, below = struct.unpack(structure.order + "II", structure.value(entries[tag])[1])
        values.append(above / below if below else 0)
    if not all(values) or (unit == 1 and values[0] == values[1]):
        return {}
    inch = 2.54 if unit == 3 else 1
    return {RESOLUTION: (values[0] * inch, values[1] * inch, "" if unit == 1 else "inch")}


def embed(data: memoryview, metadata: Metadata) -> Tuple[List[Any], List[str]]:
    """Append a directory with more tags. Return the file in pieces, and the kinds left out."""
    structure = Structure(data)
    entries, _ = structure.entries(structure.first)
    order = structure.order
    tree: Tree = {}
    lost: List[str] = []
    if EXIF in metadata:
        tree, lost = _tree_of_exif(metadata[EXIF], order)
    tree.update(structure.tree(entries))
    for tag, kind, of_type in ((_ICC, ICC, UNDEFINED), (_XMP, XMP, 1), (_IPTC, IPTC, UNDEFINED)):
        if kind in metadata:
            tree[tag] = (of_type, metadata[kind])
    if RESOLUTION in metadata:
        x, y, unit = metadata[RESOLUTION]
        for tag, value in ((_X, x), (_Y, y)):
            tree[tag] = (5, struct.pack(order + "II", round(value * 10000), 10000))
        tree[_UNIT] = (SHORT, struct.pack(order + "H", 2 if unit else 1))
    if metadata.get(ALPHA):
        tree[_EXTRA] = (SHORT, struct.pack(order + "H", UNASSOCIATED))
    at = len(data) + len(data) % 2
    head = data[:4].tobytes() + struct.pack(order + "I", at)
    return [head, data[8:], b"\0" * (len(data) % 2), pack_tree(order, tree, at)], lost


ALPHA = "alpha"
"""A kind of `embed` only: whether the last channel is alpha."""


def _tree_of_exif(exif: bytes, order: str) -> Tuple[Tree, List[str]]:
    try:
        source = Structure(exif)
        tree = source.tree(source.entries(source.first)[0])
        lost = ["the maker's note"] if remove_maker_note(tree) else []
        dropped = _STRUCTURE - {_X, _Y, _UNIT}
        kept = {tag: value for tag, value in tree.items() if tag not in dropped}
        return in_byte_order(kept, source.order, order), lost
    except (struct.error, ValueError, IndexError):
        return {}, [EXIF]
