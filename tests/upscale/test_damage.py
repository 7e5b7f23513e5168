"""Damage that a file's own structure, or a decoder, hides. No whole file may be refused."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import numpy as np
import pytest

pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")

import cv2  # noqa: E402

from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.upscale.pictures import read_picture  # noqa: E402

SPOTS = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
IMAGE = cv2.resize(SPOTS, (96, 72), interpolation=cv2.INTER_CUBIC)
JPEGS = {
    "baseline": {},
    "not subsampled": {"subsampling": 0},
    "4:1:1": {"subsampling": "4:1:1"},
    "optimized": {"optimize": True},
    "fine": {"quality": 100},
    "coarse": {"quality": 5},
    "restarts": {"restart_marker_blocks": 3},
    "a restart each row": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "progressive, restarts": {"progressive": True, "restart_marker_rows": 1},
}


def encoded(form, image=IMAGE, **options):
    data = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(data, form, **options)
    return data.getvalue()


def read(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    return read_picture(tmp_path / "a")


@pytest.mark.parametrize("name", JPEGS)
def test_whole_jpeg_files_of_all_kinds(tmp_path, name, capfd):
    for image in (IMAGE, IMAGE[:, :, 0], np.full((40, 40, 3), 128, np.uint8)):
        data = encoded("JPEG", image, **JPEGS[name])
        before_end = data[:-2] + b"\xff\xff\xff\xd9"
        comment = data[:2] + b"\xff\xff\xfe\0\4hi" + data[2:]
        for whole in (data, before_end, comment, data + b"\0" * 9 + data):
            assert read(tmp_path, whole).rgb.shape == (*image.shape[:2], 3)
    assert capfd.readouterr().err == "", "libjpeg's warnings on our probe"


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_is_cut_and_given_an_end(tmp_path, name):
    data = encoded("JPEG", **JPEGS[name])
    first = data.index(b"\xff\xda") + 14
    for cut in range(first, len(data) - 16, max((len(data) - first) // 9, 1)):
        with pytest.raises(InputError, match="damaged|not a picture"):
            read(tmp_path, data[:cut] + b"\xff\xd9")


def test_what_is_missing_of_a_jpeg_is_told(tmp_path):
    data = encoded("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    tables = data.rindex(b"\xff\xc4", 0, last)
    with pytest.raises(InputError, match="the last of its scans are missing"):
        read(tmp_path, data[:tables] + b"\xff\xd9")
    data = encoded("JPEG", restart_marker_rows=1)
    third = data.index(b"\xff\xd2")
    with pytest.raises(InputError, match="a part of its picture data is missing") as caught:
        read(tmp_path, data[:third] + b"\xff\xd9")
    assert "copy it again" in caught.value.hint


def test_without_ffmpeg_the_decoder_is_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    data = encoded("JPEG", progressive=True)
    assert read(tmp_path, data).rgb.shape == IMAGE.shape
    end = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)  # of the first scan
    with pytest.raises(InputError, match="a part of its picture data is missing"):
        read(tmp_path, data[: end - 60] + data[data.rindex(b"\xff\xc4", 0, end) :])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_a_short_strip_of_a_tiff(tmp_path, compression):
    noisy = np.random.default_rng(1).integers(0, 256, IMAGE.shape, dtype=np.uint8)
    data = encoded("TIFF", noisy, compression=compression)
    assert read(tmp_path, data).rgb.shape == IMAGE.shape
    entry = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
    (size,) = struct.unpack_from("<I", data, entry)
    for share in (0.5, 0.9):
        cut = bytearray(data)
        struct.pack_into("<I", cut, entry, int(size * share))
        with pytest.raises(InputError, match="a part of its picture data is missing"):
            read(tmp_path, bytes(cut))


def png_of(raw, end=b""):
    h, w = IMAGE.shape[:2]
    packed = zlib.compress(raw)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)),
        (b"IDAT", packed[: len(packed) - len(end)] + end),
        (b"IEND", b""),
    )
    body = (
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def riff(data, share):
    cut = bytearray(data[: int(len(data) * share) & ~1])
    struct.pack_into("<I", cut, 4, len(cut) - 8)
    struct.pack_into("<I", cut, 16, len(cut) - 20)
    return bytes(cut)


ROWS = b"".join(b"\0" + row.tobytes() for row in IMAGE)
GIF = encoded("GIF", Image.fromarray(IMAGE).convert("P"))
JP2 = encoded("JPEG2000")
BROKEN = {
    "PNG, few pixels": png_of(ROWS[: len(ROWS) // 2]),
    "PNG, wrong checksum of the pixels": png_of(ROWS, end=b"abcd"),
    "WebP": riff(encoded("WEBP", quality=80), 0.9),
    "WebP, lossless": riff(encoded("WEBP", lossless=True), 0.9),
    "GIF": GIF[: len(GIF) * 9 // 10] + b"\0;",
    "BMP": encoded("BMP")[:-9],
    "PPM": encoded("PPM")[:-9],
    "PGM in text": b"P2\n2 2\n255\n1 2 3\n",
    "JPEG 2000": JP2[: len(JP2) * 9 // 10] + b"\xff\xd9",
}


@pytest.mark.parametrize("name", BROKEN)
def test_other_formats(tmp_path, name):
    assert read(tmp_path, png_of(ROWS)).rgb.shape == IMAGE.shape
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path, BROKEN[name])
