"""Recipes are data: one line a choice, with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict


@dataclass(frozen=True)
class Recipe:
    """Everything that fixes a run but the images and the seed."""

    arch: str
    scale: int
    method: str
    """`asrn-full` (DSL + PSD), or `sandwich` (elastic width)."""
    steps: int
    patch_lr: int
    """LR pixels a side."""
    batch_size: int = 16
    loss: str = "l1"
    peak_lr: float = 1.5e-3
    """Adam, one cycle: linear warm-up over the first twentieth, cosine to zero."""
    psd: float = 0.1
    """ASRN, section 4.2: lambda = 0.1."""
    ema: float = 0.999


RECIPES: Dict[str, Recipe] = {
    # The paper trains with MSE, lr 1e-4 for days; L1 and one cycle get further in an hour on two cores.
    "asrn-x4-small": Recipe(arch="asrn", scale=4, method="asrn-full", steps=10_000, patch_lr=32),
    "imdeception-x4-small": Recipe(arch="imdeception", scale=4, method="sandwich", steps=8_000, patch_lr=32, batch_size=8, peak_lr=1e-3),
    # To go on from that with --init: larger batches, half the rate.
    "imdeception-x4-small-2": Recipe(arch="imdeception", scale=4, method="sandwich", steps=3_000, patch_lr=32, batch_size=16, peak_lr=5e-4),
}
