"""AdaDSR's additions to a backbone: the adapter, which predicts how deep each pixel goes, and the masks that follow from its map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError

SCALED = ("weight", "output", "none")


class Adapter(nn.Module):
    """AdaDSR's section 3.3. features: (N, channels, H, W), depth: (N,), the desired one -> (N, maps, H, W), 0..blocks.

    scaled: what the desired depth multiplies. `weight`: the first convolution's weight, as the paper has it; `output`: the map, as
    the public AdaEDSR has it; `none`: nothing, it was trained for one depth (the paper's FAdaEDSR).
    """

    def __init__(
        self, channels: int, *, blocks: int, maps: int = 1, scaled: str = "weight"
    ) -> None:
        super().__init__()
        if scaled not in SCALED:
            raise CheckpointError(f"the adapter scales {', '.join(SCALED)}, not {scaled!r}")
        half = channels // 2
        self.blocks, self.scaled = blocks, scaled
        self.first = nn.Conv2d(channels, half, 3, padding=1)
        inner = [m for _ in range(3) for m in (nn.PReLU(), nn.Conv2d(half, half, 3, padding=1))]
        self.rest = nn.Sequential(*inner, nn.PReLU(), nn.Conv2d(half, maps, 3, padding=1))
        # So that the map begins near the desired depth: of d*W*z PReLU leaves a positive mean, and what follows averages it more than
        # it mixes. From a constant map of 3/4 of the blocks nothing of d was learnt in 120 steps.
        nn.init.kaiming_normal_(self.first.weight, a=0.25)
        for conv in (m for m in self.rest if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, a=0.25)
            with torch.no_grad():
                conv.weight.mul_(0.3).add_(
                    (3 if conv is self.rest[-1] else 1) / conv.weight[0].numel()
                )

    def forward(self, features: Tensor, depth: Tensor) -> Tensor:
        by = depth.view(-1, 1, 1, 1)
        if self.scaled == "weight":  # conv(x, d*W) + b, with a d for each sample
            y = F.conv2d(features, self.first.weight, padding=1) * by + self.first.bias.view(
                1, -1, 1, 1
            )
        else:
            y = self.first(features)
        y = self.rest(y)
        y = y * by if self.scaled == "output" else y
        # Beyond all blocks a map changes nothing but the network depth loss, which has to pull it back.
        return F.relu(y) if self.training else y.clamp(0, self.blocks)


def mask(depth_map: Tensor, block: int) -> Tensor:
    """Return eq. 4: how much of block number `block`, from 1, each pixel of (N, 1, H, W) takes, 0..1."""
    return (depth_map - (block - 1)).clamp(0, 1)
