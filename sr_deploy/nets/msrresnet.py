"""MSRResNet, SRResNet without batch normalisation: CDNSR's third backbone.

CDNSR also rates the difficulty of patches by it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.nets.architecture import width_architecture
from sr_deploy.nets.edsr import ResidualBlock
from sr_deploy.nets.layers import upscale_factors

BLOCKS = 16


class MSRResNet(nn.Module):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def __init__(self, *, scale: int, width: int = 64) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.act = nn.LeakyReLU(0.1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(BLOCKS)))
        upsampler = [
            layer
            for s in upscale_factors(scale)
            for layer in (
                nn.Conv2d(width, s * s * width, 3, padding=1),
                nn.PixelShuffle(s),
                nn.LeakyReLU(0.1),
            )
        ]
        self.tail = nn.Sequential(
            *upsampler,
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, 3, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        base = F.interpolate(
            x, scale_factor=float(self.scale), mode="bilinear", align_corners=False
        )
        y = self.blocks(self.act(self.head(x)))  # (N, width, H, W)
        return self.tail(y) + base  # (N, 3, scale*H, scale*W)


MSRRESNET_ARCHITECTURE = width_architecture(
    "msrresnet",
    MSRResNet,
    default=64,
    halo_px=1 + 2 * BLOCKS + 2,  # the tail's finer grids reach two LR pixels
)
