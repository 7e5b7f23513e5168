"""RLFN, NTIRE 2022's fastest network and the baseline of 2024: three 3x3 and one attention.

"Residual Local Feature Network for Efficient Super-Resolution" (arXiv 2205.07514). The challenge's
network has four blocks of 46 channels, and 48 inside; the paper's has six of 52.
"""

from __future__ import annotations

from torch import Tensor, nn

from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import (
    Architecture,
    Weights,
    check_axis,
    check_config_int,
    count_blocks,
)
from sr_deploy.nets.layers import ESA, ESA_MIN_HW


class RLFN(nn.Module):
    """The static network.

    x: (N, 3, H, W) float, 0..1, RGB, H and W >= 15 -> (N, 3, scale*H, scale*W).
    """

    def __init__(
        self, *, scale: int, blocks: int = 4, channels: int = 46, inner_channels: int = 48
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(RLFB(channels, inner_channels) for _ in range(blocks)))
        self.last = nn.Conv2d(channels, channels, 3, padding=1)
        self.tail = nn.Sequential(
            nn.Conv2d(channels, 3 * scale * scale, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)  # (N, channels, H, W)
        return self.tail(self.last(self.blocks(features)) + features)


class RLFB(nn.Module):
    """Residual local feature block: three 3x3, a residual, a 1x1 and attention."""

    def __init__(self, channels: int, inner_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(inner_channels, inner_channels, 3, padding=1)
        self.conv3 = nn.Conv2d(inner_channels, channels, 3, padding=1)
        self.act = nn.LeakyReLU(0.05)
        self.fuse = nn.Conv2d(channels, channels, 1)
        self.esa = ESA(channels, 16, skip=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv2(self.act(self.conv1(x))))  # (N, inner_channels, H, W)
        return self.esa(self.fuse(self.act(self.conv3(y)) + x))


def _network(*, scale: int, variant: Variant, **widths: int) -> RLFN:
    for key, value in widths.items():
        check_config_int("RLFN", key, value)
    return RLFN(scale=scale, blocks=variant.size, **widths)


def _config_of(weights: Weights) -> dict:
    biases = {"channels": "head.bias", "inner_channels": "blocks.0.conv1.bias"}
    return {key: weights[bias].shape[0] for key, bias in biases.items() if bias in weights}


RLFN_ARCHITECTURE = Architecture(
    name="rlfn",
    default_variant="b4",
    network=_network,
    check=lambda variant: check_axis(variant, "b4"),
    size_of=lambda weights: Variant("b", count_blocks(weights, "blocks")),
    config={"channels": 46, "inner_channels": 48},
    config_of=_config_of,
    structure=lambda variant: "any depth",
    min_hw=ESA_MIN_HW,
)
