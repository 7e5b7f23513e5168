"""ASRN, the adjustable super-resolution network: a chain of blocks that may end after any of them.

"Adjustable Super-Resolution Network via Deep Supervised Learning and Progressive
Self-Distillation". All depths share the head and the upsampler. The paper's figures show no
activation; we put a ReLU after each 3x3 convolution of a block, or a block would be linear.
"""

from __future__ import annotations

from typing import List, Sequence, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import (
    Architecture,
    all_sizes,
    check_axis,
    count_blocks,
    slice_blocks,
)
from sr_deploy.nets.layers import upscale_factors
from sr_deploy.nets.linear import run_collapsed

CHANNELS = 96
GROUPS = 4


class ASRN(nn.Module):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def __init__(self, *, scale: int, blocks: int = 5, activation: str = "relu") -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.Conv2d(48, CHANNELS, 1))
        self.body = nn.ModuleList(MAB(activation) for _ in range(blocks))
        self.upsampler = upsampler(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)  # (N, 96, H, W)
        for block in self.body:
            x = block(x)  # (N, 96, H, W)
        return self.upsampler(x)  # (N, 3, scale*H, scale*W)

    def forward_training(self, x: Tensor) -> Tensor:
        """Return the same with the same gradients, faster: head and upsampler run collapsed."""
        x = run_collapsed(self.head, x, 1)
        for block in self.body:
            x = block(x)
        return run_collapsed(self.upsampler, x, self.scale)

    def forward_depths(self, x: Tensor) -> Tuple[List[Tensor], Sequence[Tensor]]:
        """Return the features of each block, (N, 96, H, W), and the image of each depth.

        Shallow first. Head and upsampler run collapsed, the upsampler on all depths as one batch.
        """
        features: List[Tensor] = []
        x = run_collapsed(self.head, x, 1)
        for block in self.body:
            x = block(x)
            features.append(x)
        images = run_collapsed(self.upsampler, torch.cat(features), self.scale)
        return features, images.chunk(len(features))


class MAB(nn.Module):
    """Multi-scale aggregation block (section 3.1, eqs. 5-7)."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        width = CHANNELS // GROUPS
        self.expand = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.chain = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(GROUPS))
        self.act: nn.Module = nn.ReLU() if activation == "relu" else nn.LeakyReLU(0.1)
        self.shuffle: nn.Module = nn.ChannelShuffle(GROUPS)
        self.reduce = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.aggregate(x) + x

    def aggregate(self, x: Tensor) -> Tensor:
        """Return what the block adds to its input."""
        splits = self.expand(x).split(CHANNELS // GROUPS, dim=1)  # 4 x (N, 24, H, W)
        y = self.act(self.chain[0](splits[0]))
        outputs = [y]
        for conv, part in zip(self.chain[1:], splits[1:]):  # eq. 6: y_i = K_i(x_i + y_(i-1))
            y = self.act(conv(part + y))
            outputs.append(y)
        return self.reduce(self.shuffle(torch.cat(outputs, dim=1)))


def upsampler(scale: int) -> nn.Sequential:
    """1x1, transposed convolutions whose kernel is their stride, 3x3 to RGB; all linear."""
    deconvs = [nn.ConvTranspose2d(64, 64, s, stride=s) for s in upscale_factors(scale)]
    return nn.Sequential(nn.Conv2d(CHANNELS, 64, 1), *deconvs, nn.Conv2d(64, 3, 3, padding=1))


def _network(*, scale: int, variant: Variant, activation: str) -> ASRN:
    if activation not in ("relu", "leaky_relu"):
        raise CheckpointError(
            f"unknown activation '{activation}' of ASRN; expected relu or leaky_relu"
        )
    return ASRN(scale=scale, blocks=variant.size, activation=activation)


ASRN_ARCHITECTURE = Architecture(
    name="asrn",
    default_variant="d5",
    network=_network,
    check=lambda variant: check_axis(variant, "d5"),
    slice=slice_blocks("body"),
    points=all_sizes,
    size_of=lambda weights: Variant("d", count_blocks(weights, "body")),
    config={"activation": "relu"},
    structure=lambda variant: "any depth",
    # The head, four 3x3 convolutions in each block, and the last 3x3.
    halo_px=lambda variant: 1 + 4 * variant.size + 1,
)
