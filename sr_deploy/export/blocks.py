"""Networks with channels padded to whole blocks: the same function, for blocked kernels.

ONNX Runtime's CPU kernels store maps in blocks of 16 channels (8 without AVX-512), and tensor cores
take multiples of 8. A map, or a group of a grouped convolution, that is not a whole number of
blocks is padded or copied at every operator, and every Split or Concat is a copy. Here each group
takes whole blocks, filled up with zeros. A Split is avoided: the part that it would cut off stays
in the map, and the convolutions that do not read it have zeros there. A 1x1 after a Concat becomes
a sum of one 1x1 for each map, which backends add in place. Table 4 of the IMDeception paper shows
the same effect on a GPU: core 12 is slower than 16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import List, Optional, Sequence, cast

import torch
from torch import Tensor, nn

from sr_deploy.nets.fsrcnn import FSRCNN
from sr_deploy.nets.fsrcnn_tiles import SubpixelFSRCNN
from sr_deploy.nets.fuse import CollapsedASRN, LinkedMAB, make_conv, slice_outputs
from sr_deploy.nets.imdeception import GIDB, GROUPS, BlockNLA, IMDeception

IMAGE_CHANNELS = 3


def pad_to_blocks(net: nn.Module, block: int) -> Optional[nn.Module]:
    """Return a fused network with its maps in blocks of `block` channels; None if not supported."""
    if isinstance(net, CollapsedASRN):
        return BlockedASRN(net, block).eval()
    if isinstance(net, FSRCNN):
        return SubpixelFSRCNN(net, block).eval()
    return BlockedIMDeception(net, block).eval() if isinstance(net, IMDeception) else None


@dataclass(frozen=True)
class ChannelLayout:
    """The positions of a network's channels in a padded map of `width` channels."""

    places: Tensor
    width: int
    groups: int = 1

    def part(self, start: int, size: int) -> ChannelLayout:
        return replace(self, places=self.places[start : start + size])


def contiguous_layout(channels: int, block: int = 1) -> ChannelLayout:
    """Return the layout of channels in order, with padding at the end."""
    return ChannelLayout(torch.arange(channels), _round_up(channels, block))


def split_layout(shallow: int, deep: int, block: int) -> ChannelLayout:
    """Return the layout of a map that a Split would divide into a shallow and a deep part.

    Each group has a share of both. Groups are merged where that makes convolutions smaller.
    """
    total = shallow + deep

    def width(groups: int) -> int:
        return groups * _round_up(total // groups, block)

    groups = min((GROUPS, GROUPS // 2, 1), key=lambda g: (width(g) ** 2 // g, -g))
    group_width = width(groups) // groups
    places = [
        (j // (n // groups)) * group_width + start // groups + j % (n // groups)
        for start, n in ((0, shallow), (shallow, deep))
        for j in range(n)
    ]
    return ChannelLayout(torch.tensor(places), width(groups), groups)


def pad_conv(layer: nn.Conv2d, source: ChannelLayout, result: ChannelLayout) -> nn.Conv2d:
    """Return `layer` between maps of these layouts, with zeros at all other channels."""
    groups = result.groups if layer.groups > 1 and result.groups == source.groups else 1
    dense = torch.zeros(result.width, source.width, *layer.kernel_size, dtype=layer.weight.dtype)
    rows, columns = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    with torch.no_grad():
        for g in range(layer.groups):
            outputs = result.places[g * rows : (g + 1) * rows]
            inputs = source.places[g * columns : (g + 1) * columns]
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


class SumConv(nn.Module):
    """A 1x1 of a Concat, as the sum of a 1x1 for each of its maps."""

    def __init__(
        self, layer: nn.Conv2d, sources: Sequence[ChannelLayout], result: ChannelLayout
    ) -> None:
        super().__init__()
        parts: List[nn.Conv2d] = []
        start = 0
        for source in sources:
            end = start + len(source.places)
            part = make_conv(layer.weight[:, start:end], None if parts else layer.bias)
            parts.append(pad_conv(part, source, result))
            start = end
        self.parts = nn.ModuleList(parts)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        y = self.parts[0](maps[0])
        for part, x in zip(self.parts[1:], maps[1:]):
            y = part(x) + y
        return y


class BlockedASRN(CollapsedASRN):
    """Collapsed ASRN with the parts of its splits in whole blocks."""

    def __init__(self, net: CollapsedASRN, block: int) -> None:
        nn.Module.__init__(self)  # the layers are those of `net`, padded
        self.shuffle, self.upsampler_inside = net.shuffle, net.upsampler_inside
        self.body = nn.ModuleList()
        source = contiguous_layout(IMAGE_CHANNELS)
        for mab in net.body:
            features = contiguous_layout(cast(LinkedMAB, mab).reduce.out_channels, block)
            self.body.append(BlockedMAB(cast(LinkedMAB, mab), source, features, block))
            source = features
        upsampler = cast(nn.Conv2d, net.upsampler)
        self.upsampler = pad_conv(upsampler, source, contiguous_layout(upsampler.out_channels))


class BlockedMAB(nn.Module):
    """A block of ASRN without Split and Concat: one 1x1 for each part, summed up."""

    def __init__(
        self, mab: LinkedMAB, source: ChannelLayout, result: ChannelLayout, block: int
    ) -> None:
        super().__init__()
        chain = [cast(nn.Conv2d, conv) for conv in mab.chain]
        size = chain[0].in_channels
        part = contiguous_layout(size, block)
        self.expand = nn.ModuleList(
            pad_conv(slice_outputs(mab.expand, i * size, size), source, part)
            for i in range(len(chain))
        )
        self.chain = nn.ModuleList(pad_conv(conv, part, part) for conv in chain)
        self.act = mab.act
        self.reduce = SumConv(mab.reduce, [part] * len(chain), result)
        skip = mab.skip
        self.skip = pad_conv(skip, source, result) if isinstance(skip, nn.Conv2d) else skip

    def forward(self, x: Tensor) -> Tensor:
        maps: List[Tensor] = []
        for expand, conv in zip(self.expand, self.chain):
            part = expand(x)
            maps.append(self.act(conv(part + maps[-1] if maps else part)))
        # The last map first: then all maps exist, and a backend can add to `x` in place.
        total = self.skip(x)
        for reduce, y in zip(reversed(self.reduce.parts), reversed(maps)):
            total = reduce(y) + total
        return total


class BlockedIMDeception(nn.Module):
    """IMDeception with each group of its maps in whole blocks."""

    def __init__(self, net: IMDeception, block: int) -> None:
        super().__init__()
        c = net.core
        split, last = split_layout(c, 3 * c, block), contiguous_layout(c, block)
        features = contiguous_layout(net.features.out_channels, block)
        if features.width == net.features.out_channels:  # without padding, groups stay groups
            features = replace(features, groups=split.groups)
        deep = split.part(c, 3 * c)
        self.features = pad_conv(net.features, contiguous_layout(3), features)
        gidbs = [cast(GIDB, gidb) for gidb in net.blocks]
        self.blocks = nn.ModuleList(
            [BlockedGIDB(gidbs[0], features, split, split, block)]
            + [BlockedGIDB(gidb, deep, split, split, block) for gidb in gidbs[1:5]]
            + [BlockedGIDB(gidbs[5], deep, split_layout(c, 2 * c, block), last, block)]
        )
        self.nla = nn.ModuleDict(
            {i: _pad_attention(cast(BlockNLA, nla), deep) for i, nla in net.nla.items()}
        )
        fused = contiguous_layout(net.fuse.out_channels, block)
        self.fuse = SumConv(net.fuse, [split.part(0, c)] * 5 + [last], fused)
        self.expand = pad_conv(net.expand, fused, features)
        self.act = net.act
        to_rgb = cast(nn.Conv2d, net.to_rgb[0])
        self.to_rgb = nn.Sequential(
            pad_conv(to_rgb, features, contiguous_layout(to_rgb.out_channels)), net.to_rgb[1]
        )

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        outputs: List[Tensor] = []
        y = features
        for i, block in enumerate(self.blocks):
            y = block(y)
            outputs.append(y)
            if str(i) in self.nla:
                y = self.nla[str(i)](y)
        y = self.act(self.expand(self.act(self.fuse(outputs))))
        return self.to_rgb(y + features)


class BlockedGIDB(nn.Module):
    """A GIDB whose maps keep what a Split would cut off."""

    def __init__(
        self,
        gidb: GIDB,
        source: ChannelLayout,
        split: ChannelLayout,
        result: ChannelLayout,
        block: int,
    ) -> None:
        super().__init__()
        shallow, deep = split.part(0, gidb.sizes[0]), split.part(*gidb.sizes)
        last = contiguous_layout(gidb.sizes[0], block)
        self.g1 = _pad_gblock(gidb.g1, source, split)
        self.g2 = _pad_gblock(gidb.g2, deep, split)
        self.g3 = _pad_gblock(gidb.g3, deep, split)
        self.g4 = _pad_gblock(gidb.g4, deep, last)
        self.act = gidb.act
        self.fuse = SumConv(gidb.fuse, [shallow, shallow, shallow, last, source], result)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.act(self.g1(x))]
        for gblock in (self.g2, self.g3, self.g4):
            maps.append(self.act(gblock(maps[-1])))
        return self.fuse([*maps, x])


def _pad_gblock(
    gblock: nn.Sequential, source: ChannelLayout, result: ChannelLayout
) -> nn.Sequential:
    """Pad a grouped 3x3, ReLU, 1x1; between them, the padding is at the end of each group."""
    three, one = cast(nn.Conv2d, gblock[0]), cast(nn.Conv2d, gblock[2])
    group_width, n = result.width // result.groups, three.out_channels // result.groups
    places = [(j // n) * group_width + j % n for j in range(three.out_channels)]
    middle = ChannelLayout(torch.tensor(places), result.width, result.groups)
    return nn.Sequential(pad_conv(three, source, middle), gblock[1], pad_conv(one, middle, result))


def _pad_attention(nla: BlockNLA, deep: ChannelLayout) -> BlockNLA:
    padded = BlockNLA(4 * nla.dim)
    padded.qkv = pad_conv(nla.qkv, deep, contiguous_layout(nla.qkv.out_channels))
    padded.out = pad_conv(nla.out, contiguous_layout(nla.dim), deep)
    return padded


def _round_up(n: int, block: int) -> int:
    return -(-n // block) * block
