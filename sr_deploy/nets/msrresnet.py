"""MSRResNet, SRResNet without its batch normalisation: CDNSR's third backbone, and the judge of its patches' difficulty."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import VariantError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture, Weights, check_axis
from sr_deploy.nets.edsr import ResidualBlock

BLOCKS = 16


class MSRResNet(nn.Module):
    """The static network of `width` channels. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def __init__(self, *, scale: int, width: int = 64) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.act = nn.LeakyReLU(0.1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(BLOCKS)))
        stages = {2: (2,), 3: (3,), 4: (2, 2)}[scale]
        upsampler = [
            m
            for s in stages
            for m in (
                nn.Conv2d(width, s * s * width, 3, padding=1),
                nn.PixelShuffle(s),
                nn.LeakyReLU(0.1),
            )
        ]
        fine = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, 3, 3, padding=1),
        )
        self.tail = nn.Sequential(*upsampler, *fine)

    def forward(self, x: Tensor) -> Tensor:
        base = F.interpolate(
            x, scale_factor=float(self.scale), mode="bilinear", align_corners=False
        )
        return self.tail(self.blocks(self.act(self.head(x)))) + base


def _check(variant: Variant) -> None:
    check_axis(variant, "w", "w64")
    if variant.size > 1024:
        raise VariantError(f"MSRResNet's width is at most 1024, not {variant.size}")


def _size_of(weights: Weights) -> Variant:
    return Variant("w", int(weights["head.bias"].shape[0]) if "head.bias" in weights else 64)


MSRRESNET_ARCHITECTURE = Architecture(
    name="msrresnet",
    scales=(2, 3, 4),
    default_variant="w64",
    network=lambda *, scale, variant: MSRResNet(scale=scale, width=variant.size),
    check=_check,
    slice=lambda weights, held, wanted: dict(
        weights
    ),  # not elastic: the three widths are trained apart
    points=lambda largest: (str(largest),),
    size_of=_size_of,
    halo_px=lambda variant: 1 + 2 * BLOCKS + 2,  # the tail's finer grids reach two LR pixels
)
