import cv2
import numpy as np
import pytest
import torch

from sr_deploy.core.errors import InputError
from sr_deploy.core.images import imresize
from sr_deploy.train.data import Patches


@pytest.fixture()
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i, (h, w) in enumerate([(50, 41), (33, 64)]):
        small = rng.integers(0, 256, (h // 4 + 1, w // 4 + 1, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC))
    return tmp_path


def patches(folder, **changes):
    return Patches([folder], **{"scale": 4, "patch_lr": 6, "batch_size": 5, "seed": 0, **changes})


def test_batches_are_aligned_pairs_of_the_images(folder):
    data = patches(folder)
    lr, hr = data.batch(0)
    assert lr.shape == (5, 3, 6, 6) and hr.shape == (5, 3, 24, 24)
    assert lr.dtype == hr.dtype == torch.float32 and 0 <= lr.min() and hr.max() <= 1
    for n in range(5):
        small, large = ((t[n].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy() for t in (lr, hr))
        found = False
        for transposed in (False, True):  # every patch is a crop of an image in one of its eight orientations
            for rows in (1, -1):
                for columns in (1, -1):
                    a, b = ((p.transpose(1, 0, 2) if transposed else p)[::rows, ::columns] for p in (small, large))
                    found |= any(_crop_at(pair, a, b) for pair in data.pairs)
        assert found


def _crop_at(pair, small, large):
    lr, hr = pair
    windows = np.lib.stride_tricks.sliding_window_view(lr, (6, 6, 3))[:, :, 0]
    for top, left in np.argwhere((windows == small).all((2, 3, 4))):
        if (hr[4 * top : 4 * top + 24, 4 * left : 4 * left + 24] == large).all():
            return True
    return False


def test_lr_is_matlabs_bicubic_of_the_cropped_image(folder):
    for lr, hr in patches(folder, scale=3).pairs:
        assert hr.shape[0] % 3 == 0 and hr.shape[1] % 3 == 0
        np.testing.assert_array_equal(lr, imresize(hr, scale=1 / 3))


def test_a_batch_depends_on_seed_and_step_only(folder):
    first, other = patches(folder), patches(folder)
    expected = [first.batch(step) for step in range(4)]
    for step in (3, 1, 1, 0, 2):  # in another order, and twice
        assert all(torch.equal(a, b) for a, b in zip(other.batch(step), expected[step]))
    assert not torch.equal(expected[0][0], expected[1][0])
    assert not torch.equal(expected[0][0], patches(folder, seed=1).batch(0)[0])


def test_small_images_are_left_out_and_named(folder):
    cv2.imwrite(str(folder / "tiny.png"), np.zeros((23, 80, 3), np.uint8))
    data = patches(folder)
    assert len(data.pairs) == 2 and data.too_small == [str(folder / "tiny.png")]


def test_no_usable_image(folder):
    with pytest.raises(InputError, match="no training image has 256x256 pixels"):
        patches(folder, patch_lr=64)
    with pytest.raises(InputError, match="there is no folder"):
        Patches([folder / "none"], scale=4, patch_lr=6, batch_size=1, seed=0)
