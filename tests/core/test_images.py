from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.images import (
    image_files,
    imresize,
    modcrop,
    nchw_from_rgb,
    read_rgb,
    rgb_from_decoded,
    rgb_from_nchw,
    write_png,
)
from sr_deploy.core.metrics import psnr_db


@pytest.fixture()
def cv2():
    return pytest.importorskip(
        "cv2", reason="opencv is not installed; it reads and writes the images"
    )


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def png(path, *, depth, colour, rows, palette=b"", alpha=b""):
    """Write a PNG by hand, in kinds that OpenCV does not write. rows: the bytes of each line."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    width = len(rows[0]) * 8 // (depth * channels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    extra = (chunk(b"PLTE", palette) if palette else b"") + (
        chunk(b"tRNS", alpha) if alpha else b""
    )
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(row) for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + extra + body + chunk(b"IEND", b""))


# Reading.


def test_what_is_written_is_read_back(cv2, tmp_path):
    rgb = noise(5, 7, 3)
    path = tmp_path / "bild-é-画像.png"
    write_png(path, rgb)
    assert np.array_equal(read_rgb(path), rgb)


def test_grey_is_repeated(cv2, tmp_path):
    grey = noise(4, 6)
    png(tmp_path / "g.png", depth=8, colour=0, rows=grey)
    assert np.array_equal(read_rgb(tmp_path / "g.png"), np.repeat(grey[:, :, None], 3, axis=2))


def test_grey_with_alpha_drops_the_alpha(cv2, tmp_path):
    pixels = noise(4, 6, 2)
    png(tmp_path / "ga.png", depth=8, colour=4, rows=pixels.reshape(4, -1))
    assert np.array_equal(read_rgb(tmp_path / "ga.png"), np.repeat(pixels[:, :, :1], 3, axis=2))


def test_alpha_is_dropped_not_composited(cv2, tmp_path):
    pixels = noise(4, 6, 4)
    pixels[0, :, 3] = 0
    png(tmp_path / "a.png", depth=8, colour=6, rows=pixels.reshape(4, -1))
    assert np.array_equal(read_rgb(tmp_path / "a.png"), pixels[:, :, :3])


@pytest.mark.parametrize("colour, channels", [(0, 1), (2, 3)])
def test_16_bit_is_rounded(cv2, tmp_path, colour, channels):
    pixels = noise(8, 9, channels, dtype=np.uint16)
    pixels[0, :6, 0] = [0, 128, 129, 257, 65535, 65406]
    png(
        tmp_path / "deep.png",
        depth=16,
        colour=colour,
        rows=[row.astype(">u2").tobytes() for row in pixels.reshape(8, -1)],
    )
    expected = np.rint(pixels / 257).astype(np.uint8)
    assert np.array_equal(read_rgb(tmp_path / "deep.png"), np.broadcast_to(expected, (8, 9, 3)))


@pytest.mark.parametrize("alpha", [b"", b"\x00\x80\xff"])
def test_a_palette_is_expanded(cv2, tmp_path, alpha):
    palette = noise(3, 3)
    indices = np.array([[0, 1, 2, 1], [2, 2, 0, 1]], np.uint8)
    png(tmp_path / "p.png", depth=8, colour=3, rows=indices, palette=palette.tobytes(), alpha=alpha)
    assert np.array_equal(read_rgb(tmp_path / "p.png"), palette[indices])


def test_a_1_bit_image_is_black_and_white(cv2, tmp_path):
    png(tmp_path / "bw.png", depth=1, colour=0, rows=[b"\xa5", b"\x0f"])
    assert read_rgb(tmp_path / "bw.png")[:, :, 0].tolist() == [
        [255, 0, 255, 0, 0, 255, 0, 255],
        [0, 0, 0, 0, 255, 255, 255, 255],
    ]


def test_a_float_image_is_refused(cv2, tmp_path):
    path = str(tmp_path / "f.tiff")
    assert cv2.imwrite(path, np.random.default_rng(0).random((4, 4, 3), dtype=np.float32))
    with pytest.raises(InputError, match="f.tiff contains float32 values; expected 8 or 16 bits"):
        read_rgb(tmp_path / "f.tiff")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_image_is_refused(cv2, tmp_path, kept):
    path = tmp_path / "cut.png"
    write_png(path, noise(64, 64, 3))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(InputError, match="cut.png is not an image, or it is damaged"):
        read_rgb(path)


@pytest.mark.parametrize("content", [b"", b"just text\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(cv2, tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match="x.png is not an image") as e:
        read_rgb(tmp_path / "x.png")
    assert "PNG" in e.value.hint


def test_what_is_not_there_is_refused(cv2, tmp_path):
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(InputError, match="cannot read the image"):
            read_rgb(path)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 3), (3, 4, 4)])
def test_decoded_arrays_become_rgb_in_one_piece(shape):
    image = noise(*shape)
    rgb = rgb_from_decoded(image, source="x")
    assert rgb.shape == (3, 4, 3) and rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    bgr = (
        image if image.ndim == 3 and shape[2] >= 3 else np.repeat(image.reshape(3, 4, 1), 3, axis=2)
    )
    assert np.array_equal(rgb, bgr[:, :, 2::-1])


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_decoded_arrays_of_other_types_are_refused(dtype):
    with pytest.raises(InputError, match=f"x contains {np.dtype(dtype).name} values"):
        rgb_from_decoded(np.zeros((2, 2, 3), dtype), source="x")


# Folders and small conversions.


def test_images_of_a_folder_are_found_below_it_and_sorted(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", "sub/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [p.relative_to(tmp_path).as_posix() for p in image_files(tmp_path)] == [
        "a.jpg",
        "b.PNG",
        "sub/c.webp",
    ]


def test_a_folder_without_images_or_none_at_all_is_an_error(tmp_path):
    with pytest.raises(InputError, match="contains no images .*png"):
        image_files(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        image_files(tmp_path / "absent")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_modcrop_cuts_at_the_bottom_and_right(scale):
    image = noise(13, 11, 3)
    h, w = 13 // scale * scale, 11 // scale * scale
    assert np.array_equal(modcrop(image, scale), image[:h, :w])


def test_rgb_to_nchw_and_back_is_exact():
    rgb = np.arange(256 * 3, dtype=np.int64).astype(np.uint8).reshape(16, 16, 3)
    x = nchw_from_rgb(rgb)
    assert (
        x.shape == (1, 3, 16, 16)
        and x.dtype == np.float32
        and x.min() == 0
        and x.max() == 1
        and x.flags.c_contiguous
    )
    assert np.array_equal(rgb_from_nchw(x), rgb)


def test_values_outside_the_range_are_clipped():
    y = (
        np.array([-1, 2, np.nan, np.inf, -np.inf, 0.5], np.float32)
        .reshape(1, 1, 1, 6)
        .repeat(3, axis=1)
    )
    assert rgb_from_nchw(y)[0, :, 0].tolist() == [0, 255, 0, 255, 0, 128]
    assert np.isnan(y).any()  # the caller's array is left as it was


# MATLAB's bicubic.


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_a_constant_image_stays_constant(scale, dtype):
    out = imresize(np.full((12, 24, 3), 77, dtype), scale=scale)
    assert out.shape == (12 * scale, 24 * scale, 3) and out.dtype == dtype
    np.testing.assert_allclose(out, 77, rtol=1e-6)


@pytest.mark.parametrize(
    "size, scale, expected",
    [
        ((7, 9), 1 / 2, (4, 5)),
        ((7, 9), 1 / 3, (3, 3)),
        ((1, 5), 4, (4, 20)),
        ((5, 1), 1 / 4, (2, 1)),
    ],
)
def test_sizes_are_rounded_up(size, scale, expected):
    assert imresize(noise(*size), scale=scale).shape == expected


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_ramp_is_continued_exactly_away_from_the_border(scale):
    ramp = np.tile(np.arange(20, dtype=np.float64), (16, 1))
    up = imresize(ramp, scale=scale)
    expected = (np.arange(20 * scale) + 0.5) / scale - 0.5
    np.testing.assert_allclose(
        up[8, 2 * scale : -2 * scale], expected[2 * scale : -2 * scale], atol=1e-9
    )


@pytest.mark.parametrize("scale", [1 / 2, 1 / 4, 2, 3])
def test_mirroring_commutes_with_resizing(scale):
    image = noise(12, 16, 3).astype(np.float64)
    np.testing.assert_allclose(
        imresize(image[::-1, ::-1], scale=scale),
        imresize(image, scale=scale)[::-1, ::-1],
        atol=1e-9,
    )


def test_uint8_is_rounded_after_each_pass_rows_first():
    image = noise(16, 16)
    rows = np.clip(np.floor(_one_axis(image.astype(float), 0) + 0.5), 0, 255)
    both = np.clip(np.floor(_one_axis(rows, 1) + 0.5), 0, 255)
    assert np.array_equal(imresize(image, scale=0.5), both.astype(np.uint8))


def _one_axis(image, axis):
    """Half the size along one axis, by a loop: 8 taps of the stretched kernel, mirrored border."""
    image = np.moveaxis(image, axis, 0)
    n = len(image)
    out = []
    for o in range(n // 2):
        taps = {2 * o + k: _keys((k - 0.5) / 2) for k in range(-3, 5)}
        total = sum(taps.values())
        out.append(
            sum(
                w / total * image[-1 - i if i < 0 else 2 * n - 1 - i if i >= n else i]
                for i, w in taps.items()
            )
        )
    return np.moveaxis(np.array(out), 0, axis)


def _keys(x):
    x = abs(x)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2


@pytest.mark.parametrize("scale, expected_db", [(2, 33.673), (3, 30.403), (4, 28.429)])
def test_set5_lr_images_and_bicubic_psnr(cv2, shared_dir, scale, expected_db):
    scores = []
    for path in image_files(shared_dir / "data" / "Set5" / "HR"):
        hr = modcrop(read_rgb(path), scale)
        lr = imresize(hr, scale=1 / scale)
        matlab = next((shared_dir / "data" / "Set5" / f"LR_x{scale}").glob(path.stem + "*"))
        assert np.count_nonzero(lr != read_rgb(matlab)) == 0, path.name
        scores.append(psnr_db(imresize(lr, scale=scale), hr, metric="y", border=scale))
    assert len(scores) == 5
    assert np.mean(scores) == pytest.approx(expected_db, abs=1e-3)


def test_a_damaged_image_is_told_by_our_error_alone(tmp_path, capfd):
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed; it reads the image")
    encoded = cv2.imencode(".tif", np.zeros((30, 30, 3), np.uint8))[1].tobytes()
    (tmp_path / "cut.tif").write_bytes(encoded[:200])
    with pytest.raises(InputError, match="cut.tif is not an image"):
        read_rgb(tmp_path / "cut.tif")
    assert capfd.readouterr().err == ""


def test_an_image_of_which_opencv_fills_in_a_part_is_refused(tmp_path):
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed; it reads the image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    (tmp_path / "whole.jpg").write_bytes(whole)
    assert read_rgb(tmp_path / "whole.jpg").shape == (64, 64, 3)
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    with pytest.raises(InputError, match="half.jpg is damaged: a part of its picture data"):
        read_rgb(tmp_path / "half.jpg")
