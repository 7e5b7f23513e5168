"""CARN-M, CDNSR's second backbone: cascades of efficient residual blocks, whose weights the three of a cascade share.

As ClassSR and CDNSR use it: grouped 3x3s, batch normalisation after the 1x1s that join a cascade, DIV2K's mean subtracted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import VariantError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture, Weights, check_axis
from sr_deploy.nets.mean_shift import MeanShift

GROUPS = 4


class CARN(nn.Module):
    """The static network of `width` channels. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def __init__(self, *, scale: int, width: int = 64) -> None:
        super().__init__()
        self.sub_mean = MeanShift(-1)
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(Cascade(width) for _ in range(3))
        self.joins = nn.ModuleList(join(n * width, width) for n in (2, 3, 4))
        stages = {2: (2,), 3: (3,), 4: (2, 2)}[scale]
        upsampler = [
            m
            for s in stages
            for m in (
                nn.Conv2d(width, s * s * width, 3, padding=1, groups=GROUPS),
                nn.ReLU(),
                nn.PixelShuffle(s),
            )
        ]
        self.tail = nn.Sequential(*upsampler, nn.Conv2d(width, 3, 3, padding=1))
        self.add_mean = MeanShift(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.sub_mean(x))  # (N, width, H, W)
        return self.add_mean(self.tail(cascaded(x, list(self.blocks), self.joins)))


class Cascade(nn.Module):
    """The same residual block three times, each on a 1x1 of all that came before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = EfficientResidual(width)
        self.joins = nn.ModuleList(join(n * width, width) for n in (2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return cascaded(x, [self.block] * 3, self.joins)


class EfficientResidual(nn.Module):
    """Two grouped 3x3 and a 1x1, plus the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=GROUPS),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=GROUPS),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + x)


def join(inputs: int, width: int) -> nn.Sequential:
    """The 1x1 of a cascade: without bias, normalised, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def cascaded(x: Tensor, blocks: list, joins: nn.ModuleList) -> Tensor:
    """Run blocks and joins by turns, each join on the input and all blocks' results so far."""
    seen = x
    for block, joined in zip(blocks, joins):
        seen = torch.cat((seen, block(x)), dim=1)
        x = joined(seen)
    return x


def _check(variant: Variant) -> None:
    check_axis(variant, "w", "w64")
    if variant.size % GROUPS or variant.size > 1024:
        raise VariantError(f"CARN's width is a multiple of {GROUPS} up to 1024, not {variant.size}")


def _size_of(weights: Weights) -> Variant:
    return Variant("w", int(weights["head.bias"].shape[0]) if "head.bias" in weights else 64)


CARN_ARCHITECTURE = Architecture(
    name="carn-m",
    scales=(2, 3, 4),
    default_variant="w64",
    network=lambda *, scale, variant: CARN(scale=scale, width=variant.size),
    check=_check,
    slice=lambda weights, held, wanted: dict(
        weights
    ),  # not elastic: the three widths are trained apart
    points=lambda largest: (str(largest),),
    size_of=_size_of,
    halo_px=lambda variant: (
        1 + 3 * 3 * 2 + 2
    ),  # the head, three cascades of three blocks, the tail's finer grids
)
