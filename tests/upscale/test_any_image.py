"""Images of every kind that a user of Python has."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cv2", reason="pictures need OpenCV")

import cv2  # noqa: E402

from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.upscale.upscaler import Upscaler  # noqa: E402


@pytest.fixture()
def upscaler(sessions):
    class Same(sessions["blur"]):
        """Repeats the pixels, twice as bright."""

        def network(self, x):
            return x * np.float32(2)

    return Upscaler(Same())


def repeated(image):
    return image.repeat(2, axis=0).repeat(2, axis=1)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
def test_an_array_gives_an_array_of_its_kind_within_its_range(upscaler, shape, dtype):
    white = np.iinfo(dtype).max if dtype.startswith("u") else 1
    image = (np.random.default_rng(0).random(shape) * white).astype(dtype)
    result = upscaler(image)
    expected = repeated(np.minimum(image.astype(np.float64) * 2, white))
    assert result.dtype == dtype and result.shape == expected.shape
    np.testing.assert_allclose(result, expected, atol=1e-3 if dtype == "float16" else white * 1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_alpha_is_upscaled_apart_and_invisible_colours_do_not_bleed(upscaler, dtype):
    white = np.iinfo(dtype).max if dtype.startswith("u") else 1
    image = np.zeros((8, 8, 4), dtype)
    image[:, :4, 3], image[:, :4, 0], image[:, 4:, 1] = white, white // 4 or 0.25, white
    result = upscaler(image)
    assert result.shape == (16, 16, 4) and result.dtype == dtype
    assert (result[:, :6, 3] > white * 0.9).all() and (result[:, 11:, 3] < white * 0.1).all()
    assert result[..., 1].max() == 0  # green is invisible everywhere
    assert np.allclose(result[..., 0], result[0, 0, 0], atol=white * 1e-6)


def test_floats_may_leave_the_range_a_little_and_results_do_not(upscaler, sessions):
    image = np.full((3, 3, 3), -0.1, np.float32)
    image[0] = 1.2
    assert upscaler(image).min() == 0 and upscaler(image).max() == 1
    assert upscaler.upscale_rgb(image).max() == np.float32(2.4)


def test_a_list_gives_a_list(upscaler):
    first, second = np.zeros((2, 3), np.uint8), np.zeros((3, 2, 3), np.float32)
    results = upscaler([first, second])
    assert [result.shape for result in results] == [(4, 6), (6, 4, 3)]
    assert upscaler([]) == []


@pytest.mark.parametrize(
    "image, message, hint",
    [
        (np.zeros((3, 8, 8), np.uint8), r"an array \(3, 8, 8\)", "the channels come last"),
        (np.zeros((2, 8, 8, 3), np.uint8), "expected a path", r"list\(images\)"),
        (np.zeros((8, 8), np.int64), "int64", "astype"),
        (np.zeros((0, 8), np.uint8), r"\(0, 8\)", ""),
        (np.full((8, 8, 3), 200.0), "values of 200 to 200; expected 0 to 1", "divide by 255"),
        (np.full((8, 8), np.nan), "values of nan", ""),
        (None, "type NoneType; expected a path", ""),
        ("missing.png", "cannot read", ""),
        (".", "is a folder, which cannot become an array", "output="),
        (__file__, "is not a picture", "output="),
    ],
)
def test_what_cannot_be_upscaled_is_said_with_a_remedy(upscaler, image, message, hint):
    import re

    with pytest.raises(InputError, match=message) as caught:
        upscaler(image)
    assert re.search(hint, caught.value.hint)


def test_a_tensor_is_told_to_become_an_array(upscaler):
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match="type Tensor") as caught:
        upscaler(torch.zeros(3, 8, 8))
    assert "permute(1, 2, 0)" in caught.value.hint


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_file_gives_the_array_of_its_pixels(upscaler, tmp_path, shape, dtype):
    image = np.random.default_rng(0).integers(1, np.iinfo(dtype).max // 2, shape).astype(dtype)
    stored = image if len(shape) == 2 else image[:, :, [2, 1, 0, 3][: shape[2]]]
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        result = upscaler(path)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result[..., :3], repeated(image * 2)[..., :3])


def test_a_turned_photograph_gives_an_upright_array(upscaler, tmp_path):
    pil = pytest.importorskip("PIL.Image", reason="Pillow writes the test's EXIF data")
    photo = pil.fromarray(np.zeros((4, 6, 3), np.uint8))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "a.jpg", exif=exif)
    assert upscaler(tmp_path / "a.jpg").shape == (12, 8, 3)


@pytest.mark.parametrize(
    "mode, result",
    [("L", "L"), ("LA", "LA"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("1", "L"), ("P", "RGB")]
    + [("I;16", "I;16")],
)
def test_a_pil_image_gives_a_pil_image(upscaler, mode, result):
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image = pil.new(mode, (6, 4))
    upscaled = upscaler(image)
    assert (upscaled.mode, upscaled.size) == (result, (12, 8))


def test_a_pil_image_keeps_its_profile_and_its_exif_data(upscaler):
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image = pil.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112], exif[0x0100] = 6, 6  # orientation, width
    image.info.update(exif=exif.tobytes(), icc_profile=b"profile", dpi=(72, 72), other=1)
    result = upscaler(image)
    assert dict(result.getexif()) == {0x0112: 6, 0x0100: 12}
    assert result.info["icc_profile"] == b"profile" and result.info["dpi"] == (72, 72)
    assert "other" not in result.info


def test_transparent_colours_of_a_pil_image_become_alpha(upscaler):
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for mode, expected in (("P", "RGBA"), ("L", "LA"), ("RGB", "RGBA")):
        image = pil.new(mode, (4, 4))
        image.info["transparency"] = (0, 0, 0) if mode == "RGB" else 0
        result = upscaler(image)
        assert result.mode == expected and result.getchannel("A").getextrema() == (0, 0)


def test_other_pil_images_are_refused(upscaler):
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    with pytest.raises(InputError, match="mode CMYK") as caught:
        upscaler(pil.new("CMYK", (4, 4)))
    assert "convert('RGB')" in caught.value.hint
