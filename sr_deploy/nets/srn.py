"""SRN and SRN-S, NTIRE 2023 efficient super-resolution: blocks with attention and no residual.

SRN has a 3x3 convolution before the long skip, SRN-S has none. The challenge's entry, called SRN
there, is the four-block network without it (`srn-s`, b4, x4).
"""

from __future__ import annotations

import functools
from typing import Callable, Mapping

from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture, Weights, check_axis, count_blocks
from sr_deploy.nets.layers import ESA, ESA_MIN_HW, OldESA

CHANNELS = 64


class SRN(nn.Module):
    """The static network.

    x: (N, 3, H, W) float, 0..1, RGB, H and W >= 15 -> (N, 3, scale*H, scale*W).
    """

    def __init__(
        self,
        *,
        scale: int,
        blocks: int = 6,
        last_conv: bool = True,
        residual: bool = False,
        attention: str = "esa",
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.blocks = nn.Sequential(*(NRB(residual, attention) for _ in range(blocks)))
        self.last = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) if last_conv else nn.Identity()
        self.tail = nn.Sequential(
            nn.Conv2d(CHANNELS, 3 * scale * scale, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)  # (N, 64, H, W)
        return self.tail(self.last(self.blocks(features)) + features)


class NRB(nn.Module):
    """Two 3x3 convolutions and spatial attention.

    The paper's ablations (Tables 2 and 3) vary it: `residual` adds the input; `attention` is `esa`,
    `esa-old` (RFANet's) or `none`.
    """

    def __init__(self, residual: bool, attention: str) -> None:
        super().__init__()
        self.residual = residual
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.act = nn.LeakyReLU(0.1)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.esa = ATTENTION[attention]()

    def forward(self, x: Tensor) -> Tensor:
        y = self.esa(self.conv2(self.act(self.conv1(x))))
        return y + x if self.residual else y


ATTENTION: Mapping[str, Callable[[], nn.Module]] = {
    "esa": lambda: ESA(CHANNELS, 16),
    "esa-old": lambda: OldESA(CHANNELS, 16),
    "none": nn.Identity,
}


def _network(*, scale: int, variant: Variant, last_conv: bool, **block: object) -> SRN:
    if block["attention"] not in ATTENTION or not isinstance(block["residual"], bool):
        raise CheckpointError(
            f"SRN: 'attention' must be one of {', '.join(ATTENTION)} and 'residual' true or false, "
            f"got {block['attention']!r} and {block['residual']!r}"
        )
    return SRN(scale=scale, blocks=variant.size, last_conv=last_conv, **block)  # type: ignore[arg-type]


def _config_of(weights: Weights) -> dict:
    """Tell the attention by the names; a residual connection has no weights and is not seen."""
    if "blocks.0.esa.conv_f.weight" in weights:
        return {"attention": "esa-old"}
    return {} if "blocks.0.esa.conv1.weight" in weights or not weights else {"attention": "none"}


def _architecture(name: str, *, last_conv: bool) -> Architecture:
    return Architecture(
        name=name,
        scales=(2, 4),
        default_variant="b6",
        network=functools.partial(_network, last_conv=last_conv),
        check=lambda variant: check_axis(variant, "b6"),
        size_of=lambda weights: Variant("b", count_blocks(weights, "blocks")),
        config={"residual": False, "attention": "esa"},
        config_of=_config_of,
        structure=lambda variant: "any depth",
        min_hw=ESA_MIN_HW,
    )


SRN_ARCHITECTURE = _architecture("srn", last_conv=True)
SRN_S_ARCHITECTURE = _architecture("srn-s", last_conv=False)
