"""Adaptive networks as graphs with a plan: a gains head with its depths, a router with its
branches, or an AdaEDSR both ways."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from sr_deploy.core.depth_plan import WAYS, DepthPlan, block_groups, read_depth_plan
from sr_deploy.core.files import write_text
from sr_deploy.core.gains import is_gains
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.providers import BUILDERS
from sr_deploy.core.routers import is_router
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.sizes import hw_text
from sr_deploy.core.target import TargetProfile
from sr_deploy.core.timing import time_in_turns
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
from sr_deploy.nets.sparse import TILE, depth_plan, load_adaedsr, split_network
from sr_deploy.runtime.adaptive.adadsr import AdaDSR

CHECK_PATCHES = 3
CHECK_HW = (37, 50)
TIMED_HW = (256, 256)
TIMED_ROUNDS = 3


def plans_from_model(
    model: Union[str, Path, Checkpoint],
    output: Union[str, Path],
    *,
    form: PlanForm = FP32,
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Export a gains head, a router or an AdaEDSR checkpoint; return the paths of its plans.

    form: the target and the precision that the graphs are for.

    The two ways of an AdaEDSR are timed in turns on a photograph at half its depth. The fastest on
    this machine comes first; each plan records its time. Raises an SrDeployError.
    """
    if is_gains(str(model)):
        return [plan_from_gains(str(model), output, form=form, progress=progress)]
    if is_router(str(model)):
        return [plan_from_router(str(model), output, form=form, progress=progress)]
    checkpoint, net = load_adaedsr(model)
    done: Dict[str, CheckedPart] = {}
    plans = [depth_plan(checkpoint, net, way=way) for way in WAYS]
    plans = [plan for plan in plans if plan.way in ways_of(form.target)]
    paths = [_export_depths(net, plan, output, done, form, progress) for plan in plans]
    if len(paths) == 1:
        return paths
    x = nchw_from_rgb(sample_lr(TIMED_HW, count=1)[0])

    def timer(path: Path) -> Callable[[], float]:
        session = AdaDSR.from_plan(path)
        return lambda: session.run_timed(x).ms

    times = time_in_turns({path: timer(path) for path in paths}, TIMED_ROUNDS)
    medians = {path: statistics.median(values) for path, values in times.items()}
    for path, ms in medians.items():
        plan = read_depth_plan(path)
        write_text(path, to_json(replace(plan, timed_ms=round(ms, 3))))
        progress(f"{path.name}: {ms:.0f} ms at {hw_text(TIMED_HW)}, depth {plan.blocks / 2:g}")
    return sorted(paths, key=lambda path: medians[path])


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
    way: str = "rows",
    dense_above: Optional[float] = None,
    tile: int = TILE,
    form: PlanForm = FP32,
) -> Path:
    """Export an AdaEDSR checkpoint to `output` as graphs that skip; return the path of their plan.

    The start takes lr (1, 3, H, W) and depth (1,) and gives features and depth_map; the end takes y
    and features and gives sr. Each group of blocks has two graphs from y and depth_map to y_next:
    one everywhere, one by `way`. `rows` is for ONNX Runtime; TensorRT for RTX has no NonZero.
    `tiles` takes dense tensors, (N, C, S, S) and (N, 1, S, S): tiles of `tile` LR pixels a side
    with their surroundings. dense_above: see `DepthPlan`; None is the measured default.
    Raises InputError for a bad model or value, ExportError when a graph differs from torch.
    """
    checkpoint, net = load_adaedsr(model)
    plan = depth_plan(checkpoint, net, way=way, dense_above=dense_above, tile=tile)
    return _export_depths(net, plan, output, {}, form)


def _export_depths(
    net: AdaEDSR,
    plan: DepthPlan,
    output: Union[str, Path],
    done: Dict[str, CheckedPart],
    form: PlanForm,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Export the parts of a plan that are not in `done` yet; write all of them and the plan.

    Both ways share the start, the end and the parts that compute everywhere.
    """
    for role, spec in zip(plan.roles(), _depth_parts(net, plan)):
        if role not in done:
            done[role] = checked_part(spec)
    parts = {role: done[role] for role in plan.roles()}
    return write_plan(plan, parts, Path(output), form, progress)


def ways_of(target: Optional[TargetProfile]) -> Tuple[str, ...]:
    """Return the ways to skip blocks that a target can: rows need NonZero, and sizes that follow
    from values, which TensorRT for RTX lacks."""
    return ("tiles",) if target is not None and target.runtime in BUILDERS else WAYS


def _depth_parts(net: AdaEDSR, plan: DepthPlan) -> List[PartSpec]:
    """Return what to export, in the order of the plan's roles."""
    start, end, *versions = split_network(net, plan.depths, plan.way)
    x = torch.from_numpy(nchw_from_rgb(sample_lr(CHECK_HW, count=1)[0]))
    depth = torch.tensor([len(net.blocks) / 2])
    with torch.no_grad():
        features, depth_map = start(x, depth)
    channels, scale = features.shape[1], plan.scale
    image, wide, map_ = ((1, n, "H", "W") for n in (3, channels, 1))
    sizes = {"H": SIDE_SIZES, "W": SIDE_SIZES}
    sr = (1, 3, f"{scale}*H", f"{scale}*W")
    outputs = {"features": wide, "depth_map": map_}
    specs = [
        PartSpec(start, (x, depth), {"lr": image, "depth": (1,)}, outputs, sizes),
        PartSpec(
            end, (features.flip(2), features), {"y": wide, "features": wide}, {"sr": sr}, sizes
        ),
    ]
    everywhere = {"y": wide, "depth_map": map_}
    for (before, last), dense, skipping in zip(block_groups(plan), versions[::2], versions[1::2]):
        example = (features, depth_map)
        specs.append(PartSpec(dense, example, everywhere, {"y_next": wide}, sizes))
        if plan.way != "tiles":
            specs.append(PartSpec(skipping, example, everywhere, {"y_next": wide}, sizes))
            continue
        side = plan.tile + 4 * (last - before)
        tiles = {"y": ("N", channels, side, side), "depth_map": ("N", 1, side, side)}
        cores = {"y_next": ("N", channels, plan.tile, plan.tile)}
        example = _example_tiles(features, plan, side)
        specs.append(PartSpec(skipping, example, tiles, cores, {"N": BATCH_SIZES}))
    return [replace(spec, decisions=("depth", "depth_map")) for spec in specs]


def _example_tiles(features: Tensor, plan: DepthPlan, side: int) -> Tuple[Tensor, Tensor]:
    """Return two tiles with all depths and a border of the image."""
    depth_map = torch.linspace(-0.5, plan.blocks, side).expand(2, 1, side, side).contiguous()
    h, w = features.shape[2:]
    tile = features.repeat(1, 1, -(-side // h), -(-side // w))[:, :, :side, :side]
    return torch.cat([tile, tile.flip(3)]) * (depth_map >= 0), depth_map
