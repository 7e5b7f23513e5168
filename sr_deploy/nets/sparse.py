"""AdaEDSR and AdaRCAN in parts, so that blocks are computed only where a depth map goes so deep.

The parts take any size. Which windows of an image they get is decided by `core.depth_plan`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Dict, Tuple, Union, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.depth_plan import DepthPlan, end_role, group_depths
from sr_deploy.core.errors import InputError
from sr_deploy.nets.adaedsr import AdaEDSR
from sr_deploy.nets.adapter import mask
from sr_deploy.nets.adarcan import AdaRCAN
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint
from sr_deploy.nets.complexity import count
from sr_deploy.nets.edsr import ResidualBlock
from sr_deploy.nets.fuse import fuse_network
from sr_deploy.nets.rcan import AttentionBlock, ResidualGroup

AdaDSRNet = Union[AdaEDSR, AdaRCAN]
_NTIRE_PX = NTIRE_HW[0] * NTIRE_HW[1]


def load_adadsr(model: Union[str, Path, Checkpoint]) -> Tuple[Checkpoint, AdaDSRNet]:
    """Return a checkpoint that can skip blocks and its network. Raises InputError for others."""
    checkpoint = model if isinstance(model, Checkpoint) else load_checkpoint(model)
    net = checkpoint.network()
    if not isinstance(net, (AdaEDSR, AdaRCAN)):
        raise InputError(
            f"'{checkpoint.name}' is of the architecture {checkpoint.spec.arch}: "
            "only AdaEDSR and AdaRCAN can skip blocks",
            hint="use a checkpoint of adaedsr or adarcan",
        )
    return checkpoint, net


def depth_plan(checkpoint: Checkpoint, net: AdaDSRNet) -> DepthPlan:
    """Return the plan of a network, without its parts."""
    backbone, blocks = net.backbone(), net.adapter.blocks
    plan = DepthPlan(
        model=checkpoint.name,
        scale=checkpoint.spec.scale,
        blocks=blocks,
        parent_sha256=checkpoint.spec.weights_sha256,
        macs_px=0,
        conv_macs_px=_first_conv(net).weight.numel(),
        map_macs_px=(_macs(net) - _macs(backbone)) // _NTIRE_PX,
        depths=group_depths(blocks),
        fixed=net.adapter.scaled == "none",
    )
    if isinstance(net, AdaRCAN):
        layers = [m for m in _block(net, 0, 1).attention if isinstance(m, nn.Conv2d)]
        plan = replace(
            plan,
            depths=tuple(range(1, blocks + 1)),
            maps=len(net.groups),
            mean_macs_px=net.head.out_channels,
            attention_macs=sum(layer.weight.numel() for layer in layers),
        )
    attentions = plan.maps * blocks * plan.attention_macs
    macs = _macs(fuse_network(backbone)[0]) - attentions
    return replace(plan, macs_px=macs // _NTIRE_PX)


def split_network(net: AdaDSRNet, plan: DepthPlan) -> Dict[str, nn.Module]:
    """Return the parts by the roles of a plan."""
    fused = cast(AdaDSRNet, fuse_network(net)[0])
    deep: nn.Module
    parts: Dict[str, nn.Module] = {}
    if isinstance(fused, AdaEDSR):
        deep = Blocks(fused, 1, plan.blocks)
        for group in plan.groups():
            parts[group.role] = Blocks(fused, group.before + 1, group.last)
    else:
        deep = AttendedGroups(fused)
        residual = [cast(AttendedGroup, module) for module in deep.groups]
        parts.update(factors=Factors(fused), add=Add())
        for block in plan.groups():
            parts[block.role] = residual[block.map].blocks[block.before]
        for number, attended in enumerate(residual):
            parts[end_role(number)] = GroupEnd(attended.last)
    return {
        "map": Map(fused),
        "whole": Whole(fused, deep),
        "head": Head(fused),
        "end": End(fused),
        **parts,
    }


class Map(nn.Module):
    """lr: (1, 3, H, W), depth: (1,) -> the depth maps, (1, maps, H, W)."""

    def __init__(self, net: AdaDSRNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, lr: Tensor, depth: Tensor) -> Tensor:
        return self.net.adapter(self.net.features(lr), depth)


class Whole(nn.Module):
    """The network with every block at every pixel: lr, (1, 3, H, W), and the maps -> the image.

    deep: features and maps to the input of `end`.
    """

    def __init__(self, net: AdaDSRNet, deep: nn.Module) -> None:
        super().__init__()
        self.net, self.deep = net, deep

    def forward(self, lr: Tensor, depth_map: Tensor) -> Tensor:
        features = self.net.features(lr)
        return self.net.image(self.deep(features, depth_map), features)


class Head(nn.Module):
    """lr: (1, 3, H, W) -> features, (1, C, H, W)."""

    def __init__(self, net: AdaDSRNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, lr: Tensor) -> Tensor:
        return self.net.features(lr)


class End(nn.Module):
    """The output of the blocks and the head's features -> the image, (1, 3, scale*H, scale*W)."""

    def __init__(self, net: AdaDSRNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, y: Tensor, features: Tensor) -> Tensor:
        return self.net.image(y, features)


class RepeatedMask(nn.Module):
    """depth_map: (N, 1, H, W) -> the mask of a block, (N, C, H, W).

    A convolution repeats it for each channel: OpenVINO takes 1.6 of the time of a block to multiply
    by a mask of one channel, and 1.02 by this.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("ones", torch.ones(channels, 1, 1, 1), persistent=False)

    def forward(self, depth_map: Tensor, block: int) -> Tensor:
        return F.conv2d(mask(depth_map, block), cast(Tensor, self.ones).to(depth_map))


class Blocks(nn.Module):
    """Blocks `first` to `last`, counted from 1, on images or windows of them.

    y: (N, C, H, W), depth_map: (N, 1, H, W) -> (N, C, H, W).
    """

    def __init__(self, net: AdaEDSR, first: int, last: int) -> None:
        super().__init__()
        self.first = first
        self.blocks = nn.ModuleList(list(net.blocks)[first - 1 : last])
        self.mask = RepeatedMask(net.channels)

    def forward(self, y: Tensor, depth_map: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks, self.first):
            weight = self.mask(depth_map, number)
            y = y + weight * cast(ResidualBlock, block).residual(y)
        return y


class AttendedBlock(nn.Module):
    """Block `number`, counted from 1, of a residual group before its channel attention.

    y: (N, C, H, W), depth_map: (N, 1, H, W) -> what its mask leaves, (N, C, H, W), and the means
    of that, (N, C, 1, 1).
    """

    def __init__(self, block: AttentionBlock, number: int) -> None:
        super().__init__()
        self.block, self.number = block, number
        self.mask = RepeatedMask(block.conv1.in_channels)

    def forward(self, y: Tensor, depth_map: Tensor) -> Tuple[Tensor, Tensor]:
        block = self.block
        masked = self.mask(depth_map, self.number) * block.conv2(block.act(block.conv1(y)))
        return masked, masked.mean((2, 3), keepdim=True)

    def factors(self, mean: Tensor) -> Tensor:
        """Return what the channels are multiplied by for their means, both (N, C, 1, 1)."""
        return self.block.attention[1:](mean)


class AttendedGroup(nn.Module):
    """A residual group: y, (N, C, H, W), and depth_map, (N, 1, H, W) -> (N, C, H, W)."""

    def __init__(self, group: ResidualGroup) -> None:
        super().__init__()
        blocks = (cast(AttentionBlock, block) for block in group.blocks)
        self.blocks = nn.ModuleList(AttendedBlock(block, n) for n, block in enumerate(blocks, 1))
        self.last = group.last

    def forward(self, y: Tensor, depth_map: Tensor) -> Tensor:
        start = y
        for module in self.blocks:
            block = cast(AttendedBlock, module)
            masked, mean = block(y, depth_map)
            y = y + masked * block.factors(mean)
        return start + self.last(y)


class AttendedGroups(nn.Module):
    """All residual groups: y, (N, C, H, W), and depth_map, (N, groups, H, W) -> (N, C, H, W)."""

    def __init__(self, net: AdaRCAN) -> None:
        super().__init__()
        self.groups = nn.ModuleList(AttendedGroup(cast(ResidualGroup, g)) for g in net.groups)

    def forward(self, y: Tensor, depth_map: Tensor) -> Tensor:
        for group, of_group in zip(self.groups, depth_map.split(1, dim=1)):
            y = group(y, of_group)
        return y


class GroupEnd(nn.Module):
    """The output of a residual group's blocks, and its input -> its output, all (1, C, H, W)."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.last = last

    def forward(self, y: Tensor, start: Tensor) -> Tensor:
        return start + self.last(y)


class Factors(nn.Module):
    """The channel attention of all blocks of all groups, in order, for the same means.

    mean: (1, C, 1, 1) -> what the channels are multiplied by, (1, groups*blocks, C).
    """

    def __init__(self, net: AdaRCAN) -> None:
        super().__init__()
        attentions = [
            cast(AttentionBlock, block).attention
            for group in net.groups
            for block in cast(ResidualGroup, group).blocks
        ]
        self.count, width = len(attentions), net.head.out_channels
        downs, ups = ([cast(nn.Conv2d, a[i]) for a in attentions] for i in (1, 3))
        narrow = downs[0].out_channels
        self.down = nn.Conv2d(width, self.count * narrow, 1)
        self.up = nn.Conv2d(self.count * narrow, self.count * width, 1, groups=self.count)
        with torch.no_grad():
            for joined, layers in ((self.down, downs), (self.up, ups)):
                assert joined.bias is not None
                joined.to(layers[0].weight)
                joined.weight.copy_(torch.cat([layer.weight for layer in layers]))
                joined.bias.copy_(torch.cat([cast(Tensor, layer.bias) for layer in layers]))

    def forward(self, mean: Tensor) -> Tensor:
        factors = self.up(self.down(mean).relu()).sigmoid()
        return factors.view(1, self.count, -1)


class Add(nn.Module):
    """y and what is multiplied by factors and added to it, (N, C, H, W); factors: (1, C, 1, 1)."""

    def forward(self, y: Tensor, masked: Tensor, factors: Tensor) -> Tensor:
        return y + masked * factors


def _block(net: AdaRCAN, group: int, number: int) -> AttentionBlock:
    """Return a block; group counted from 0, number from 1."""
    return cast(AttentionBlock, cast(ResidualGroup, net.groups[group]).blocks[number - 1])


def _first_conv(net: AdaDSRNet) -> nn.Conv2d:
    if isinstance(net, AdaRCAN):
        return _block(net, 0, 1).conv1
    return cast(ResidualBlock, net.blocks[0]).conv1


def _macs(net: nn.Module) -> int:
    return count(net, NTIRE_HW, counter="fvcore").macs
