"""CARN-M, CDNSR's second backbone: cascades of an efficient residual block with shared weights.

As ClassSR and CDNSR use it: grouped 3x3 convolutions, batch normalisation after the 1x1
convolutions that join a cascade, and DIV2K's mean subtracted.
"""

from __future__ import annotations

from typing import Iterable

import torch
from torch import Tensor, nn

from sr_deploy.nets.architecture import width_architecture
from sr_deploy.nets.layers import MeanShift, upscale_factors

GROUPS = 4


class CARN(nn.Module):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def __init__(self, *, scale: int, width: int = 64) -> None:
        super().__init__()
        self.sub_mean = MeanShift(-1)
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(Cascade(width) for _ in range(3))
        self.joins = nn.ModuleList(join(n * width, width) for n in (2, 3, 4))
        upsampler = [
            layer
            for s in upscale_factors(scale)
            for layer in (
                nn.Conv2d(width, s * s * width, 3, padding=1, groups=GROUPS),
                nn.ReLU(),
                nn.PixelShuffle(s),
            )
        ]
        self.tail = nn.Sequential(*upsampler, nn.Conv2d(width, 3, 3, padding=1))
        self.add_mean = MeanShift(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.sub_mean(x))  # (N, width, H, W)
        x = cascade(x, self.blocks, self.joins)  # (N, width, H, W)
        return self.add_mean(self.tail(x))  # (N, 3, scale*H, scale*W)


class Cascade(nn.Module):
    """The same residual block three times, each on a 1x1 of everything before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = EfficientResidual(width)
        self.joins = nn.ModuleList(join(n * width, width) for n in (2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return cascade(x, [self.block] * 3, self.joins)


class EfficientResidual(nn.Module):
    """Two grouped 3x3 and a 1x1, plus the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=GROUPS),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=GROUPS),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + x)


def join(inputs: int, width: int) -> nn.Sequential:
    """The 1x1 of a cascade: no bias, batch normalisation, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def cascade(x: Tensor, blocks: Iterable[nn.Module], joins: Iterable[nn.Module]) -> Tensor:
    """Alternate blocks and joins; a join reads the input and the outputs of all blocks so far."""
    outputs = x
    for block, join_layer in zip(blocks, joins):
        outputs = torch.cat((outputs, block(x)), dim=1)
        x = join_layer(outputs)
    return x


CARN_ARCHITECTURE = width_architecture(
    "carn-m",
    CARN,
    default=64,
    multiple=GROUPS,
    halo_px=1 + 3 * 3 * 2 + 2,  # the head, 3 cascades of 3 blocks, the tail's finer grids
)
