"""From an AdaEDSR checkpoint to graphs that skip, and their plan: by gathered rows, or by tiles of as many blocks as they need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Dict, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor, nn

from sr_deploy.core.depths import WAYS, DepthPlan, groups_of, plan_path, reach_px
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import output_folder, write_text
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.samples import sample_lr
from sr_deploy.export.parts import Part, free, part_of, write_parts
from sr_deploy.export.rewrite import rewritten
from sr_deploy.nets.adaedsr import AdaEDSR
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint
from sr_deploy.nets.sparse import DENSE_ABOVE, row_parts, rows_plan
from sr_deploy.nets.tiled import DepthMap, FirstBlocks, tile_macs

TILE = 128
"""With the pixels around it, which shrink from block to block, 16 blocks take 1.42 times the work of the tile alone, of 64 1.96 times."""
CHECKED_HW = (37, 50)


def plan_from_checkpoint(
    model: Union[str, Path, Checkpoint],
    output: Union[str, Path],
    *,
    way: str = "rows",
    dense_above: float = DENSE_ABOVE,
    tile: int = TILE,
    depths: Sequence[int] = (),
) -> Path:
    """Export an AdaEDSR checkpoint to `output` as graphs that skip; return the path of their plan.

    way: `rows`: graphs of the start, lr (1, 3, H, W) and depth (1,) -> features and depth_map; of each quarter of the blocks, y and
    depth_map -> y_next, everywhere and by gathered rows (ONNX Runtime runs them, TensorRT for RTX has no NonZero); of the end, y and
    features -> sr. A quarter is run by rows where at most a share of `dense_above` of the pixels take its blocks. `tiles`: the graph
    of the map, and one of the first k blocks for each k of `depths` (the quarters where none is given), lr (N, 3, S, S) and
    depth_map (N, 1, S, S) -> sr of `tile` LR pixels a side, of dense tensors only.
    Raises InputError for a model without depths or wrong numbers, ExportError when a graph differs from torch.
    """
    checkpoint = model if isinstance(model, Checkpoint) else load_checkpoint(model)
    net = checkpoint.network()
    if not isinstance(net, AdaEDSR):
        raise InputError(f"'{checkpoint.name}' is of {checkpoint.spec.arch}: only an AdaEDSR is run so", hint="give one of adaedsr")
    blocks = len(net.blocks)
    depths = tuple(depths) or groups_of(blocks)
    _check(way, dense_above=dense_above, tile=tile, depths=depths, blocks=blocks)
    plan = rows_plan(checkpoint, net, dense=rewritten(net.backbone())[0], dense_above=dense_above)
    if way == "rows":
        parts = _rows(net, plan)
    else:
        macs = tuple(tile_macs(net, blocks=k, tile=tile) for k in depths)
        again = plan.map_macs_px + net.head.weight.numel()
        parts = {"map": _map(net), **{f"k{k}.t{tile}": _first(net, k, tile) for k in depths}}
        plan = replace(plan, way=way, dense_above=1.0, tile=tile, depths=depths, tile_macs=macs, map_macs_px=again)
    folder = output_folder(Path(output))
    graphs, checks = write_parts(folder, {f"{plan.model}.{name}.onnx": part for name, part in parts.items()})
    path = plan_path(folder, plan.model, plan.way)
    write_text(path, to_json(replace(plan, graphs=graphs, checks=checks)))
    return path


def _check(way: str, *, dense_above: float, tile: int, depths: Tuple[int, ...], blocks: int) -> None:
    if way not in WAYS:
        raise InputError(f"unknown way '{way}'; expected {' or '.join(WAYS)}")
    if not 0 <= dense_above <= 1:
        raise InputError(f"blocks are computed everywhere above a share of {dense_above:g} of the pixels; expected 0 to 1")
    if tile < 1 or depths != tuple(sorted(set(depths))) or depths[0] < 1 or depths[-1] != blocks:
        raise InputError(
            f"tiles of {tile} LR pixels and graphs of {', '.join(map(str, depths))} blocks cannot be",
            hint=f"give a tile of at least 1, and depths from small to large that end with all {blocks} blocks",
        )


def _rows(net: AdaEDSR, plan: DepthPlan) -> Dict[str, Part]:
    """Each part is given what torch's own parts before it made."""
    hw = free(2, 3)
    start, end, *pairs = row_parts(rewritten(net)[0], plan.depths)  # type: ignore[arg-type]
    x, depth = _example(net)
    with torch.no_grad():
        features, depth_map = start(x, depth)
    parts = {
        "start": _part(start, (x, depth), ["lr", "depth"], ["features", "depth_map"], (hw, {})),
        "end": _part(end, (features.flip(2), features), ["y", "features"], ["sr"], (hw, hw)),
    }
    for number, part in enumerate(pairs):
        name = f"b{plan.depths[number // 2]}.{'rows' if number % 2 else 'everywhere'}"
        parts[name] = _part(part, (features, depth_map), ["y", "depth_map"], ["y_next"], (hw, hw))
    return parts


def _part(net: nn.Module, given: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str], dynamic: Sequence[dict]) -> Part:
    return part_of(net, net, given, inputs=inputs, outputs=outputs, dynamic=dynamic)


def _map(net: AdaEDSR) -> Part:
    return _part(DepthMap(net), _example(net), ["lr", "depth"], ["depth_map"], (free(2, 3), {}))


def _first(net: AdaEDSR, blocks: int, tile: int) -> Part:
    part = FirstBlocks(net, blocks=blocks)
    side = tile + 2 * reach_px(blocks)
    x = torch.from_numpy(np.concatenate([nchw_from_rgb(rgb) for rgb in sample_lr((side, side), count=2)]))
    depth_map = torch.linspace(-0.5, blocks, side).expand(2, 1, side, side).contiguous()
    return _part(part, (x, depth_map), ["lr", "depth_map"], ["sr"], (free(0), free(0)))


def _example(net: AdaEDSR) -> Tuple[Tensor, Tensor]:
    return torch.from_numpy(nchw_from_rgb(sample_lr(CHECKED_HW, count=1)[0])), torch.tensor([len(net.blocks) / 2])
