from __future__ import annotations

import struct

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.pictures.damage import find_damage
from sr_deploy.core.pictures.formats import content_format, format_of_name, is_picture
from sr_deploy.core.pictures.metadata import (
    Structure,
    exif_from_tree,
    in_byte_order,
    read_orientation,
    remove_maker_note,
    resize_exif,
)


def block(order, entries, following=0, at=8):
    """A TIFF structure of one directory; values of SHORT (3) and LONG (4) entries lie in them."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    body = struct.pack(order + "H", len(entries))
    for tag, kind, value in entries:
        packed = struct.pack(
            order + ("HH" if kind == 3 else "I"), *((value, 0) if kind == 3 else (value,))
        )
        body += struct.pack(order + "HHI", tag, kind, 1) + packed
    return head + body + struct.pack(order + "I", following)


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_in_both_byte_orders(order):
    assert read_orientation(block(order, [(0x0100, 4, 9), (0x0112, 3, 8)])) == 8
    assert read_orientation(block(order, [(0x0112, 3, 9)])) == 1, "there is no ninth"
    assert read_orientation(block(order, [])) == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_sizes_are_corrected_and_the_thumbnail_dropped(order):
    found = resize_exif(
        block(order, [(0x0100, 3, 30), (0x0101, 4, 20), (0x0112, 3, 6)], following=4711),
        (80000, 120000),
    )
    assert found == block(order, [(0x0100, 4, 120000), (0x0101, 4, 80000), (0x0112, 3, 6)])


@pytest.mark.parametrize(
    "data", [b"", b"Exif", b"II*\0", b"II*\0\xff\xff\xff\xff", block("<", [(0x8769, 4, 1 << 30)])]
)
def test_damaged_exif_is_left_as_it_is(data):
    assert resize_exif(data, (1, 1)) == data and read_orientation(data) == 1


@pytest.mark.parametrize(
    "head, kind",
    [
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"RIFF\0\n\r\0WEBPVP8 ", "WebP"),
        (b"P6\n9 9", "PPM"),
        (b"P6x", ""),
        (b"\0\0\0\x18ftypheic", "HEIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"II*\0\x10\0\0\0CR\2\0", "raw photograph"),
        (b"IIRO\x08\0\0\0", "raw photograph"),
        (b"IIU\0\x18\0\0\0", "raw photograph"),
        (b"FUJIFILMCCD-RAW ", "raw photograph"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"text", ""),
        (b"", ""),
    ],
)
def test_formats_are_detected_by_the_first_bytes(head, kind):
    assert content_format(head) == kind


def test_pictures_are_detected_by_content_or_name(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "b.JPG").write_bytes(b"")
    (tmp_path / "c.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    assert [is_picture(tmp_path / name) for name in ("a.mp4", "b.JPG", "c.mp4")] == [
        True,
        True,
        False,
    ]
    with pytest.raises(InputError, match="cannot read"):
        is_picture(tmp_path / "none.png")


def test_names_and_formats(tmp_path):
    names = {".PNG": "PNG", ".jpeg": "JPEG", ".tiff": "TIFF", ".webp": "WebP"}
    assert {suffix: format_of_name(tmp_path / f"a{suffix}").name for suffix in names} == names
    assert format_of_name(tmp_path / "a.gif") is None


def test_damage_is_looked_for_in_png_and_jpeg_only():
    assert (
        find_damage(b"BM") == ""
        and find_damage(b"\x89PNG\r\n\x1a\n\0\0") == "it ends inside a header"
    )


def test_a_tree_of_directories_in_both_byte_orders():
    tree = {
        0x010E: (2, b"a picture\0"),
        0x0112: (3, struct.pack(">H", 6)),
        0x8769: {
            0x9204: (10, struct.pack(">ii", -1, 3)),
            0x927C: (7, b"Maker\0\1\2"),
            0xA005: {1: (2, b"R98\0")},
        },
        0x8825: {2: (5, struct.pack(">6I", 52, 1, 30, 1, 15, 1))},
    }
    exif = exif_from_tree(">", tree)
    found = Structure(exif)
    assert found.tree(found.entries(found.first)[0]) == tree and read_orientation(exif) == 6
    assert remove_maker_note(tree) and not remove_maker_note(tree)
    swapped = in_byte_order(tree, ">", "<")
    assert swapped[0x8769][0x9204] == (10, struct.pack("<ii", -1, 3))
    assert in_byte_order(swapped, "<", ">") == tree
    assert read_orientation(exif_from_tree("<", swapped)) == 6
