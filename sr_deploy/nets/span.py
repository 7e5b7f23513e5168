"""SPAN: blocks whose attention has no parameters; NTIRE 2024's winner and baseline of 2026.

"Swift Parameter-free Attention Network for Efficient Super-Resolution" (arXiv 2311.12770). The
challenges' network has 28 channels, the paper's 48.
"""

from __future__ import annotations

import functools
from typing import Callable, Optional, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.nets.architecture import width_architecture
from sr_deploy.nets.layers import MEAN
from sr_deploy.nets.reparameterised import conv3x3, with_paths

BLOCKS = 6


class SPAN(nn.Module):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W).

    reparameterised: train each 3x3 but the last as several paths.
    """

    mean: Tensor

    def __init__(self, *, scale: int, width: int = 28, reparameterised: bool = False) -> None:
        super().__init__()
        # Subtracted before the padding, which a bias of the head would not equal at the borders.
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        conv = functools.partial(conv3x3, width, width, reparameterised=reparameterised)
        self.head = conv3x3(3, width, reparameterised=reparameterised)
        self.blocks = nn.ModuleList(SPAB(conv) for _ in range(BLOCKS))
        self.last = conv()
        self.fuse = nn.Conv2d(4 * width, width, 1)
        self.tail = nn.Sequential(
            nn.Conv2d(width, 3 * scale * scale, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x - self.mean)  # (N, width, H, W)
        first, inner = self.blocks[0](features)
        y = first
        for block in self.blocks[1:]:
            y, inner = block(y)
        # The head, the last block, the first one, and what is inside the last one.
        return self.tail(self.fuse(torch.cat((features, self.last(y), first, inner), dim=1)))


class SPAB(nn.Module):
    """Swift parameter-free attention block: three 3x3 and their own attention.

    conv: makes a 3x3.
    """

    def __init__(self, conv: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(), conv(), conv()
        self.act = nn.SiLU()

    def forward(self, x: Tensor, start: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """Return the block's output, and what follows its first activation, (N, width, H, W) each.

        start: what the first convolution reads instead of x.
        """
        inner = self.act(self.conv1(x if start is None else start))
        y = self.conv3(self.act(self.conv2(inner)))
        # An odd function of y, so that its sign counts.
        return (y + x) * (y.sigmoid() - 0.5), inner


SPAN_ARCHITECTURE = with_paths(
    width_architecture(
        "span",
        SPAN,
        default=28,
        bias="fuse.bias",
        # The head, three 3x3 in each block, and two after them.
        halo_px=1 + 3 * BLOCKS + 2,
    ),
)
