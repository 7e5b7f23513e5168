"""FSRCNN as convolutions on LR pixels only: the form that CPUs run fastest, whole or by tiles.

Its deconvolution is a convolution and a pixel shuffle, its PReLUs of one slope are LeakyReLUs,
which backends join with the convolution before them, and its maps are whole blocks of channels,
filled up with zeros. Measured at x4: 0.6 of the time in ONNX Runtime, 0.55 in OpenVINO.
"""

from __future__ import annotations

from typing import List, cast

import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.nets.fsrcnn import FSRCNN, subpixel_kernel
from sr_deploy.nets.fuse import make_conv

BLOCK = 8
"""Channels of a block: as fast as 16 in ONNX Runtime with AVX-512, faster in OpenVINO."""


class SubpixelFSRCNN(nn.Module):
    """FSRCNN with maps of whole blocks of `block` channels. x: (N, 3, H, W) -> (N, 3, sH, sW)."""

    def __init__(self, net: FSRCNN, block: int = BLOCK) -> None:
        super().__init__()
        self.scale = net.scale
        layers: List[nn.Module] = []
        width = 3
        for layer in net.body:
            weight = cast(Tensor, layer.weight)
            if isinstance(layer, nn.Conv2d):
                rows = -(-layer.out_channels // block) * block
                layers.append(_filled_up(weight, cast(Tensor, layer.bias), rows, width))
                width = rows
            else:
                layers.append(nn.LeakyReLU(float(weight.detach())))
        self.body = nn.Sequential(*layers)
        kernel, bias = subpixel_kernel(net.deconv), cast(Tensor, net.deconv.bias)
        bias = bias.repeat_interleave(net.scale**2)
        self.upsampler = _filled_up(kernel, bias, len(kernel), width)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.upsampler(self.body(x)), self.scale)


class TileFSRCNN(nn.Module):
    """SubpixelFSRCNN on tiles with their margins. No convolution is padded.

    features: (N, 3, h + 2m, w + 2m), the LR image, zero outside it; inside: (N, 1, h + 2m, w + 2m),
    one inside the image and zero outside -> (N, 3, sh, sw). What lies outside the image is zeroed
    before each convolution, as its padding would do.
    """

    def __init__(self, net: FSRCNN, block: int = BLOCK) -> None:
        super().__init__()
        whole = SubpixelFSRCNN(net, block)
        self.scale, self.layers = whole.scale, nn.ModuleList([*whole.body, whole.upsampler])
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                layer.padding = (0, 0)
        self.margin = sum(map(_reach, self.layers))
        """m in LR pixels."""

    def forward(self, features: Tensor, inside: Tensor) -> Tensor:
        x, zeroed = features, True
        for layer in self.layers:
            reach = _reach(layer)
            if reach and not zeroed:
                x = x * inside
            x, zeroed = layer(x), False
            inside = inside[:, :, reach:-reach, reach:-reach] if reach else inside
        return F.pixel_shuffle(x, self.scale)


def _reach(layer: nn.Module) -> int:
    return layer.kernel_size[0] // 2 if isinstance(layer, nn.Conv2d) else 0


def _filled_up(weight: Tensor, bias: Tensor, rows: int, columns: int) -> nn.Conv2d:
    """Return a convolution from `columns` to `rows` channels, with zeros at those after its own."""
    out, into = weight.shape[:2]
    kernel, offsets = weight.new_zeros(rows, columns, *weight.shape[2:]), weight.new_zeros(rows)
    kernel[:out, :into], offsets[:out] = weight.detach(), bias.detach()
    return make_conv(kernel, offsets)
