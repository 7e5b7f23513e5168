"""Layers that several networks share: DIV2K's mean colour and the sub-pixel upsampler."""

from __future__ import annotations

from typing import List, Tuple

import torch
from torch import nn

MEAN = (0.4488, 0.4371, 0.4040)
"""The mean of DIV2K's training images, RGB, 0..1."""


class MeanShift(nn.Conv2d):
    """Add `sign` times the mean colour by a frozen 1x1 convolution, which the papers count."""

    bias: nn.Parameter

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        with torch.no_grad():
            self.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            self.bias.copy_(sign * torch.tensor(MEAN))
        self.requires_grad_(False)


def upscale_factors(scale: int) -> Tuple[int, ...]:
    """Return the factors of an upsampler's stages; x4 is twice x2."""
    return {2: (2,), 3: (3,), 4: (2, 2)}[scale]


def pixel_shuffle_upsampler(channels: int, scale: int) -> List[nn.Module]:
    """Return a 3x3 convolution and a pixel shuffle for each stage."""
    return [
        layer
        for s in upscale_factors(scale)
        for layer in (nn.Conv2d(channels, s * s * channels, 3, padding=1), nn.PixelShuffle(s))
    ]
