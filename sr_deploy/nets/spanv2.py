"""SPANV2, the fastest network of NTIRE 2026: SPAN's blocks with a learned attention.

Team XiaomiMM in "The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report" (arXiv
2604.03198). Their CUDA operator computes a block's attention in one kernel; here it is a 1x1
convolution, a sum and a product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr_deploy.nets.architecture import width_architecture
from sr_deploy.nets.reparameterised import conv3x3, with_paths

BLOCKS = 5


class SPANV2(nn.Module):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W).

    reparameterised: train the blocks' 3x3 as SPAN's paths. The team published merged kernels only.
    """

    def __init__(self, *, scale: int, width: int = 32, reparameterised: bool = False) -> None:
        super().__init__()
        colours = 3 * scale * scale
        self.first = nn.Sequential(*_convs(3, width, reparameterised), nn.ReLU())
        self.blocks = nn.Sequential(*(SPABV2(width, reparameterised) for _ in range(BLOCKS - 1)))
        self.near = nn.Conv2d(3, colours, 3, padding=1, groups=3, bias=False)
        with torch.no_grad():  # at first the nearest neighbour
            self.near.weight.zero_()[:, :, 1, 1] = 1
        wide = colours + width
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.pointwise = nn.Conv2d(wide, colours, 1, bias=False)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.blocks(self.first(x))  # (N, width, H, W)
        y = torch.cat((self.near(x), deep), dim=1)  # (N, 3 * scale**2 + width, H, W)
        return self.shuffle(self.pointwise(self.depthwise(y)))


class SPABV2(nn.Module):
    """Three 3x3, and a 1x1 of their output that decides how much of it and of the input passes."""

    def __init__(self, width: int, reparameterised: bool) -> None:
        super().__init__()
        self.convs = _convs(width, width, reparameterised)
        self.guide = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(x)  # (N, width, H, W)
        return (x + y) * self.guide(y)


def _convs(inputs: int, width: int, reparameterised: bool) -> nn.Sequential:
    first, second, third = (
        conv3x3(channels, width, reparameterised=reparameterised, bias=False)
        for channels in (inputs, width, width)
    )
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


SPANV2_ARCHITECTURE = with_paths(
    width_architecture(
        "spanv2",
        SPANV2,
        default=32,
        bias="blocks.0.guide.bias",
        # Three 3x3 in each block, and the depthwise one.
        halo_px=3 * BLOCKS + 1,
    ),
)
