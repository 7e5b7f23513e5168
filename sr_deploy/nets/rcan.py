"""RCAN, residual groups with channel attention: CDNSR's fourth backbone, and one of AdaDSR's."""

from __future__ import annotations

from torch import Tensor, nn

from sr_deploy.core.errors import VariantError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture, Weights, check_axis
from sr_deploy.nets.mean_shift import MeanShift

GROUPS = 10
BLOCKS = 20
REDUCTION = 16


class RCAN(nn.Module):
    """The static network of `width` channels. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def __init__(
        self, *, scale: int, width: int = 64, groups: int = GROUPS, blocks: int = BLOCKS
    ) -> None:
        super().__init__()
        self.sub_mean = MeanShift(-1)
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.groups = nn.Sequential(*(Group(width, blocks) for _ in range(groups)))
        self.last = nn.Conv2d(width, width, 3, padding=1)
        stages = {2: (2,), 3: (3,), 4: (2, 2)}[scale]
        upsampler = [
            m
            for s in stages
            for m in (nn.Conv2d(width, s * s * width, 3, padding=1), nn.PixelShuffle(s))
        ]
        self.tail = nn.Sequential(*upsampler, nn.Conv2d(width, 3, 3, padding=1))
        self.add_mean = MeanShift(1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)  # (N, width, H, W)
        return self.image(self.groups(features), features)

    def features(self, x: Tensor) -> Tensor:
        """Return the head's features of x, (N, width, H, W)."""
        return self.head(self.sub_mean(x))

    def image(self, deep: Tensor, features: Tensor) -> Tensor:
        """Return the image, (N, 3, scale*H, scale*W), of what the groups made of the head's features."""
        return self.add_mean(self.tail(self.last(deep) + features))


class Group(nn.Module):
    """Blocks and a 3x3, plus the input."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(AttentionBlock(width) for _ in range(blocks)))
        self.last = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(x)) + x


class AttentionBlock(nn.Module):
    """3x3, ReLU, 3x3, channel attention, plus the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width // REDUCTION, 1),
            nn.ReLU(),
            nn.Conv2d(width // REDUCTION, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + x

    def branch(self, x: Tensor) -> Tensor:
        """Return what the block adds to its input."""
        y = self.conv2(self.act(self.conv1(x)))
        return y * self.attention(y)


def _check(variant: Variant) -> None:
    check_axis(variant, "w", "w64")
    if not REDUCTION <= variant.size <= 1024:
        raise VariantError(f"RCAN's width is from {REDUCTION} to 1024, not {variant.size}")


def _size_of(weights: Weights) -> Variant:
    return Variant("w", int(weights["head.bias"].shape[0]) if "head.bias" in weights else 64)


RCAN_ARCHITECTURE = Architecture(
    name="rcan",
    scales=(2, 3, 4),
    default_variant="w64",
    network=lambda *, scale, variant: RCAN(scale=scale, width=variant.size),
    check=_check,
    slice=lambda weights, held, wanted: dict(
        weights
    ),  # not elastic: the three widths are trained apart
    points=lambda largest: (str(largest),),
    size_of=_size_of,
    # Channel attention averages over the whole image: no halo.
)
