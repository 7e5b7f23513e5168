"""ASRN, the adjustable super-resolution network: a chain of blocks that may end after any of them.

"Adjustable Super-Resolution Network via Deep Supervised Learning and Progressive
Self-Distillation". All depths share the head and the upsampler. The paper's figures show no
activation; we put a ReLU after each 3x3 convolution of a block, or a block would be linear.
The configuration's `block` and `channels` are the ablations of Table 3 and Fig. 12.
"""

from __future__ import annotations

import functools
from typing import Callable, List, Mapping, Sequence, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import (
    Architecture,
    Weights,
    all_sizes,
    check_axis,
    check_config_int,
    count_blocks,
    slice_blocks,
)
from sr_deploy.nets.layers import upscale_factors
from sr_deploy.nets.linear import run_collapsed

CHANNELS = 96
GROUPS = 4
RES2NET_WIDTH = 26
"""Channels of a part, as in Res2Net's own `26w x 4s`: 38,498 parameters a block of 96 channels."""
SHUFFLENET_WIDTH = 672
"""Channels between the grouped 1x1 convolutions: 39,744 parameters a block of 96 channels. Those of
the paper's other blocks are "similar" to the MAB's 39,456 (section 5.1); it prints no widths."""


class ASRN(nn.Module):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W).

    block: one of BLOCKS. channels: of a block's input and output, a multiple of four.
    """

    def __init__(
        self,
        *,
        scale: int,
        blocks: int = 5,
        activation: str = "relu",
        block: str = "mab",
        channels: int = CHANNELS,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.Conv2d(48, channels, 1))
        self.body = nn.ModuleList(BLOCKS[block](activation, channels) for _ in range(blocks))
        self.upsampler = upsampler(scale, channels)
        self.collapses = block == "mab"
        """Whether head and upsampler can join the blocks beside them (see `nets.fuse`)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)  # (N, channels, H, W)
        for block in self.body:
            x = block(x)  # (N, channels, H, W)
        return self.upsampler(x)  # (N, 3, scale*H, scale*W)

    def forward_training(self, x: Tensor) -> Tensor:
        """Return the same with the same gradients, faster: head and upsampler run collapsed."""
        x = run_collapsed(self.head, x, 1)
        for block in self.body:
            x = block(x)
        return run_collapsed(self.upsampler, x, self.scale)

    def forward_depths(self, x: Tensor) -> Tuple[List[Tensor], Sequence[Tensor]]:
        """Return the features of each block, (N, channels, H, W), and the image of each depth.

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
    """Multi-scale aggregation block (section 3.1, eqs. 5-7).

    without: what Table 3 leaves out, one of MECHANISMS. The fusion layer is the last 1x1
    ("a fusion layer with 1x1 kernel at the tail of the block").
    """

    linked = True
    residual = True

    def __init__(self, activation: str, channels: int = CHANNELS, without: str = "") -> None:
        super().__init__()
        width = channels // GROUPS
        self.expand = nn.Conv2d(channels, channels, 1)
        self.chain = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(GROUPS))
        self.act = _activation(activation)
        self.shuffle: nn.Module = nn.ChannelShuffle(GROUPS)
        self.reduce = nn.Conv2d(channels, channels, 1)
        self.linked, self.residual = without != "links", without != "residual"
        if without == "shuffle":
            self.shuffle = nn.Identity()
        if without == "fusion":
            self.reduce = nn.Identity()  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.aggregate(x) + x if self.residual else self.aggregate(x)

    def aggregate(self, x: Tensor) -> Tensor:
        """Return what the block adds to its input."""
        splits = self.expand(x).chunk(GROUPS, dim=1)  # 4 x (N, 24, H, W)
        y = self.act(self.chain[0](splits[0]))
        outputs = [y]
        for conv, part in zip(self.chain[1:], splits[1:]):  # eq. 6: y_i = K_i(x_i + y_(i-1))
            y = self.act(conv(part + y if self.linked else part))
            outputs.append(y)
        return self.reduce(self.shuffle(torch.cat(outputs, dim=1)))


class ShuffleNetUnit(nn.Module):
    """ShuffleNet's unit of stride 1 (Fig. 12), without batch normalisation.

    Grouped 1x1, activation, channel shuffle, depthwise 3x3, grouped 1x1, plus the input. As in the
    MAB there are four groups, and no activation follows the sum.
    """

    def __init__(self, activation: str, channels: int = CHANNELS) -> None:
        super().__init__()
        width = SHUFFLENET_WIDTH
        self.expand = nn.Conv2d(channels, width, 1, groups=GROUPS)
        self.act = _activation(activation)
        self.mix = nn.ChannelShuffle(GROUPS)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.project = nn.Conv2d(width, channels, 1, groups=GROUPS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(self.act(self.expand(x)))  # (N, 672, H, W)
        return self.project(self.depthwise(y)) + x


class Res2NetModule(nn.Module):
    """Res2Net's module (Fig. 12), without batch normalisation: the first of four parts is copied.

    1x1, activation, split; an activation follows each 3x3, none the last 1x1 and the sum.
    """

    def __init__(self, activation: str, channels: int = CHANNELS) -> None:
        super().__init__()
        width = RES2NET_WIDTH
        self.act = _activation(activation)
        self.split = nn.Conv2d(channels, GROUPS * width, 1)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(GROUPS - 1))
        self.merge = nn.Conv2d(GROUPS * width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, *parts = self.act(self.split(x)).chunk(GROUPS, dim=1)  # 4 x (N, 26, H, W)
        outputs = [first]
        for i, (conv, part) in enumerate(zip(self.convs, parts)):
            outputs.append(self.act(conv(part + outputs[-1] if i else part)))
        return self.merge(torch.cat(outputs, dim=1)) + x


MECHANISMS = ("fusion", "links", "shuffle", "residual")
"""The rows of Table 3: cases 1 to 4 are without one of them. Links are eq. 6's y_(i-1)."""
BLOCKS: Mapping[str, Callable[[str, int], nn.Module]] = {
    "mab": MAB,
    **{f"no-{name}": functools.partial(MAB, without=name) for name in MECHANISMS},
    "shufflenet": ShuffleNetUnit,
    "res2net": Res2NetModule,
}


def _activation(name: str) -> nn.Module:
    return nn.ReLU() if name == "relu" else nn.LeakyReLU(0.1)


def upsampler(scale: int, channels: int = CHANNELS) -> nn.Sequential:
    """1x1, transposed convolutions whose kernel is their stride, 3x3 to RGB; all linear."""
    deconvs = [nn.ConvTranspose2d(64, 64, s, stride=s) for s in upscale_factors(scale)]
    return nn.Sequential(nn.Conv2d(channels, 64, 1), *deconvs, nn.Conv2d(64, 3, 3, padding=1))


def _network(*, scale: int, variant: Variant, activation: str, block: str, channels: int) -> ASRN:
    if activation not in ("relu", "leaky_relu"):
        raise CheckpointError(
            f"unknown activation '{activation}' of ASRN; expected relu or leaky_relu"
        )
    if block not in BLOCKS:
        raise CheckpointError(f"unknown block '{block}' of ASRN; expected {', '.join(BLOCKS)}")
    check_config_int("ASRN", "channels", channels)
    if channels % GROUPS:
        raise CheckpointError(f"ASRN: 'channels' must be divisible by {GROUPS}, got {channels}")
    return ASRN(
        scale=scale, blocks=variant.size, activation=activation, block=block, channels=channels
    )


def _config_of(weights: Weights) -> dict:
    """Tell the width, and the block by its tensors; what a MAB lacks may have no weights."""
    config: dict = {}
    if "head.1.bias" in weights and weights["head.1.bias"].shape[0] != CHANNELS:
        config["channels"] = weights["head.1.bias"].shape[0]
    if "body.0.depthwise.weight" in weights:
        config["block"] = "shufflenet"
    elif "body.0.split.weight" in weights:
        config["block"] = "res2net"
    elif "body.0.expand.weight" in weights and "body.0.reduce.weight" not in weights:
        config["block"] = "no-fusion"
    return config


ASRN_ARCHITECTURE = Architecture(
    name="asrn",
    default_variant="d5",
    network=_network,
    check=lambda variant: check_axis(variant, "d5"),
    slice=slice_blocks("body"),
    points=all_sizes,
    size_of=lambda weights: Variant("d", count_blocks(weights, "body")),
    config={"activation": "relu", "block": "mab", "channels": CHANNELS},
    config_of=_config_of,
    structure=lambda variant: "any depth",
    # The head, at most four 3x3 convolutions in each block, and the last 3x3.
    halo_px=lambda variant: 1 + 4 * variant.size + 1,
)
