"""RCAN, residual groups with channel attention: CDNSR's fourth backbone, and one of AdaDSR's."""

from __future__ import annotations

from torch import Tensor, nn

from sr_deploy.nets.architecture import width_architecture
from sr_deploy.nets.layers import MeanShift, pixel_shuffle_upsampler

GROUPS = 10
BLOCKS = 20
REDUCTION = 16


class RCAN(nn.Module):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def __init__(
        self, *, scale: int, width: int = 64, groups: int = GROUPS, blocks: int = BLOCKS
    ) -> None:
        super().__init__()
        self.sub_mean = MeanShift(-1)
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.groups = nn.Sequential(*(ResidualGroup(width, blocks) for _ in range(groups)))
        self.last = nn.Conv2d(width, width, 3, padding=1)
        upsampler = pixel_shuffle_upsampler(width, scale)
        self.tail = nn.Sequential(*upsampler, nn.Conv2d(width, 3, 3, padding=1))
        self.add_mean = MeanShift(1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)  # (N, width, H, W)
        return self.image(self.groups(features), features)

    def features(self, x: Tensor) -> Tensor:
        """Return the features of the head, (N, width, H, W)."""
        return self.head(self.sub_mean(x))

    def image(self, deep: Tensor, features: Tensor) -> Tensor:
        """Return the image, (N, 3, scale*H, scale*W), from the output of the groups."""
        return self.add_mean(self.tail(self.last(deep) + features))


class ResidualGroup(nn.Module):
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
        y = self.conv2(self.act(self.conv1(x)))
        return y * self.attention(y) + x


# No halo: channel attention averages over the whole image.
RCAN_ARCHITECTURE = width_architecture("rcan", RCAN, default=64, smallest=REDUCTION)
