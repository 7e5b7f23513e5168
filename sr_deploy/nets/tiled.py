"""AdaEDSR's first blocks on a tile, for engines that take dense tensors only.

A tile comes with all that its pixels depend on, and no convolution is padded: what is left of it after each is what the next ones
need. The image's border is where the depth map is negative: every layer's padding is the zeros put there.
"""

from __future__ import annotations

from typing import Tuple

import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.depths import reach_px
from sr_deploy.nets.adaedsr import AdaEDSR
from sr_deploy.nets.adapter import mask
from sr_deploy.nets.edsr import EDSRParts


class DepthMap(nn.Module):
    """The adapter on a whole image. x: (1, 3, H, W), depth: (1,) -> (1, 1, H, W), 0..blocks."""

    def __init__(self, net: AdaEDSR) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, depth: Tensor) -> Tensor:
        return self.net.adapter(self.net.features(x), depth)


class FirstBlocks(nn.Module):
    """The first `blocks` blocks on tiles that go no deeper.

    x: (N, 3, S, S) and depth_map: (N, 1, S, S), negative outside the image, with S = tile + 2 * reach_px(blocks)
    -> (N, 3, scale*tile, scale*tile).
    """

    def __init__(self, net: EDSRParts, *, blocks: int) -> None:
        super().__init__()
        self.net, self.count = net, blocks

    def forward(self, x: Tensor, depth_map: Tensor) -> Tensor:
        net, inside = self.net, (depth_map >= 0).to(x.dtype)
        features = _unpadded(net.head, net.centred(x) * inside)
        features = features * _middle(inside, features)
        y = features
        for number, block in enumerate(list(net.blocks)[: self.count], 1):
            hidden = F.relu(_unpadded(block.conv1, y))
            added = _unpadded(block.conv2, hidden * _middle(inside, hidden))
            y = _middle(y, added) + _middle(mask(depth_map, number), added) * added
        y = _unpadded(net.last, y)
        y = (y + _middle(features, y)) * _middle(inside, y)
        tile = x.shape[2] - 2 * reach_px(self.count)
        for layer in net.tail[:-1]:
            if isinstance(layer, nn.PixelShuffle):
                y = layer(y)
                inside = inside.repeat_interleave(layer.upscale_factor, 2).repeat_interleave(layer.upscale_factor, 3)
                y = y * _middle(inside, y)
            else:
                y = _unpadded(layer, y)
        y = _unpadded(net.tail[-1], y)
        return net.coloured(_middle(y, (net.scale * tile, net.scale * tile)))


def tile_macs(net: EDSRParts, *, blocks: int, tile: int) -> int:
    """Return the multiply-accumulates of `FirstBlocks` on one tile."""
    side = tile + 2 * reach_px(blocks)
    body = [conv for block in list(net.blocks)[:blocks] for conv in (block.conv1, block.conv2)]
    total = 0
    for layer in [net.head, *body, net.last, *net.tail]:
        if isinstance(layer, nn.PixelShuffle):
            side *= layer.upscale_factor
        else:
            side -= 2
            total += side * side * layer.weight.numel()
    return total


def _unpadded(conv: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(conv, nn.Conv2d)
    return F.conv2d(x, conv.weight, conv.bias)


def _middle(x: Tensor, like: Tensor | Tuple[int, int]) -> Tensor:
    """The middle of x, as large as `like`, or as (h, w)."""
    h, w = like.shape[2:] if isinstance(like, Tensor) else like
    top, left = (x.shape[2] - h) // 2, (x.shape[3] - w) // 2
    return x[:, :, top : top + h, left : left + w]
