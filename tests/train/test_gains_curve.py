import numpy as np
import pytest
import torch

from sr_deploy.train.gains_bank import GainsBank
from sr_deploy.train.gains_curve import (
    chosen_depths,
    default_price,
    gains_curve,
    gains_of,
    share_of,
)

MACS = [100, 200, 400]
BANK = GainsBank(
    statistics=torch.zeros(4, 30),
    change=torch.zeros(4, 2),
    error=torch.tensor([[10.0, 8, 7], [10, 10, 10], [2, 2, 2], [2, 1, 1]]),
    image=torch.tensor([3, 3, 5, 5]),
)
TRUE = (BANK.error[:, :1] - BANK.error).numpy() / np.array([10, 10, 2, 2])[:, None]


def test_a_higher_price_buys_less():
    assert chosen_depths(TRUE, MACS, 0.0).tolist() == [2, 0, 0, 1]
    assert chosen_depths(TRUE, MACS, 1e-3).tolist() == [1, 0, 0, 1]
    assert chosen_depths(TRUE, MACS, 1e-2).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("share, obtained", [(0.5, 0.5), (0.49, 0.375), (0.3, 0.25), (1.0, 0.5)])
def test_the_default_price_keeps_a_share(share, obtained):
    price = default_price(TRUE, MACS, share)
    assert share_of(TRUE, MACS, price) == obtained
    assert (price == 0) == (share >= 0.5)


def test_the_curve_compares_mean_psnr_over_images_with_each_depth():
    curve = gains_curve(TRUE, BANK, MACS)
    assert curve.static_share.tolist() == [0.25, 0.5, 1]
    db = [np.mean(10 * np.log10(255**2 / np.array(e))) for e in ([10, 2], [9, 1.5], [8.5, 1.5])]
    np.testing.assert_allclose(curve.static_db, db)
    assert curve.share[0] == 0.25 and curve.share[-1] == 0.5
    np.testing.assert_allclose(curve.db[-1], db[2])
    lines = list(curve.lines(["d1", "d2", "d3"]))
    assert (
        lines[1] == f"d3 {db[2]:.3f} dB: the same with gains 50% of its work; "
        "with its work +0.000 dB"
    )
    assert "the same with gains 75% of its work" in lines[0]
    worse = gains_curve(-TRUE, BANK, MACS, [1.0])
    assert "the same with gains not reached" in next(worse.lines(["d1", "d2", "d3"]))


def test_gains_are_relative_to_the_error_that_is_predicted_for_the_image():
    class Head:
        def predict(self, statistics):
            error = torch.tensor([1.0, 1, 3, 5]).reshape(4, 1, 1, 1)
            return error, torch.full((4, 2, 1, 1), 4.0), torch.full((4, 2, 1, 1), 0.5)

    gains = gains_of(Head(), BANK)
    assert gains.tolist() == [[0, 1, 1], [0, 1, 1], [0, 0.4, 0.4], [0, 0.4, 0.4]]
