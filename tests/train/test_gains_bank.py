import numpy as np
import pytest
import torch

from sr_deploy.nets.gains import GainsHead
from sr_deploy.train.data import image_pairs
from sr_deploy.train.gains_bank import GainsImages, compute_gains_bank
from tests.train.conftest import write_images


class Depths(torch.nn.Module):
    """Three depths: nearest neighbours, and the same a little brighter."""

    runs = 0

    def forward(self, x):
        self.runs += 1
        up = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return torch.stack([up, (up + 0.1).clamp(0, 1), up], dim=1)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    write_images(folder / "hr", [(130, 70), (64, 64)])
    return image_pairs([folder / "hr"], folder / "cache", scale=2)


def bank_of(pairs, cache, depths, resized=(1.0,)):
    return compute_gains_bank(GainsImages(pairs, resized, "bi", 2), depths, cache=cache, key="k")


def test_errors_and_differences_of_the_cells_of_an_image(pairs, tmp_path):
    bank = bank_of(pairs, tmp_path, Depths())
    assert bank.image.tolist() == [0, 0, 1] and bank.held_out().tolist() == [True, True, False]
    lr, hr = (np.load(file) for file in (pairs[0].lr, pairs[0].hr))
    assert lr.shape[:2] == (65, 35)
    images = GainsImages(pairs, (1.0,), "bi", 2)
    lr, hr = images[0]
    assert lr.shape == (64, 32, 3) and hr.shape == (128, 64, 3)
    luma = np.array([65.481, 128.553, 24.966]) / 255
    up = lr.repeat(2, 0).repeat(2, 1).astype(float)
    cells = (((up - hr) @ luma) ** 2).reshape(2, 64, 64).mean((1, 2))
    np.testing.assert_allclose(bank.error[:2, 0], cells, rtol=1e-4)
    assert bank.error[:, 0].tolist() == bank.error[:, 2].tolist()
    assert float(bank.change[:, 1].max()) == 0 < float(bank.change[:, 0].min()) < 22**2
    x = torch.from_numpy(lr.transpose(2, 0, 1)[None].copy()).float() / 255
    seen = GainsHead(depths=1).statistics(x)[0][0].flatten(1).T
    torch.testing.assert_close(bank.statistics[:2], seen)


def test_images_are_resized_and_those_below_a_cell_are_left_out(pairs, tmp_path):
    bank = bank_of(pairs, tmp_path, Depths(), resized=(1.0, 0.5, 2.0))
    assert np.bincount(bank.image, minlength=6).tolist() == [2, 0, 8, 1, 0, 4]


def test_the_network_runs_once_on_each_image(pairs, tmp_path):
    depths = Depths()
    first = bank_of(pairs, tmp_path, depths)
    again = bank_of(pairs, tmp_path, depths)
    assert depths.runs == 2 and torch.equal(first.error, again.error)
