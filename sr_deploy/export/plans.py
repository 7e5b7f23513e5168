"""Adaptive networks as graphs with a plan: a gains head with its depths, a router with its
branches, or an AdaEDSR in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple, Union

import numpy as np
import torch

from sr_deploy.core.depth_plan import DepthPlan
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
from sr_deploy.nets.adaedsr import AdaEDSR
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.fuse import fuse_network
from sr_deploy.nets.routed_tiles import branches_modules
from sr_deploy.nets.router import Router, load_router
from sr_deploy.nets.sparse import depth_plan, load_adaedsr, split_network

CHECK_PATCHES = 3
CHECK_HW = (37, 50)


def plans_from_model(
    model: Union[str, Path, Checkpoint],
    output: Union[str, Path],
    *,
    form: PlanForm = FP32,
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Export a gains head, a router or an AdaEDSR checkpoint; return the paths of its plans.

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
    """Export an AdaEDSR checkpoint to `output` in parts; return the path of their plan.

    The map takes lr (1, 3, H, W) and depth (1,) and gives depth_map (1, 1, H, W); with lr, `whole`
    gives sr of it. The head gives features of lr, the end sr of y and features. Each group of
    blocks takes windows, y (N, C, H, W) and depth_map (N, 1, H, W), and gives y_next.
    Raises InputError for a bad model, ExportError when a graph differs from torch.
    """
    checkpoint, net = load_adaedsr(model)
    plan = depth_plan(checkpoint, net)
    specs = _depth_parts(net, plan)
    parts = {}
    for number, role in enumerate(plan.roles(), 1):
        parts[role] = checked_part(specs[role])
        file, error = plan.graph_name(role), parts[role].max_abs_err
        progress(f"[{number}/{len(specs)}] {file}: differs from torch by {error:.2g}")
    return write_plan(plan, parts, Path(output), form, progress)


def _depth_parts(net: AdaEDSR, plan: DepthPlan) -> Dict[str, PartSpec]:
    """Return what to export, by the plan's roles."""
    modules = split_network(net, plan.depths)
    x = torch.from_numpy(nchw_from_rgb(sample_lr(CHECK_HW, count=1)[0]))
    depth = torch.tensor([len(net.blocks) / 2])
    with torch.no_grad():
        features, depth_map = modules["head"](x), modules["map"](x, depth)
    # So that masks of all kinds are compared.
    spread = torch.linspace(0, plan.blocks, depth_map.shape[3]).expand_as(depth_map).contiguous()
    channels, scale = features.shape[1], plan.scale
    image, wide, map_ = ((1, n, "H", "W") for n in (3, channels, 1))
    sides = {"H": SIDE_SIZES, "W": SIDE_SIZES}
    sr = {"sr": (1, 3, f"{scale}*H", f"{scale}*W")}
    given: Dict[str, Any] = {"sizes": sides, "decisions": ("depth", "depth_map")}
    specs: Dict[str, Tuple[Any, Any, Any]] = {
        "map": ((x, depth), {"lr": image, "depth": (1,)}, {"depth_map": map_}),
        "whole": ((x, spread), {"lr": image, "depth_map": map_}, sr),
        "head": ((x,), {"lr": image}, {"features": wide}),
        "end": ((features.flip(2), features), {"y": wide, "features": wide}, sr),
    }
    parts = {
        role: PartSpec(modules[role], example, inputs, outputs, **given)
        for role, (example, inputs, outputs) in specs.items()
    }
    windows = {"y": ("N", channels, "H", "W"), "depth_map": ("N", 1, "H", "W")}
    pair = torch.cat([features, features.flip(3)]), torch.cat([spread, spread.flip(3)])
    given["sizes"] = {"N": BATCH_SIZES, **sides}
    for role in plan.roles()[len(specs) :]:
        parts[role] = PartSpec(modules[role], pair, windows, {"y_next": windows["y"]}, **given)
    return parts
