from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.bench.crop_images import CROP_PX, crops_of, largest_error_box, parse_box
from sr_deploy.core.errors import InputError


def test_the_cut_is_where_two_images_differ_most_and_on_the_grid_of_the_scale():
    hr = np.zeros((300, 400, 3), np.uint8)
    other = hr.copy()
    other[200:210, 301:311] = 80
    top, left, height, width = largest_error_box(other, hr, 3)
    assert (height, width) == (CROP_PX, CROP_PX) and top % 3 == left % 3 == 0
    assert top <= 200 and top + height >= 210 and left <= 301 and left + width >= 311
    assert largest_error_box(hr, hr, 4) == (0, 0, CROP_PX, CROP_PX), "the first of equals"


@pytest.mark.parametrize(
    "scale, hw, box",
    [(4, (40, 200), (40, 144)), (3, (39, 45), (39, 45)), (2, (150, 10), (144, 10))],
)
def test_a_small_image_is_cut_whole(scale, hw, box):
    image = np.zeros((*hw, 3), np.uint8)
    assert largest_error_box(image, image, scale)[2:] == box


def test_a_large_error_is_summed_exactly():
    """255 on two million pixels: past what 32 bits hold."""
    hr = np.zeros((1100, 1900, 3), np.uint8)
    other = np.full_like(hr, 255)
    other[600:744, 1000:1144] = 254
    hr[600:744, 1000:1144] = 0
    assert largest_error_box(255 - other, 255 - np.full_like(hr, 255), 4)[:2] == (600, 1000)


def test_every_variant_cuts_the_same_place(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; it runs the checkpoint")
    cv2 = pytest.importorskip(
        "cv2", reason="opencv is not installed; it reads and writes the images"
    )
    from sr_deploy.core.images import imresize, write_png

    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (10, 13, 3), dtype=np.uint8)
        write_png(tmp_path / f"{i}.png", imresize(noise, scale=4))
    said = []
    sets = crops_of(["asrn_x4"], data=str(tmp_path), progress=said.append)
    assert [s.image for s in sets] == ["0.png", "1.png", "2.png", "3.png"], "the first four"
    for crop_set in sets:
        assert [c.name for c in crop_set.crops] == [
            "LR",
            "bicubic",
            *(f"asrn_x4.d{n}, torch fp32" for n in range(1, 6)),
            "HR",
        ]
        images = [
            cv2.imdecode(np.frombuffer(c.png, np.uint8), cv2.IMREAD_COLOR) for c in crop_set.crops
        ]
        assert images[0].shape == (10, 13, 3) and {i.shape for i in images[1:]} == {(40, 52, 3)}
        scores = [c.psnr_db for c in crop_set.crops]
        assert scores[0] is None and scores[-1] is None and all(15 < s < 60 for s in scores[1:-1])
    assert said[0] == "asrn_x4.d1, torch fp32: crops of 4 images"


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "1,2,x,4", "-4,0,8,8", "0,0,0,8"])
def test_what_is_no_box_is_refused(text):
    with pytest.raises(InputError, match="box"):
        parse_box(text)
    assert parse_box("96, 300,144,128") == (96, 300, 144, 128)


@pytest.fixture()
def images(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; it runs the checkpoint")
    pytest.importorskip("cv2", reason="opencv is not installed; it reads and writes the images")
    from sr_deploy.core.images import imresize, write_png

    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", imresize(noise, scale=4))
    return str(tmp_path)


def test_a_box_that_is_asked_for_is_cut(images):
    (crop_set,) = crops_of(["fsrcnn-w16_x4"], data=images, box=(8, 16, 24, 40))
    assert crop_set.box_px == (8, 16, 24, 40) and crop_set.box_given and crop_set.maps == ()
    for box, message, hint in (
        ((8, 17, 24, 40), "does not lie on LR pixels", "--box 8,16,24,40"),
        ((1, 1, 1, 1), "does not lie on LR pixels", "--box 0,0,4,4"),
        ((140, 160, 24, 40), "is not inside .*a.png, which has 160x192 pixels", "HEIGHT,WIDTH"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            crops_of(["fsrcnn-w16_x4"], data=images, box=box)
        assert hint in raised.value.hint


def test_the_work_of_an_adaptive_network_is_a_map_with_a_legend(images):
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed; it reads the map")
    (crop_set,) = crops_of(["cdnsr-fsrcnn_x4"], data=images, box=(8, 16, 24, 40))
    (work,) = crop_set.maps
    picture = cv2.imdecode(np.frombuffer(work.png, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (40, 48, 3), "as many pixels as LR"
    assert (picture[2, 4:14] == 255).all() and (picture[2:8, 13] == 255).all(), "the frame"
    names, colours = zip(*work.levels)
    assert names == ("w16", "w36", "w56")
    assert colours == ("#3168be", "#f0c83c", "#c82832")
    assert "% of the plain network" in work.work and work.work.endswith("%)")
