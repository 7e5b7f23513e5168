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
from sr_deploy.nets.linear import collapsed_bias, collapsed_kernel, then_pointwise
from sr_deploy.nets.reparameterised import ReparameterisedConv

REPORT_HW = (64, 64)


def fuse_network(net: nn.Module) -> Tuple[nn.Module, List[Dict[str, object]]]:
    """Apply all passes; return the new network, and a report of each pass that applied."""
    reports: List[Dict[str, object]] = []

    def report(name: str, before: nn.Module, after: nn.Module) -> None:
        reports.append(pass_report(name, before, after))

    return fused_network(net, report), reports


def fused_network(
    net: nn.Module, report: Callable[[str, nn.Module, nn.Module], None] = lambda name, *nets: None
) -> nn.Module:
    """Apply all passes. report: called with the name of a pass, and the networks around it."""
    for name, apply in PASSES.items():
        fused = apply(net)
        if fused is not None:
            report(name, net, fused)
            net = fused
    return net


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

    ASRN: the head joins the first block, the upsampler's 1x1 the last one; the rest of it becomes a
    3x3 and a pixel shuffle. EDSR: the tail to a 5x5 and a pixel shuffle.
    """
    if isinstance(net, ASRN) and net.collapses:
        return CollapsedASRN(net).eval()
    if isinstance(net, EDSRBase) and isinstance(net.tail, nn.Sequential):
        fused = copy.deepcopy(net)
        fused.tail = CollapsedTail(net.tail, net.scale)
        return fused.eval()
    return None


def fold_shuffles(net: nn.Module) -> Optional[nn.Module]:
    """Replace the channel shuffle in ASRN's blocks by an order of the next 1x1's weights."""
    fused = copy.deepcopy(net)
    blocks = shuffled_blocks(fused)
    for block, order in blocks.values():
        with torch.no_grad():
            block.reduce.weight[:, order] = block.reduce.weight.clone()
        block.shuffle = nn.Identity()
    return fused if blocks else None


def shuffled_blocks(net: nn.Module) -> Dict[str, Tuple[MAB, Tensor]]:
    """Return ASRN's blocks whose shuffle precedes a 1x1 convolution, by name.

    With each the order of its channels after the shuffle, (channels,).
    """

    def order(block: MAB) -> Tensor:
        return block.shuffle(torch.arange(block.reduce.in_channels).view(1, -1, 1, 1)).flatten()

    return {
        name: (module, order(module))
        for name, module in net.named_modules()
        if isinstance(module, MAB)
        and isinstance(module.shuffle, nn.ChannelShuffle)
        and isinstance(module.reduce, nn.Conv2d)
    }


PASSES: Mapping[str, Callable[[nn.Module], Optional[nn.Module]]] = {
    "merge-paths": merge_paths,
    "collapse-linear": collapse_linear,
    "fold-shuffles": fold_shuffles,
}


class CollapsedASRN(nn.Module):
    """ASRN without the layers that are linear in the paper, which join the layers beside them.

    The first block reads the image: its 1x1 and its skip contain the head. The last block's 1x1 and
    skip contain the 1x1 of the upsampler, whose other layers are one 3x3 convolution.
    The zero padding of a layer excludes the biases of the layers before it. A channel that is one
    inside the image and zero outside carries these biases, so the borders are exact. It is computed
    from the input; a constant would be folded to a map of the image's size.
    """

    def __init__(self, net: ASRN) -> None:
        super().__init__()
        self.shuffle = nn.PixelShuffle(net.scale)
        self.body = nn.ModuleList(LinkedMAB(cast(MAB, mab)) for mab in net.body)
        self.upsampler: nn.Module = nn.Identity()
        self.upsampler_inside: nn.Module = nn.Identity()
        dtype = next(net.parameters()).dtype
        with torch.no_grad():
            weights = collapsed_weights(copy.deepcopy(net).double())
        for name in sorted({key.rpartition(".")[0] for key in weights}):
            kernel, bias = weights[f"{name}.weight"].to(dtype), weights.get(f"{name}.bias")
            conv = make_conv(kernel, None if bias is None else bias.to(dtype))
            self.set_submodule(name, conv)

    def forward(self, x: Tensor) -> Tensor:
        inside = x[:, :1] * 0 + 1
        for block in self.body:
            x = block(x)  # (N, 96, H, W), after the last block (N, 64, H, W)
        return self.shuffle(self.upsampler(x) + self.upsampler_inside(inside))


class LinkedMAB(MAB):
    """A block of ASRN whose skip may be a convolution."""

    def __init__(self, mab: MAB) -> None:
        nn.Module.__init__(self)  # the layers are those of `mab`
        self.expand, self.chain, self.act = mab.expand, mab.chain, mab.act
        self.shuffle, self.reduce = mab.shuffle, mab.reduce
        self.skip: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.aggregate(x) + self.skip(x)


def collapsed_weights(net: ASRN) -> Dict[str, Tensor]:
    """Return the weights of CollapsedASRN that are not those of `net`, by name; differentiable."""
    head, last = cast(nn.Conv2d, net.head[0]), len(net.body) - 1
    first_mab, last_mab = cast(MAB, net.body[0]), cast(MAB, net.body[last])
    one, rest = cast(nn.Conv2d, net.upsampler[0]), cast(nn.Sequential, net.upsampler[1:])
    convs: Dict[str, Tuple[Tensor, Optional[Tensor]]] = {}
    skip = then_pointwise(head.weight, head.bias, cast(nn.Conv2d, net.head[1]))
    convs["body.0.expand"] = then_pointwise(*skip, first_mab.expand)
    convs["body.0.skip"] = skip
    reduce = last_mab.reduce
    convs[f"body.{last}.reduce"] = then_pointwise(reduce.weight, reduce.bias, one)
    if last == 0:  # the bias of the upsampler's 1x1 is in the other summand
        kernel, bias = then_pointwise(*skip, one)
        assert bias is not None and one.bias is not None
        convs["body.0.skip"] = kernel, bias - one.bias
    else:
        convs[f"body.{last}.skip"] = one.weight, None
    kernel = collapsed_kernel(rest, net.scale)
    convs["upsampler"] = kernel[:, :-1], collapsed_bias(rest, net.scale)
    convs["upsampler_inside"] = kernel[:, -1:], None
    named = [(f"{name}.weight", w) for name, (w, _) in convs.items()]
    named += [(f"{name}.bias", b) for name, (_, b) in convs.items() if b is not None]
    return dict(named)


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
