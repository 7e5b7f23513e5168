from __future__ import annotations

import re
import struct

import pytest

from sr_deploy.core.pictures.containers.tiff import Facts, count_pages, read_facts


def directory(*entries, following=0, at=8, order="<"):
    """Bytes of a directory of SHORT (3) and LONG (4) values."""
    body = struct.pack(order + "H", len(entries))
    for tag, kind, value in entries:
        field = (value, 0) if kind == 3 else (value,)
        body += struct.pack(order + "HHI" + ("HH" if kind == 3 else "I"), tag, kind, 1, *field)
    return body + struct.pack(order + "I", following)


def head(order="<"):
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)


@pytest.mark.parametrize("order", ["<", ">"])
def test_facts(order):
    data = head(order) + directory((262, 3, 2), (277, 3, 4), (338, 3, 1), order=order)
    assert read_facts(data) == Facts(2, 4, 1, (1,), 8 + 2 + 2 * 12 + 8)
    assert read_facts(b"no TIFF") == Facts() == read_facts(head(order) + b"\xff\xff")


@pytest.mark.parametrize(
    "entries, words",
    [
        ([(262, 3, 5)], "CMYK"),
        ([(262, 3, 8)], r"L\*a\*b\*"),
        ([(262, 3, 32803)], "is a raw photograph"),
        ([(262, 3, 2), (50706, 4, 1)], "is a raw photograph"),
        ([(254, 4, 1), (262, 3, 2)], "begins with a thumbnail"),
        ([(258, 3, 16), (262, 3, 2), (277, 3, 3), (284, 3, 2)], "one after the other, in 16 bits"),
        ([(262, 3, 1), (277, 3, 2)], "grey with alpha"),
    ],
)
def test_pixels_that_cannot_be_used(entries, words):
    problem = read_facts(head() + directory(*entries)).problem
    assert re.search(words, problem)


def test_a_larger_picture_below_the_first_makes_that_a_thumbnail():
    first = ((256, 3, 4), (257, 3, 4), (262, 3, 2), (330, 4, 62))
    for side, found in ((8, True), (2, False)):
        below = directory((256, 3, side), (257, 3, side))
        data = head() + directory(*first) + below
        assert len(head() + directory(*first)) == 62
        assert ("thumbnail" in read_facts(data).problem) == found


def test_pages_without_smaller_copies():
    for kind, pages in ((0, 2), (1, 1), (4, 1), (2, 2)):
        first = directory((262, 3, 2), following=26)
        data = head() + first + directory((254, 4, kind))
        assert count_pages(data) == pages
    looped = head() + directory((262, 3, 2), following=8)
    assert count_pages(looped) == 1
