"""EDSR, in two versions.

`edsr` has no convolution before its long skip; it is the teacher of SRN (section 4.4 of its paper).
`edsr-original` is the network of EDSR's own paper.
"""

from __future__ import annotations

import functools
from typing import List, Sequence, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import (
    Architecture,
    all_sizes,
    check_axis,
    check_config_int,
    count_blocks,
    slice_blocks,
)
from sr_deploy.nets.layers import MEAN, pixel_shuffle_upsampler


class EDSRBase(nn.Module):
    """Head, blocks and tail; subclasses define how the blocks are run.

    original: subtract DIV2K's mean and add it back, with a convolution before the long skip. With
    64 channels and 16 blocks it is the baseline of EDSR's paper.
    """

    mean: Tensor

    def __init__(
        self, *, scale: int, blocks: int = 20, channels: int = 128, original: bool = False
    ) -> None:
        super().__init__()
        self.scale, self.channels, self.original = scale, channels, original
        # Not in checkpoints. Made here, for a copy from the host would end the capture of a graph.
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.last = nn.Conv2d(channels, channels, 3, padding=1) if original else nn.Identity()
        upsampler = pixel_shuffle_upsampler(channels, scale)
        self.tail: nn.Module = nn.Sequential(*upsampler, nn.Conv2d(channels, 3, 3, padding=1))

    def features(self, x: Tensor) -> Tensor:
        """Return the features of the head, (N, channels, H, W)."""
        return self.head(x - self.mean if self.original else x)

    def image(self, deep: Tensor, features: Tensor) -> Tensor:
        """Return the image, (N, 3, scale*H, scale*W), from the output of the blocks."""
        y = self.tail(self.last(deep) + features)
        return y + self.mean if self.original else y


class EDSR(EDSRBase):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)  # (N, channels, H, W)
        return self.image(self.blocks(features), features)

    def forward_depths(self, x: Tensor) -> Tuple[List[Tensor], Sequence[Tensor]]:
        """Return the features of each block, (N, channels, H, W), and the image of each depth.

        Shallow first.
        """
        head = self.features(x)
        features: List[Tensor] = []
        y = head
        for block in self.blocks:
            y = block(y)
            features.append(y)
        n = len(features)
        return features, self.image(torch.cat(features), head.repeat(n, 1, 1, 1)).chunk(n)


class ResidualBlock(nn.Module):
    """3x3, ReLU, 3x3, plus the input (residual scale 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + x

    def residual(self, x: Tensor) -> Tensor:
        """Return what the block adds to x."""
        return self.conv2(self.act(self.conv1(x)))


def _network(*, scale: int, variant: Variant, channels: int, original: bool) -> EDSR:
    check_config_int("EDSR", "channels", channels)
    return EDSR(scale=scale, blocks=variant.size, channels=channels, original=original)


def _architecture(name: str, *, original: bool, variant: str, channels: int) -> Architecture:
    return Architecture(
        name=name,
        default_variant=variant,
        network=functools.partial(_network, original=original),
        check=lambda v: check_axis(v, variant),
        # Useful only for weights trained by deep supervision: all depths share head and tail.
        slice=slice_blocks("blocks"),
        points=all_sizes,
        size_of=lambda weights: Variant("b", count_blocks(weights, "blocks")),
        config={"channels": channels},
        config_of=lambda weights: (
            {"channels": weights["head.bias"].shape[0]} if "head.bias" in weights else {}
        ),
        structure=lambda v: "any depth",
        # The tail's finer grids reach less than two LR pixels.
        halo_px=lambda v: 1 + 2 * v.size + original + 2,
    )


EDSR_ARCHITECTURE = _architecture("edsr", original=False, variant="b20", channels=128)
EDSR_ORIGINAL_ARCHITECTURE = _architecture(
    "edsr-original", original=True, variant="b16", channels=64
)
