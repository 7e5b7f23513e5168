"""The gains head: what more depth would gain in each cell of an image, and its checkpoints.

It decides where an elastic network goes deeper. It looks at the local spectrum of the LR image
only, which costs next to nothing: the features of the network tell no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.gains import CELL_PX, GAINS, GainsSpec
from sr_deploy.nets.checkpoint import (
    Checkpoint,
    write_with_card,
)
from sr_deploy.nets.chooser import check_weights, load_chosen, read_weights

BLOCK = 4
"""Side in LR pixels of the blocks whose spectrum is taken."""
LUMA = (65.481, 128.553, 24.966)
"""Y of BT.601 in 0..255, without its offset, of RGB in 0..1."""
_RANGE = 16.0
"""Largest luma here: squares of coefficients then stay within the range of FP16."""
_FLOOR = 1e-3 * _RANGE
"""Added to magnitudes before their logarithm."""
INVISIBLE = 1.0
"""A mean squared error of Y, in 0..255."""
HIDDEN = 32


class GainsHead(nn.Module):
    """The network that predicts gains.

    lr: (N, 3, H, W) float, 0..1, RGB -> gains (N, depths, ceil(H / 32), ceil(W / 32)) of each
    deeper depth, shallow first.

    A gain is the predicted reduction of the mean squared error of Y in the cell against the
    smallest depth, times the share of the cell that is inside the image, relative to the predicted
    mean squared error of the image at the smallest depth plus 1. So the mean of the gains over all
    cells is the share of the image's error that goes away, and less where the error is invisible:
    1 is 48 dB. A gain may be negative.

    depths: the number of deeper depths. hidden: channels between layers.
    """

    filters: Tensor

    def __init__(self, *, depths: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.register_buffer("filters", _spectrum(), persistent=False)  # (15, 3, 4, 4)
        self.size = _layers(2 * len(self.filters), hidden, depths + 1)
        self.worth = _layers(2 * len(self.filters), hidden, depths)

    def forward(self, lr: Tensor) -> Tensor:
        statistics, area = self.statistics(lr)
        error, change, worth = self.predict(statistics)
        mean_error = (error * area).mean((2, 3), keepdim=True) / area.mean((2, 3), keepdim=True)
        return change * worth * area / (mean_error + INVISIBLE)

    def statistics(self, lr: Tensor) -> Tuple[Tensor, Tensor]:
        """Return what is known of each cell, (N, 30, rows, columns), and its area, (N, 1, ...).

        It is the mean magnitude of each frequency over the cell's blocks, and the ratio of root
        mean square and mean, which is large where details are sparse; both as logarithms, moved to
        about -2..2. Blocks that are cut by the border are left out. The area is a share of a whole
        cell.
        """
        side, padding = CELL_PX // BLOCK, (0, BLOCK - 1, 0, BLOCK - 1)
        blocks = F.conv2d(F.pad(lr, padding), self.filters, stride=BLOCK)
        inside = F.avg_pool2d(F.pad(torch.ones_like(lr[:, :1]), padding), BLOCK)
        whole = F.relu(BLOCK**2 * inside - (BLOCK**2 - 1))  # 1, and 0 for blocks that are cut
        count = per_cell(whole, side).clamp(min=(BLOCK / CELL_PX) ** 2)  # that of one block
        mean = torch.log(per_cell(blocks.abs() * whole, side) / count + _FLOOR)
        rms = torch.log(torch.sqrt(per_cell(blocks.square() * whole, side) / count) + _FLOOR)
        return torch.cat([mean / 2 + 0.5, 4 * (rms - mean)], dim=1), per_cell(inside, side)

    def predict(self, statistics: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Return what makes up the gains of each cell, all of Y in 0..255.

        The mean squared error of the smallest depth, (N, 1, rows, columns); the mean squared
        difference between each deeper depth and it, (N, depths, rows, columns); and how much of
        that difference is gained, from -0.2 to 1.2, (N, depths, rows, columns). A deeper network
        that is the better estimate of the mean gains as much as it changes.
        """
        error, change = (
            self.size(statistics).clamp(-9, 10).split([1, self.worth[-1].out_channels], dim=1)
        )
        return error.exp(), change.exp(), 0.5 + 0.7 * self.worth(statistics).tanh()


def _spectrum() -> Tensor:
    """Return the 4x4 discrete cosine transform of Y without its mean, (15, 3, 4, 4)."""
    k, x = torch.arange(BLOCK)[:, None], torch.arange(BLOCK)[None]
    rows = torch.cos(math.pi * (x + 0.5) * k / BLOCK) * math.sqrt(2 / BLOCK)
    rows[0] /= math.sqrt(2)
    filters = torch.einsum("ai,bj->abij", rows, rows).reshape(-1, BLOCK, BLOCK)[1:]
    return filters[:, None] * (torch.tensor(LUMA) * _RANGE / 255)[:, None, None]


def _layers(channels: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 1),
        nn.ReLU(),
        nn.Conv2d(hidden, outputs, 1),
    )


def per_cell(x: Tensor, side: int) -> Tensor:
    """Return the sums over cells of `side` positions as shares of a whole cell's positions."""
    return F.avg_pool2d(F.pad(x, (0, side - 1, 0, side - 1)), side)


@dataclass(frozen=True)
class Gains:
    """A trained gains head with its card. `name` is its file's name without the suffix."""

    name: str
    spec: GainsSpec
    weights: Dict[str, Tensor]
    path: Path

    def __repr__(self) -> str:
        return f"<Gains {self.name} of {self.spec.model} {', '.join(self.spec.variants)}>"

    def network(self) -> GainsHead:
        """Return the head with its weights, in eval mode."""
        net = gains_network(self.spec)
        net.load_state_dict(self.weights)
        return net

    def checkpoint(self) -> Checkpoint:
        """Load the checkpoint whose depths it chooses between.

        A file in the head's folder takes precedence over a shipped checkpoint. Raises InputError
        when it is missing, CheckpointError when the head was trained with other weights.
        """
        spec = self.spec
        checkpoint = load_chosen(
            self.path,
            spec.model,
            spec.model_sha256,
            name=self.name,
            kind=GAINS.title,
            missing=f"the gains head '{self.name}' chooses between depths of '{spec.model}', "
            "which was not found",
        )
        for variant in spec.variants:
            checkpoint.spec.variant(variant)
        return checkpoint


def gains_network(spec: GainsSpec) -> GainsHead:
    """Return the untrained head of a card. Raises CheckpointError for a bad configuration."""
    for key in sorted(set(spec.config) - {"hidden"}):
        raise CheckpointError(f"unknown configuration key '{key}' of a gains head; expected hidden")
    hidden = spec.config.get("hidden", HIDDEN)
    if type(hidden) is not int or not 1 <= hidden <= 4096:
        raise CheckpointError(
            f"'hidden' of a gains head must be an integer from 1 to 4096, got {hidden!r}"
        )
    return GainsHead(depths=len(spec.variants) - 1, hidden=hidden).eval()


def load_gains(model: Union[str, Path]) -> Gains:
    """Load a gains head by its path (of the weights or the card), or a shipped one by its name.

    The checkpoint of its depths is not read. Raises InputError when there is no such head,
    CheckpointError when the file is damaged or does not match its card.
    """
    path = GAINS.path_of(str(model))
    spec = GAINS.read_card(path)
    weights = read_weights(path, spec.weights_sha256)
    check_weights(path, weights, lambda: gains_network(spec))
    return Gains(GAINS.name_of(path), spec, weights, path)


def save_gains(folder: Path, name: str, spec: GainsSpec, weights: Dict[str, Tensor]) -> Path:
    """Write `name`.gains.safetensors and its card to `folder`; return the path of the weights."""
    return write_with_card(folder / (name + GAINS.suffix), spec, weights)
