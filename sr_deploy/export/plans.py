"""Adaptive networks as graphs with a plan: a gains head with its depths, a router with its
branches, or an AdaEDSR or AdaRCAN in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple, Union

import numpy as np
import torch

from sr_deploy.core.depth_plan import DepthPlan, end_role
from sr_deploy.core.gains import GAINS
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.routers import ROUTERS
from sr_deploy.core.samples import sample_lr
from sr_deploy.export.elastic import plan_from_gains, plan_from_modules
from sr_deploy.export.part_forms import FP32, PlanForm
from sr_deploy.export.parts import (
    BATCH_SIZES,
    SIDE_SIZES,
    CheckedPart,
    PartSpec,
    checked_part,
    write_plan,
)
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.fuse import fuse_network
from sr_deploy.nets.routed_tiles import branches_modules
from sr_deploy.nets.router import Router, load_router
from sr_deploy.nets.sparse import AdaDSRNet, depth_plan, load_adadsr, split_network
from sr_deploy.runtime.adaptive.adadsr import BATCH

CHECK_PATCHES = 3
CHECK_HW = (37, 50)
WORKSPACE_BYTES = 2**30
"""The least `workspace_mib` of the targets that run plans."""


def plans_from_model(
    model: Union[str, Path, Checkpoint],
    output: Union[str, Path],
    *,
    form: PlanForm = FP32,
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Export a gains head, a router or a checkpoint that can skip blocks; return the paths of its
    plans.

    form: the target and the precision that the graphs are for. Raises an SrDeployError.
    """
    if GAINS.includes(str(model)):
        return [plan_from_gains(str(model), output, form=form, progress=progress)]
    if ROUTERS.includes(str(model)):
        return [plan_from_router(str(model), output, form=form, progress=progress)]
    return [plan_from_checkpoint(model, output, form=form, progress=progress)]


def plan_from_router(
    model: Union[str, Path, Router],
    output: Union[str, Path],
    *,
    form: PlanForm = FP32,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Export a router and its branches to `output`; return the path of their plan.

    Where patches are not blended, the parts are as `plan_from_gains` has them. Else each graph
    takes any number of patches, lr (N, 3, patch, patch). The router's gives logits (N, classes), a
    branch's sr. Raises an SrDeployError; ExportError when a graph differs from torch, in which case
    nothing is written.
    """
    router = model if isinstance(model, Router) else load_router(model)
    if router.spec.blend == "none":
        modules = branches_modules(router)
        return plan_from_modules(*modules, output, form=form, progress=progress)
    plan = router.plan()
    patches = sample_lr((plan.patch, plan.patch), count=CHECK_PATCHES)
    x = torch.from_numpy(np.concatenate([nchw_from_rgb(rgb) for rgb in patches]))
    lr, sr = (("N", 3, side, side) for side in (plan.patch, plan.scale * plan.patch))
    given: Any = {"inputs": {"lr": lr}, "sizes": {"N": BATCH_SIZES}, "decisions": ("logits",)}
    logits = {"logits": ("N", len(plan.names))}
    specs = {"router": PartSpec(router.network(), (x,), outputs=logits, **given)}
    for name, net in zip(plan.names, router.branch_networks()):
        fused = fuse_network(net)[0]
        specs[name] = PartSpec(fused, (x,), outputs={"sr": sr}, reference=net, **given)
    parts: Dict[str, CheckedPart] = {}
    for number, (role, spec) in enumerate(specs.items(), 1):
        parts[role] = checked_part(spec)
        error = parts[role].max_abs_err
        file = plan.graph_name(role)
        progress(f"[{number}/{len(specs)}] {file}: differs from torch by {error:.2g}")
    return write_plan(plan, parts, Path(output), form, progress)


def plan_from_checkpoint(
    model: Union[str, Path, Checkpoint],
    output: Union[str, Path],
    *,
    form: PlanForm = FP32,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Export an AdaEDSR or AdaRCAN checkpoint to `output` in parts; return the path of their plan.

    The map takes lr (1, 3, H, W) and depth (1,) and gives depth_map (1, maps, H, W); with lr,
    `whole` gives sr of it. The head gives features of lr, the end sr of y and features. Each group
    of blocks takes windows, y (N, C, H, W) and depth_map (N, 1, H, W), and gives y_next, or with
    channel attention masked and its mean (N, C, 1, 1). There, `factors` gives (1, blocks, C) of a
    mean, `add` y_next of y, masked and factors (1, C, 1, 1), and the end of each residual group
    y_next of y and its start. Raises InputError for a bad model, ExportError when a graph differs
    from torch.
    """
    checkpoint, net = load_adadsr(model)
    plan = depth_plan(checkpoint, net)
    specs = _depth_parts(net, plan)
    parts = {}
    for number, role in enumerate(plan.roles(), 1):
        parts[role] = checked_part(specs[role])
        file, error = plan.graph_name(role), parts[role].max_abs_err
        progress(f"[{number}/{len(specs)}] {file}: differs from torch by {error:.2g}")
    return write_plan(plan, parts, Path(output), form, progress)


_Ends = Tuple[Tuple[torch.Tensor, ...], Dict[str, Any], Dict[str, Any]]
"""An example of a part's inputs, and the shapes of its inputs and outputs by name."""


def _depth_parts(net: AdaDSRNet, plan: DepthPlan) -> Dict[str, PartSpec]:
    """Return what to export, by the plan's roles."""
    modules = split_network(net, plan)
    x = torch.from_numpy(nchw_from_rgb(sample_lr(CHECK_HW, count=1)[0]))
    depth = torch.tensor([plan.blocks / 2])
    with torch.no_grad():
        features, depth_map = modules["head"](x), modules["map"](x, depth)
    # So that masks of all kinds are compared.
    spread = torch.linspace(0, plan.blocks, depth_map.shape[3]).expand_as(depth_map).contiguous()
    channels, scale = features.shape[1], plan.scale
    image, wide, maps = ((1, n, "H", "W") for n in (3, channels, plan.maps))
    sr = {"sr": (1, 3, f"{scale}*H", f"{scale}*W")}
    specs: Dict[str, _Ends] = {
        "map": ((x, depth), {"lr": image, "depth": (1,)}, {"depth_map": maps}),
        "whole": ((x, spread), {"lr": image, "depth_map": maps}, sr),
        "head": ((x,), {"lr": image}, {"features": wide}),
        "end": ((features.flip(2), features), {"y": wide, "features": wide}, sr),
    }
    batch, one_map = (("N", n, "H", "W") for n in (channels, 1))
    pair = torch.cat([features, features.flip(3)])
    depths = torch.cat([spread, spread.flip(3)])[:, :1].contiguous()
    done: Dict[str, Any] = {"y_next": batch}
    if plan.attends:
        done = {"masked": batch, "mean": ("N", channels, 1, 1)}
        specs.update(_attention_ends(plan, features))
    for group in plan.groups():
        specs[group.role] = ((pair, depths), {"y": batch, "depth_map": one_map}, done)
    decisions = ("depth", "depth_map", "mean", "factors")
    sides = _sides(scale, channels)
    sizes = {"N": (1, BATCH, BATCH), "H": sides, "W": sides}
    return {
        role: PartSpec(modules[role], *ends, _named_sizes(ends[1], sizes), decisions=decisions)
        for role, ends in specs.items()
    }


def _attention_ends(plan: DepthPlan, features: torch.Tensor) -> Dict[str, _Ends]:
    """Return the ends of the parts that only networks with channel attention have."""
    channels = features.shape[1]
    batch, wide = ("N", channels, "H", "W"), (1, channels, "H", "W")
    mean = features.mean((2, 3), keepdim=True)  # (1, C, 1, 1)
    one = {"mean": (1, channels, 1, 1)}
    factors = {"factors": (1, plan.maps * plan.blocks, channels)}
    pair = torch.cat([features, features.flip(3)])
    added = {"y": batch, "masked": batch, "factors": (1, channels, 1, 1)}
    ends: Dict[str, _Ends] = {
        "factors": ((mean,), one, factors),
        "add": ((pair, pair.flip(2), mean.sigmoid()), added, {"y_next": batch}),
    }
    for number in range(plan.maps):
        given = (features.flip(2), features)
        ends[end_role(number)] = (given, {"y": wide, "start": wide}, {"y_next": wide})
    return ends


def _sides(scale: int, channels: int) -> Tuple[int, int, int]:
    """Return the sides of parts, for which an image fits into a builder's workspace.

    The upsampler needs two maps of the larger image's size in FP32 there, and a little more.
    """
    most_px = WORKSPACE_BYTES / (2.2 * 4 * channels)
    largest = max(int(most_px**0.5 / scale) // 32 * 32, 32)
    least, usual, bound = SIDE_SIZES
    return least, min(usual, largest), min(bound, largest)


def _named_sizes(shapes: Dict[str, Any], sizes: Dict[str, Any]) -> Dict[str, Any]:
    """Return the sizes of the dimensions that shapes name."""
    named = {n for shape in shapes.values() for n in shape}
    return {name: of for name, of in sizes.items() if name in named}
