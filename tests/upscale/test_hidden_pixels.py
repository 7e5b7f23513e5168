"""Pixels that OpenCV reads in another sense than the file's: right, or refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest

pytest.importorskip("cv2")

import cv2  # noqa: E402

from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.core.pictures.containers.bmff import jp2_depth, jp2_problem  # noqa: E402
from sr_deploy.upscale.pictures import read_picture  # noqa: E402


def read(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    return read_picture(tmp_path / "a")


@pytest.mark.parametrize("depth", [8, 10, 12])
def test_white_of_an_avif(tmp_path, depth):
    if not hasattr(cv2, "IMWRITE_AVIF_DEPTH") or not cv2.haveImageWriter("a.avif"):
        pytest.skip("this OpenCV writes no AVIF")
    white = np.full((16, 16, 3), 2**depth - 1, np.uint8 if depth == 8 else np.uint16)
    options = [cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 100]
    rgb = read(tmp_path, cv2.imencode(".avif", white, options)[1].tobytes()).rgb
    assert (rgb == np.iinfo(rgb.dtype).max).all()


def test_the_depth_and_colours_of_a_jpeg_2000():
    size = struct.pack(">HHHIIIIIIIIHBBB", 0xFF51, 41, 0, *[9] * 8, 1, 11, 1, 1)
    assert jp2_depth(b"\xff\x4f" + size) == 12 and jp2_depth(b"") == 8
    for space, words in ((12, "CMYK"), (14, r"L*a*b*"), (16, "")):
        colr = struct.pack(">I4sBBBI", 15, b"colr", 1, 0, 0, space)
        box = struct.pack(">I4s", 8 + len(colr), b"jp2h") + colr
        problem = jp2_problem(box)
        assert words in problem and bool(problem) == bool(words)


def bmp(bits, pixels, masks=(), header=40):
    body = struct.pack("<IiiHHIIiiII", header, 2, 1, 1, bits, 3 if masks else 0, 0, 1, 1, 0, 0)
    packed = struct.pack(f"<{len(masks)}I", *masks)
    body += packed + b"\0" * max(header - 40 - len(packed), 0)
    offset = 14 + len(body)
    return struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset) + body + pixels


RGB888 = (0xFF0000, 0xFF00, 0xFF)


def test_white_of_a_bmp_with_5_or_6_bits(tmp_path):
    for green, masks in ((5, ()), (6, (0xF800, 0x07E0, 0x001F))):
        white = struct.pack("<H", (1 << (10 + green)) - 1)
        rgb = read(tmp_path, bmp(16, white + b"\0\0", masks)).rgb
        assert rgb[0].tolist() == [[255] * 3, [0] * 3]


def test_alpha_of_a_bmp_is_what_a_mask_names(tmp_path):
    pixels = bytes([1, 2, 3, 128, 4, 5, 6, 0])
    alpha = read(tmp_path, bmp(32, pixels, (*RGB888, 0xFF000000), header=108)).alpha
    assert alpha.tolist() == [[128, 0]]
    assert read(tmp_path, bmp(32, pixels, RGB888)).alpha is None
    reserved = read(tmp_path, bmp(32, pixels))
    assert reserved.alpha is None and any("fourth channel" in k for k in reserved.metadata)


def tiff(pixels, *entries):
    """An uncompressed TIFF file of (tag, value); 3x1 pixels."""
    tags = {256: 3, 257: 1, 259: 1, 273: 8, 278: 1, 279: len(pixels), **dict(entries)}
    rows = b"".join(struct.pack("<HHIHH", t, 3, 1, v, 0) for t, v in sorted(tags.items()))
    body = struct.pack("<H", len(tags)) + rows + b"\0" * 4
    pixels += b"\0" * (len(pixels) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + body


def test_white_of_a_tiff_that_is_zero(tmp_path):
    pixels = struct.pack("<3H", 0, 257, 65535)
    rgb = read(tmp_path, tiff(pixels, (258, 16), (262, 0), (277, 1))).rgb
    assert rgb[0, :, 0].tolist() == [65535, 65535 - 257, 0]
    rgb = read(tmp_path, tiff(b"\0\1\xff", (258, 8), (262, 0), (277, 1))).rgb
    assert rgb[0, :, 0].tolist() == [255, 254, 0]


def test_alpha_of_a_grey_tiff_is_refused(tmp_path):
    data = tiff(bytes(6), (258, 8), (262, 1), (277, 2), (338, 2))
    with pytest.raises(InputError, match="grey with alpha or other channels") as caught:
        read(tmp_path, data)
    assert "convert it" in caught.value.hint


@pytest.mark.parametrize(
    "data, words, hint",
    [
        (tiff(bytes(9), (258, 8), (262, 2), (277, 3), (254, 1)), "with a thumbnail", "develop it"),
        (tiff(bytes(9), (258, 8), (262, 2), (277, 3), (50706, 4)), "raw photograph", "develop it"),
        (b"IIRO\x08\0\0\0", "raw photograph", "develop it"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "raw photograph", "develop it"),
        (b"\0\0\0\x18ftypheic\0\0\0\1", "HEIF", "convert it"),
        (b"\xff\x0a\0\0", "JPEG XL", "convert it"),
    ],
)
def test_kinds_that_are_not_read_are_refused_with_the_reason(tmp_path, data, words, hint):
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path, data)
    assert hint in caught.value.hint
