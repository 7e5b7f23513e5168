"""From an AdaEDSR checkpoint to graphs that skip, and their plan: by gathered rows, or by tiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from sr_deploy.core.depth_plan import WAYS, DepthPlan, graph_names, groups, plan_path
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import make_output_folder, write_text
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.samples import sample_lr
from sr_deploy.export.parts import Part, free, part_of, write_parts
from sr_deploy.nets.adaedsr import AdaEDSR
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint
from sr_deploy.nets.fuse import rewritten
from sr_deploy.nets.sparse import ByRows, parts_of, rows_plan
from sr_deploy.nets.tiled import OnTiles

TILE = 64
TILES_ABOVE = 0.6
"""The share of a quarter's work above which cutting and pasting tiles costs more than they save."""
SKIPPING = {"rows": ByRows, "tiles": OnTiles}
CHECKED_HW = (37, 50)


def plan_from_checkpoint(
    model: Union[str, Path, Checkpoint],
    output: Union[str, Path],
    *,
    way: str = "rows",
    dense_above: Optional[float] = None,
    tile: int = TILE,
) -> Path:
    """Export an AdaEDSR checkpoint to `output` as graphs that skip; return the path of their plan.

    The graphs: the start, lr (1, 3, H, W) and depth (1,) -> features and depth_map; the end, y and features -> sr; of each quarter of
    the blocks, y and depth_map -> y_next, one everywhere and one by `way`. `rows`: at gathered pixels (ONNX Runtime runs them,
    TensorRT for RTX has no NonZero). `tiles`: (N, C, S, S) and (N, 1, S, S) of `tile` LR pixels a side and what lies round them, of
    dense tensors only. dense_above: when a quarter is computed everywhere, see `DepthPlan`; None: by experience.
    Raises InputError for a model without depths or wrong numbers, ExportError when a graph differs from torch.
    """
    checkpoint = model if isinstance(model, Checkpoint) else load_checkpoint(model)
    net = checkpoint.network()
    if not isinstance(net, AdaEDSR):
        raise InputError(
            f"'{checkpoint.name}' is of {checkpoint.spec.arch}: only an AdaEDSR is run so",
            hint="give one of adaedsr",
        )
    plan = rows_plan(checkpoint, net, dense=rewritten(net.backbone())[0])
    if way == "tiles":
        plan = replace(plan, way=way, tile=tile, dense_above=TILES_ABOVE)
    plan = plan if dense_above is None else replace(plan, dense_above=dense_above)
    _check(way, plan)
    parts = _parts(net, plan)
    folder = make_output_folder(Path(output))
    graphs, checks = write_parts(folder, dict(zip(graph_names(plan), parts)))
    path = plan_path(folder, plan.model, plan.way)
    write_text(path, to_json(replace(plan, graphs=graphs, checks=checks)))
    return path


def _check(way: str, plan: DepthPlan) -> None:
    if way not in WAYS:
        raise InputError(f"unknown way '{way}'; expected {' or '.join(WAYS)}")
    if not 0 <= plan.dense_above <= 1:
        raise InputError(
            f"blocks are computed everywhere above a share of {plan.dense_above:g}; expected 0 to 1"
        )
    if way == "tiles" and not 1 <= plan.tile <= 4096:
        raise InputError(f"tiles of {plan.tile} LR pixels; expected 1 to 4096")


def _parts(net: AdaEDSR, plan: DepthPlan) -> List[Part]:
    """In the order of `graph_names`. Each is given what torch's own parts before it made."""
    hw = free(2, 3)
    start, end, *pairs = parts_of(rewritten(net)[0], plan.depths, SKIPPING[plan.way])  # type: ignore[arg-type]
    x, depth = _example(net)
    with torch.no_grad():
        features, depth_map = start(x, depth)
    parts = [
        _part(start, (x, depth), ["lr", "depth"], ["features", "depth_map"], (hw, {})),
        _part(end, (features.flip(2), features), ["y", "features"], ["sr"], (hw, hw)),
    ]
    for (before, last), everywhere, skipping in zip(groups(plan), pairs[::2], pairs[1::2]):
        tiles = plan.way == "tiles"
        given, dynamic = (
            (_tiles(features, plan, last - before), free(0))
            if tiles
            else ((features, depth_map), hw)
        )
        parts.append(
            _part(everywhere, (features, depth_map), ["y", "depth_map"], ["y_next"], (hw, hw))
        )
        parts.append(_part(skipping, given, ["y", "depth_map"], ["y_next"], (dynamic, dynamic)))
    return parts


def _part(
    net: nn.Module,
    given: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Sequence[dict],
) -> Part:
    return part_of(net, net, given, inputs=inputs, outputs=outputs, dynamic=dynamic)


def _tiles(features: Tensor, plan: DepthPlan, blocks: int) -> Tuple[Tensor, Tensor]:
    """Two tiles with all depths and a border of the image."""
    side = plan.tile + 4 * blocks
    depth_map = torch.linspace(-0.5, plan.blocks, side).expand(2, 1, side, side).contiguous()
    again = features.repeat(1, 1, -(-side // features.shape[2]), -(-side // features.shape[3]))[
        :, :, :side, :side
    ]
    return torch.cat([again, again.flip(3)]) * (depth_map >= 0), depth_map


def _example(net: AdaEDSR) -> Tuple[Tensor, Tensor]:
    return torch.from_numpy(nchw_from_rgb(sample_lr(CHECKED_HW, count=1)[0])), torch.tensor(
        [len(net.blocks) / 2]
    )
