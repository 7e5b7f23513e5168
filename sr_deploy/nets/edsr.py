"""EDSR: without the convolution before its long skip, the teacher of SRN (section 4.4 of the SRN paper); and as its own paper has it."""

from __future__ import annotations

import functools
from typing import List, Sequence, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture, Weights, blocks_in, check_axis
from sr_deploy.nets.mean_shift import MEAN


class EDSRParts(nn.Module):
    """Head, blocks and tail, however the blocks are run.

    original: as EDSR's own paper has it, with DIV2K's mean subtracted and added back and a convolution before the long skip; with
    64 channels and 16 blocks its baseline.
    """

    def __init__(
        self, *, scale: int, blocks: int = 20, channels: int = 128, original: bool = False
    ) -> None:
        super().__init__()
        self.scale, self.channels = scale, channels
        self.mean = MEAN if original else None
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.last = nn.Conv2d(channels, channels, 3, padding=1) if original else nn.Identity()
        stages = {2: (2,), 3: (3,), 4: (2, 2)}[scale]
        upsampler = [
            m
            for s in stages
            for m in (nn.Conv2d(channels, s * s * channels, 3, padding=1), nn.PixelShuffle(s))
        ]
        self.tail = nn.Sequential(*upsampler, nn.Conv2d(channels, 3, 3, padding=1))

    def features(self, x: Tensor) -> Tensor:
        """Return the head's features of x, (N, channels, H, W)."""
        return self.head(self.centred(x))

    def image(self, deep: Tensor, features: Tensor) -> Tensor:
        """Return the image, (N, 3, scale*H, scale*W), of what the blocks made of the head's features."""
        return self.coloured(self.tail(self.last(deep) + features))

    def centred(self, x: Tensor) -> Tensor:
        """Return x less the mean, where the network takes it off."""
        return x if self.mean is None else x - _colour(self.mean, x)

    def coloured(self, y: Tensor) -> Tensor:
        """Return y with that mean again."""
        return y if self.mean is None else y + _colour(self.mean, y)


class EDSR(EDSRParts):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)  # (N, channels, H, W)
        return self.image(self.blocks(features), features)

    def forward_depths(self, x: Tensor) -> Tuple[List[Tensor], Sequence[Tensor]]:
        """Return each block's features, (N, channels, H, W), and each depth's image, shallow first."""
        head = self.features(x)
        features: List[Tensor] = []
        y = head
        for block in self.blocks:
            y = block(y)
            features.append(y)
        n = len(features)
        return features, self.image(torch.cat(features), head.repeat(n, 1, 1, 1)).chunk(n)


def _colour(rgb: Tuple[float, ...], like: Tensor) -> Tensor:
    """(3, 1, 1); no buffer, which a checkpoint would have to hold."""
    return like.new_tensor(rgb).view(3, 1, 1)


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


def _slice(weights: Weights, held: Variant, wanted: Variant) -> dict:
    """The first blocks, and the head and tail that all depths share (trained so by deep supervision only)."""
    dropped = tuple(f"blocks.{i}." for i in range(wanted.size, held.size))
    return {k: v for k, v in weights.items() if not k.startswith(dropped)}


def check_channels(channels: object) -> None:
    """Raise CheckpointError unless `channels` is a width EDSR can have."""
    if not isinstance(channels, int) or not 1 <= channels <= 1024:
        raise CheckpointError(
            f"EDSR's channels are a whole number from 1 to 1024, not {channels!r}"
        )


def _network(*, scale: int, variant: Variant, channels: int, original: bool) -> EDSR:
    check_channels(channels)
    return EDSR(scale=scale, blocks=variant.size, channels=channels, original=original)


def _architecture(name: str, *, original: bool, variant: str, channels: int) -> Architecture:
    return Architecture(
        name=name,
        scales=(2, 3, 4),
        default_variant=variant,
        network=functools.partial(_network, original=original),
        check=lambda v: check_axis(v, "b", variant),
        slice=_slice,
        points=lambda largest: tuple(f"b{n}" for n in range(1, largest.size + 1)),
        size_of=lambda weights: Variant("b", blocks_in(weights, "blocks")),
        config={"channels": channels},
        config_of=lambda weights: (
            {"channels": weights["head.bias"].shape[0]} if "head.bias" in weights else {}
        ),
        structure=lambda v: "any depth",
        halo_px=lambda v: (
            1 + 2 * v.size + original + 2
        ),  # the tail's finer grids reach less than two LR pixels
    )


EDSR_ARCHITECTURE = _architecture("edsr", original=False, variant="b20", channels=128)
EDSR_ORIGINAL_ARCHITECTURE = _architecture(
    "edsr-original", original=True, variant="b16", channels=64
)
