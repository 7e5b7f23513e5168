"""Routers and their branches, as the gains and the tails of a plan: CDNSR tile by tile.

The router sees the whole image at once and scores the branches in each patch. Neighbouring patches
of one branch become one larger tile, and tiles are fed with the surroundings that a branch's output
depends on. So they equal the branch on the whole image: nothing overlaps, nothing is blended.
"""

from __future__ import annotations

from typing import Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.elastic_plan import BranchesPlan, whole_role
from sr_deploy.core.errors import InputError
from sr_deploy.core.quadtree import SIZES, TailCost
from sr_deploy.nets.fsrcnn import FSRCNN
from sr_deploy.nets.fsrcnn_tiles import SubpixelFSRCNN, TileFSRCNN
from sr_deploy.nets.gains import per_cell
from sr_deploy.nets.router import CELL, ModuleCL, Router


def branches_modules(router: Router) -> Tuple[BranchesPlan, Dict[str, nn.Module]]:
    """Return the plan of a router whose patches are not blended, and its modules by role.

    Raises InputError for branches of which no form by tiles is known, as `Router.checkpoints` for
    missing ones.
    """
    spec = router.spec
    names = router.branch_names
    networks = [_fsrcnn(name, net) for name, net in zip(names, router.branch_networks())]
    roles = spec.variants if len(set(spec.variants)) == len(names) else names
    patch = spec.patch_hw[0]
    network = router.network()
    gains: nn.Module = network
    if isinstance(network, ModuleCL):
        gains = RouterGains(network, patch)
    modules: Dict[str, nn.Module] = {"gains": gains}
    modules.update((role, TileFSRCNN(net)) for role, net in zip(roles, networks))
    modules.update((whole_role(role), SubpixelFSRCNN(net)) for role, net in zip(roles, networks))
    plan = BranchesPlan(
        model=router.name,
        network=router.name,
        branches=names,
        scale=spec.scale,
        parent_sha256=spec.weights_sha256,
        start_macs_px=0,
        gains_macs=spec.router_macs * SIZES[0] ** 2 // patch**2,
        channels=3,
        tails={role: tile_cost(net) for role, net in zip(roles, networks)},
        price=spec.price,
    )
    return plan, {role: module.eval() for role, module in modules.items()}


def _fsrcnn(name: str, net: nn.Module) -> FSRCNN:
    if not isinstance(net, FSRCNN):
        raise InputError(
            f"'{name}' cannot run by tiles with margins: that is known of FSRCNN only",
            hint="let the card of the router blend its patches: average or ramp",
        )
    return net


class RouterGains(nn.Module):
    """A router on all patches of an image.

    lr: (1, 3, H, W) -> (1, branches - 1, ceil(H / 32), ceil(W / 32)): how far the score of each
    branch is above that of the smallest, in cells of 32 LR pixels. The cells of a patch share it by
    their pixels in the image; a patch at its border is scored by what is inside.
    """

    def __init__(self, router: ModuleCL, patch: int) -> None:
        super().__init__()
        self.features = router.features[:-1]  # without the mean over a patch
        self.classify = router.classify
        self.patch, self.cells = patch, patch // SIZES[0]

    def forward(self, lr: Tensor) -> Tensor:
        few = CELL - 1
        x = self.features(F.pad(lr, (0, few, 0, few), mode="replicate"))
        inside = torch.ones_like(lr[:, :1])
        weight = F.avg_pool2d(F.pad(inside, (0, few, 0, few)), CELL)
        side = self.patch // CELL
        x = per_cell(x * weight, side) / per_cell(weight, side)
        scores = self.classify(x.movedim(1, 3)).movedim(3, 1)
        gains = scores[:, 1:] - scores[:, :1]
        if self.cells > 1:
            gains = F.interpolate(gains, scale_factor=float(self.cells), mode="nearest")
        share = per_cell(inside, SIZES[0]) / self.cells**2
        return gains[:, :, : share.shape[2], : share.shape[3]] * share


def tile_cost(net: FSRCNN) -> TailCost:
    """Return what a branch costs by tiles, in multiply-accumulates of its layers as trained.

    What its forms add, a convolution for the deconvolution and filled up channels, is not counted.
    """
    convs = [layer for layer in net.body if isinstance(layer, nn.Conv2d)]
    margin = left = TileFSRCNN(net).margin
    layers: List[Tuple[int, int]] = []  # the margin of each layer's output, its cost per LR pixel
    for conv in convs:
        left -= conv.kernel_size[0] // 2
        layers.append((left, conv.weight.numel()))
    layers.append((left, net.deconv.weight.numel()))
    px = sum(macs for _, macs in layers)
    side = sum(2 * reach * macs for reach, macs in layers)
    return TailCost(margin, px, side, sum(4 * reach**2 * macs for reach, macs in layers), px)
