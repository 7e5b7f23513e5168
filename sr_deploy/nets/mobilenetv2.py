"""MobileNetV2, which CDNSR compares its router with (Table III).

"MobileNetV2: Inverted Residuals and Linear Bottlenecks", Table 2, at width 1. With three classes
and patches of 32x32, its convolutions and its last layer take 6.116 M multiply-accumulates; with
two for each element that is normalised, 6.389 M, as CDNSR prints.
"""

from __future__ import annotations

from typing import List

from torch import Tensor, nn

STEM = 32
LAST = 1280
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""(expansion, channels, blocks, stride of the first block) of each stage."""


class MobileNetV2(nn.Module):
    """A router. x: (N, 3, H, W) float, 0..1, RGB -> log-odds (N, classes), smallest branch first.

    It reduces a patch by 32. Routers of patches that are not blended need ModuleCL, which sees no
    further than a cell.
    """

    def __init__(self, *, classes: int = 3) -> None:
        super().__init__()
        layers: List[nn.Module] = [*_conv(3, STEM, 3, stride=2), nn.ReLU6()]
        channels = STEM
        for expansion, width, blocks, stride in STAGES:
            for number in range(blocks):
                first = stride if number == 0 else 1
                layers.append(InvertedResidual(channels, width, expansion, first))
                channels = width
        layers += [*_conv(channels, LAST, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)]
        self.features = nn.Sequential(*layers)
        self.classify = nn.Linear(LAST, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x).flatten(1))


class InvertedResidual(nn.Module):
    """Expand by a 1x1, 3x3 depthwise, project by a 1x1 without activation; plus an equal input."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = channels * expansion
        expand = [*_conv(channels, wide, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*_conv(wide, wide, 3, stride=stride, groups=wide), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *depthwise, *_conv(wide, out, 1))
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + x if self.adds else self.layers(x)


def _conv(
    channels: int, out: int, size: int, *, stride: int = 1, groups: int = 1
) -> List[nn.Module]:
    """Return a convolution without bias, and its batch normalisation."""
    conv = nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out)]
