"""A bank of patches with the errors of all branches.

A router learns from it in minutes: the paper runs all branches at every step, but their images do
not change while they are frozen. lambda of eq. 4 is fitted to it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import atomic_path
from sr_deploy.train.data import HELD_OUT, Patches, Window, flipped, stacked, unit_range

SAVE_EVERY = 25
"""Steps between two saves of an unfinished bank."""
BANK_BATCH = 16
"""Patches drawn at a time, whatever the batch of the recipe: so that recipes share a bank."""
SURROUNDINGS_PX = 16
"""LR pixels that a branch sees around a patch. FSRCNN's output depends on 7."""
AT_ONCE = 8
"""Patches that all branches run on at a time, which bounds the memory."""


@dataclass(frozen=True)
class Bank:
    """Patches and how far each branch is from their HR images, in 0..1. n patches, M branches."""

    lr: Tensor
    """(n, 3, p, p) uint8."""
    squared: Tensor
    """Mean squared errors, (n, M) float32."""
    absolute: Tensor
    """Mean absolute errors, (n, M) float32."""
    differences: Tensor
    """Output minus HR image at some values of each patch, (n, M, values) float16."""


class BankBatches(torch.utils.data.Dataset):
    """Random batches of a bank: (lr uint8, targets), flipped and transposed, split as `Patches`.

    targets: a float tensor of the bank. A patch is assumed to have the same in all orientations.
    """

    def __init__(self, bank: Bank, targets: Tensor, patches: Patches) -> None:
        training = torch.arange(len(bank.lr)) % HELD_OUT != 0
        self.images = bank.lr[training].permute(0, 2, 3, 1).numpy()
        self.targets, self.patches = targets[training], patches

    def __getitem__(self, index: int) -> Tuple[Tensor, Tensor]:
        step, part = self.patches.split.part(index)
        size = self.patches.batch_size
        rng = np.random.default_rng((self.patches.seed, step, 3))
        numbers = rng.integers(len(self.images), size=size)[part]
        flips = rng.integers(2, size=(size, 3))[part]
        images = [flipped(self.images[i], flip) for i, flip in zip(numbers, flips)]
        return stacked(images), self.targets[numbers].float()

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
    values: int = 0,
    surroundings: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Bank:
    """Return the bank of the first `size` patches; as much as possible is read from `cache`.

    branches: (N, 3, h, w) -> (N, M, 3, sh, sw), in eval mode; their images are clamped to 0..1.
    key: identifies the branches and images. values: number of differences of each patch, at the
    same places of a batch. surroundings: whether the branches also see what is around a patch.
    """
    identity = [key, size, patches.seed, patches.batch_size, patches.side_lr, patches.scale, values]
    identity += ["surroundings"] if surroundings else []
    file = cache / f"bank-{hashlib.sha256(repr(tuple(identity)).encode()).hexdigest()[:24]}.pt"
    parts: Dict[str, List[Tensor]] = {name.name: [] for name in fields(Bank)}
    if file.is_file():  # complete or partial
        saved = torch.load(file, weights_only=True)
        parts = {name: [saved[name]] for name in parts}
    device = next(branches.parameters()).device
    steps = -(-size // patches.batch_size)
    done = sum(map(len, parts["lr"])) // patches.batch_size
    for step in range(done, steps):
        windows = (
            patches.windows(step, SURROUNDINGS_PX) if surroundings else _whole(patches.pixels(step))
        )
        chosen = np.random.default_rng((step, 4)).integers(
            3 * (patches.scale * patches.side_lr) ** 2, size=values
        )
        for seen, lr, hr, inside in windows:
            with torch.inference_mode():
                outputs = branches(unit_range(seen).to(device))[inside].clamp(0, 1).cpu()
                difference = (outputs - unit_range(hr).unsqueeze(1)).flatten(2)
            parts["lr"].append(lr.contiguous())
            parts["squared"].append(difference.square().mean(dim=2))
            parts["absolute"].append(difference.abs().mean(dim=2))
            parts["differences"].append(difference[:, :, torch.from_numpy(chosen)].half())
        if step % SAVE_EVERY == SAVE_EVERY - 1 or step == steps - 1:
            parts = {name: [torch.cat(part)] for name, part in parts.items()}
            with atomic_path(file) as temporary:
                torch.save({name: part for name, (part,) in parts.items()}, temporary)
            log(f"errors of {min((step + 1) * patches.batch_size, size)} of {size} patches")
    return Bank(**{name: torch.cat(part)[:size] for name, part in parts.items()})


def _whole(pixels: Tuple[Tensor, Tensor]) -> Iterator[Window]:
    """Yield the patches of a batch without surroundings, few at a time."""
    for lr, hr in zip(*(part.split(AT_ONCE) for part in pixels)):
        yield lr, lr, hr, (...,)


def soft_labels(
    errors: Tensor, costs: Sequence[float], lambda_reg: float, softness: float
) -> Tensor:
    """Return probabilities (N, M) of the branches, from their squared errors and costs.

    It is the softmax of -(error / lambda_reg + cost as a share of the largest) / softness. Hard
    labels would hide how little a neighbouring class loses on smooth patches.
    """
    share = errors.new_tensor(costs) / max(costs)
    return (-(errors / lambda_reg + share) / softness).softmax(dim=1)


def oracle_share(errors: Tensor, costs: Sequence[float], lambda_reg: float) -> float:
    """Return the mean cost, as a share of the largest, of each patch's best branch by eq. 4.

    That is the branch of the least error + lambda_reg * share of the cost. errors: (N, M),
    absolute.
    """
    share = errors.new_tensor(costs, dtype=torch.float64) / max(costs)
    return float(share[(errors.double() + lambda_reg * share).argmin(dim=1)].mean())


def fit_lambda(errors: Tensor, costs: Sequence[float], share: float) -> float:
    """Return the least lambda_reg of eq. 4 with which the oracle costs at most `share`.

    It is 0 if the branches of the least error cost no more than that. Raises InputError if the
    smallest branch costs more.
    """
    least = min(costs) / max(costs)
    if share < least:
        raise InputError(
            f"a share of {share} cannot be reached: the smallest branch costs {least:.3f} of the "
            "largest",
            hint="give the recipe a larger share, or smaller branches",
        )
    if oracle_share(errors, costs, 0.0) <= share:
        return 0.0
    low, high = 0.0, 1e-9
    while oracle_share(errors, costs, high) > share:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        fits = oracle_share(errors, costs, middle) <= share
        low, high = (low, middle) if fits else (middle, high)
    return high


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
    offsets = calibration_offsets(logits, bank.squared[held_out], costs, target_db)
    share = torch.tensor(costs, dtype=torch.float64) / max(costs)
    return offsets, float(share[(logits + offsets).argmax(dim=1)].mean())
