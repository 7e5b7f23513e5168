"""AdaEDSR in parts that compute a block only at the pixels that need it, by gathered rows (AdaDSR, section 3.2), or everywhere.

Between the parts lie the head's features, the depth map and what the blocks made so far; who runs them chooses by the map, for a few
blocks at a time. By rows, a block's second convolution is computed where its mask is above 0, the first where a 3x3 dilation of it is.
Rows cost about twice what a convolution's own code needs for as many pixels: what most pixels take is better computed everywhere.
"""

from __future__ import annotations

from typing import List, Sequence, Tuple, Type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.depth_plan import DepthPlan, groups_of
from sr_deploy.nets.adaedsr import AdaEDSR
from sr_deploy.nets.adapter import mask
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.complexity import NTIRE_HW, count
from sr_deploy.nets.edsr import EDSRParts, ResidualBlock

ROWS_ABOVE = 0.5
"""The share of pixels above which rows cost more than computing blocks everywhere; see benchmarks/adaptive.py."""


class Start(nn.Module):
    """x: (1, 3, H, W), depth: (1,) -> the head's features, (1, C, H, W), and the depth map, (1, 1, H, W)."""

    def __init__(self, net: AdaEDSR) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, depth: Tensor) -> Tuple[Tensor, Tensor]:
        features = self.net.features(x)
        return features, self.net.adapter(features, depth)


class Everywhere(nn.Module):
    """Blocks of numbers `first` to `last`, from 1, at every pixel: what came of those before, and the map -> the same with theirs."""

    def __init__(self, net: EDSRParts, first: int, last: int) -> None:
        super().__init__()
        self.first, self.blocks = first, nn.ModuleList(list(net.blocks)[first - 1 : last])

    def forward(self, y: Tensor, depth_map: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks, self.first):
            y = y + mask(depth_map, number) * block.residual(y)
        return y


class ByRows(Everywhere):
    """The same, computed at the pixels that take each block alone."""

    def forward(self, y: Tensor, depth_map: Tensor) -> Tensor:
        h, w = y.shape[2:]
        # One row of channels a pixel, with a border of zero rows for the convolutions' padding.
        rows = F.pad(y, (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape((h + 2) * (w + 2), -1)
        steps = torch.arange(-1, 2, device=y.device)
        window = (steps.view(3, 1) * (w + 2) + steps).view(
            1, 9
        )  # what to add to a row's number to get its 3x3 neighbours'
        for number, block in enumerate(self.blocks, self.first):
            rows = _added(rows, mask(depth_map, number), block, window)
        return rows.view(1, h + 2, w + 2, -1)[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


class End(nn.Module):
    """What the blocks made and the head's features -> the image, (1, 3, scale*H, scale*W)."""

    def __init__(self, net: EDSRParts) -> None:
        super().__init__()
        self.net = net

    def forward(self, y: Tensor, features: Tensor) -> Tensor:
        return self.net.image(y, features)


def parts_of(net: AdaEDSR, groups: Sequence[int], skipping: Type[Everywhere]) -> List[nn.Module]:
    """Return the start, the end, and for each group of blocks that ends with a number of `groups` it everywhere, then by `skipping`."""
    firsts = [1, *(last + 1 for last in groups[:-1])]
    pairs = [
        kind(net, first, last)
        for first, last in zip(firsts, groups)
        for kind in (Everywhere, skipping)
    ]
    return [Start(net), End(net), *pairs]


def _added(rows: Tensor, taken: Tensor, block: ResidualBlock, window: Tensor) -> Tensor:
    """Add a block to the rows, ((H+2)*(W+2), C), where its mask, (1, 1, H, W), is above 0."""
    near = F.max_pool2d(taken, 3, stride=1, padding=1)
    taken, near = (F.pad(m, (1, 1, 1, 1)).flatten() for m in (taken, near))
    at, hidden_at = taken.nonzero().flatten(), near.nonzero().flatten()
    hidden = F.relu(_product(rows, hidden_at.view(-1, 1) + window, block.conv1))
    hidden = F.pad(hidden, (0, 0, 1, 0))  # row 0: zeros, for the pixels of the padding
    place = (near > 0).to(torch.int64).cumsum(0) * (near > 0)  # of a pixel's row among them
    neighbours = place.index_select(0, (at.view(-1, 1) + window).flatten()).view(-1, 9)
    weight = taken.index_select(0, at).view(-1, 1)
    return rows.index_copy(
        0, at, rows.index_select(0, at) + weight * _product(hidden, neighbours, block.conv2)
    )


def _product(rows: Tensor, at: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3x3 convolution whose windows are the rows of the numbers `at`, (n, 9): (n, C_out)."""
    size = 9 * conv.in_channels
    gathered = rows.index_select(0, at.flatten()).view(-1, size)
    return gathered @ conv.weight.permute(2, 3, 1, 0).reshape(size, conv.out_channels) + conv.bias


def rows_plan(checkpoint: Checkpoint, net: AdaEDSR, *, dense: nn.Module) -> DepthPlan:
    """Return what a checkpoint's network by rows is and costs. dense: its backbone as it is run, which shares refer to."""
    return DepthPlan(
        model=checkpoint.name,
        scale=checkpoint.spec.scale,
        blocks=len(net.blocks),
        way="rows",
        parent_sha256=checkpoint.spec.weights_sha256,
        graphs={},
        macs_px=_macs_px(dense),
        conv_macs_px=net.blocks[0].conv1.weight.numel(),
        map_macs_px=_macs_px(net) - _macs_px(net.backbone()),
        dense_above=ROWS_ABOVE,
        depths=groups_of(len(net.blocks)),
        fixed=net.adapter.scaled == "none",
    )


def _macs_px(net: nn.Module) -> int:
    return count(net, NTIRE_HW, counter="fvcore").macs // (NTIRE_HW[0] * NTIRE_HW[1])
