from __future__ import annotations

import shutil

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv is not installed; it reads and writes the images")

from sr_deploy.core.degradation import add_noise  # noqa: E402
from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.core.image_folders import (  # noqa: E402
    check_lr_size,
    hr_images,
    is_named_hr,
    lr_images,
)
from sr_deploy.core.images import imresize, write_png  # noqa: E402


def picture(seed, hw=(96, 120)):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return imresize(noise, scale=32)[: hw[0], : hw[1]]


def write(folder, *names, scale=1, hw=(96, 120)):
    """Write a picture for each name, at 1/scale; the digits of a name's start say which."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        hr = picture(int(path.stem[:1]), hw)
        write_png(path, hr if scale == 1 else imresize(hr, scale=1 / scale))


def names(images):
    return [path.relative_to(images.folder).as_posix() for path in images.files]


@pytest.mark.parametrize(
    "inside, lr",
    [
        ("HR", ["LR_x2", "LR_x4"]),
        ("hr", ["lr_x2", "LRx4"]),
        ("HR_x4", ["LR_x4"]),
        ("GTmod12", ["LRbicx2", "LRbicx4"]),
        ("original", ["x4"]),
        ("DIV2K_valid_HR", ["DIV2K_valid_LR_bicubic/X2", "DIV2K_valid_LR_bicubic/X4"]),
        ("Test/GT", ["Test/LR/x4"]),
    ],
)
def test_hr_inside_is_taken_and_said_and_lr_of_the_scale(tmp_path, inside, lr):
    write(tmp_path / inside, "1.png", "2.png")
    for folder in lr:
        write(tmp_path / folder, "1x4.png", "2x4.png", scale=4 if "4" in folder else 2)
    found = hr_images(tmp_path)
    assert found.folder == tmp_path / inside and names(found) == ["1.png", "2.png"]
    assert f"HR are the 2 images in {inside}; {2 * len(lr)} others are not" in found.note
    pairs = found.lr_files(tmp_path, 4)
    assert {k.name: v.name for k, v in pairs.items()} == {"1.png": "1x4.png", "2.png": "2x4.png"}
    assert f"x4 LR are the 2 images in {lr[-1]}" in lr_images(tmp_path, 4).note
    direct = hr_images(tmp_path / inside)  # and the folder itself, without a word
    assert (direct.files, direct.note) == (found.files, "")


def test_subfolders_of_hr_belong_to_it_and_all_is_taken_where_all_is_hr(tmp_path):
    write(tmp_path / "one" / "GT", "Canon/1.png", "Nikon/1.png")
    write(tmp_path / "one" / "LR", "Canon/1x4.png", "Nikon/1x4.png", scale=4)
    found = hr_images(tmp_path / "one")
    assert names(found) == ["Canon/1.png", "Nikon/1.png"]
    assert len(found.lr_files(tmp_path / "one" / "LR", 4)) == 2
    write(tmp_path / "two", "DIV2K_train_HR/1.png", "Flickr_HR/2.png")
    assert len(hr_images(tmp_path / "two").files) == 2
    write(tmp_path / "three", "day/1.png", "night/1.png", "2.png")
    found = hr_images(tmp_path / "three")
    assert len(found.files) == 3 and found.note == ""


@pytest.mark.parametrize(
    "folders", [("Set5/HR", "Set14/HR", "Set5/LR"), ("GTmod12", "original"), ("HR", "HR_x4", "x4")]
)
def test_several_folders_that_could_be_meant_are_named(tmp_path, folders):
    for folder in folders:
        write(tmp_path / folder, "1.png")
    with pytest.raises(InputError, match=f"2 folders in .* HR images: .*{folders[0]}") as e:
        hr_images(tmp_path)
    assert "give one of them" in e.value.hint


@pytest.mark.parametrize(
    "hr, lr, scale",
    [
        ("1.png", "1x4.png", 4),  # beside each other
        ("image_SRF_4/1_SRF_4_HR.png", "image_SRF_4/1_SRF_4_LR.png", 4),
        ("sharp/1.png", "small/1.png", 2),  # the names of the folders say nothing
        ("2.png", "another.png", 3),  # nor those of the files
        ("1.PNG", "1_lr.png", 4),
    ],
)
def test_an_image_beside_itself_made_smaller_is_refused(tmp_path, hr, lr, scale):
    write(tmp_path, hr, "3.png")
    small = imresize(picture(int(hr.split("/")[-1][0])), scale=1 / scale)
    (tmp_path / lr).parent.mkdir(exist_ok=True)
    write_png(tmp_path / lr, small)
    with pytest.raises(InputError, match=f"same ones made smaller: .* at 1/{scale}") as e:
        hr_images(tmp_path)
    assert "HR images alone" in e.value.hint
    # With noise, and not of a multiple of the scale: the name is the same, so less will do.
    if lr != "another.png":
        write_png(tmp_path / lr, add_noise(small, np.random.default_rng(0)))
        write(tmp_path, hr, hw=(98, 122))
        with pytest.raises(InputError, match="same ones made smaller"):
            hr_images(tmp_path)


def test_other_pictures_of_such_sizes_are_no_alarm(tmp_path):
    write(tmp_path, "1.png", "2.png")
    write(tmp_path, "small/1.png", hw=(48, 60))  # a crop of the same name
    write(tmp_path, "3x2.png", "4.png", scale=2)
    write_png(tmp_path / "5.png", np.full((96, 120, 3), 9, np.uint8))  # flat ones are all alike
    write_png(tmp_path / "6.png", np.full((48, 60, 3), 9, np.uint8))
    (tmp_path / "7.png").write_bytes(b"no image")  # reported where it is read
    write_png(tmp_path / "8.png", picture(8, (5, 6)))
    assert len(hr_images(tmp_path).files) == 9


def test_hidden_files_and_those_of_other_kinds_are_no_images(tmp_path):
    write(tmp_path, "1.png", ".thumbnails/1.png", "__MACOSX/1.png", scale=1)
    (tmp_path / "._1.png").write_bytes(b"no image")
    (tmp_path / "readme.txt").write_text("words")
    assert names(hr_images(tmp_path)) == ["1.png"]


@pytest.mark.parametrize(
    "hr, lr",
    [
        ("1.png", "1.png"),
        ("1.png", "1x4.png"),
        ("1.png", "1_x4.jpg"),
        ("1_HR.png", "1_LR4.png"),
        ("1_SRF_4_HR.png", "1_SRF_4_LR.png"),
        ("1_HR_x4.png", "1_LRBI_x4.png"),
        ("a/1.png", "a/1x4.png"),
    ],
)
def test_names_of_pairs(tmp_path, hr, lr):
    write(tmp_path / "HR", hr)
    write(tmp_path / "LR", lr)
    assert len(hr_images(tmp_path / "HR").lr_files(tmp_path / "LR", 4)) == 1


def test_lr_folders_of_several_degradations_are_named(tmp_path):
    write(tmp_path, "LR_bicubic/X4/1x4.png", "LR_unknown/X4/1x4.png", "HR/1.png")
    with pytest.raises(InputError, match="2 folders in .* x4 LR images: LR_bicubic/X4, LR_unk"):
        lr_images(tmp_path, 4)


def test_the_size_of_lr_and_what_else_it_could_be(tmp_path):
    paths = tmp_path / "l.png", tmp_path / "h.png"
    check_lr_size(paths[0], (24, 30, 3), paths[1], (99, 120, 3), 4)
    with pytest.raises(InputError, match=r"l.png has 49x60 pixels; expected 24x30, .*it is of x2"):
        check_lr_size(paths[0], (49, 60), paths[1], (99, 120), 4)
    with pytest.raises(InputError, match="has 24x31 pixels; expected 24x30, the size of h.png / 4"):
        check_lr_size(paths[0], (24, 31), paths[1], (99, 120), 4)


def test_which_names_say_hr_and_nothing_else():
    assert all(map(is_named_hr, ["HR", "hr", "GTmod12", "HR_x4", "original", "GT"]))
    assert not any(map(is_named_hr, ["DIV2K_valid_HR", "LR", "Set5", "chr", "HR_LR"]))


@pytest.mark.parametrize("name", ["LR_x4", "LRbicx4", "lr", "DIV2K_valid_LR_bicubic/X4"])
def test_a_folder_named_as_lr_images_is_said(tmp_path, name):
    write(tmp_path / name, "1.png")
    assert "taken for HR" in hr_images(tmp_path / name).note
    assert lr_images(tmp_path / name, 4).note == ""


@pytest.mark.parametrize("name", ["Set5", "lrs", "HR", "colr", "LR/HR", "x4"])
def test_other_folders_are_not_remarked_on(tmp_path, name):
    write(tmp_path / name, "1.png")
    assert hr_images(tmp_path / name).note == ""


def test_pictures_that_are_passed_over_are_said(tmp_path):
    write(tmp_path, "1.png")
    for name in ("2.heic", "3.GIF", "._4.avif", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    note = hr_images(tmp_path).note
    assert "2 pictures are passed over, such as 2.heic; data sets are read from .png" in note
    write(tmp_path / "HR", "1.png", "2.png")
    assert "passed over" not in hr_images(tmp_path).note  # of HR, none is


def test_the_set_of_the_papers(shared_dir, tmp_path):
    set5 = shared_dir / "data" / "Set5"
    assert len(hr_images(set5).files) == 5
    for folder in ("HR", "LR_x3"):
        shutil.copytree(str(set5 / folder), str(tmp_path / folder.replace("HR", "high")))
    with pytest.raises(InputError, match="same ones made smaller: .*png is .*png at 1/3"):
        hr_images(tmp_path)
