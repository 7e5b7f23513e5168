"""ASRN, the adjustable super-resolution network: a chain of blocks that may be cut after any of them.

"Adjustable Super-Resolution Network via Deep Supervised Learning and Progressive Self-Distillation". All depths share
the head and the upsampler. The paper's figures give no activation; a ReLU after each 3x3 of a block makes it non-linear.
"""

from __future__ import annotations

from typing import List, Sequence, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture, Weights, blocks_in, check_axis
from sr_deploy.nets.linear import run_collapsed

CHANNELS = 96
GROUPS = 4


class ASRN(nn.Module):
    """The static network of `blocks` blocks. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def __init__(self, *, scale: int, blocks: int = 5, activation: str = "relu") -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.Conv2d(48, CHANNELS, 1))
        self.body = nn.ModuleList(MAB(activation) for _ in range(blocks))
        self.upsampler = upsampler(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)  # (N, 96, H, W)
        for block in self.body:
            x = block(x)
        return self.upsampler(x)  # (N, 3, sH, sW)

    def forward_training(self, x: Tensor) -> Tensor:
        """The same function, with the same gradients, at the cost of training: head and upsampler run collapsed."""
        x = run_collapsed(self.head, x, 1)
        for block in self.body:
            x = block(x)
        return run_collapsed(self.upsampler, x, self.scale)

    def forward_depths(self, x: Tensor) -> Tuple[List[Tensor], Sequence[Tensor]]:
        """Return each block's features, (N, 96, H, W), and each depth's image, shallow first; collapsed likewise.

        All depths go through the shared upsampler as one batch.
        """
        features: List[Tensor] = []
        x = run_collapsed(self.head, x, 1)
        for block in self.body:
            x = block(x)
            features.append(x)
        return features, run_collapsed(self.upsampler, torch.cat(features), self.scale).chunk(
            len(features)
        )


class MAB(nn.Module):
    """Multi-scale aggregation block (section 3.1, eqs. 5-7): split, a chain of four 3x3, shuffle, residual."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        width = CHANNELS // GROUPS
        self.expand = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.chain = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(GROUPS))
        self.act = {"relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.1)}[activation]()
        self.shuffle = nn.ChannelShuffle(GROUPS)
        self.reduce = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        splits = self.expand(x).split(CHANNELS // GROUPS, dim=1)  # 4 x (N, 24, H, W)
        y = self.act(self.chain[0](splits[0]))
        outputs = [y]
        for conv, part in zip(self.chain[1:], splits[1:]):  # eq. 6: y_i = K_i(x_i + y_(i-1))
            y = self.act(conv(part + y))
            outputs.append(y)
        return self.reduce(self.shuffle(torch.cat(outputs, dim=1))) + x


def upsampler(scale: int) -> nn.Sequential:
    """1x1, transposed convolution(s) with kernel = stride, 3x3 to RGB (section 3.1, upsample module); linear."""
    strides = {2: (2,), 3: (3,), 4: (2, 2)}[scale]
    deconvs = [nn.ConvTranspose2d(64, 64, s, stride=s) for s in strides]
    return nn.Sequential(nn.Conv2d(CHANNELS, 64, 1), *deconvs, nn.Conv2d(64, 3, 3, padding=1))


def _network(*, scale: int, variant: Variant, activation: str) -> ASRN:
    if activation not in ("relu", "leaky_relu"):
        raise CheckpointError(f"ASRN's activation is relu or leaky_relu, not '{activation}'")
    return ASRN(scale=scale, blocks=variant.size, activation=activation)


def _slice(weights: Weights, held: Variant, wanted: Variant) -> dict:
    """The first blocks, and the head and upsampler that all depths share."""
    dropped = tuple(f"body.{i}." for i in range(wanted.size, held.size))
    return {k: v for k, v in weights.items() if not k.startswith(dropped)}


ASRN_ARCHITECTURE = Architecture(
    name="asrn",
    scales=(2, 3, 4),
    default_variant="d5",
    network=_network,
    check=lambda variant: check_axis(variant, "d", "d5"),
    slice=_slice,
    points=lambda largest: tuple(f"d{n}" for n in range(1, largest.size + 1)),
    size_of=lambda weights: Variant("d", blocks_in(weights, "body")),
    config={"activation": "relu"},
    structure=lambda variant: "any depth",
    halo_px=lambda variant: (
        1 + 4 * variant.size + 1
    ),  # head, the chain of four 3x3 in each block, the last 3x3
)
