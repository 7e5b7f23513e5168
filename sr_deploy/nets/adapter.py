"""AdaDSR's adapter, which predicts the depth of each pixel, and the masks that follow from it."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError

DIFFERENCES = 8.0
"""Initial gain of the kernels that see differences only."""
SCALED = ("weight", "output", "none")


class Adapter(nn.Module):
    """AdaDSR's section 3.3.

    features: (N, channels, H, W), depth: the desired depths, (N,) -> (N, maps, H, W), 0..blocks.
    scaled: what the desired depth multiplies. `weight`: the first convolution's weight, as in the
    paper. `output`: the map, as in the public AdaEDSR. `none`: nothing, for networks trained for
    one depth (the paper's FAdaEDSR). width: channels inside; 0 is half of `channels`, as in the
    public AdaEDSR (the paper does not print it).
    """

    def __init__(
        self, channels: int, *, blocks: int, maps: int = 1, scaled: str = "weight", width: int = 0
    ) -> None:
        super().__init__()
        if scaled not in SCALED:
            raise CheckpointError(
                f"unknown 'scaled' of the adapter, {scaled!r}; expected one of {', '.join(SCALED)}"
            )
        width = width or channels // 2
        self.blocks, self.scaled = blocks, scaled
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        inner = [m for _ in range(3) for m in (nn.PReLU(), nn.Conv2d(width, width, 3, padding=1))]
        self.rest = nn.Sequential(*inner, nn.PReLU(), nn.Conv2d(width, maps, 3, padding=1))
        # The initial map is near the desired depth: PReLU leaves a positive mean of d*W*z, and the
        # other layers average more than they mix. From a constant map of 3/4 of the blocks, 120
        # steps of training did not learn to follow d.
        nn.init.kaiming_normal_(self.first.weight, a=0.25)
        # Most first kernels see differences only, and the first PReLU takes their size: local
        # activity, which tells best where depth pays. The level of the features is much larger,
        # and would leave PReLU linear in it.
        with torch.no_grad():
            kernels = self.first.weight[width // 4 :]
            kernels.sub_(kernels.mean(dim=(2, 3), keepdim=True)).mul_(DIFFERENCES)
            nn.init.constant_(cast(nn.PReLU, self.rest[0]).weight, -1.0)
        for conv in (m for m in self.rest if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, a=0.25)
            gain = 3 if conv is self.rest[-1] else 1
            with torch.no_grad():
                conv.weight.mul_(0.3).add_(gain / conv.weight[0].numel())

    def forward(self, features: Tensor, depth: Tensor) -> Tensor:
        depth = depth.view(-1, 1, 1, 1)
        if self.scaled == "weight":  # conv(x, d*W) + b, with a d for each sample
            assert self.first.bias is not None
            y = F.conv2d(features, self.first.weight, padding=1) * depth
            y = self.rest(y + self.first.bias.view(1, -1, 1, 1))
        else:
            y = self.rest(self.first(features))
        y = y * depth if self.scaled == "output" else y
        # In training unbounded above: there the network depth loss has to pull the map back.
        return F.relu(y) if self.training else y.clamp(0, self.blocks)


def mask(depth_map: Tensor, block: int) -> Tensor:
    """Return the weight of a block, counted from 1, at each pixel: eq. 4, (N, 1, H, W), 0..1."""
    return (depth_map - (block - 1)).clamp(0, 1)
