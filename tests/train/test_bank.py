"""The bank of errors, the labels from it, and the calibration."""

import pytest
import torch
from torch import nn

from sr_deploy.train import bank as bank_module
from sr_deploy.train.bank import (
    HELD_OUT,
    Bank,
    BankBatches,
    calibrate,
    calibration_offsets,
    compute_bank,
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
        and bank.errors.shape == (10, 2)
    )
    lr, hr = patches.pixels(1)
    assert torch.equal(bank.lr[4:8], lr)
    y = nn.functional.interpolate(unit_range(lr), scale_factor=2.0)
    expected = torch.stack(
        [((v.clamp(0, 1) - unit_range(hr)) ** 2).mean((1, 2, 3)) for v in (y + 0.1, y)], dim=1
    )
    torch.testing.assert_close(bank.errors[4:8], expected)
    calls = branches.calls
    again = compute_bank(patches, branches, 10, cache=tmp_path, key="k")
    assert branches.calls == calls and torch.equal(again.errors, bank.errors)
    compute_bank(patches, branches, 10, cache=tmp_path, key="another")
    assert branches.calls > calls


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
    assert torch.equal(bank.errors, whole.errors) and torch.equal(bank.lr, whole.lr)


def test_batches_are_flipped_at_random_and_without_held_out_patches(patches):
    bank = Bank(
        torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8), torch.arange(64.0).repeat(2, 1).T
    )
    data = BankBatches(bank, patches)
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
    bank = Bank(
        torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8), torch.arange(64.0)[:, None]
    )
    whole = BankBatches(bank, patches)[5][1].flatten().tolist()
    shares = []
    for rank in range(2):
        part = Patches(
            patches.pairs, scale=2, patch_hr=16, batch_size=4, seed=3, split=BatchSplit(1, rank, 2)
        )
        shares += BankBatches(bank, part)[5][1].flatten().tolist()
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
    bank = Bank(
        torch.randint(0, 256, (160, 3, 8, 8), dtype=torch.uint8),
        torch.rand(160, 2) * torch.tensor([1.1, 1.0]),
    )
    added, share = calibrate(router, bank, [1, 2], 0.2)
    with torch.no_grad():
        chosen = (router(unit_range(bank.lr[::HELD_OUT])) + added).argmax(1)
    assert share == pytest.approx(float(torch.tensor([0.5, 1.0])[chosen].mean()))
