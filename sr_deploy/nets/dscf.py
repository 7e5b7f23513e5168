"""DSCF: SPAN of 26 channels with convolutions merged at both ends.

Its training, "Distillation-Supervised Convolutional Low-Rank Adaptation for Efficient Image
Super-Resolution" (arXiv 2504.11271), won NTIRE 2025; this network was entered in 2026. A 5x5 of the
image stands for the first block's first 3x3 of the head, and a 3x3 for the one after the blocks and
its share of the 1x1.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from sr_deploy.nets.architecture import width_architecture
from sr_deploy.nets.layers import MEAN
from sr_deploy.nets.reparameterised import LowRankConv, with_paths
from sr_deploy.nets.span import BLOCKS, SPAB

RANK, OUTER_RANK = 2, 8  # of the blocks, and of the two convolutions after them (public code)


class DSCF(nn.Module):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W).

    reparameterised: train only what is added to the 3x3 after the heads, at a low rank.
    """

    mean: Tensor

    def __init__(self, *, scale: int, width: int = 26, reparameterised: bool = False) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        conv = functools.partial(_conv3x3, width, width, RANK * reparameterised)
        outer = OUTER_RANK * reparameterised
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.wide_head = nn.Conv2d(3, width, 5, padding=2)
        self.blocks = nn.ModuleList(SPAB(conv) for _ in range(BLOCKS))
        self.blocks[0].conv1 = nn.Identity()  # the wide head is in its place
        self.fuse = nn.Conv2d(3 * width, width, 1)
        self.last = _conv3x3(width, width, outer, bias=False)
        self.tail = nn.Sequential(_conv3x3(width, 3 * scale * scale, outer), nn.PixelShuffle(scale))
        if reparameterised:
            for whole in (self.head, self.wide_head, self.fuse):
                whole.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.mean
        features = self.head(x)  # (N, width, H, W)
        first, inner = self.blocks[0](features, self.wide_head(x))
        y = first
        for block in self.blocks[1:]:
            y, inner = block(y)
        return self.tail(self.fuse(torch.cat((features, first, inner), dim=1)) + self.last(y))


def _conv3x3(inputs: int, outputs: int, rank: int, bias: bool = True) -> nn.Module:
    if rank:
        return LowRankConv(inputs, outputs, 3, rank=rank, bias=bias)
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


DSCF_ARCHITECTURE = with_paths(
    width_architecture(
        "dscf",
        DSCF,
        default=26,
        bias="fuse.bias",
        # The 5x5, two 3x3 in the first block and three in the others, and two after them.
        halo_px=2 + 3 * BLOCKS - 1 + 2,
    ),
)
