import numpy as np
import pytest
import torch
from torch import nn

from sr_deploy.core.errors import InputError
from sr_deploy.train.data import Patches, image_pairs
from sr_deploy.train.difficulty import patches_of_class, psnr_of_patches


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return nn.functional.interpolate(x, scale_factor=2.0)


@pytest.fixture()
def pairs(images, cache):
    return image_pairs([images], cache, scale=2)


def classed(pairs, difficulty, lines=None):
    return patches_of_class(
        pairs,
        Judge(),
        scale=2,
        side_lr=4,
        difficulty=difficulty,
        log=(lambda line: None) if lines is None else lines.append,
    )


def test_classes_are_equal_and_from_easy_to_hard(pairs):
    lines = []
    parts = [classed(pairs, (n, 3), lines) for n in (1, 2, 3)]
    spots = [(c.image, c.top, c.left) for part in parts for c in part]
    whole = sum((h // 4) * (w // 4) for h, w in (pair.lr_hw for pair in pairs))
    assert (
        len(spots) == len(set(spots)) == whole and max(map(len, parts)) - min(map(len, parts)) <= 1
    )
    psnr = [psnr_of_patches(pairs, part, Judge(), scale=2, side_lr=4) for part in parts]
    assert psnr[0].min() >= psnr[1].max() >= psnr[1].min() >= psnr[2].max()
    assert lines[0].startswith(f"class 1 of 3: {len(parts[0])} of {whole} patches")


def test_a_patchs_psnr_is_of_its_own_pixels(pairs):
    crop = classed(pairs, (1, 1))[7]
    hr, lr = (
        np.load(f).astype(np.float64) / 255 for f in (pairs[crop.image].hr, pairs[crop.image].lr)
    )
    made = lr[crop.top : crop.top + 4, crop.left : crop.left + 4].repeat(2, 0).repeat(2, 1)
    wanted = hr[2 * crop.top : 2 * crop.top + 8, 2 * crop.left : 2 * crop.left + 8]
    (got,) = psnr_of_patches(pairs, [crop], Judge(), scale=2, side_lr=4)
    assert got == pytest.approx(-10 * np.log10(((made - wanted) ** 2).mean()), abs=1e-4)


def test_patches_are_drawn_within_the_class(pairs):
    crops = classed(pairs, (2, 3))[:2]
    patches = Patches(pairs, scale=2, patch_hr=8, batch_size=8, seed=0)
    drawn = {
        (c.image, c.top, c.left)
        for step in range(10)
        for c, _ in patches.restricted_to(crops)._draw(step)
    }
    assert drawn == {(c.image, c.top, c.left) for c in crops}
    assert len({(c.image, c.top, c.left) for c, _ in patches._draw(0)}) > 2


def test_fewer_patches_than_classes(pairs):
    with pytest.raises(InputError, match="patches cannot be divided into 5000 classes"):
        classed(pairs, (1, 5000))
