"""AdaEDSR that computes a block only at the pixels that need it: convolutions as products of gathered rows (AdaDSR, section 3.2).

Features lie as one row of channels a pixel, with a border of zero rows for the convolutions' padding. A block's second convolution
is computed where its mask is above 0, the first where a 3x3 dilation of it is; other rows stay as they are. Rows cost about twice
what a convolution's own code needs for as many pixels, so the first blocks, which most pixels take, are computed everywhere.
"""

from __future__ import annotations

from typing import Callable, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.depths import DepthPlan
from sr_deploy.nets.adaedsr import AdaEDSR
from sr_deploy.nets.adapter import mask
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.complexity import NTIRE_HW, count
from sr_deploy.nets.edsr import ResidualBlock

DENSE_ABOVE = 0.5
"""The share of pixels above which rows cost more than computing a block everywhere; see benchmarks/adadsr.py."""


class RowSparse(nn.Module):
    """The same function as `AdaEDSR.forward_at`, for one image. x: (1, 3, H, W), depth: (1,) -> image, depth map.

    dense_above: blocks that more than this share of the pixels take are computed everywhere.
    """

    def __init__(self, net: AdaEDSR, *, dense_above: float) -> None:
        super().__init__()
        self.net, self.dense_above = net, dense_above

    def forward(self, x: Tensor, depth: Tensor) -> Tuple[Tensor, Tensor]:
        features = self.net.features(x)  # (1, C, H, W)
        depth_map = self.net.adapter(features, depth)
        masks = [mask(depth_map, number) for number in range(1, len(self.net.blocks) + 1)]
        dense = [(m > 0).to(x.dtype).mean() > self.dense_above for m in masks]  # true, ..., true, false, ..., false
        y = features
        for block, taken, everywhere in zip(self.net.blocks, masks, dense):
            y = _if(everywhere, lambda y, taken, block=block: y + taken * block.residual(y), lambda y, taken: y.clone(), y, taken)
        h, w = x.shape[2:]
        rows = F.pad(y, (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape((h + 2) * (w + 2), -1)
        steps = torch.arange(-1, 2, device=x.device)
        window = (steps.view(3, 1) * (w + 2) + steps).view(1, 9)  # what to add to a row's number to get its 3x3 neighbours'
        for block, taken, everywhere in zip(self.net.blocks, masks, dense):
            rows = _added(rows, torch.where(everywhere, torch.zeros_like(taken), taken), block, window)
        deep = rows.view(1, h + 2, w + 2, -1)[:, 1:-1, 1:-1].permute(0, 3, 1, 2)
        return self.net.image(deep, features), depth_map


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
    return rows.index_copy(0, at, rows.index_select(0, at) + weight * _product(hidden, neighbours, block.conv2))


def _product(rows: Tensor, at: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3x3 convolution whose windows are the rows of the numbers `at`, (n, 9): (n, C_out)."""
    size = 9 * conv.in_channels
    gathered = rows.index_select(0, at.flatten()).view(-1, size)
    return gathered @ conv.weight.permute(2, 3, 1, 0).reshape(size, conv.out_channels) + conv.bias


def _if(condition: Tensor, then: Callable[..., Tensor], otherwise: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """A branch that an exported graph decides when it runs."""
    if torch.compiler.is_exporting():
        return torch.cond(condition, then, otherwise, given)
    return (then if condition else otherwise)(*given)


def rows_plan(checkpoint: Checkpoint, net: AdaEDSR, *, dense: nn.Module, dense_above: float = DENSE_ABOVE) -> DepthPlan:
    """Return what `RowSparse` of a checkpoint's network is and costs. dense: its backbone as it is run, which shares refer to."""
    return DepthPlan(
        model=checkpoint.name, scale=checkpoint.spec.scale, blocks=len(net.blocks), way="rows",
        parent_sha256=checkpoint.spec.weights_sha256, graphs={}, macs_px=_macs_px(dense), conv_macs_px=net.blocks[0].conv1.weight.numel(),
        map_macs_px=_macs_px(net) - _macs_px(net.backbone()), dense_above=dense_above,
    )  # fmt: skip


def _macs_px(net: nn.Module) -> int:
    return count(net, NTIRE_HW, counter="fvcore").macs // (NTIRE_HW[0] * NTIRE_HW[1])
