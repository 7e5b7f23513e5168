"""AdaEDSR in parts, so that blocks can be computed only where the depth map goes so deep.

The parts take any size. Which windows of an image they get is decided by `core.depth_plan`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Sequence, Tuple, Union, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.depth_plan import DepthPlan, group_depths
from sr_deploy.core.errors import InputError
from sr_deploy.nets.adaedsr import AdaEDSR
from sr_deploy.nets.adapter import mask
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint
from sr_deploy.nets.complexity import count
from sr_deploy.nets.edsr import ResidualBlock
from sr_deploy.nets.fuse import fuse_network


def load_adaedsr(model: Union[str, Path, Checkpoint]) -> Tuple[Checkpoint, AdaEDSR]:
    """Return an AdaEDSR checkpoint and its network. Raises InputError for other architectures."""
    checkpoint = model if isinstance(model, Checkpoint) else load_checkpoint(model)
    net = checkpoint.network()
    if not isinstance(net, AdaEDSR):
        raise InputError(
            f"'{checkpoint.name}' is of the architecture {checkpoint.spec.arch}: "
            "only AdaEDSR can skip blocks",
            hint="use a checkpoint of adaedsr",
        )
    return checkpoint, net


def depth_plan(checkpoint: Checkpoint, net: AdaEDSR) -> DepthPlan:
    """Return the plan of a network, without its parts."""
    backbone = net.backbone()
    return DepthPlan(
        model=checkpoint.name,
        scale=checkpoint.spec.scale,
        blocks=len(net.blocks),
        parent_sha256=checkpoint.spec.weights_sha256,
        macs_px=_macs_px(fuse_network(backbone)[0]),
        conv_macs_px=cast(ResidualBlock, net.blocks[0]).conv1.weight.numel(),
        map_macs_px=_macs_px(net) - _macs_px(backbone),
        depths=group_depths(len(net.blocks)),
        fixed=net.adapter.scaled == "none",
    )


def split_network(net: AdaEDSR, depths: Sequence[int]) -> Dict[str, nn.Module]:
    """Return the parts by the roles of a plan.

    depths: the last block of each group, counted from 1.
    """
    fused = cast(AdaEDSR, fuse_network(net)[0])
    firsts = [1, *(last + 1 for last in depths)]
    groups = {f"b{last}": Blocks(fused, first, last) for first, last in zip(firsts, depths)}
    return {
        "map": Map(fused),
        "whole": Whole(fused),
        "head": Head(fused),
        "end": End(fused),
        **groups,
    }


class Map(nn.Module):
    """lr: (1, 3, H, W), depth: (1,) -> the depth map, (1, 1, H, W)."""

    def __init__(self, net: AdaEDSR) -> None:
        super().__init__()
        self.net = net

    def forward(self, lr: Tensor, depth: Tensor) -> Tensor:
        return self.net.adapter(self.net.features(lr), depth)


class Whole(nn.Module):
    """The network with every block at every pixel: lr, (1, 3, H, W), and the map -> the image."""

    def __init__(self, net: AdaEDSR) -> None:
        super().__init__()
        self.net, self.blocks = net, Blocks(net, 1, len(net.blocks))

    def forward(self, lr: Tensor, depth_map: Tensor) -> Tensor:
        features = self.net.features(lr)
        return self.net.image(self.blocks(features, depth_map), features)


class Head(nn.Module):
    """lr: (1, 3, H, W) -> features, (1, C, H, W)."""

    def __init__(self, net: AdaEDSR) -> None:
        super().__init__()
        self.net = net

    def forward(self, lr: Tensor) -> Tensor:
        return self.net.features(lr)


class End(nn.Module):
    """The output of the blocks and the head's features -> the image, (1, 3, scale*H, scale*W)."""

    def __init__(self, net: AdaEDSR) -> None:
        super().__init__()
        self.net = net

    def forward(self, y: Tensor, features: Tensor) -> Tensor:
        return self.net.image(y, features)


class Blocks(nn.Module):
    """Blocks `first` to `last`, counted from 1, on images or windows of them.

    y: (N, C, H, W), depth_map: (N, 1, H, W) -> (N, C, H, W).
    """

    def __init__(self, net: AdaEDSR, first: int, last: int) -> None:
        super().__init__()
        self.first = first
        self.blocks = nn.ModuleList(list(net.blocks)[first - 1 : last])
        # A convolution repeats the mask for each channel: OpenVINO takes 1.6 of the time of a
        # block to multiply by a mask of one channel, and 1.02 by this.
        self.register_buffer("ones", torch.ones(net.channels, 1, 1, 1), persistent=False)

    def forward(self, y: Tensor, depth_map: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks, self.first):
            weight = F.conv2d(mask(depth_map, number), cast(Tensor, self.ones).to(y))
            y = y + weight * cast(ResidualBlock, block).residual(y)
        return y


def _macs_px(net: nn.Module) -> int:
    return count(net, NTIRE_HW, counter="fvcore").macs // (NTIRE_HW[0] * NTIRE_HW[1])
