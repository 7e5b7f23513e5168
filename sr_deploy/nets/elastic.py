"""Elastic networks split for inference tile by tile, each tile at its own depth.

The gains tell from the image where more depth pays. The start computes the blocks of the smallest
depth once, on the whole image; for each depth, a tail continues from its features to the result in
tiles with margins. It equals the network of that depth, which runs where the whole image has one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Sequence, Tuple, cast

import torch
from torch import Tensor, nn

from sr_deploy.core.elastic_plan import ElasticPlan, whole_role
from sr_deploy.core.errors import InputError
from sr_deploy.core.gains import CELL_PX
from sr_deploy.core.quadtree import TailCost
from sr_deploy.core.spec import Variant
from sr_deploy.nets.asrn import ASRN
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.complexity import count
from sr_deploy.nets.fuse import CollapsedASRN, LinkedMAB, fuse_network, make_conv
from sr_deploy.nets.gains import Gains


@dataclass(frozen=True)
class Tail:
    """What follows the start to one depth."""

    tiles: nn.Module
    """features (N, C, h + 2m, w + 2m), zero outside the image, and inside (N, 1, h + 2m, w + 2m),
    one inside the image and zero outside -> sr (N, 3, scale*h, scale*w)."""
    whole: nn.Module
    """The network of this depth: lr (1, 3, H, W) -> sr (1, 3, scale*H, scale*W)."""
    margin: int
    """m in LR pixels: the receptive radius on the features."""


@dataclass(frozen=True)
class SplitNetwork:
    """A network split at its smallest depth."""

    start: nn.Module
    """lr (1, 3, H, W) -> features (1, C, H, W)."""
    channels: int
    tails: Tuple[Tail, ...]
    """Of each depth, smallest first."""


def elastic_modules(gains: Gains) -> Tuple[ElasticPlan, Dict[str, nn.Module]]:
    """Return the plan of a gains head and its checkpoint, and its modules by role.

    Raises InputError for a network that cannot be split, as `Gains.checkpoint` for another one.
    """
    checkpoint = gains.checkpoint()
    names = gains.spec.variants
    network = split_network(checkpoint, names)
    modules: Dict[str, nn.Module] = {"gains": gains.network(), "start": network.start}
    modules.update((name, tail.tiles) for name, tail in zip(names, network.tails))
    modules.update((whole_role(name), tail.whole) for name, tail in zip(names, network.tails))
    start_macs = _macs(network.start, CELL_PX)
    plan = ElasticPlan(
        model=gains.name,
        network=checkpoint.name,
        scale=checkpoint.spec.scale,
        parent_sha256=gains.spec.weights_sha256,
        start_macs_px=start_macs // CELL_PX**2,
        gains_macs=_macs(modules["gains"], CELL_PX),
        channels=network.channels,
        tails={
            name: _tail_cost(tail, network.channels) for name, tail in zip(names, network.tails)
        },
        price=gains.spec.price,
    )
    return plan, {role: module.eval() for role, module in modules.items()}


def split_network(checkpoint: Checkpoint, variants: Sequence[str]) -> SplitNetwork:
    """Split a checkpoint's networks of some depths, smallest first.

    Raises InputError for an architecture that has no split, or for depths out of order.
    """
    arch = checkpoint.spec.arch
    if arch not in SPLITS:
        raise InputError(
            f"'{checkpoint.name}' is of the architecture {arch}: no split into a start and tails "
            f"is known; expected {', '.join(SPLITS)}"
        )
    sizes = [Variant.parse(variant).size for variant in variants]
    if sizes != sorted(set(sizes)) or len(sizes) < 2:
        raise InputError(f"the depths {', '.join(variants)} are not in order, smallest first")
    return SPLITS[arch]([checkpoint.network(variant) for variant in variants], sizes)


def split_asrn(networks: Sequence[nn.Module], depths: Sequence[int]) -> SplitNetwork:
    """Split ASRN after the blocks of its smallest depth, in the collapsed form of its layers."""
    if not cast(ASRN, networks[0]).collapses:
        raise InputError("only an ASRN of the paper's blocks can be split: its config has another")
    fused = [cast(CollapsedASRN, fuse_network(net)[0]) for net in networks]
    first = depths[0]
    start = nn.Sequential(*list(fused[-1].body)[:first])
    smallest = cast(ASRN, networks[0])
    tails = []
    for net in fused:
        blocks = [cast(LinkedMAB, block) for block in list(net.body)[first:]]
        one = None if blocks else cast(nn.Conv2d, smallest.upsampler[0])
        reach = sum(len(block.chain) for block in blocks) + 1
        tails.append(Tail(TileTail(net, blocks, one), net, reach))
    return SplitNetwork(start, cast(LinkedMAB, fused[-1].body[0]).reduce.out_channels, tuple(tails))


class TileTail(nn.Module):
    """What follows the start to one depth, on tiles: `Tail.tiles`. No convolution is padded: each
    takes from the margin.

    What lies outside the image is zeroed before each convolution, as padding would do.
    """

    def __init__(
        self, net: CollapsedASRN, blocks: Sequence[LinkedMAB], one: nn.Conv2d | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TileMAB(block) for block in blocks)
        self.one = nn.Identity() if one is None else copy.deepcopy(one)
        self.upsampler = _unpadded(cast(nn.Conv2d, net.upsampler))
        self.upsampler_inside = _unpadded(cast(nn.Conv2d, net.upsampler_inside))
        self.shuffle = net.shuffle

    def forward(self, features: Tensor, inside: Tensor) -> Tensor:
        x = features
        for block in self.blocks:
            x = block(x, inside)
            inside = _crop(inside, cast(TileMAB, block).reach)
        x = self.one(x) * inside
        return self.shuffle(self.upsampler(x) + self.upsampler_inside(inside))


class TileMAB(nn.Module):
    """A block of ASRN. x: (N, C, h, w), inside: (N, 1, h, w) -> (N, C, h - 8, w - 8)."""

    def __init__(self, mab: LinkedMAB) -> None:
        super().__init__()
        self.expand, self.act, self.reduce, self.skip = mab.expand, mab.act, mab.reduce, mab.skip
        self.chain = nn.ModuleList(_unpadded(cast(nn.Conv2d, conv)) for conv in mab.chain)
        self.reach = len(self.chain)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        maps: List[Tensor] = []
        parts = self.expand(x).chunk(self.reach, dim=1)
        for i, (conv, part) in enumerate(zip(self.chain, parts)):
            part = _crop(part, i) + maps[-1] if maps else part
            maps.append(self.act(conv(part * _crop(inside, i))))
        cropped = [_crop(y, self.reach - 1 - i) for i, y in enumerate(maps)]
        return self.reduce(torch.cat(cropped, dim=1)) + self.skip(_crop(x, self.reach))


SPLITS: Mapping[str, Callable[[Sequence[nn.Module], Sequence[int]], SplitNetwork]] = {
    "asrn": split_asrn
}
"""By architecture, of networks whose slices share their first blocks: takes the static networks of
some depths, smallest first, and these depths."""


class _OnZeros(nn.Module):
    """A tail on features of zeros, for a tile of an image's size: what it costs is counted."""

    def __init__(self, tail: Tail, channels: int) -> None:
        super().__init__()
        self.net, self.margin, self.channels = tail.tiles, tail.margin, channels

    def forward(self, lr: Tensor) -> Tensor:
        h, w = (n + 2 * self.margin for n in lr.shape[2:])
        return self.net(*(lr.new_empty(1, channels, h, w) for channels in (self.channels, 1)))


def _tail_cost(tail: Tail, channels: int) -> TailCost:
    """Return what a tail costs, from the counts at three sizes."""
    net = _OnZeros(tail, channels)
    one, two, three = (_macs(net, side) for side in (8, 16, 24))  # px*s**2 + 2*side*s + corner
    px = (three - 2 * two + one) // 128
    side = (two - one - 192 * px) // 16
    whole = _macs(tail.whole, 8) // 64
    return TailCost(tail.margin, px, side, one - 64 * px - 16 * side, whole)


def _macs(net: nn.Module, side: int) -> int:
    return count(net, (side, side), counter="fvcore").macs


def _unpadded(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a copy of a convolution without its padding."""
    conv = make_conv(layer.weight, layer.bias)
    conv.padding = (0, 0)
    return conv.eval()


def _crop(x: Tensor, px: int) -> Tensor:
    """Remove `px` pixels on each side."""
    return x[:, :, px:-px, px:-px] if px else x
