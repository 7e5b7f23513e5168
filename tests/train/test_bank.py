"""The bank of errors, the labels from it, and the calibration."""

import numpy as np
import pytest
import torch
from torch import nn

from sr_deploy.core.errors import InputError
from sr_deploy.train import bank as bank_module
from sr_deploy.train.bank import (
    HELD_OUT,
    Bank,
    BankBatches,
    calibrate,
    calibration_offsets,
    compute_bank,
    fit_lambda,
    oracle_share,
    soft_labels,
)
from sr_deploy.train.data import BatchSplit, Patches, image_pairs, unit_range


class TwoBranches(nn.Module):
    """Nearest neighbours, and the same with a number added."""

    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.tensor(0.1))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        y = nn.functional.interpolate(x, scale_factor=2.0)
        return torch.stack([y + self.number, y], dim=1)


@pytest.fixture()
def patches(images, cache):
    return Patches(
        image_pairs([images], cache, scale=2, min_hr=16), scale=2, patch_hr=16, batch_size=4, seed=3
    )


def test_a_bank_holds_the_errors_of_the_patches_drawn(patches, tmp_path):
    branches = TwoBranches()
    bank = compute_bank(patches, branches, 10, cache=tmp_path, key="k")
    assert (
        bank.lr.shape == (10, 3, 8, 8)
        and bank.lr.dtype == torch.uint8
        and bank.squared.shape == bank.absolute.shape == (10, 2)
        and bank.differences.shape == (10, 2, 0)
    )
    lr, hr = patches.pixels(1)
    assert torch.equal(bank.lr[4:8], lr)
    y = nn.functional.interpolate(unit_range(lr), scale_factor=2.0)
    expected = torch.stack(
        [((v.clamp(0, 1) - unit_range(hr)) ** 2).mean((1, 2, 3)) for v in (y + 0.1, y)], dim=1
    )
    torch.testing.assert_close(bank.squared[4:8], expected)
    hr = unit_range(hr)
    expected = torch.stack(
        [(v.clamp(0, 1) - hr).abs().mean((1, 2, 3)) for v in (y + 0.1, y)], dim=1
    )
    torch.testing.assert_close(bank.absolute[4:8], expected)
    calls = branches.calls
    again = compute_bank(patches, branches, 10, cache=tmp_path, key="k")
    assert branches.calls == calls and torch.equal(again.squared, bank.squared)
    compute_bank(patches, branches, 10, cache=tmp_path, key="another")
    assert branches.calls > calls


def test_a_bank_holds_some_differences_of_each_patch(patches, tmp_path):
    bank = compute_bank(patches, TwoBranches(), 8, cache=tmp_path, key="k", values=5000)
    lr, hr = patches.pixels(1)
    with torch.no_grad():
        outputs = TwoBranches()(unit_range(lr)).clamp(0, 1)
    every = (outputs - unit_range(hr)[:, None]).flatten(2)
    assert bank.differences.shape == (8, 2, 5000) and bank.differences.dtype == torch.float16
    for given, held in zip(every.flatten(0, 1).half(), bank.differences[4:].flatten(0, 1)):
        assert set(held.tolist()) <= set(given.tolist())
    estimate = bank.differences.float().abs().mean(dim=2)
    torch.testing.assert_close(estimate, bank.absolute, rtol=0, atol=0.01)


def test_branches_see_what_is_around_a_patch(patches, tmp_path):
    class Blurs(TwoBranches):
        def forward(self, x):
            y = super().forward(x)
            blurred = nn.functional.avg_pool2d(y.flatten(0, 1), 5, stride=1, padding=2)
            return blurred.unflatten(0, y.shape[:2])

    bank = compute_bank(patches, Blurs(), 4, cache=tmp_path, key="k", surroundings=True)
    for number, (at, _) in enumerate(patches._draw(0)):
        pair = patches.pairs[at.image]
        lr, hr = (
            unit_range(torch.from_numpy(np.load(f)).permute(2, 0, 1)[None])
            for f in (pair.lr, pair.hr)
        )
        rows, columns = (slice(2 * start, 2 * (start + 8)) for start in (at.top, at.left))
        with torch.no_grad():
            difference = Blurs()(lr)[0].clamp(0, 1) - hr[0, :, : 2 * lr.shape[2], : 2 * lr.shape[3]]
        expected = difference[..., rows, columns].abs().mean(dim=(1, 2, 3))
        torch.testing.assert_close(bank.absolute[number], expected)
        patch = lr[0, :, at.top : at.top + 8, at.left : at.left + 8]
        torch.testing.assert_close(unit_range(bank.lr[number]), patch)


def test_an_interrupted_bank_is_continued(patches, tmp_path, monkeypatch):
    monkeypatch.setattr(bank_module, "SAVE_EVERY", 2)
    whole = compute_bank(patches, TwoBranches(), 20, cache=tmp_path / "whole", key="k")

    class Stops(TwoBranches):
        def forward(self, x):
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt):
        compute_bank(patches, Stops(), 20, cache=tmp_path / "halves", key="k")
    rest = TwoBranches()
    bank = compute_bank(patches, rest, 20, cache=tmp_path / "halves", key="k")
    assert rest.calls == 3, "two of the five batches were saved"
    assert torch.equal(bank.squared, whole.squared) and torch.equal(bank.lr, whole.lr)


def bank_of(errors):
    lr = torch.randint(0, 256, (len(errors), 3, 8, 8), dtype=torch.uint8)
    return Bank(lr, errors, errors, errors[..., None].half())


def test_batches_are_flipped_at_random_and_without_held_out_patches(patches):
    bank = bank_of(torch.arange(64.0).repeat(2, 1).T)
    data = BankBatches(bank, bank.squared, patches)
    seen = set()
    for step in range(120):
        lr, errors = data[step]
        assert lr.shape == (4, 3, 8, 8) and errors.shape == (4, 2)
        for patch, error in zip(lr, errors):
            assert torch.equal(
                patch.flatten().sort()[0], bank.lr[int(error[0])].flatten().sort()[0]
            ), "the errors of its own patch"
        seen |= {int(e) for e in errors[:, 0]}
    assert seen == {n for n in range(64) if n % HELD_OUT}
    again = data[7]
    assert all(torch.equal(a, b) for a, b in zip(again, data[7]))


def test_processes_share_a_batch(patches):
    bank = bank_of(torch.arange(64.0)[:, None])
    whole = BankBatches(bank, bank.squared, patches)[5][1].flatten().tolist()
    shares = []
    for rank in range(2):
        part = Patches(
            patches.pairs, scale=2, patch_hr=16, batch_size=4, seed=3, split=BatchSplit(1, rank, 2)
        )
        shares += BankBatches(bank, bank.squared, part)[5][1].flatten().tolist()
    assert sorted(shares) == sorted(whole)


def test_soft_labels_weigh_error_and_cost():
    errors = torch.tensor([[4e-4, 1e-4, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    labels = soft_labels(errors, [1, 2, 4], 2e-4, 0.5)
    weights = torch.exp(
        -(errors / 2e-4 + torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)) / 0.5
    )
    torch.testing.assert_close(labels, weights / weights.sum(1, keepdim=True))
    assert labels[0].argmax() == 1 and labels[1].argmax() == 0, (
        "without a gain the cheapest is the best"
    )


def test_calibration_uses_the_allowed_loss_and_no_more():
    torch.manual_seed(0)
    errors = torch.rand(400, 1) * torch.tensor([[2.0, 1.2, 1.0]])
    logits = -errors / 0.5 + 0.3 * torch.randn(400, 3)
    costs = [1, 2, 4]
    shares = []
    for target in (0.1, 0.5, 1.0):
        added = calibration_offsets(logits, errors, costs, target)
        chosen = (logits + added).argmax(1)
        lost = 10 * torch.log10(errors.gather(1, chosen[:, None]).mean() / errors[:, -1].mean())
        assert target - 0.05 < lost <= target + 1e-6
        shares.append(float((torch.tensor(costs) / 4.0)[chosen].mean()))
    assert shares == sorted(shares, reverse=True) and shares[-1] < shares[0]


def test_a_router_is_calibrated_on_the_patches_held_out():
    torch.manual_seed(0)
    router = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    bank = bank_of(torch.rand(160, 2) * torch.tensor([1.1, 1.0]))
    added, share = calibrate(router, bank, [1, 2], 0.2)
    with torch.no_grad():
        chosen = (router(unit_range(bank.lr[::HELD_OUT])) + added).argmax(1)
    assert share == pytest.approx(float(torch.tensor([0.5, 1.0])[chosen].mean()))


def test_the_oracle_takes_the_least_error_and_cost_of_each_patch():
    errors = torch.tensor([[0.03, 0.02, 0.019], [0.01, 0.0099, 0.0099], [0.05, 0.04, 0.02]])
    costs = [1, 2, 4]
    assert oracle_share(errors, costs, 0.0) == pytest.approx((1 + 0.5 + 1) / 3)
    # at 0.004 the costs are 0.001, 0.002 and 0.004: 0.031 0.022 0.023, 0.011 ..., 0.051 0.042 0.024
    assert oracle_share(errors, costs, 0.004) == pytest.approx((0.5 + 0.25 + 1) / 3)
    assert oracle_share(errors, costs, 1.0) == 0.25


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75, 0.9])
def test_a_fitted_lambda_brings_the_oracle_to_the_share(share):
    torch.manual_seed(0)
    errors = 0.02 + 1e-3 * torch.rand(2000, 1) * torch.tensor([[3.0, 1.0, 0.0]])
    fitted = fit_lambda(errors, [1, 2, 4], share)
    assert oracle_share(errors, [1, 2, 4], fitted) == pytest.approx(share, abs=1e-3)
    assert oracle_share(errors, [1, 2, 4], 0.99 * fitted) > share
    # the same errors in 0..255: lambda is in the unit of the errors
    assert fit_lambda(255 * errors, [1, 2, 4], share) == pytest.approx(255 * fitted, rel=1e-3)


def test_a_share_that_needs_no_cost_term_and_one_that_cannot_be_reached():
    errors = torch.tensor([[0.01, 0.02], [0.02, 0.01]])
    assert fit_lambda(errors, [1, 2], 0.8) == 0.0
    with pytest.raises(InputError, match="a share of 0.4 cannot be reached.* 0.500 of the largest"):
        fit_lambda(errors, [1, 2], 0.4)
