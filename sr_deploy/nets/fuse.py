"""Exact rewrites of a network before its export: the same function in fewer operations.

Each pass takes a static network and returns a new one, or None if it does not apply. Kernels are
computed in float64. `export --literal` skips the passes.
"""

from __future__ import annotations

import copy
import functools
from typing import Callable, Dict, List, Mapping, Optional, Tuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.nets.asrn import ASRN, MAB
from sr_deploy.nets.complexity import count
from sr_deploy.nets.edsr import EDSRBase
from sr_deploy.nets.linear import collapsed_bias, collapsed_kernel
from sr_deploy.nets.reparameterised import ReparameterisedConv

REPORT_HW = (64, 64)


def fuse_network(net: nn.Module) -> Tuple[nn.Module, List[Dict[str, object]]]:
    """Apply all passes; return the new network, and a report of each pass that applied."""
    reports: List[Dict[str, object]] = []
    for name, apply in PASSES.items():
        fused = apply(net)
        if fused is not None:
            reports.append(pass_report(name, net, fused))
            net = fused
    return net, reports


def pass_report(name: str, net: nn.Module, fused: nn.Module) -> Dict[str, object]:
    """Return a manifest's entry of a pass: its name, and the counts before and after."""
    before, after = (
        count(copy.deepcopy(n).float(), REPORT_HW, counter="hooks") for n in (net, fused)
    )
    pixels = REPORT_HW[0] * REPORT_HW[1]
    return {
        "pass": name,
        "params": [before.params, after.params],
        "convs": [before.convs, after.convs],
        "macs_per_px": [before.macs // pixels, after.macs // pixels],
    }


def merge_paths(net: nn.Module) -> Optional[nn.Module]:
    """Replace each convolution that is trained as several paths by one convolution."""
    names = [n for n, module in net.named_modules() if isinstance(module, ReparameterisedConv)]
    fused = copy.deepcopy(net)
    for name in names:
        paths = cast(ReparameterisedConv, fused.get_submodule(name))
        dtype = next(paths.parameters()).dtype
        with torch.no_grad():
            kernel, bias = paths.double().merged()
            bias = None if bias is None else bias.to(dtype)
            fused.set_submodule(name, make_conv(kernel.to(dtype), bias))
    return fused.eval() if names else None


def collapse_linear(net: nn.Module) -> Optional[nn.Module]:
    """Collapse chains of layers that are linear in the papers.

    ASRN: the head to a 3x3, the upsampler to a 3x3 and a pixel shuffle. EDSR: the tail to a 5x5 and
    a pixel shuffle.
    """
    if isinstance(net, ASRN):
        return CollapsedASRN(net).eval()
    if isinstance(net, EDSRBase) and isinstance(net.tail, nn.Sequential):
        fused = copy.deepcopy(net)
        fused.tail = CollapsedTail(net.tail, net.scale)
        return fused.eval()
    return None


def fold_shuffles(net: nn.Module) -> Optional[nn.Module]:
    """Replace the channel shuffle in ASRN's blocks by an order of the next 1x1's weights."""
    fused = copy.deepcopy(net)
    blocks = [
        module
        for module in fused.modules()
        if isinstance(module, MAB) and not isinstance(module.shuffle, nn.Identity)
    ]
    for block in blocks:
        order = block.shuffle(torch.arange(block.reduce.in_channels).view(1, -1, 1, 1)).flatten()
        with torch.no_grad():
            block.reduce.weight[:, order] = block.reduce.weight.clone()
        block.shuffle = nn.Identity()
    return fused if blocks else None


PASSES: Mapping[str, Callable[[nn.Module], Optional[nn.Module]]] = {
    "merge-paths": merge_paths,
    "collapse-linear": collapse_linear,
    "fold-shuffles": fold_shuffles,
}


class CollapsedASRN(nn.Module):
    """ASRN with one convolution each for head and upsampler.

    The zero padding of a layer excludes the biases of the layers before it. A channel that is one
    inside the image and zero outside carries these biases, so the borders are exact. It is computed
    from the input; a constant would be folded to a map of the image's size.
    """

    def __init__(self, net: ASRN) -> None:
        super().__init__()
        self.scale, self.body = net.scale, net.body
        self.head = make_conv(*_collapse(net.head, 1))
        kernel, bias = _collapse(net.upsampler, net.scale)
        self.upsampler = make_conv(kernel[:, :-1], bias)
        self.upsampler_inside = make_conv(kernel[:, -1:], None)

    def forward(self, x: Tensor) -> Tensor:
        inside = x[:, :1] * 0 + 1
        y = self.head(torch.cat((x, inside), dim=1))  # (N, 96, H, W)
        for block in self.body:
            y = block(y)
        return F.pixel_shuffle(self.upsampler(y) + self.upsampler_inside(inside), self.scale)


class CollapsedTail(nn.Module):
    """EDSR's convolutions and pixel shuffles as one 5x5 convolution and one pixel shuffle.

    The zero padding of a layer excludes the layers before it, which one convolution cannot express.
    So the outermost LR pixels are computed by the original layers, from the three rows or columns
    that they depend on.
    """

    def __init__(self, tail: nn.Sequential, scale: int) -> None:
        super().__init__()
        self.scale, self.tail = scale, tail
        weight = next(tail.parameters())
        channels = weight.shape[1]
        channel = torch.arange(channels)
        exact = copy.deepcopy(tail).double()
        with torch.no_grad():
            # One impulse per channel, and a last input without any for the biases.
            impulses = torch.zeros(channels + 1, channels, 7, 7, dtype=torch.float64)
            impulses[channel, channel, 3, 3] = 1
            response = F.pixel_unshuffle(exact(impulses), scale)  # (channels + 1, 3 * s * s, 7, 7)
            bias = response[-1, :, 3, 3]
            kernel = (response[:-1] - response[-1:])[:, :, 1:-1, 1:-1].transpose(0, 1).flip(2, 3)
        self.conv = make_conv(kernel.to(weight.dtype), bias.to(weight.dtype))

    def forward(self, y: Tensor) -> Tensor:
        s, (h, w) = self.scale, y.shape[2:]
        image = F.pixel_shuffle(self.conv(y), s)
        # The last crops are for images of one column or row, where both edges are the same.
        left, right = self.tail(y[..., :3])[..., :s], self.tail(y[..., -3:])[..., -s:]
        image = torch.cat((left, image[..., s:-s], right), dim=3)[..., : s * w]
        top, bottom = self.tail(y[:, :, :3])[:, :, :s], self.tail(y[:, :, -3:])[:, :, -s:]
        return torch.cat((top, image[:, :, s:-s], bottom), dim=2)[:, :, : s * h]


def _collapse(chain: nn.Sequential, scale: int) -> Tuple[Tensor, Tensor]:
    """Return kernel and bias of a linear chain, computed in float64, in the chain's own dtype."""
    dtype = next(chain.parameters()).dtype
    exact = copy.deepcopy(chain).double()
    with torch.no_grad():
        return collapsed_kernel(exact, scale).to(dtype), collapsed_bias(exact, scale).to(dtype)


def make_conv(weight: Tensor, bias: Optional[Tensor], *, groups: int = 1) -> nn.Conv2d:
    """Return a convolution of stride 1 with these weights that keeps the size of its input."""
    out, channels, size = weight.shape[0], weight.shape[1] * groups, weight.shape[2]
    make = functools.partial(nn.Conv2d, padding=size // 2, groups=groups, dtype=weight.dtype)
    conv = make(channels, out, size, bias=bias is not None)
    with torch.no_grad():
        conv.weight.copy_(weight)
        if conv.bias is not None and bias is not None:
            conv.bias.copy_(bias)
    return conv


def slice_outputs(layer: nn.Conv2d, start: int, size: int) -> nn.Conv2d:
    """Return the convolution of some output channels of a dense convolution."""
    bias = None if layer.bias is None else layer.bias[start : start + size]
    return make_conv(layer.weight[start : start + size], bias)
