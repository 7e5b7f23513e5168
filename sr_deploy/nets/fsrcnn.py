"""FSRCNN, the smallest of CDNSR's four backbones: shrink, map, expand, and deconvolve to RGB.

As ClassSR and CDNSR use it: on RGB, with a single-parameter PReLU after the first, the shrinking,
the mapping and the expanding layers.
"""

from __future__ import annotations

from typing import Tuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.nets.architecture import width_architecture

SHRUNK = 12
MAPPING_LAYERS = 4


class FSRCNN(nn.Module):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

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
        return self.deconv(self.body(x))  # (N, width, H, W) -> (N, 3, scale*H, scale*W)

    def forward_training(self, x: Tensor) -> Tensor:
        """Return the same with the same gradients, by a convolution on LR pixels."""
        assert self.deconv.bias is not None
        bias = self.deconv.bias.repeat_interleave(self.scale**2)
        y = F.conv2d(self.body(x), subpixel_kernel(self.deconv), bias, padding="same")
        return F.pixel_shuffle(y, self.scale)


def subpixel_kernel(deconv: nn.ConvTranspose2d) -> Tensor:
    """Return the kernel, (out * s**2, in, k, k), that gives `deconv` with a pixel shuffle.

    It is the response to one impulse per input channel, without the bias; k is 3 for x4, else 5.
    """
    s, width, weight = deconv.stride[0], deconv.in_channels, deconv.weight
    k = 3 if s == 4 else 5
    channel = torch.arange(width)
    impulses = torch.zeros(width, width, k, k, dtype=weight.dtype, device=weight.device)
    impulses[channel, channel, k // 2, k // 2] = 1
    padding = cast(Tuple[int, ...], deconv.padding)
    # In full precision: the kernel is rounded once, where it is used.
    with torch.autocast(weight.device.type, enabled=False):
        y = F.conv_transpose2d(
            impulses, weight, None, deconv.stride, padding, deconv.output_padding
        )
    return F.pixel_unshuffle(y, s).transpose(0, 1).flip(2, 3)


FSRCNN_ARCHITECTURE = width_architecture(
    "fsrcnn",
    FSRCNN,
    default=56,
    bias="body.0.bias",
    # The 5x5, the 3x3 mapping layers, and the transposed 9x9: 2 LR pixels at x2 and x3, 1 at x4.
    halo_px=2 + MAPPING_LAYERS + 2,
)
