"""AdaEDSR split into modules that skip blocks where the depth map says so (AdaDSR, section 3.2).

The start gives the head's features and the depth map, groups of blocks follow, the end gives the
image. Each group exists in two versions, dense and skipping; the runner chooses one by the map:

- `rows` gathers the pixels that need a block: the second convolution is computed where the block's
  mask is above 0, the first where a 3x3 dilation of the mask is. A gathered pixel costs about twice
  a pixel of a dense convolution, so blocks that most pixels need are better computed densely.
- `tiles` cuts out the tiles with such pixels, for engines that take dense tensors only.
"""

from __future__ import annotations

from pathlib import Path
from typing import List, Mapping, Optional, Sequence, Tuple, Type, Union, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.depth_plan import WAYS, DepthPlan, quarter_depths
from sr_deploy.core.errors import InputError
from sr_deploy.nets.adaedsr import AdaEDSR
from sr_deploy.nets.adapter import mask
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint
from sr_deploy.nets.complexity import count
from sr_deploy.nets.edsr import EDSRBase, ResidualBlock
from sr_deploy.nets.fuse import fuse_network

DENSE_ABOVE = {"rows": 0.5, "tiles": 0.6}
"""The share above which a group is computed densely; see `DepthPlan` and benchmarks/adaptive.py."""
TILE = 64


def load_adaedsr(model: Union[str, Path, Checkpoint]) -> Tuple[Checkpoint, AdaEDSR]:
    """Return an AdaEDSR checkpoint and its network. Raises InputError for other architectures."""
    checkpoint = model if isinstance(model, Checkpoint) else load_checkpoint(model)
    net = checkpoint.network()
    if not isinstance(net, AdaEDSR):
        raise InputError(
            f"'{checkpoint.name}' is of the architecture {checkpoint.spec.arch}: "
            "only AdaEDSR can skip blocks",
            hint="use a checkpoint of adaedsr",
        )
    return checkpoint, net


def depth_plan(
    checkpoint: Checkpoint,
    net: AdaEDSR,
    *,
    way: str = "rows",
    dense_above: Optional[float] = None,
    tile: int = TILE,
) -> DepthPlan:
    """Return the plan of a network that skips blocks by `way`, without its parts.

    dense_above: see `DepthPlan`; None is the measured default. tile: LR pixels a side.
    Raises InputError for an unknown way or values out of range.
    """
    if way not in WAYS:
        raise InputError(f"unknown way '{way}'; expected {' or '.join(WAYS)}")
    dense_above = DENSE_ABOVE[way] if dense_above is None else dense_above
    if not 0 <= dense_above <= 1:
        raise InputError(f"dense_above is {dense_above:g}; expected 0 to 1")
    if way == "tiles" and not 1 <= tile <= 4096:
        raise InputError(f"the tile size is {tile} LR pixels; expected 1 to 4096")
    backbone = net.backbone()
    return DepthPlan(
        model=checkpoint.name,
        scale=checkpoint.spec.scale,
        blocks=len(net.blocks),
        way=way,
        parent_sha256=checkpoint.spec.weights_sha256,
        macs_px=_macs_px(fuse_network(backbone)[0]),
        conv_macs_px=cast(ResidualBlock, net.blocks[0]).conv1.weight.numel(),
        map_macs_px=_macs_px(net) - _macs_px(backbone),
        dense_above=dense_above,
        tile=tile if way == "tiles" else 0,
        depths=quarter_depths(len(net.blocks)),
        fixed=net.adapter.scaled == "none",
    )


def split_network(net: AdaEDSR, depths: Sequence[int], way: str) -> List[nn.Module]:
    """Return the start, the end, and two modules for each group of blocks: dense, and by `way`.

    depths: the last block of each group, counted from 1.
    """
    fused = cast(AdaEDSR, fuse_network(net)[0])
    groups = [
        version(fused, first, last)
        for first, last in zip([1, *(last + 1 for last in depths)], depths)
        for version in (DenseBlocks, SKIPPING[way])
    ]
    return [Start(fused), End(fused), *groups]


class Start(nn.Module):
    """x: (1, 3, H, W), depth: (1,) -> features (1, C, H, W) and the depth map (1, 1, H, W)."""

    def __init__(self, net: AdaEDSR) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, depth: Tensor) -> Tuple[Tensor, Tensor]:
        features = self.net.features(x)
        return features, self.net.adapter(features, depth)


class End(nn.Module):
    """The output of the blocks and the head's features -> the image, (1, 3, scale*H, scale*W)."""

    def __init__(self, net: AdaEDSR) -> None:
        super().__init__()
        self.net = net

    def forward(self, y: Tensor, features: Tensor) -> Tensor:
        return self.net.image(y, features)


class DenseBlocks(nn.Module):
    """Blocks `first` to `last`, counted from 1, at every pixel.

    y: (1, C, H, W), depth_map: (1, 1, H, W) -> (1, C, H, W).
    """

    def __init__(self, net: EDSRBase, first: int, last: int) -> None:
        super().__init__()
        self.first = first
        self.blocks = nn.ModuleList(list(net.blocks)[first - 1 : last])

    def numbered(self) -> List[Tuple[int, ResidualBlock]]:
        return [(n, cast(ResidualBlock, b)) for n, b in enumerate(self.blocks, self.first)]

    def forward(self, y: Tensor, depth_map: Tensor) -> Tensor:
        for number, block in self.numbered():
            y = y + mask(depth_map, number) * block.residual(y)
        return y


class RowBlocks(DenseBlocks):
    """The same function, computed only at the pixels that need each block."""

    def forward(self, y: Tensor, depth_map: Tensor) -> Tensor:
        h, w = y.shape[2:]
        # A row of channels for each pixel, with a border of zeros for the convolutions' padding.
        rows = F.pad(y, (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape((h + 2) * (w + 2), -1)
        steps = torch.arange(-1, 2, device=y.device)
        window = (steps.view(3, 1) * (w + 2) + steps).view(1, 9)  # offsets of the 3x3 neighbours
        for number, block in self.numbered():
            rows = _add_block(rows, mask(depth_map, number), block, window)
        return rows.view(1, h + 2, w + 2, -1)[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


class TileBlocks(DenseBlocks):
    """The same function on tiles with the surroundings that they depend on.

    y: (N, C, S, S), zero outside the image, depth_map: (N, 1, S, S), negative outside the image ->
    (N, C, S - 4n, S - 4n) for n blocks. No convolution is padded: each consumes one pixel a side.
    At the image's border the hidden map is zeroed, as padding would do.
    """

    def forward(self, y: Tensor, depth_map: Tensor) -> Tensor:
        inside = (depth_map >= 0).to(y.dtype)
        for number, block in self.numbered():
            hidden = F.relu(F.conv2d(y, block.conv1.weight, block.conv1.bias))
            hidden = hidden * _centre(inside, hidden)
            residual = F.conv2d(hidden, block.conv2.weight, block.conv2.bias)
            y = _centre(y, residual) + _centre(mask(depth_map, number), residual) * residual
        return y


SKIPPING: Mapping[str, Type[DenseBlocks]] = {"rows": RowBlocks, "tiles": TileBlocks}


def _add_block(rows: Tensor, weight_map: Tensor, block: ResidualBlock, window: Tensor) -> Tensor:
    """Add a block to rows, ((H+2)*(W+2), C), where its mask, (1, 1, H, W), is above 0."""
    near = F.max_pool2d(weight_map, 3, stride=1, padding=1)
    weights, near = (F.pad(m, (1, 1, 1, 1)).flatten() for m in (weight_map, near))
    at, hidden_at = weights.nonzero().flatten(), near.nonzero().flatten()
    hidden = F.relu(_gather_conv(rows, hidden_at.view(-1, 1) + window, block.conv1))
    hidden = F.pad(hidden, (0, 0, 1, 0))  # row 0: zeros, for the pixels of the padding
    hidden_row = (near > 0).to(torch.int64).cumsum(0) * (near > 0)  # by pixel
    neighbours = hidden_row.index_select(0, (at.view(-1, 1) + window).flatten()).view(-1, 9)
    weight = weights.index_select(0, at).view(-1, 1)
    return rows.index_copy(
        0, at, rows.index_select(0, at) + weight * _gather_conv(hidden, neighbours, block.conv2)
    )


def _gather_conv(rows: Tensor, windows: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return (n, C_out): a 3x3 convolution of the rows that `windows`, (n, 9), numbers."""
    assert conv.bias is not None
    size = 9 * conv.in_channels
    gathered = rows.index_select(0, windows.flatten()).view(-1, size)
    return gathered @ conv.weight.permute(2, 3, 1, 0).reshape(size, conv.out_channels) + conv.bias


def _centre(x: Tensor, like: Tensor) -> Tensor:
    """Crop the centre of x to the size of `like`."""
    margin = (x.shape[2] - like.shape[2]) // 2
    return x[:, :, margin : margin + like.shape[2], margin : margin + like.shape[3]]


def _macs_px(net: nn.Module) -> int:
    return count(net, NTIRE_HW, counter="fvcore").macs // (NTIRE_HW[0] * NTIRE_HW[1])
