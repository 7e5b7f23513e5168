"""Chains of linear layers as one convolution, computed from its parameters, differentiable.

ASRN's head (3x3, 1x1) and upsampler (1x1, transposed convolutions, 3x3) have no activation. As one
convolution each, they have the same outputs and gradients, for a third of the time of a training
step on a CPU.
"""

from __future__ import annotations

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def collapsed_kernel(chain: nn.Sequential, scale: int) -> Tensor:
    """Return (out * scale**2, in + 1, 3, 3): the kernel of a chain with a field of 3x3 LR pixels.

    It is the response to one impulse per input channel. The additional input channel is one inside
    the image and, like all others, zero outside. It carries the biases, so borders are exact too.
    """
    first = chain[0]
    assert isinstance(first, (nn.Conv2d, nn.ConvTranspose2d))
    channels, like = first.in_channels, first.weight
    channel = torch.arange(channels)
    impulses = torch.zeros(channels + 1, channels, 3, 3, dtype=like.dtype, device=like.device)
    impulses[channel, channel, 1, 1] = 1
    inside = torch.zeros(channels + 1, 1, 3, 3, dtype=like.dtype, device=like.device)
    inside[channels, 0, 1, 1] = 1
    # In full precision: the kernel is rounded once, where it is used.
    with torch.autocast(like.device.type, enabled=False):
        response = F.pixel_unshuffle(_response(chain, impulses, inside), scale)
    return response.transpose(0, 1).flip(2, 3)  # from (in + 1, out * scale**2, 3, 3)


def collapsed_bias(chain: nn.Sequential, scale: int) -> Tensor:
    """Return the bias that goes with the kernel, (out * scale**2,): that of the last layer."""
    last = chain[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    return last.bias.repeat_interleave(scale * scale)


def then_pointwise(
    kernel: Tensor, bias: Optional[Tensor], one: nn.Conv2d
) -> Tuple[Tensor, Optional[Tensor]]:
    """Return kernel and bias of a convolution followed by the 1x1 convolution `one`.

    Without a bias, that of `one` is left out too. It is exact at the borders: a 1x1 has no padding.
    """
    matrix = one.weight[:, :, 0, 0].to(kernel.dtype)
    if bias is not None:
        assert one.bias is not None
        bias = matrix @ bias + one.bias.to(kernel.dtype)
    return torch.einsum("oc,cikl->oikl", matrix, kernel), bias


def run_collapsed(chain: nn.Sequential, x: Tensor, scale: int) -> Tensor:
    """Return chain(x), x: (N, C, H, W), by one 3x3 convolution and a pixel shuffle."""
    kernel = collapsed_kernel(chain, scale)
    inside = torch.ones_like(x[:, :1])
    y = F.conv2d(torch.cat((x, inside), dim=1), kernel, collapsed_bias(chain, scale), padding=1)
    return F.pixel_shuffle(y, scale)


def _response(chain: nn.Sequential, x: Tensor, inside: Tensor) -> Tensor:
    """Run the chain without its last bias; other biases act only where `inside` is one."""
    for layer in chain:
        assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and layer.bias is not None
        if isinstance(layer, nn.ConvTranspose2d):
            x = F.conv_transpose2d(x, layer.weight, stride=layer.stride)
            inside = F.interpolate(inside, scale_factor=float(layer.stride[0]), mode="nearest")
        else:
            x = F.conv2d(x, layer.weight, padding=layer.padding)
        if layer is not chain[-1]:
            x = x + inside * layer.bias.view(1, -1, 1, 1)
    return x
