"""Which crops of a folder calibrate, and which folders cannot."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.export.int8.calibration import CROP_HW, read_calibration, sample_calibration

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
SCALE, HW = 2, (16, 16)


def picture(seed, hw=(64, 96), *, spread=20, bits=8):
    """A picture of smooth noise; spread: of its colours about grey."""
    rng = np.random.default_rng(seed)
    grey = rng.integers(60, 190, (*hw, 1))
    rgb = np.clip(grey + rng.integers(-spread, spread + 1, (*hw, 3)), 0, 255)
    return (rgb * 257).astype(np.uint16) if bits == 16 else rgb.astype(np.uint8)


def folder_of(path, *pictures):
    path.mkdir()
    for number, rgb in enumerate(pictures):
        cv2.imwrite(str(path / f"{number:04}.png"), rgb[:, :, ::-1])
    return path


def read(folder, **options):
    return read_calibration(folder, scale=SCALE, **{"hw": HW, **options})


def found_in(pair, pictures):
    """Return the numbers of the pictures that contain a crop."""
    corner = pair.hr[:4, :4].tobytes()
    return [
        i
        for i, rgb in enumerate(pictures)
        for y in range(rgb.shape[0] - 3)
        for x in range(rgb.shape[1] - 3)
        if rgb[y : y + 4, x : x + 4].tobytes() == corner
    ]


@pytest.mark.smoke
def test_halves_are_crops_of_different_pictures(tmp_path):
    pictures = [picture(seed) for seed in range(4)]
    calibration = read(folder_of(tmp_path / "hr", *pictures))
    assert calibration.notes == ()
    assert calibration.hw == HW
    for pair in (*calibration.ranges, *calibration.held_out):
        assert pair.lr.shape == (1, 3, 16, 16)
        assert pair.lr.dtype == np.float32
        assert pair.hr.shape == (32, 32, 3)
        assert pair.hr.dtype == np.uint8
    sides = [
        {i for pair in half[:3] for i in found_in(pair, pictures)}
        for half in (calibration.ranges, calibration.held_out)
    ]
    assert sides[0].isdisjoint(sides[1])
    assert abs(len(calibration.ranges) - len(calibration.held_out)) <= 1


def test_lr_is_made_of_hr_by_the_bicubic_degradation(tmp_path):
    flat = [np.full((32, 64, 3), value, np.uint8) for value in (10, 200)]
    calibration = read(folder_of(tmp_path / "hr", *flat))
    assert (calibration.ranges[0].lr == nchw_from_rgb(flat[0])[0, 0, 0, 0]).all()
    noisy = read(folder_of(tmp_path / "x3", *flat), degradation="bi", hw=(8, 8))
    assert noisy.hw == (8, 8)


def test_the_most_saturated_crops_are_among_them(tmp_path):
    pictures = [picture(seed, (320, 320)) for seed in range(2)]
    for rgb in pictures:
        rgb[64:96, 128:160] = (255, 0, 0)
    calibration = read(folder_of(tmp_path / "hr", *pictures))
    for half in (calibration.ranges, calibration.held_out):
        assert len(half) == 20
        assert any((pair.hr == (255, 0, 0)).all() for pair in half)


def test_the_digest_is_of_the_crops(tmp_path):
    pictures = [picture(seed) for seed in range(2)]
    one = read(folder_of(tmp_path / "one", *pictures))
    same = read(folder_of(tmp_path / "same", *pictures))
    assert one.digest == same.digest
    pictures[1] = picture(9)
    assert read(folder_of(tmp_path / "other", *pictures)).digest != one.digest
    cv2.imwrite(str(tmp_path / "one" / "0000.png"), picture(5))
    assert read(tmp_path / "one").digest != one.digest, "a changed picture is read again"


def test_other_pictures_can_be_held_out(tmp_path):
    pictures = [picture(seed) for seed in range(3)]
    folder = folder_of(tmp_path / "hr", *pictures[:2])
    calibration = read(folder, data=folder_of(tmp_path / "data", pictures[2]))
    held_out = {i for pair in calibration.held_out for i in found_in(pair, pictures)}
    assert held_out == {2}


def test_one_picture_works_and_is_told(tmp_path):
    calibration = read(folder_of(tmp_path / "hr", picture(0, (96, 96))))
    assert calibration.notes == (
        "calibrated with one picture: the loss is measured on other crops of the same picture",
    )
    assert calibration.ranges
    assert calibration.held_out


def test_one_picture_of_a_single_crop_gives_both_sides_of_it(tmp_path):
    left_red = picture(0, (32, 32))
    left_red[:, :16] = (255, 0, 0)
    calibration = read(folder_of(tmp_path / "hr", left_red))
    assert len(calibration.notes) == 1
    (one,), (other,) = calibration.ranges, calibration.held_out
    assert one.hr.shape == other.hr.shape == (32, 32, 3)
    assert (one.hr == (255, 0, 0)).all()
    assert not (other.hr == (255, 0, 0)).all(axis=2).any()


def test_grey_pictures_work_and_are_told(tmp_path):
    grey = [picture(seed, spread=0)[:, :, 0] for seed in range(2)]
    folder = tmp_path / "hr"
    folder.mkdir()
    for number, image in enumerate(grey):
        cv2.imwrite(str(folder / f"{number}.png"), image)
    assert read(folder).notes == ("the pictures are grey: what colours need was not calibrated",)


def test_16_bit_pictures_are_read_as_8_bit_ones(tmp_path):
    deep = read(folder_of(tmp_path / "16", *(picture(seed, bits=16) for seed in range(2))))
    assert deep.digest == read(folder_of(tmp_path / "8", *map(picture, range(2)))).digest


def test_small_pictures_are_mirrored_and_tiny_ones_left_out(tmp_path):
    calibration = read(folder_of(tmp_path / "hr", picture(0, (20, 24)), picture(1, (31, 99))))
    assert calibration.notes == ()
    assert len(calibration.held_out) > 0
    folder = folder_of(tmp_path / "tiny", picture(0), picture(1), picture(2, (7, 200)))
    assert read(folder).notes == ("1 of 3 pictures are smaller than 8x8, and unused",)
    with pytest.raises(InputError, match="an x2 .* 0 of its 1 pictures have 8x8"):
        read(folder_of(tmp_path / "none", picture(2, (7, 200))))


def test_large_crops_are_few(tmp_path):
    folder = folder_of(tmp_path / "hr", *(picture(seed, (200, 330)) for seed in range(6)))
    calibration = read(folder, hw=(360, 640))
    assert calibration.hw == (360, 640)
    assert [len(calibration.ranges), len(calibration.held_out)] == [2, 2]


@pytest.mark.parametrize("files", [{}, {"notes.txt": "text", "more.md": "text"}])
def test_folders_without_pictures_are_refused(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="contains no images .*.png"):
        read(tmp_path)


def test_a_text_file_named_as_a_picture_is_refused(tmp_path):
    folder = folder_of(tmp_path / "hr", picture(0))
    (folder / "0001.png").write_text("not a picture")
    with pytest.raises(InputError, match="0001.png is not an image"):
        read(folder)


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        read(tmp_path / "missing")


def test_the_usual_crops_suit_small_data_sets(tmp_path):
    calibration = read(folder_of(tmp_path / "hr", picture(0), picture(1)), hw=CROP_HW)
    assert calibration.hw == (64, 64)
    assert [len(calibration.ranges), len(calibration.held_out)] == [1, 1], "mirrored up to 128x128"


def test_without_pictures_photographs_that_come_with_the_packages_measure():
    calibration = sample_calibration(scale=2, hw=(16, 16))
    count = len(calibration.held_out)
    assert calibration.hw == (16, 16) and count > 1
    (note,) = calibration.notes
    assert note.startswith(f"without --calibrate, the loss is measured on {count} crops of ")
