from __future__ import annotations

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.sizes import Sizes, hw_text, parse_hw, parse_sizes


@pytest.mark.parametrize(
    "text, hw",
    [("256x512", (256, 512)), ("1x1", (1, 1)), ("16384X16384", (16384, 16384)), (" 8x9 ", (8, 9))],
)
def test_height_comes_first(text, hw):
    assert parse_hw(text) == hw
    assert hw_text(hw) == text.strip().lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "256",
        "256x",
        "x256",
        "0x8",
        "8x0",
        "-8x8",
        "8.5x8",
        "8x8x8",
        "16385x8",
        "256*512",
        "٣x٣x",
    ],
)
def test_what_is_no_size_is_refused_with_the_value_and_an_example(text):
    with pytest.raises(InputError, match="is not a size.*256x512") as e:
        parse_hw(text)
    assert f"'{text}'" in e.value.message


def test_static_and_dynamic():
    static, dynamic = parse_sizes("8x9"), parse_sizes("8x8:16x16:32x64")
    assert static == Sizes((8, 9), (8, 9), (8, 9)) and not static.dynamic
    assert str(static) == "8x9" and static.option == "--size 8x9"
    assert dynamic == Sizes((8, 8), (16, 16), (32, 64)) and dynamic.dynamic
    assert str(dynamic) == "dyn8x8-32x64" and dynamic.option == "--dynamic 8x8:16x16:32x64"
    assert parse_sizes(dynamic.option.split()[1]) == dynamic


@pytest.mark.parametrize(
    "text",
    [
        "8x8:16x16",
        "8x8:8x8:8x8:8x8",
        "16x16:8x8:32x32",
        "8x8:16x64:32x32",
        "8x8:16x16:8x64",
        "8x8::16x16",
    ],
)
def test_what_is_no_range_is_refused(text):
    with pytest.raises(InputError, match="MIN:OPT:MAX|min <= opt <= max|is not a size"):
        parse_sizes(text)
