"""Export of elastic networks that go deeper tile by tile: gains, a start, tails and networks."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.elastic_plan import ElasticPlan, whole_role
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.quadtree import SIZES
from sr_deploy.core.samples import sample_lr
from sr_deploy.export.part_forms import FP32, PlanForm
from sr_deploy.export.parts import SIDE_SIZES, CheckedPart, PartSpec, checked_part, write_plan
from sr_deploy.nets.elastic import elastic_modules
from sr_deploy.nets.gains import Gains, load_gains
from sr_deploy.runtime.adaptive.elastic import BATCH, record_rates

CHECK_HW = (37, 50)


def plan_from_gains(
    model: Union[str, Path, Gains],
    output: Union[str, Path],
    *,
    form: PlanForm = FP32,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Export a gains head with the depths of its checkpoint to `output`; return the plan's path.

    The gains, the start and the network of each depth take lr (1, 3, H, W); the start gives
    features. The tail of each depth takes features and inside of tiles with their margins and gives
    sr, as the network does. Without a target, the parts are timed here by ONNX Runtime. Raises an
    SrDeployError; ExportError when a graph differs from torch, in which case nothing is written.
    """
    gains = model if isinstance(model, Gains) else load_gains(model)
    return plan_from_modules(*elastic_modules(gains), output, form=form, progress=progress)


def plan_from_modules(
    plan: ElasticPlan,
    modules: Dict[str, nn.Module],
    output: Union[str, Path],
    *,
    form: PlanForm = FP32,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Export the modules of a plan, by its roles, as `plan_from_gains` does."""
    parts: Dict[str, CheckedPart] = {}
    specs = _specs(plan, modules)
    for number, (role, spec) in enumerate(specs.items(), 1):
        parts[role] = checked_part(spec)
        error, file = parts[role].max_abs_err, plan.graph_name(role)
        progress(f"[{number}/{len(specs)}] {file}: differs from torch by {error:.2g}")
    path = write_plan(plan, parts, Path(output), form, progress)
    if form.target is None:
        record_rates(path)
    return path


def _specs(plan: ElasticPlan, modules: Dict[str, nn.Module]) -> Dict[str, PartSpec]:
    """Return what to export, in the order of the plan's roles."""
    x = torch.from_numpy(nchw_from_rgb(sample_lr(CHECK_HW, count=1)[0]))
    features = x
    sides = {"H": SIDE_SIZES, "W": SIDE_SIZES}
    lr, whole = (1, 3, "H", "W"), (1, plan.channels, "H", "W")
    sr = (1, 3, f"{plan.scale}*H", f"{plan.scale}*W")
    gains = (1, len(plan.tails) - 1, "rows", "columns")
    specs = {
        "gains": PartSpec(
            modules["gains"], (x,), {"lr": lr}, {"gains": gains}, sides, decisions=("gains",)
        )
    }
    if plan.has_start:
        specs["start"] = PartSpec(modules["start"], (x,), {"lr": lr}, {"features": whole}, sides)
        with torch.no_grad():
            features = modules["start"](x)
    for variant, cost in plan.tails.items():
        margins = 2 * cost.margin
        side = (1 + margins, SIZES[1] + margins, SIZES[-1] + margins)
        specs[variant] = PartSpec(
            modules[variant],
            _example_tiles(features, cost.margin),
            {"features": ("N", *whole[1:]), "inside": ("N", 1, "H", "W")},
            {"sr": ("N", 3, "sr_height", "sr_width")},
            {"N": (1, 4, BATCH), "H": side, "W": side},
        )
    for variant in plan.tails:
        specs[whole_role(variant)] = PartSpec(
            modules[whole_role(variant)], (x,), {"lr": lr}, {"sr": sr}, sides
        )
    return specs


def _example_tiles(features: Tensor, margin: int) -> Tuple[Tensor, Tensor]:
    """Return two tiles at borders of the image, as features and inside."""
    inside = torch.ones_like(features[:, :1])
    corners = [F.pad(y, (margin, 0, margin, 0)) for y in (features, inside)]
    tiles = [torch.cat([corner, corner.flip(2, 3)]) for corner in corners]
    return tiles[0], tiles[1]
