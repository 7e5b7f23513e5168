"""Exact rewrites of a network before its export: the same function in fewer operations.

Each pass takes a static network and returns another one, or None where it has nothing to do; the network given is left as it
is. Kernels are computed in float64. `--literal` exports a network as its file writes it.
"""

from __future__ import annotations

import copy
from typing import Callable, Dict, List, Mapping, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.nets.asrn import ASRN, MAB
from sr_deploy.nets.complexity import count
from sr_deploy.nets.edsr import EDSRParts
from sr_deploy.nets.linear import kernel_of

COUNTED_HW = (64, 64)


def fuse_network(net: nn.Module) -> Tuple[nn.Module, List[Dict[str, object]]]:
    """Apply every pass; return the network to export and what was done: each pass with its counts before and after."""
    done: List[Dict[str, object]] = []
    for name, apply in PASSES.items():
        result = apply(net)
        if result is not None:
            done.append(counted(name, net, result))
            net = result
    return net, done


def counted(name: str, net: nn.Module, result: nn.Module) -> Dict[str, object]:
    """Return what a manifest says of a pass: its name, and the counts before and after."""
    before, after = (
        count(copy.deepcopy(n).float(), COUNTED_HW, counter="hooks") for n in (net, result)
    )
    return {
        "pass": name,
        "params": [before.params, after.params],
        "convs": [before.convs, after.convs],
        "macs_per_px": [c.macs // (COUNTED_HW[0] * COUNTED_HW[1]) for c in (before, after)],
    }


def collapse_linear(net: nn.Module) -> Optional[nn.Module]:
    """ASRN: the head as one 3x3, the upsampler as one 3x3 and a pixel shuffle. EDSR: the tail as one 5x5 and a pixel shuffle.

    All of them are linear in the papers.
    """
    if isinstance(net, ASRN):
        return CollapsedASRN(net).eval()
    if isinstance(net, EDSRParts) and isinstance(net.tail, nn.Sequential):
        result = copy.deepcopy(net)
        result.tail = CollapsedTail(result.tail, net.scale)
        return result.eval()
    return None


def fold_shuffles(net: nn.Module) -> Optional[nn.Module]:
    """ASRN's blocks: the channel shuffle as an order of the weights of the 1x1 that reads it."""
    if not any(_shuffles(module) for module in net.modules()):
        return None
    result = copy.deepcopy(net)
    for block in [module for module in result.modules() if _shuffles(module)]:
        order = block.shuffle(torch.arange(block.reduce.in_channels).view(1, -1, 1, 1)).flatten()
        with torch.no_grad():
            block.reduce.weight[:, order] = block.reduce.weight.clone()
        block.shuffle = nn.Identity()
    return result


def _shuffles(module: nn.Module) -> bool:
    return isinstance(module, MAB) and not isinstance(module.shuffle, nn.Identity)


PASSES: Mapping[str, Callable[[nn.Module], Optional[nn.Module]]] = {
    "collapse-linear": collapse_linear,
    "fold-shuffles": fold_shuffles,
}


class CollapsedASRN(nn.Module):
    """ASRN with one convolution each for head and upsampler.

    A layer's zero padding lies outside the biases of the layers before it. So a channel that is one inside the image, and zero
    outside as any other, carries those biases: the borders come out exact. It is made of the input, which no constant folding
    turns into a map as large as the image.
    """

    def __init__(self, net: ASRN) -> None:
        super().__init__()
        self.scale, self.body = net.scale, net.body
        self.head = convolution_of(*_collapsed(net.head, 1))
        kernel, bias = _collapsed(net.upsampler, net.scale)
        self.upsampler = convolution_of(kernel[:, :-1], bias)
        self.upsampler_inside = convolution_of(kernel[:, -1:], None)

    def forward(self, x: Tensor) -> Tensor:
        inside = x[:, :1] * 0 + 1
        y = self.head(torch.cat((x, inside), dim=1))  # (N, 96, H, W)
        for block in self.body:
            y = block(y)
        return F.pixel_shuffle(self.upsampler(y) + self.upsampler_inside(inside), self.scale)


class CollapsedTail(nn.Module):
    """EDSR's convolutions and pixel shuffles as one 5x5 convolution and one shuffle.

    Each layer's zero padding lies outside the layers before it, which one convolution cannot know: the outermost LR pixels are
    computed as they were, from the three rows or columns that they depend on.
    """

    def __init__(self, tail: nn.Sequential, scale: int) -> None:
        super().__init__()
        self.scale, self.tail = scale, tail
        channels, dtype = tail[0].in_channels, tail[0].weight.dtype
        exact = copy.deepcopy(tail).double()
        with torch.no_grad():
            impulses = torch.zeros(
                channels + 1, channels, 7, 7, dtype=torch.float64
            )  # the last one: none, for the biases
            impulses[torch.arange(channels), torch.arange(channels), 3, 3] = 1
            response = F.pixel_unshuffle(exact(impulses), scale)  # (channels + 1, 3 * s * s, 7, 7)
            bias = response[-1, :, 3, 3]
            kernel = (response[:-1] - response[-1:])[:, :, 1:-1, 1:-1].transpose(0, 1).flip(2, 3)
        self.conv = nn.Conv2d(channels, len(bias), 5, padding=2, dtype=dtype)
        with torch.no_grad():
            self.conv.weight.copy_(kernel)
            self.conv.bias.copy_(bias)  # type: ignore[union-attr]

    def forward(self, y: Tensor) -> Tensor:
        s, (h, w) = self.scale, y.shape[2:]
        image = F.pixel_shuffle(self.conv(y), s)
        left, right = self.tail(y[..., :3])[..., :s], self.tail(y[..., -3:])[..., -s:]
        image = torch.cat((left, image[..., s:-s], right), dim=3)[
            ..., : s * w
        ]  # of a single column both are the whole
        top, bottom = self.tail(y[:, :, :3])[:, :, :s], self.tail(y[:, :, -3:])[:, :, -s:]
        return torch.cat((top, image[:, :, s:-s], bottom), dim=2)[:, :, : s * h]


def _collapsed(chain: nn.Sequential, scale: int) -> Tuple[Tensor, Tensor]:
    """The kernel of a linear chain, its constant channel last, and its bias, in the chain's own dtype."""
    exact = copy.deepcopy(chain).double()
    dtype = chain[0].weight.dtype
    with torch.no_grad():
        return kernel_of(exact, scale).to(dtype), exact[-1].bias.repeat_interleave(
            scale * scale
        ).to(dtype)


def convolution_of(weight: Tensor, bias: Optional[Tensor], *, groups: int = 1) -> nn.Conv2d:
    """Return the convolution of stride 1 that keeps its input's size, with these weights."""
    out, channels, size = weight.shape[0], weight.shape[1] * groups, weight.shape[2]
    made = nn.Conv2d(
        channels,
        out,
        size,
        padding=size // 2,
        groups=groups,
        bias=bias is not None,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)  # type: ignore[union-attr]
    return made


def rows_of(layer: nn.Conv2d, start: int, size: int) -> nn.Conv2d:
    """Return a dense convolution's share of its output channels."""
    bias = None if layer.bias is None else layer.bias[start : start + size]
    return convolution_of(layer.weight[start : start + size], bias)
