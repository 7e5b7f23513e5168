"""SRN and SRN-S, the NTIRE 2023 efficient super-resolution entry: residual-free blocks with spatial attention.

SRN has a 3x3 before the long skip, SRN-S has none; the challenge's entry is the four-block network without it
(`srn-s`, b4, x4), known as SRN there.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture, Weights, blocks_in, check_axis

CHANNELS = 64


class SRN(nn.Module):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB, H and W >= 15 -> (N, 3, scale*H, scale*W)."""

    def __init__(self, *, scale: int, blocks: int = 6, last_conv: bool = True) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.blocks = nn.Sequential(*(NRB() for _ in range(blocks)))
        self.last = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) if last_conv else nn.Identity()
        self.tail = nn.Sequential(nn.Conv2d(CHANNELS, 3 * scale * scale, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)  # (N, 64, H, W)
        return self.tail(self.last(self.blocks(features)) + features)


class NRB(nn.Module):
    """Two 3x3 convolutions and the simplified spatial attention; no residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.act = nn.LeakyReLU(0.1)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.esa = ESA()

    def forward(self, x: Tensor) -> Tensor:
        return self.esa(self.conv2(self.act(self.conv1(x))))


class ESA(nn.Module):
    """Simplified enhanced spatial attention: a mask from a map 6 times smaller."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2)  # unpadded: the smallest legal input is 15x15
        self.pool = nn.MaxPool2d(7, stride=3)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.conv4 = nn.Conv2d(width, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.conv1(x)  # (N, 16, H, W)
        small = self.conv3(self.pool(self.conv2(narrow)))  # (N, 16, ~H/6, ~W/6)
        wide = F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return x * self.conv4(wide + narrow).sigmoid()


def _slice(weights: Weights, held: Variant, wanted: Variant) -> dict:
    return dict(weights)  # not elastic: a checkpoint holds one size only


def _architecture(name: str, *, last_conv: bool) -> Architecture:
    return Architecture(
        name=name,
        scales=(2, 4),
        default_variant="b6",
        network=lambda *, scale, variant: SRN(scale=scale, blocks=variant.size, last_conv=last_conv),
        check=lambda variant: check_axis(variant, "b", "b6"),
        slice=_slice,
        points=lambda largest: (str(largest),),
        size_of=lambda weights: Variant("b", blocks_in(weights, "blocks")),
        min_hw=(15, 15),
    )


SRN_ARCHITECTURE = _architecture("srn", last_conv=True)
SRN_S_ARCHITECTURE = _architecture("srn-s", last_conv=False)
