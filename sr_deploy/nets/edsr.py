"""EDSR without the convolution before its long skip: the teacher of SRN (section 4.4 of the SRN paper)."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture, Weights, blocks_in, check_axis


class EDSR(nn.Module):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def __init__(self, *, scale: int, blocks: int = 20, channels: int = 128) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        stages = {2: (2,), 3: (3,), 4: (2, 2)}[scale]
        upsampler = [m for s in stages for m in (nn.Conv2d(channels, s * s * channels, 3, padding=1), nn.PixelShuffle(s))]
        self.tail = nn.Sequential(*upsampler, nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)  # (N, channels, H, W)
        return self.tail(self.blocks(features) + features)

    def forward_depths(self, x: Tensor) -> Tuple[List[Tensor], Sequence[Tensor]]:
        """Return each block's features, (N, channels, H, W), and each depth's image, shallow first."""
        head = self.head(x)
        features: List[Tensor] = []
        y = head
        for block in self.blocks:
            y = block(y)
            features.append(y)
        return features, self.tail(torch.cat([f + head for f in features])).chunk(len(features))


class ResidualBlock(nn.Module):
    """3x3, ReLU, 3x3, plus the input (residual scale 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.conv1(x))) + x


def _slice(weights: Weights, held: Variant, wanted: Variant) -> dict:
    """The first blocks, and the head and tail that all depths share (trained so by deep supervision only)."""
    dropped = tuple(f"blocks.{i}." for i in range(wanted.size, held.size))
    return {k: v for k, v in weights.items() if not k.startswith(dropped)}


def _network(*, scale: int, variant: Variant, channels: int) -> EDSR:
    if not isinstance(channels, int) or not 1 <= channels <= 1024:
        raise CheckpointError(f"EDSR's channels are a whole number from 1 to 1024, not {channels!r}")
    return EDSR(scale=scale, blocks=variant.size, channels=channels)


EDSR_ARCHITECTURE = Architecture(
    name="edsr",
    scales=(2, 3, 4),
    default_variant="b20",
    network=_network,
    check=lambda variant: check_axis(variant, "b", "b20"),
    slice=_slice,
    points=lambda largest: tuple(f"b{n}" for n in range(1, largest.size + 1)),
    size_of=lambda weights: Variant("b", blocks_in(weights, "blocks")),
    config={"channels": 128},
    config_of=lambda weights: {"channels": weights["head.bias"].shape[0]} if "head.bias" in weights else {},
    structure=lambda variant: "any depth",
    halo_px=lambda variant: 1 + 2 * variant.size + 2,  # the tail's finer grids reach less than two LR pixels
)
