"""FSRCNN, the smallest of CDNSR's four backbones: shrink, map, expand, and one transposed convolution to RGB.

As ClassSR and CDNSR use it: on RGB, with a single-parameter PReLU after the first layer, the shrinking, the mapping and the
expanding one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import VariantError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture, Weights, check_axis

SHRUNK = 12
MAPPING_LAYERS = 4


class FSRCNN(nn.Module):
    """The static network of `width` channels. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def __init__(self, *, scale: int, width: int = 56) -> None:
        super().__init__()
        self.scale = scale
        mapping = [nn.Conv2d(SHRUNK, SHRUNK, 3, padding=1) for _ in range(MAPPING_LAYERS)]
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2),
            nn.PReLU(),
            nn.Conv2d(width, SHRUNK, 1),
            nn.PReLU(),
            *mapping,
            nn.PReLU(),
            nn.Conv2d(SHRUNK, width, 1),
            nn.PReLU(),
        )
        self.deconv = nn.ConvTranspose2d(
            width, 3, 9, stride=scale, padding=4, output_padding=scale - 1
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.deconv(self.body(x))

    def forward_training(self, x: Tensor) -> Tensor:
        """The same function, with the same gradients, by a convolution on LR pixels in place of the transposed one."""
        bias = self.deconv.bias.repeat_interleave(self.scale**2)
        return F.pixel_shuffle(
            F.conv2d(self.body(x), kernel_of(self.deconv), bias, padding="same"), self.scale
        )


def kernel_of(deconv: nn.ConvTranspose2d) -> Tensor:
    """Return (out * s**2, in, k, k): the convolution whose pixel-shuffled result is the transposed one's without its bias.

    It is read off the response to one impulse; k is 3 for scale 4, else 5.
    """
    s, width = deconv.stride[0], deconv.in_channels
    k = 3 if s == 4 else 5
    impulses = torch.zeros(
        width, width, k, k, dtype=deconv.weight.dtype, device=deconv.weight.device
    )
    impulses[torch.arange(width), torch.arange(width), k // 2, k // 2] = 1
    with torch.autocast(
        deconv.weight.device.type, enabled=False
    ):  # the kernel is rounded once, where it is used
        y = F.conv_transpose2d(
            impulses,
            deconv.weight,
            stride=s,
            padding=deconv.padding,
            output_padding=deconv.output_padding,
        )
    return F.pixel_unshuffle(y, s).transpose(0, 1).flip(2, 3)


def _check(variant: Variant) -> None:
    check_axis(variant, "w", "w56")
    if variant.size > 1024:
        raise VariantError(f"FSRCNN's width is at most 1024, not {variant.size}")


FSRCNN_ARCHITECTURE = Architecture(
    name="fsrcnn",
    scales=(2, 3, 4),
    default_variant="w56",
    network=lambda *, scale, variant: FSRCNN(scale=scale, width=variant.size),
    check=_check,
    slice=lambda weights, held, wanted: dict(
        weights
    ),  # not elastic: the three widths are trained apart
    points=lambda largest: (str(largest),),
    size_of=lambda weights: Variant("w", _width(weights)),
    halo_px=lambda variant: (
        2 + MAPPING_LAYERS + 2
    ),  # the 5x5, the mapping's 3x3, the transposed 9x9 (2 LR pixels at x2 and x3, 1 at x4)
)


def _width(weights: Weights) -> int:
    return int(weights["body.0.bias"].shape[0]) if "body.0.bias" in weights else 56
