"""Pictures through a nearest-neighbour "network": what goes in must come out, larger."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest

pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")

import cv2  # noqa: E402
from reports import Reports  # noqa: E402

from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.core.pictures.formats import FORMATS, PNG, format_for  # noqa: E402
from sr_deploy.upscale.folder import ResultOptions, upscale_picture  # noqa: E402
from sr_deploy.upscale.folder_log import PictureTask  # noqa: E402
from sr_deploy.upscale.pictures import read_picture, upscale_pixels, write_picture  # noqa: E402

SCALE = 2
new_opencv = pytest.mark.skipif(
    not hasattr(cv2, "imwriteWithMetadata"),
    reason="OpenCV before 4.12 reads no EXIF, profiles and GIF",
)


class Nearest:
    scale = SCALE
    fed = None

    def upscale_rgb(self, rgb, *, more_per_px=0):
        self.fed = rgb
        return rgb.repeat(SCALE, axis=0).repeat(SCALE, axis=1)

    def describe(self):
        return "whole"


def smooth(h, w, channels=3):
    """A picture of large, soft spots, which lossy formats keep."""
    spots = np.random.default_rng(1).integers(0, 256, (3, 4, channels), dtype=np.uint8)
    return cv2.resize(spots, (w, h), interpolation=cv2.INTER_LINEAR)


def saved(path, image, **options):
    Image.fromarray(image).save(path, **options) if isinstance(image, np.ndarray) else image.save(
        path, **options
    )
    return path


def through(source, output, upscaler=None):
    reports = Reports()
    task = PictureTask(source, output)
    upscale_picture(task, upscaler or Nearest(), reports.reporter, ResultOptions(force=True))
    assert reports.paths == [output]
    return Image.open(output), "\n".join(reports.lines)


def larger(image):
    return image.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


@pytest.mark.smoke
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".ppm", ".webp"])
@pytest.mark.parametrize("hw", [(1, 1), (5, 300), (20, 31)])
def test_colours_come_out_as_they_went_in(tmp_path, suffix, hw):
    image = smooth(*hw)
    result, _ = through(saved(tmp_path / "a.png", image), tmp_path / f"b{suffix}")
    assert (np.asarray(result.convert("RGB")) == larger(image)).all()


def test_jpeg_stays_close(tmp_path):
    image = smooth(40, 50)
    result, _ = through(saved(tmp_path / "a.jpg", image, quality=100), tmp_path / "b.jpg")
    assert (
        result.format == "JPEG"
        and np.abs(np.asarray(result).astype(int) - larger(image)).mean() < 3
    )


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".pgm", ".jpg"])
def test_grey_stays_grey(tmp_path, suffix):
    grey = smooth(12, 9, 1).reshape(12, 9)
    result, _ = through(saved(tmp_path / "a.png", grey), tmp_path / f"b{suffix}")
    assert result.mode == "L" and np.abs(np.asarray(result).astype(int) - larger(grey)).max() <= (
        3 if suffix == ".jpg" else 0
    )


@new_opencv
def test_one_bit_becomes_grey_and_a_palette_colours(tmp_path):
    image = smooth(12, 9)
    bits = Image.fromarray(image).convert("1")
    result, _ = through(saved(tmp_path / "bits.png", bits), tmp_path / "b.png")
    assert (
        result.mode == "L" and (np.asarray(result) == larger(np.asarray(bits.convert("L")))).all()
    )
    palette = Image.fromarray(image).convert("P")
    for name in ("palette.png", "palette.gif"):
        result, _ = through(saved(tmp_path / name, palette), tmp_path / "c.png")
        assert (
            np.asarray(result.convert("RGB")) == larger(np.asarray(palette.convert("RGB")))
        ).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_stays_16_bit(tmp_path, suffix, channels):
    deep = np.random.default_rng(0).integers(0, 65536, (8, 7, channels)).astype(np.uint16)
    if channels == 4:
        deep[:, :, 3] = 65535
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    through(tmp_path / "a.png", tmp_path / f"b{suffix}")
    result = cv2.imread(str(tmp_path / f"b{suffix}"), cv2.IMREAD_UNCHANGED)
    assert result.dtype == np.uint16 and (result.reshape(16, 14, -1) == larger(deep)).all()


def test_16_bit_grey_with_alpha(tmp_path):
    raw = b"".join(b"\0" + np.full((4, 2), (30000, 65535), ">u2").tobytes() for _ in range(4))

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 4, 4, 16, 4, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "a.png").write_bytes(png)
    through(tmp_path / "a.png", tmp_path / "b.png")
    result = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)
    assert result.dtype == np.uint16 and result.shape == (8, 8, 4)
    assert (result[:, :, :3] == 30000).all() and (result[:, :, 3] == 65535).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_is_kept_and_colours_nobody_sees_do_not_bleed(tmp_path, suffix):
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:, :8] = (200, 100, 50, 255)  # the right half is black and transparent
    upscaler = Nearest()
    result, _ = through(saved(tmp_path / "a.png", rgba), tmp_path / f"b{suffix}", upscaler)
    alpha = np.asarray(result)[:, :, 3]
    assert result.mode == "RGBA" and (alpha[:, :14] == 255).all() and (alpha[:, 18:] == 0).all()
    assert (np.abs(upscaler.fed.astype(int) - (200, 100, 50)) <= 1).all(), (
        "the network sees the hidden black"
    )


@pytest.mark.parametrize("meaning", [1, 2])
def test_a_tiffs_alpha_whether_its_colours_are_multiplied_by_it_or_not(tmp_path, meaning):
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:] = (200, 100, 50, 128)
    stored = rgba.copy()
    if meaning == 1:
        stored[:, :, :3] = (100, 50, 25)
    data = saved(tmp_path / "a.tif", stored).read_bytes()
    entry = struct.pack("<HHIH", 338, 3, 1, 2)
    assert data.count(entry) == 1
    (tmp_path / "a.tif").write_bytes(data.replace(entry, entry[:-2] + struct.pack("<H", meaning)))
    for output in ("b.tif", "b.png"):
        result, _ = through(tmp_path / "a.tif", tmp_path / output)
        assert (
            result.mode == "RGBA"
            and np.abs(np.asarray(result).astype(int) - larger(rgba)).max() <= 1
        )
    assert Image.open(tmp_path / "b.tif").tag_v2[338] == (2,), "what the fourth channel is"
    again, _ = through(tmp_path / "b.tif", tmp_path / "c.png")
    assert (np.asarray(again)[0, 0] == np.asarray(result)[0, 0]).all()


def test_a_transparent_grey_is_kept(tmp_path):
    grey = smooth(12, 9, 1).reshape(12, 9) | 1
    grey[:4] = 6
    for bits, image in ((8, grey), (4, grey // 17)):
        (tmp_path / "a.png").write_bytes(grey_png(image, bits, transparent=int(image[0, 0])))
        result, _ = through(tmp_path / "a.png", tmp_path / "b.png")
        expected = np.where(larger(image == image[0, 0]), 0, 255)
        alpha = np.asarray(result)[:, :, 3]
        assert (
            result.mode == "RGBA"
            and np.abs(alpha.astype(int) - expected).mean() < 20
            and {0, 255} <= set(alpha.ravel().tolist())
        )


def grey_png(image, bits, transparent):
    """A PNG file of grey values of 4 or 8 bit, one of which is transparent."""
    h, w = image.shape
    rows = (
        image
        if bits == 8
        else np.pad(image, ((0, 0), (0, w % 2)))[:, ::2] << 4
        | np.pad(image, ((0, 0), (0, w % 2)))[:, 1::2]
    )
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", w, h, bits, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", transparent)),
        (b"IDAT", zlib.compress(raw)),
        (b"IEND", b""),
    )
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("white", [15, 200, 255, 1023, 65535])
@pytest.mark.parametrize("binary", [True, False])
def test_any_maximum_of_a_ppm_file_is_white(tmp_path, white, binary):
    values = [0, white // 2, white, 0, 0, white]
    head = f"P{6 if binary else 3}\n# by hand\n2 1\n{white}\n".encode()
    body = (
        np.array(values, ">u2" if white > 255 else np.uint8).tobytes()
        if binary
        else " ".join(map(str, values)).encode() + b"\n"
    )
    (tmp_path / "a.ppm").write_bytes(head + body)
    rgb = read_picture(tmp_path / "a.ppm").rgb
    assert rgb.dtype == (np.uint16 if white > 255 else np.uint8)
    assert (
        np.abs(rgb.reshape(-1) / np.iinfo(rgb.dtype).max - np.array(values) / white).max() <= 0.005
    )


@new_opencv
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_avif_comes_out_upright(tmp_path, turn):
    from PIL import ImageOps, features

    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    saved(tmp_path / "a.avif", smooth(40, 60), exif=exif(turn), quality=100)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.avif")))
    result, _ = through(tmp_path / "a.avif", tmp_path / "b.png")
    shown = np.asarray(ImageOps.exif_transpose(result))
    assert (
        shown.shape == larger(upright).shape
        and np.abs(shown.astype(int) - larger(upright)).mean() < 3
    )


@pytest.mark.parametrize("visible", [0, 255])
def test_alpha_that_is_the_same_everywhere(tmp_path, visible):
    rgba = np.dstack([smooth(6, 5), np.full((6, 5), visible, np.uint8)])
    result, _ = through(saved(tmp_path / "a.png", rgba), tmp_path / "b.png")
    assert (np.asarray(result) == larger(rgba)).all()


ImageCms = pytest.importorskip("PIL.ImageCms")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(turn, width=30, height=20):
    """An EXIF block with an orientation, the sizes, a camera directory and a thumbnail."""
    data = Image.Exif()
    data[0x0112], data[0x0100], data[0x0101], data[0x010E] = turn, width, height, "a picture"
    camera = data.get_ifd(0x8769)
    camera[0xA002], camera[0xA003] = width, height
    return data.tobytes()


@new_opencv
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("source", [".png", ".jpg", ".webp"])
def test_orientation_and_profile_are_kept_and_sizes_corrected(tmp_path, source, suffix):
    image = smooth(20, 30)
    saved(tmp_path / f"a{source}", image, exif=exif(6), icc_profile=PROFILE)
    result, log = through(tmp_path / f"a{source}", tmp_path / f"b{suffix}")
    found = result.getexif()
    assert result.size == (60, 40) and found[0x0112] == 6, (
        "kept as a tag, so the pixels stay as they are stored"
    )
    assert (found[0x0100], found[0x0101], found[0x010E]) == (60, 40, "a picture")
    camera = found.get_ifd(0x8769)
    assert (camera[0xA002], camera[0xA003]) == (60, 40)
    assert result.info["icc_profile"] == PROFILE
    assert ";" not in log


@new_opencv
@pytest.mark.parametrize("turn", range(1, 9))
def test_an_orientation_that_cannot_be_kept_is_applied(tmp_path, turn):
    from PIL import ImageOps

    saved(tmp_path / "a.png", smooth(20, 30), exif=exif(turn))
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    result, log = through(tmp_path / "a.png", tmp_path / "b.bmp")
    assert (np.asarray(result) == larger(np.asarray(upright))).all()
    assert "not kept in BMP: EXIF" in log and ("orientation was applied" in log) == (turn != 1)


@new_opencv
def test_a_tiff_keeps_its_profile(tmp_path):
    saved(tmp_path / "a.tif", smooth(20, 30), icc_profile=PROFILE)
    for suffix in (".tif", ".png"):
        result, log = through(tmp_path / "a.tif", tmp_path / f"b{suffix}")
        assert (
            result.info["icc_profile"] == PROFILE
            and (np.asarray(result) == larger(smooth(20, 30))).all()
        )
        assert ";" not in log


@new_opencv
def test_lost_metadata_is_reported(tmp_path):
    saved(tmp_path / "a.png", smooth(20, 30), icc_profile=PROFILE)
    _, log = through(tmp_path / "a.png", tmp_path / "b.bmp")
    assert "not kept in BMP: colour profile; the colours may look different" in log


@new_opencv
def test_a_damaged_profile_does_not_cost_the_picture(tmp_path):
    saved(tmp_path / "a.jpg", smooth(20, 30), icc_profile=PROFILE[:100])
    result, log = through(tmp_path / "a.jpg", tmp_path / "b.png")
    assert result.size == (60, 40) and "not kept in PNG: damaged colour profile" in log


@pytest.mark.parametrize(
    "mode, suffix, words",
    [
        ("RGBA", ".jpg", "transparent parts, which JPEG"),
        ("deep", ".jpg", "16 bit.*JPEG"),
        ("deep", ".webp", "16 bit.*WebP"),
        ("RGB", ".pgm", "has colours, which PGM"),
    ],
)
def test_pixels_that_a_format_cannot_hold_are_refused(tmp_path, mode, suffix, words):
    image = np.zeros((4, 4, len(mode)), np.uint8)
    if mode == "deep":
        image = np.zeros((4, 4, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    with pytest.raises(InputError, match=words):
        through(tmp_path / "a.png", tmp_path / f"b{suffix}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png"]


def test_a_result_larger_than_its_format_takes_is_refused(tmp_path):
    saved(tmp_path / "a.png", np.zeros((1, 8200, 3), np.uint8))
    with pytest.raises(InputError, match="16400x2 pixels, more than 16383 a side, which WebP"):
        through(tmp_path / "a.png", tmp_path / "b.webp")


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp", "bmp", "ppm", "gif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_picture_is_refused(tmp_path, kind, share):
    path = saved(
        tmp_path / f"a.{kind}",
        np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8),
    )
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="damaged"):
        read_picture(path)


def test_a_truncated_jpeg_is_refused_without_opencvs_help(tmp_path):
    """OpenCV 4 fills what is missing with grey."""
    from sr_deploy.core.pictures.damage import find_damage

    for options in ({}, {"progressive": True}, {"exif": exif(1)}):
        data = io.BytesIO()
        Image.fromarray(smooth(64, 64)).save(data, "JPEG", **options)
        whole = data.getvalue()
        assert find_damage(whole) == "" and find_damage(whole + b"a phone's trailer") == ""
        for cut in range(3, len(whole) - 1, 7):
            assert find_damage(whole[:cut]), cut


def test_a_changed_byte_in_a_png_is_found(tmp_path):
    path = saved(tmp_path / "a.png", smooth(20, 20))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged: the checksum of its chunk IDAT is wrong"):
        read_picture(path)


def test_zero_bytes_a_text_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    for name, words in (
        ("empty.png", "it is empty"),
        ("text.png", "not a picture"),
        ("missing.png", "No such file"),
    ):
        with pytest.raises(InputError, match=words):
            read_picture(tmp_path / name)


def test_the_content_decides_and_a_wrong_name_is_reported(tmp_path):
    saved(tmp_path / "a.jpg", smooth(9, 8), format="PNG")
    result, log = through(tmp_path / "a.jpg", tmp_path / "b.png")
    assert (
        np.asarray(result) == larger(smooth(9, 8))
    ).all() and "a PNG file in spite of its name" in log


@new_opencv
def test_cmyk(tmp_path):
    cmyk = Image.fromarray(smooth(20, 30)).convert("CMYK")
    saved(tmp_path / "a.jpg", cmyk, quality=95, icc_profile=PROFILE[:16] + b"CMYK" + PROFILE[20:])
    result, log = through(tmp_path / "a.jpg", tmp_path / "b.png")
    assert (
        np.abs(np.asarray(result).astype(int) - larger(np.asarray(cmyk.convert("RGB")))).mean() < 4
    )
    assert "icc_profile" not in result.info and "without their profile" in log
    with pytest.raises(InputError, match="CMYK"):
        read_picture(saved(tmp_path / "a.tif", cmyk))


@new_opencv
def test_float_pictures_animations_and_pages_are_refused(tmp_path):
    a, b = (Image.fromarray(smooth(9, 8)), Image.fromarray(255 - smooth(9, 8)))
    with pytest.raises(InputError, match="float32 values; expected 8 or 16 bit"):
        read_picture(saved(tmp_path / "float.tif", np.zeros((4, 4), np.float32)))
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        with pytest.raises(InputError, match="2 frames or pages; expected one"):
            read_picture(saved(tmp_path / name, a, save_all=True, append_images=[b]))


def test_the_result_may_not_replace_its_source(tmp_path):
    path = saved(tmp_path / "a.png", smooth(4, 4))
    before = path.read_bytes()
    (tmp_path / "link.png").symlink_to(path)
    for output in (path, tmp_path / "link.png"):
        with pytest.raises(InputError, match="would replace itself"):
            through(path, output)
    assert path.read_bytes() == before


def test_names_with_spaces_and_other_letters(tmp_path):
    source = saved(tmp_path / "dé jà 写真.png", smooth(4, 4))
    result, _ = through(source, tmp_path / "new folder" / "größer ×2.png")
    assert result.size == (8, 8)


def test_an_unknown_suffix_is_refused_with_those_that_are_known(tmp_path):
    for name, words in (
        ("b.gif", "the format '.gif' is not supported"),
        ("b", "its name has no suffix"),
        ("b.mp4", "the format '.mp4' is not supported"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            format_for(tmp_path / name)
        assert ".png" in caught.value.hint


def test_an_existing_output_is_replaced_by_force_only(tmp_path):
    source = saved(tmp_path / "a.png", smooth(8, 8))
    (tmp_path / "b.png").write_text("precious")
    task = PictureTask(source, tmp_path / "b.png")
    with pytest.raises(InputError, match="b.png already exists") as caught:
        upscale_picture(task, Nearest(), Reports().reporter)
    assert "--force" in caught.value.hint and task.output.read_text() == "precious"
    upscale_picture(task, Nearest(), Reports().reporter, ResultOptions(force=True))
    assert cv2.imread(str(task.output)) is not None


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    source = saved(tmp_path / "a.png", smooth(64, 64))
    monkeypatch.setattr(cv2, "imwrite", lambda *given: False)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0}))
    with pytest.raises(InputError, match="No space left") as caught:
        through(source, tmp_path / "out" / "b.png")
    assert "free some space" in caught.value.hint and not (tmp_path / "out").exists()


@pytest.mark.parametrize("wanted", FORMATS, ids=lambda f: f.name)
def test_every_format_is_written_whole_under_every_suffix(tmp_path, wanted):
    for suffix in wanted.suffixes:
        picture = upscale_pixels(
            read_picture(saved(tmp_path / "a.png", smooth(5, 4, 1).reshape(5, 4))),
            Nearest(),
            wanted,
        )
        write_picture(tmp_path / f"b{suffix}", picture, wanted)
        assert read_picture(tmp_path / f"b{suffix}").rgb.shape == (10, 8, 3)
    assert PNG in FORMATS
