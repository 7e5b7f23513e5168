"""EFDN, the baseline of NTIRE 2025: cells whose 3x3 are trained with edge filters beside them.

"Edge-enhanced Feature Distillation Network for Efficient Super-Resolution" (arXiv 2204.08759). The
public code clamps the image to 0..1; here that is left to whoever writes it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr_deploy.nets.architecture import width_architecture
from sr_deploy.nets.layers import ESA_MIN_HW, OldESA
from sr_deploy.nets.reparameterised import EdgeConv, with_paths

CELLS = 4


class EFDN(nn.Module):
    """The static network.

    x: (N, 3, H, W) float, 0..1, RGB, H and W >= 15 -> (N, 3, scale*H, scale*W).
    reparameterised: train each 3x3 of a cell as seven paths.
    """

    def __init__(self, *, scale: int, width: int = 48, reparameterised: bool = False) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.cells = nn.ModuleList(EFDB(width, reparameterised) for _ in range(CELLS))
        self.fuse = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in range(CELLS - 1))
        self.tail = nn.Sequential(
            nn.Conv2d(width, 3 * scale * scale, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)  # (N, width, H, W)
        y1 = self.cells[0](features)
        y2 = self.cells[1](y1)
        y3 = self.cells[2](self.fuse[0](torch.cat((y1, y2), dim=1)))
        y4 = self.cells[3](self.fuse[1](torch.cat((y2, y3), dim=1)))
        # The second cell, not the third, as in the public code that the weights are for.
        return self.tail(self.fuse[2](torch.cat((y2, y4), dim=1)) + features)


class EFDB(nn.Module):
    """A cell: a 1x1 and two 3x3, half the channels of each distilled; attention."""

    def __init__(self, width: int, reparameterised: bool) -> None:
        super().__init__()
        convs = [nn.Conv2d(width, width, 1), *(_conv3x3(width, reparameterised) for _ in range(2))]
        self.convs = nn.ModuleList(nn.Sequential(conv, nn.PReLU(width)) for conv in convs)
        self.distil = nn.ModuleList(nn.Conv2d(width, width // 2, 1) for _ in range(4))
        self.fuse = nn.Conv2d(2 * width, width, 1)
        self.esa = OldESA(width, width // 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]  # 4 x (N, width, H, W)
        for conv in self.convs:
            maps.append(conv(maps[-1]))
        distilled = [conv(y) for conv, y in zip(self.distil, maps)]  # 4 x (N, width / 2, H, W)
        return self.esa(self.fuse(torch.cat(distilled, dim=1))) + x


def _conv3x3(width: int, reparameterised: bool) -> nn.Module:
    return EdgeConv(width) if reparameterised else nn.Conv2d(width, width, 3, padding=1)


EFDN_ARCHITECTURE = with_paths(
    width_architecture("efdn", EFDN, default=48, smallest=4, multiple=4, min_hw=ESA_MIN_HW)
)
