import os
import shutil

import cv2
import numpy as np
import pytest
import torch

from sr_deploy.core.degradation import degrade
from sr_deploy.core.errors import InputError
from sr_deploy.core.images import imresize, modcrop, read_rgb
from sr_deploy.train import data as module
from sr_deploy.train.data import BatchSplit, Patches, fingerprint, image_pairs
from tests.train.conftest import write_images


@pytest.fixture()
def folder(tmp_path):
    return write_images(tmp_path / "hr", [(50, 41), (33, 64)])


def pairs(folder, cache=None, **options):
    return image_pairs([folder], cache or folder.parent / "cache", **{"scale": 4, **options})


def patches(folder, **changes):
    return Patches(
        pairs(folder), **{"scale": 4, "patch_hr": 24, "batch_size": 6, "seed": 0, **changes}
    )


def test_batches_are_aligned_pairs_of_the_images(folder):
    data = patches(folder)
    lr, hr = data.batch(0)
    assert lr.shape == (6, 3, 6, 6) and hr.shape == (6, 3, 24, 24)
    assert lr.dtype == hr.dtype == torch.float32 and 0 <= lr.min() and hr.max() <= 1
    images = [(np.load(p.lr), np.load(p.hr)) for p in data.pairs]
    for n in range(6):
        small, large = (
            (t[n].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy() for t in (lr, hr)
        )
        found = False
        for transposed in (
            False,
            True,
        ):  # every patch is a crop of an image in one of its eight orientations
            for rows in (1, -1):
                for columns in (1, -1):
                    a, b = (
                        (p.transpose(1, 0, 2) if transposed else p)[::rows, ::columns]
                        for p in (small, large)
                    )
                    found |= any(_crop_at(pair, a, b) for pair in images)
        assert found


def _crop_at(pair, small, large):
    lr, hr = pair
    windows = np.lib.stride_tricks.sliding_window_view(lr, (6, 6, 3))[:, :, 0]
    for top, left in np.argwhere((windows == small).all((2, 3, 4))):
        if (hr[4 * top : 4 * top + 24, 4 * left : 4 * left + 24] == large).all():
            return True
    return False


@pytest.mark.parametrize("scale, kind", [(2, "bi"), (3, "bi"), (4, "bi"), (3, "bd")])
def test_the_degradation_makes_lr_from_the_cropped_image(folder, scale, kind):
    for pair in pairs(folder, scale=scale, degradation=kind):
        hr = modcrop(read_rgb(pair.source), scale)
        np.testing.assert_array_equal(np.load(pair.hr), hr)
        np.testing.assert_array_equal(np.load(pair.lr), degrade(hr, scale=scale, kind=kind))


def test_a_batch_depends_on_seed_and_step_only(folder):
    first, other = patches(folder), patches(folder)
    expected = [first.batch(step) for step in range(4)]
    for step in (3, 1, 1, 0, 2):  # in another order, and twice
        assert all(torch.equal(a, b) for a, b in zip(other.batch(step), expected[step]))
    assert not torch.equal(expected[0][0], expected[1][0])
    assert not torch.equal(expected[0][0], patches(folder, seed=1).batch(0)[0])


@pytest.mark.parametrize("parts, ranks", [(1, 2), (2, 1), (3, 2), (6, 1)])
def test_processes_and_micro_batches_share_the_same_batch(folder, parts, ranks):
    lr, hr = patches(folder).pixels(3)
    assert lr.dtype == hr.dtype == torch.uint8
    shared = [
        patches(folder, split=BatchSplit(parts, r, ranks))[3 * parts + p]
        for r in range(ranks)
        for p in range(parts)
    ]
    for whole, of_all in ((lr, [s[0] for s in shared]), (hr, [s[1] for s in shared])):
        rows = {t.numpy().tobytes() for share in of_all for t in share}
        assert rows == {t.numpy().tobytes() for t in whole} and all(
            len(share) == 6 // (parts * ranks) for share in of_all
        )


def test_a_batch_that_cannot_be_divided(folder):
    with pytest.raises(
        InputError,
        match="a batch of 6 cannot be divided evenly between 2 processes x 2 micro-batches",
    ):
        patches(folder, split=BatchSplit(2, ranks=2))


def test_noise_is_new_in_every_patch_and_the_same_in_every_run(folder):
    options = {"scale": 3, "patch_hr": 24, "batch_size": 4, "seed": 0}
    clean = Patches(pairs(folder, scale=3, degradation="dn"), **options)
    noisy = [
        Patches(pairs(folder, scale=3, degradation="dn"), noise=True, **options) for _ in range(2)
    ]
    a, b = (n.batch(1)[0] for n in noisy)
    assert torch.equal(a, b)
    noise = (a - clean.batch(1)[0]) * 255
    assert 15 < noise.std() < 31 and not torch.equal(noise[0], noise[1])  # less than 30: clipped
    assert torch.equal(noisy[0].batch(1)[1], clean.batch(1)[1])


def test_sources_of_a_step(folder):
    assert {p.name for p in patches(folder, batch_size=50).sources(0)} == {"0.png", "1.png"}


def test_images_are_decoded_once(folder, monkeypatch):
    first = pairs(folder)
    monkeypatch.setattr(module, "read_rgb", lambda path: pytest.fail(f"{path} was decoded again"))
    assert pairs(folder) == first


def test_a_changed_image_is_decoded_again(folder):
    before = pairs(folder)
    shutil.copy(folder / "1.png", folder / "0.png")
    os.utime(folder / "0.png", (1, 1))
    after = pairs(folder)
    assert (
        after[0].lr_hw == after[1].lr_hw == before[1].lr_hw
        and after[0].hr != before[0].hr
        and after[1] == before[1]
    )


def test_unusable_images_are_skipped_and_listed(folder):
    cv2.imwrite(str(folder / "tiny.png"), np.zeros((23, 80, 3), np.uint8))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8no")
    said = []
    found = pairs(folder, min_hr=24, log=said.append)
    assert [p.source.name for p in found] == ["0.png", "1.png"]
    assert "skipped 2 of 4 images" in said[0] and "broken.jpg is not an image" in said[0]
    assert "tiny.png: 20x80 pixels, expected at least 24x24" in said[0]
    with pytest.raises(InputError, match="2 of 4 images cannot be used for training") as e:
        pairs(folder, min_hr=24, strict=True)
    assert "broken.jpg" in e.value.message and "--strict" in e.value.hint


def test_no_usable_image(folder):
    with pytest.raises(
        InputError,
        match="2 of 2 images cannot be used for training(.|\n)*expected at least 256x256",
    ):
        pairs(folder, min_hr=256)
    with pytest.raises(InputError, match="there is no folder"):
        pairs(folder / "none", cache=folder.parent / "cache")
    (folder.parent / "empty").mkdir()
    with pytest.raises(InputError, match="contains no images"):
        pairs(folder.parent / "empty")


@pytest.fixture()
def lr_folder(folder):
    """LR files with DIV2K's names. Those made on the fly differ: MATLAB's bicubic."""
    lr = folder.parent / "lr"
    lr.mkdir()
    for path in folder.iterdir():
        hr = modcrop(read_rgb(path), 4)
        cv2.imwrite(str(lr / f"{path.stem}x4.png"), hr[::4, ::4, ::-1])
    return lr


def test_lr_images_are_read_from_lr_folders(folder, lr_folder):
    for pair in pairs(folder, lr_folders=[lr_folder]):
        np.testing.assert_array_equal(np.load(pair.lr), modcrop(read_rgb(pair.source), 4)[::4, ::4])
    made = pairs(folder)
    np.testing.assert_array_equal(np.load(made[0].lr), imresize(np.load(made[0].hr), scale=1 / 4))


def test_lr_and_hr_must_match_by_name(folder, lr_folder):
    (lr_folder / "0x4.png").rename(lr_folder / "zero.png")
    with pytest.raises(InputError, match="no LR image for HR 0.png") as e:
        pairs(folder, lr_folders=[lr_folder])
    assert "0001x4.png" in e.value.hint
    (lr_folder / "zero.png").rename(lr_folder / "0.png")
    cv2.imwrite(str(lr_folder / "9.png"), np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(InputError, match="no HR image for LR 9 in"):
        pairs(folder, lr_folders=[lr_folder])


def test_lr_and_hr_must_match_by_size(folder, lr_folder):
    with pytest.raises(
        InputError,
        match="0x4.png has 12x10 pixels; expected 25x20, the size of 0.png / 2|no LR image",
    ):
        pairs(folder, scale=2, lr_folders=[lr_folder])
    for path in lr_folder.iterdir():
        path.rename(lr_folder / path.name.replace("x4", ""))
    with pytest.raises(InputError, match=r"0.png has 12x10 pixels; expected 25x20") as e:
        pairs(folder, scale=2, lr_folders=[lr_folder])
    assert "scale" in e.value.hint


def test_one_lr_folder_for_each_hr_folder(folder, lr_folder):
    with pytest.raises(InputError, match="1 LR folders for 2 HR folders"):
        image_pairs([folder, folder], folder.parent / "cache", scale=4, lr_folders=[lr_folder])


@pytest.mark.parametrize("end", [".hr.npy", ".lr.npy"])
@pytest.mark.parametrize("damage", ["cut", "empty", "other", "another size"])
def test_a_damaged_cache_file_is_decoded_again(folder, end, damage):
    before = pairs(folder)
    file = next(p for p in (before[0].hr, before[0].lr) if p.name.endswith(end))
    whole = file.read_bytes()
    if damage == "another size":
        np.save(file, np.zeros((5, 5, 3), np.uint8))
    else:
        file.write_bytes({"cut": whole[:-9], "empty": b"", "other": b"no array"}[damage])
    assert pairs(folder) == before and file.read_bytes() == whole


def test_the_fingerprint_is_of_names_sizes_and_order(folder, lr_folder):
    first = fingerprint(pairs(folder))
    assert (
        first
        == fingerprint(pairs(folder, cache=folder.parent / "other"))
        != fingerprint(pairs(folder)[::-1])
    )
    given = fingerprint(pairs(folder, lr_folders=[lr_folder]))
    cv2.imwrite(str(lr_folder / "0x4.png"), np.zeros((12, 10, 3), np.uint8))
    assert len({first, given, fingerprint(pairs(folder, lr_folders=[lr_folder]))}) == 3
    (folder / "0.png").rename(folder / "00.png")
    assert fingerprint(pairs(folder)) != first


def test_two_lr_images_of_one_name(folder, lr_folder):
    cv2.imwrite(str(lr_folder / "0x4.jpg"), np.zeros((12, 10, 3), np.uint8))
    with pytest.raises(
        InputError, match="two LR images in .* have the same name: 0x4.jpg and 0x4.png"
    ):
        pairs(folder, lr_folders=[lr_folder])
