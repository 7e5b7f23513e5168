"""Layers that several networks share: DIV2K's mean colour, spatial attention, an upsampler."""

from __future__ import annotations

from typing import List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


ESA_MIN_HW = (15, 15)
"""The smallest input of ESA, whose first convolution and pooling are not padded."""


class ESA(nn.Module):
    """Enhanced spatial attention: a mask from a map of a sixth of the size.

    SRN's has five layers; RLFN's also has a 1x1 on the large map (`skip`).
    """

    def __init__(self, channels: int, width: int, *, skip: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.conv_f = nn.Conv2d(width, width, 1) if skip else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, stride=2)
        self.pool = nn.MaxPool2d(7, stride=3)
        self.conv3: nn.Module = nn.Conv2d(width, width, 3, padding=1)
        self.conv4 = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.conv1(x)  # (N, width, H, W)
        small = self.refine(self.pool(self.conv2(narrow)))  # (N, width, ~H/6, ~W/6)
        wide = F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return x * self.conv4(wide + self.conv_f(narrow)).sigmoid()

    def refine(self, small: Tensor) -> Tensor:
        """Convolve the small map."""
        return self.conv3(small)


class OldESA(ESA):
    """RFANet's, which EFDN has too: with the 1x1, and three 3x3 instead of one."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, skip=True)
        del self.conv3
        self.group = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def refine(self, small: Tensor) -> Tensor:
        return self.group(small)


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
