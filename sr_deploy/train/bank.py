"""A bank of patches with the errors of all branches, from which a router trains in minutes.

The paper runs all branches at every step. Their errors do not change while the branches are frozen.
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
from sr_deploy.train.data import Patches, flipped, stacked, unit_range

SAVE_EVERY = 25
"""Steps between two saves of an unfinished bank."""
HELD_OUT = 8
"""Every eighth patch is not trained on but used for calibration."""


@dataclass(frozen=True)
class Bank:
    """LR patches (n, 3, p, p) uint8, and the branches' mean squared errors (n, M) float32, 0..1."""

    lr: Tensor
    errors: Tensor


class BankBatches(torch.utils.data.Dataset):
    """Random batches of a bank: (lr uint8, errors), flipped and transposed, split as `Patches`.

    A patch is assumed to have the same errors in all orientations.
    """

    def __init__(self, bank: Bank, patches: Patches) -> None:
        training = torch.arange(len(bank.lr)) % HELD_OUT != 0
        self.images = bank.lr[training].permute(0, 2, 3, 1).numpy()
        self.errors, self.patches = bank.errors[training], patches

    def __getitem__(self, index: int) -> Tuple[Tensor, Tensor]:
        step, part = self.patches.split.part(index)
        size = self.patches.batch_size
        rng = np.random.default_rng((self.patches.seed, step, 3))
        numbers = rng.integers(len(self.images), size=size)[part]
        flips = rng.integers(2, size=(size, 3))[part]
        images = [flipped(self.images[i], flip) for i, flip in zip(numbers, flips)]
        return stacked(images), self.errors[numbers]

    def sources(self, step: int) -> Sequence[Path]:
        """Return no files: a bank does not record the image of a patch."""
        return []


def compute_bank(
    patches: Patches,
    branches: nn.Module,
    size: int,
    *,
    cache: Path,
    key: object,
    log: Callable[[str], None] = lambda line: None,
) -> Bank:
    """Return the bank of the first `size` patches; as much as possible is read from `cache`.

    branches: (N, 3, h, w) -> (N, M, 3, sh, sw), in eval mode. key: identifies the branches and
    images.
    """
    identity = (key, size, patches.seed, patches.batch_size, patches.side_lr, patches.scale)
    file = cache / f"bank-{hashlib.sha256(repr(identity).encode()).hexdigest()[:24]}.pt"
    lrs: List[Tensor] = []
    errors: List[Tensor] = []
    if file.is_file():  # complete or partial
        saved = torch.load(file, weights_only=True)
        lrs, errors = (list(saved[part].split(patches.batch_size)) for part in ("lr", "errors"))
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
    """Return probabilities (N, M) of the branches, from their squared errors and costs.

    It is the softmax of -(error / lambda_reg + cost as a share of the largest) / softness. Hard
    labels would hide how little a neighbouring class loses on smooth patches.
    """
    share = errors.new_tensor(costs) / max(costs)
    return (-(errors / lambda_reg + share) / softness).softmax(dim=1)


def calibration_offsets(
    logits: Tensor, errors: Tensor, costs: Sequence[float], target_db: float
) -> Tensor:
    """Return offsets (M,) of the logits with which all patches together lose at most `target_db`.

    The loss is against the largest branch. An offset is -mu times the share of the cost, with the
    largest such mu; mu may be negative.
    """
    share = errors.new_tensor(costs) / max(costs)
    limit = errors[:, -1].double().mean() * 10 ** (target_db / 10)
    best = -20.0
    for mu in torch.linspace(-20, 20, 2001):
        classes = (logits - mu * share).argmax(dim=1)
        if errors.double().gather(1, classes[:, None]).mean() <= limit:
            best = float(mu)
    return -best * share


def calibrate(
    router: nn.Module, bank: Bank, costs: Sequence[float], target_db: float
) -> Tuple[Tensor, float]:
    """Return the offsets on the held-out patches, and the share of the largest cost used then."""
    held_out = torch.arange(len(bank.lr)) % HELD_OUT == 0
    with torch.inference_mode():
        logits = torch.cat([router(unit_range(part)) for part in bank.lr[held_out].split(64)])
    offsets = calibration_offsets(logits, bank.errors[held_out], costs, target_db)
    share = torch.tensor(costs, dtype=torch.float64) / max(costs)
    return offsets, float(share[(logits + offsets).argmax(dim=1)].mean())
