"""Convolutions that are trained as several linear paths and run as one (re-parameterisation).

All paths read the image with zeros around it, so one kernel is exact at the borders too.
"""

from __future__ import annotations

import dataclasses
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError
from sr_deploy.nets.architecture import Architecture, Weights

KernelAndBias = Tuple[Tensor, Optional[Tensor]]


class ReparameterisedConv(nn.Module):
    """A convolution of odd size that keeps the size of its input, (N, C, H, W).

    In training mode the paths are merged in each step: the same outputs and gradients as those of
    the paths, for a fraction of the work.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.paths(x)
        # In full precision: the kernel is rounded once, where it is used.
        with torch.autocast(x.device.type, enabled=False):
            kernel, bias = self.merged()
        return F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)

    def paths(self, x: Tensor) -> Tensor:
        """Return the sum of the paths, each computed by its own layers."""
        raise NotImplementedError

    def merged(self) -> KernelAndBias:
        """Return the kernel, (out, in, k, k), and the bias, (out,), of all paths together."""
        raise NotImplementedError


class ExpandedConv(ReparameterisedConv):
    """SPAN's Conv3XC: 1x1, 3x3, 1x1 at twice the width, and a 1x1 beside them."""

    GAIN = 2

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=bias)
        self.expand = nn.Conv2d(inputs, self.GAIN * inputs, 1, bias=bias)
        self.conv = nn.Conv2d(self.GAIN * inputs, self.GAIN * outputs, 3, bias=bias)
        self.reduce = nn.Conv2d(self.GAIN * outputs, outputs, 1, bias=bias)

    def paths(self, x: Tensor) -> Tensor:
        around = F.pad(x, (1, 1, 1, 1))  # before the 1x1, whose bias is then there too
        return self.reduce(self.conv(self.expand(around))) + self.skip(x)

    def merged(self) -> KernelAndBias:
        kernel, bias = _chained(self.expand, self.conv)
        reduce = self.reduce.weight[:, :, 0, 0]  # (out, 2 * out)
        kernel = torch.einsum("om,mihw->oihw", reduce, kernel) + _centred(self.skip.weight)
        if bias is None or self.reduce.bias is None or self.skip.bias is None:
            return kernel, None
        return kernel, reduce @ bias + self.reduce.bias + self.skip.bias


class EdgeConv(ReparameterisedConv):
    """EFDN's edge-enhanced diverse branch block, a 3x3 of seven paths.

    3x3; 1x1; 1x1 and 3x3; 1x1 and a scaled Sobel filter, across and down, or a Laplacian; identity.
    """

    masks: Tensor
    GAIN = 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.point = nn.Conv2d(channels, channels, 1)
        self.expand = nn.Conv2d(channels, self.GAIN * channels, 1)
        self.reduce = nn.Conv2d(self.GAIN * channels, channels, 3)
        # The three filters' paths, one after the other.
        self.edges = nn.Conv2d(channels, 3 * channels, 1)
        self.edge_scale = nn.Parameter(1e-3 * torch.randn(3 * channels, 1, 1, 1))
        self.edge_bias = nn.Parameter(1e-3 * torch.randn(3 * channels))
        across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        laplacian = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        masks = torch.stack((across, across.T, laplacian)).repeat_interleave(channels, 0)
        self.register_buffer("masks", masks[:, None], persistent=False)  # (3 * channels, 1, 3, 3)

    def paths(self, x: Tensor) -> Tensor:
        around = F.pad(x, (1, 1, 1, 1))
        filters = self.edge_scale * self.masks
        edges = F.conv2d(self.edges(around), filters, self.edge_bias, groups=len(filters))
        chain = self.reduce(self.expand(around))
        return self.conv(x) + self.point(x) + chain + sum(edges.chunk(3, dim=1)) + x

    def merged(self) -> KernelAndBias:
        chain, chain_bias = _chained(self.expand, self.reduce)
        filters = self.edge_scale * self.masks  # (3 * channels, 1, 3, 3)
        biases = (self.conv.bias, self.point.bias, chain_bias, self.edges.bias)
        conv_bias, point_bias, chain_bias, edges_bias = (b for b in biases if b is not None)
        identity = torch.eye(len(conv_bias), dtype=filters.dtype, device=filters.device)
        kernel = self.conv.weight + chain + _centred(self.point.weight + identity[:, :, None, None])
        edge_bias = self.edge_bias + filters.sum((1, 2, 3)) * edges_bias
        return (
            kernel + sum((filters * self.edges.weight).chunk(3)),
            conv_bias + point_bias + chain_bias + sum(edge_bias.chunk(3)),
        )


class LowRankConv(ReparameterisedConv, nn.Conv2d):
    """DSCF's ConvLoRA: a frozen convolution, and a trained one whose kernel has a low rank.

    The kernel that is added is twice the product of two factors, and zero at first.
    """

    SCALE = 2.0

    def __init__(self, inputs: int, outputs: int, size: int, *, rank: int, bias: bool) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2, bias=bias)
        self.requires_grad_(False)
        self.narrow = nn.Parameter(torch.empty(rank * size, inputs * size))
        self.wide = nn.Parameter(torch.zeros(outputs * size, rank * size))
        nn.init.kaiming_uniform_(self.narrow, a=5**0.5)

    def paths(self, x: Tensor) -> Tensor:
        return nn.Conv2d.forward(self, x) + F.conv2d(x, self._added(), padding=self.padding)

    def merged(self) -> KernelAndBias:
        return self.weight + self._added(), self.bias

    def _added(self) -> Tensor:
        return self.SCALE * (self.wide @ self.narrow).view(self.weight.shape)


def conv3x3(inputs: int, outputs: int, *, reparameterised: bool, bias: bool = True) -> nn.Module:
    """Return a 3x3 convolution, or SPAN's paths that train it."""
    if reparameterised:
        return ExpandedConv(inputs, outputs, bias=bias)
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def with_paths(architecture: Architecture) -> Architecture:
    """Return an architecture with the configuration `reparameterised`, by default false.

    Its network takes an argument of that name.
    """
    network = architecture.network

    def checked(*, reparameterised: object, **others: object) -> nn.Module:
        if not isinstance(reparameterised, bool):
            raise CheckpointError(
                f"{architecture.name}: 'reparameterised' must be true or false, "
                f"got {reparameterised!r}"
            )
        return network(reparameterised=reparameterised, **others)

    return dataclasses.replace(
        architecture,
        network=checked,
        config={"reparameterised": False},
        config_of=lambda weights: {"reparameterised": True} if _has_paths(weights) else {},
    )


def _has_paths(weights: Weights) -> bool:
    return any(name.endswith((".reduce.weight", ".narrow")) for name in weights)


def _chained(first: nn.Conv2d, then: nn.Conv2d) -> KernelAndBias:
    """Return kernel and bias of a 1x1 and another convolution on what it makes of the padding."""
    kernel = torch.einsum("omhw,mi->oihw", then.weight, first.weight[:, :, 0, 0])
    if first.bias is None or then.bias is None:
        return kernel, None
    return kernel, then.weight.sum((2, 3)) @ first.bias + then.bias


def _centred(kernel_1x1: Tensor) -> Tensor:
    return F.pad(kernel_1x1, (1, 1, 1, 1))
