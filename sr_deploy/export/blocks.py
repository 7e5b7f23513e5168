"""Networks with their channels in whole blocks: the same function for backends that compute convolutions block by block.

onnxruntime's CPU kernels lay maps out in blocks of 16 channels (8 without AVX-512), tensor cores take multiples of 8. A map, or
a group of a grouped convolution, that is no whole number of blocks is padded or copied at every operator, and a Split or a
Concat is a copy by itself. Here every group takes whole blocks, the rest of which is zero; what a Split would cut off stays
beside what is passed on, with zeros in the convolutions that do not read it; and a 1x1 of a Concat is a sum of one for each map,
which backends add up in place. Table 4 of the IMDeception paper meets the same on a GPU: core 12 is slower than 16.
"""

from __future__ import annotations

from typing import List, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.nets.asrn import MAB
from sr_deploy.nets.fuse import CollapsedASRN, make_conv, slice_outputs
from sr_deploy.nets.imdeception import GIDB, GROUPS, BlockNLA, IMDeception


def in_blocks(net: nn.Module, block: int) -> Optional[nn.Module]:
    """Return `net`, rewritten exactly before, with its maps in blocks of `block` channels; None where that has no meaning."""
    made = {CollapsedASRN: BlockedASRN, IMDeception: BlockedIMDeception}.get(type(net))
    return None if made is None else made(net, block).eval()


class Layout:
    """Which of a map's `width` channels are the network's own: channel i lies at places[i]."""

    def __init__(self, places: Tensor, width: int, groups: int = 1) -> None:
        self.places, self.width, self.groups = places, width, groups

    def part(self, start: int, size: int) -> Layout:
        return Layout(self.places[start : start + size], self.width, self.groups)


def side_by_side(channels: int, block: int) -> Layout:
    return Layout(torch.arange(channels), _up(channels, block))


def in_groups(kept: int, passed: int, block: int) -> Layout:
    """A map of which a Split would keep and pass on channels: a share of both in each group, groups joined where that saves."""
    total = kept + passed

    def width(groups: int) -> int:
        return groups * _up(total // groups, block)

    groups = min((GROUPS, GROUPS // 2, 1), key=lambda g: (width(g) ** 2 // g, -g))
    each = width(groups) // groups
    places = [
        (j // (n // groups)) * each + start // groups + j % (n // groups)
        for start, n in ((0, kept), (kept, passed))
        for j in range(n)
    ]
    return Layout(torch.tensor(places), width(groups), groups)


def convolution(layer: nn.Conv2d, source: Layout, result: Layout) -> nn.Conv2d:
    """Return `layer` between maps of these layouts; what it neither reads nor writes has zeros."""
    groups = result.groups if layer.groups > 1 and result.groups == source.groups else 1
    dense = torch.zeros(result.width, source.width, *layer.kernel_size, dtype=layer.weight.dtype)
    rows, columns = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    with torch.no_grad():
        for g in range(layer.groups):
            outputs, inputs = (
                result.places[g * rows : (g + 1) * rows],
                source.places[g * columns : (g + 1) * columns],
            )
            dense[outputs[:, None], inputs[None, :]] = layer.weight[g * rows : (g + 1) * rows]
    rows, columns = result.width // groups, source.width // groups
    weight = torch.cat(
        [dense[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(groups)]
    )
    bias = None
    if layer.bias is not None:
        bias = torch.zeros(result.width, dtype=weight.dtype)
        bias[result.places] = layer.bias.detach()
    return make_conv(weight, bias, groups=groups)


class Sum(nn.Module):
    """A 1x1 of a Concat, as the sum of one for each of its maps."""

    def __init__(self, layer: nn.Conv2d, sources: Sequence[Layout], result: Layout) -> None:
        super().__init__()
        parts, start = [], 0
        for source in sources:
            size = len(source.places)
            parts.append(
                convolution(
                    make_conv(layer.weight[:, start : start + size], None if parts else layer.bias),
                    source,
                    result,
                )
            )
            start += size
        self.parts = nn.ModuleList(parts)

    def forward(self, maps: Sequence[Tensor], y: Optional[Tensor] = None) -> Tensor:
        """Return the sum, plus y where one is given."""
        for part, x in zip(self.parts, maps):
            y = part(x) if y is None else part(x) + y
        assert y is not None
        return y


class BlockedASRN(nn.Module):
    """ASRN, head and upsampler collapsed, with each part of its splits in whole blocks."""

    def __init__(self, net: CollapsedASRN, block: int) -> None:
        super().__init__()
        self.scale, self.upsampler_inside = net.scale, net.upsampler_inside
        features = side_by_side(net.head.out_channels, block)
        self.head = convolution(net.head, side_by_side(net.head.in_channels, 1), features)
        self.body = nn.ModuleList(BlockedMAB(mab, features, block) for mab in net.body)
        self.upsampler = convolution(
            net.upsampler, features, side_by_side(net.upsampler.out_channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        inside = x[:, :1] * 0 + 1
        y = self.head(torch.cat((x, inside), dim=1))
        for mab in self.body:
            y = mab(y)
        return F.pixel_shuffle(self.upsampler(y) + self.upsampler_inside(inside), self.scale)


class BlockedMAB(nn.Module):
    """A block of ASRN without Split and Concat: one 1x1 for each part, summed with the part before."""

    def __init__(self, mab: MAB, features: Layout, block: int) -> None:
        super().__init__()
        size = mab.chain[0].in_channels
        part = side_by_side(size, block)
        self.expand = nn.ModuleList(
            convolution(slice_outputs(mab.expand, i * size, size), features, part)
            for i in range(len(mab.chain))
        )
        self.chain = nn.ModuleList(convolution(conv, part, part) for conv in mab.chain)
        self.act = mab.act
        self.reduce = Sum(mab.reduce, [part] * len(mab.chain), features)

    def forward(self, x: Tensor) -> Tensor:
        y: Optional[Tensor] = None
        total: Optional[Tensor] = x
        for expand, conv, reduce in zip(self.expand, self.chain, self.reduce.parts):
            part = expand(x)
            y = self.act(conv(part if y is None else part + y))
            total = reduce(y) + total
        assert total is not None
        return total


class BlockedIMDeception(nn.Module):
    """IMDeception with each group of its maps in whole blocks."""

    def __init__(self, net: IMDeception, block: int) -> None:
        super().__init__()
        c = net.core
        split, last = in_groups(c, 3 * c, block), side_by_side(c, block)
        features = side_by_side(net.features.out_channels, block)
        features.groups = (
            split.groups if features.width == net.features.out_channels else 1
        )  # its groups lie side by side
        passed = split.part(c, 3 * c)
        self.features = convolution(net.features, side_by_side(3, 1), features)
        self.blocks = nn.ModuleList(
            [BlockedGIDB(net.blocks[0], features, split, split, block)]
            + [BlockedGIDB(gidb, passed, split, split, block) for gidb in net.blocks[1:5]]
            + [BlockedGIDB(net.blocks[5], passed, in_groups(c, 2 * c, block), last, block)]
        )
        self.nla = nn.ModuleDict({i: _attention(nla, passed) for i, nla in net.nla.items()})
        fused = side_by_side(net.fuse.out_channels, block)
        self.fuse = Sum(net.fuse, [split.part(0, c)] * 5 + [last], fused)
        self.expand = convolution(net.expand, fused, features)
        self.act = net.act
        self.to_rgb = nn.Sequential(
            convolution(net.to_rgb[0], features, side_by_side(net.to_rgb[0].out_channels, 1)),
            net.to_rgb[1],
        )

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        kept: List[Tensor] = []
        y = features
        for i, block in enumerate(self.blocks):
            y = block(y)
            kept.append(y)
            if str(i) in self.nla:
                y = self.nla[str(i)](y)
        y = self.act(self.expand(self.act(self.fuse(kept))))
        return self.to_rgb(y + features)


class BlockedGIDB(nn.Module):
    def __init__(
        self, gidb: GIDB, source: Layout, split: Layout, result: Layout, block: int
    ) -> None:
        super().__init__()
        kept, passed, last = (
            split.part(0, gidb.sizes[0]),
            split.part(*gidb.sizes),
            side_by_side(gidb.sizes[0], block),
        )
        self.g1 = _gblock(gidb.g1, source, split)
        self.g2 = _gblock(gidb.g2, passed, split)
        self.g3 = _gblock(gidb.g3, passed, split)
        self.g4 = _gblock(gidb.g4, passed, last)
        self.act = gidb.act
        self.fuse = Sum(gidb.fuse, [kept, kept, kept, last, source], result)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.act(self.g1(x))]
        for gblock in (self.g2, self.g3, self.g4):
            maps.append(self.act(gblock(maps[-1])))
        return self.fuse([*maps, x])


def _gblock(gblock: nn.Sequential, source: Layout, result: Layout) -> nn.Sequential:
    """Grouped 3x3, ReLU, 1x1; between them each group's channels lie at the start of the group's blocks."""
    three, relu, one = gblock
    each, n = result.width // result.groups, three.out_channels // result.groups
    middle = Layout(
        torch.tensor([(j // n) * each + j % n for j in range(three.out_channels)]),
        result.width,
        result.groups,
    )
    return nn.Sequential(convolution(three, source, middle), relu, convolution(one, middle, result))


def _attention(nla: BlockNLA, passed: Layout) -> BlockNLA:
    made = BlockNLA(4 * nla.dim)
    made.qkv = convolution(nla.qkv, passed, side_by_side(nla.qkv.out_channels, 1))
    made.out = convolution(nla.out, side_by_side(nla.dim, 1), passed)
    return made


def _up(n: int, block: int) -> int:
    return -(-n // block) * block
