"""A chain of linear layers as one 3x3 convolution, computed from the chain's own parameters and differentiable.

ASRN's head (3x3, 1x1) and upsampler (1x1, transposed convolutions, 3x3) have no activation. Run as one convolution each
they are the same functions with the same gradients, for a third of a training step's time on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def kernel_of(chain: nn.Sequential, scale: int) -> Tensor:
    """Return (out * scale**2, in + 1, 3, 3): the 3x3 kernel of a linear chain whose field is 3x3 LR pixels.

    It is read off the chain's responses to one impulse per input channel. The additional input channel is constant one
    inside the picture and, like every other, zero outside: through it the biases pass, so borders come out exact too.
    """
    channels, weight = chain[0].in_channels, chain[0].weight
    impulses = torch.zeros(channels + 1, channels, 3, 3, dtype=weight.dtype, device=weight.device)
    impulses[torch.arange(channels), torch.arange(channels), 1, 1] = 1
    inside = torch.zeros(
        channels + 1, 1, 3, 3, dtype=weight.dtype, device=weight.device
    )  # where the constant-one channel is one
    inside[channels, 0, 1, 1] = 1
    with torch.autocast(
        weight.device.type, enabled=False
    ):  # the kernel is rounded once, where it is used
        x = _response(chain, impulses, inside)
    response = F.pixel_unshuffle(x, scale)  # (in + 1, out * s * s, 3, 3)
    return response.transpose(0, 1).flip(2, 3)


def _response(chain: nn.Sequential, x: Tensor, inside: Tensor) -> Tensor:
    for layer in chain:
        # Each layer's bias acts only where the constant channel, brought to this layer's resolution, is one.
        if isinstance(layer, nn.ConvTranspose2d):
            x = F.conv_transpose2d(x, layer.weight, stride=layer.stride)
            inside = F.interpolate(inside, scale_factor=float(layer.stride[0]), mode="nearest")
        else:
            x = F.conv2d(x, layer.weight, padding=layer.padding)
        if layer is not chain[-1]:
            x = x + inside * layer.bias.view(1, -1, 1, 1)
    return x


def run_collapsed(chain: nn.Sequential, x: Tensor, scale: int) -> Tensor:
    """Return chain(x), x: (N, C, H, W), by one 3x3 convolution and a pixel shuffle."""
    kernel = kernel_of(chain, scale)
    ones = torch.ones_like(x[:, :1])
    bias = chain[-1].bias.repeat_interleave(scale * scale)
    y = F.conv2d(torch.cat((x, ones), dim=1), kernel, bias, padding=1)
    return F.pixel_shuffle(y, scale)
