"""Patches whose errors by every branch are computed once: a router for frozen branches then trains in minutes.

The paper runs all branches at every step. What its loss needs of them does not change while they are frozen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from sr_deploy.core.files import atomic_path
from sr_deploy.train.data import Patches, unit_range

SAVE_EVERY = 25
"""Steps between two savings of a bank that is being made."""
HELD_OUT = 8
"""Every eighth patch is left out of training, to calibrate on."""


@dataclass(frozen=True)
class Bank:
    """LR patches (n, 3, p, p) uint8 and each branch's mean squared error on them, (n, M) float32, of images in 0..1."""

    lr: Tensor
    errors: Tensor


class BankBatches(torch.utils.data.Dataset):
    """Item i is this process's share of micro-batch i % parts of step i // parts: (lr uint8, errors), turned at random.

    Errors are taken to be the same however a patch is turned.
    """

    def __init__(self, bank: Bank, patches: Patches) -> None:
        kept = torch.arange(len(bank.lr)) % HELD_OUT != 0
        self.lr, self.errors, self.patches = bank.lr[kept], bank.errors[kept], patches

    def __getitem__(self, index: int) -> Tuple[Tensor, Tensor]:
        of = self.patches
        step, part = divmod(index, of.parts)
        rng = np.random.default_rng((of.seed, step, 3))
        drawn = rng.integers(len(self.lr), size=of.batch_size)
        flips = rng.integers(2, size=(of.batch_size, 3))
        mine = slice(part * of.ranks + of.rank, None, of.parts * of.ranks)
        lr = torch.stack([_turned(self.lr[i], flip) for i, flip in zip(drawn[mine], flips[mine])])
        return lr, self.errors[drawn[mine]]

    def sources(self, step: int) -> Sequence[Path]:
        """Return nothing: a bank does not say which image a patch is of."""
        return []


def bank_of(
    patches: Patches,
    branches: nn.Module,
    size: int,
    *,
    cache: Path,
    key: object,
    log: Callable[[str], None] = lambda line: None,
) -> Bank:
    """Return the bank of the first `size` patches that `patches` draws, from `cache` as far as it is there.

    branches: (N, 3, h, w) -> (N, M, 3, sh, sw), in eval mode. key: what tells these branches and images from others.
    """
    told = (key, size, patches.seed, patches.batch_size, patches.patch_lr, patches.scale)
    file = cache / f"bank-{hashlib.sha256(repr(told).encode()).hexdigest()[:24]}.pt"
    lrs: List[Tensor] = []
    errors: List[Tensor] = []
    if file.is_file():  # of a finished bank, or as far as it came
        found = torch.load(file, weights_only=True)
        lrs, errors = (list(found[key].split(patches.batch_size)) for key in ("lr", "errors"))
    device = next(branches.parameters()).device
    steps = -(-size // patches.batch_size)
    for step in range(len(lrs), steps):
        lr, hr = patches.pixels(step)
        with torch.inference_mode():
            outputs = branches(unit_range(lr).to(device)).clamp(0, 1).cpu()
            errors.append((outputs - unit_range(hr).unsqueeze(1)).square().mean(dim=(2, 3, 4)))
        lrs.append(lr.contiguous())
        if step % SAVE_EVERY == SAVE_EVERY - 1 or step == steps - 1:
            with atomic_path(file) as temporary:
                torch.save({"lr": torch.cat(lrs), "errors": torch.cat(errors)}, temporary)
            log(f"errors of {min((step + 1) * patches.batch_size, size)} of {size} patches")
    return Bank(torch.cat(lrs)[:size], torch.cat(errors)[:size])


def soft_labels(
    errors: Tensor, costs: Sequence[float], lambda_reg: float, softness: float
) -> Tensor:
    """Return (N, M), rows of sum 1: how good each branch is for each patch, its squared error and its cost weighed together.

    The softmax of -(error / lambda_reg + cost as a share of the largest) / softness: hard labels would say nothing of how much
    is lost by a neighbouring class, which is next to nothing for smooth patches.
    """
    share = errors.new_tensor(costs) / max(costs)
    return (-(errors / lambda_reg + share) / softness).softmax(dim=1)


def calibration(logits: Tensor, errors: Tensor, costs: Sequence[float], target_db: float) -> Tensor:
    """Return (M,): what to add to the logits so that the patches taken together lose `target_db` against the largest branch.

    It is -mu times the cost's share, with the largest mu that loses no more; mu may be negative.
    """
    share = errors.new_tensor(costs) / max(costs)
    limit = errors[:, -1].double().mean() * 10 ** (target_db / 10)
    best = -torch.inf
    for mu in torch.linspace(-20, 20, 2001):
        chosen = (logits - mu * share).argmax(dim=1)
        if errors.double().gather(1, chosen[:, None]).mean() <= limit:
            best = float(mu)
    return -max(best, -20.0) * share


def calibrated(
    router: nn.Module, bank: Bank, costs: Sequence[float], target_db: float
) -> Tuple[Tensor, float]:
    """Return the calibration on the bank's held-out patches, and the share of the largest branch's cost that they then take."""
    held_out = torch.arange(len(bank.lr)) % HELD_OUT == 0
    with torch.inference_mode():
        logits = torch.cat([router(unit_range(part)) for part in bank.lr[held_out].split(64)])
    added = calibration(logits, bank.errors[held_out], costs, target_db)
    share = torch.tensor(costs, dtype=torch.float64) / max(costs)
    return added, float(share[(logits + added).argmax(dim=1)].mean())


def _turned(image: Tensor, flip: np.ndarray) -> Tensor:
    axes = [axis for axis, on in zip((1, 2), flip) if on]
    image = image.flip(axes) if axes else image
    return image.transpose(1, 2) if flip[2] else image
