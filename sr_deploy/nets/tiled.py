"""AdaEDSR's blocks on tiles, for engines that take dense tensors only.

A tile comes with all that its pixels depend on, and no convolution is padded: what is left of it after each is what the next ones
need. The image's border is where the depth map is negative: a convolution's padding is the zeros put there.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.nets.adapter import mask
from sr_deploy.nets.sparse import Everywhere


class OnTiles(Everywhere):
    """Blocks on tiles, what lies round them included.

    y: (N, C, S, S), zero outside the image, and depth_map: (N, 1, S, S), negative there -> (N, C, S - 4n, S - 4n) of n blocks.
    """

    def forward(self, y: Tensor, depth_map: Tensor) -> Tensor:
        inside = (depth_map >= 0).to(y.dtype)
        for number, block in enumerate(self.blocks, self.first):
            hidden = F.relu(_unpadded(block.conv1, y))
            added = _unpadded(block.conv2, hidden * _middle(inside, hidden))
            y = _middle(y, added) + _middle(mask(depth_map, number), added) * added
        return y


def _unpadded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, conv.bias)


def _middle(x: Tensor, like: Tensor) -> Tensor:
    """The middle of x, as large as `like`."""
    margin = (x.shape[2] - like.shape[2]) // 2
    return x[:, :, margin : margin + like.shape[2], margin : margin + like.shape[3]]
