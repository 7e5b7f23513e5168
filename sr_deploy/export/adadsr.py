"""From an AdaEDSR checkpoint to graphs that skip, and their plan: by gathered rows, or by tiles of as many blocks as they need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Dict, Sequence, Tuple, Union

import numpy as np
import onnx
import torch
from torch import Tensor

from sr_deploy.core.depths import WAYS, DepthPlan, plan_path, reach_px
from sr_deploy.core.errors import ExportError, InputError
from sr_deploy.core.files import atomic_path, output_folder, sha256_of, write_text
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.samples import sample_lr
from sr_deploy.export.graph import graph_of
from sr_deploy.export.rewrite import rewritten
from sr_deploy.nets.adaedsr import AdaEDSR
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint
from sr_deploy.nets.sparse import DENSE_ABOVE, RowSparse, rows_plan
from sr_deploy.nets.tiled import DepthMap, FirstBlocks, tile_macs
from sr_deploy.runtime.ort import raw_session

MAX_ABS_ERR = 1e-4
"""Against torch, of images in 0..1 and of depths in blocks."""
TILE = 64
OPSET = 17
"""What TensorRT 8.5 reads."""
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

    way: `rows`: one graph, lr (1, 3, H, W) and depth (1,) -> sr and depth_map, which computes by gathered rows what a share of
    `dense_above` of the pixels or fewer take; ONNX Runtime runs it, TensorRT for RTX has no NonZero. `tiles`: the graph of the map,
    and one of the first k blocks for each k of `depths` (the quarters of all blocks where none is given), lr (N, 3, S, S) and
    depth_map (N, 1, S, S) -> sr of `tile` LR pixels a side, of dense tensors only.
    Raises InputError for a model without depths or wrong numbers, ExportError when a graph differs from torch.
    """
    checkpoint = model if isinstance(model, Checkpoint) else load_checkpoint(model)
    net = checkpoint.network()
    if not isinstance(net, AdaEDSR):
        raise InputError(f"{checkpoint.name} is of {checkpoint.spec.arch}, which has no depth map to skip by", hint="give one of adaedsr")
    blocks = len(net.blocks)
    depths = tuple(depths) or tuple(sorted({-(-blocks * i // 4) for i in range(1, 5)}))
    _check(way, dense_above=dense_above, tile=tile, depths=depths, blocks=blocks)
    plan = rows_plan(checkpoint, net, dense=rewritten(net.backbone())[0], dense_above=dense_above)
    if way == "rows":
        parts = {"rows": _rows(net, dense_above)}
    else:
        macs = tuple(tile_macs(net, blocks=k, tile=tile) for k in depths)
        again = plan.map_macs_px + net.head.weight.numel()
        plan = replace(plan, way=way, dense_above=1.0, tile=tile, depths=depths, tile_macs=macs, map_macs_px=again)
        parts = {"map": _map(net), **{f"k{k}.t{tile}": _first(net, k, tile) for k in depths}}
    return _written(plan, parts, output_folder(Path(output)))


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


Part = Tuple[onnx.ModelProto, float]
"""A graph, and how far onnxruntime is from torch on it."""


def _rows(net: AdaEDSR, dense_above: float) -> Part:
    rows, given = RowSparse(rewritten(net)[0], dense_above=dense_above), _example(net)  # type: ignore[arg-type]
    graph = graph_of(rows, given, inputs=["lr", "depth"], outputs=["sr", "depth_map"], dynamic=(_free(2, 3), {}), opset=OPSET)
    return graph, _error(graph, given, net.forward_at(*given))


def _map(net: AdaEDSR) -> Part:
    part, given = DepthMap(net), _example(net)
    graph = graph_of(part, given, inputs=["lr", "depth"], outputs=["depth_map"], dynamic=(_free(2, 3), {}), opset=OPSET)
    return graph, _error(graph, given, (part(*given),))


def _first(net: AdaEDSR, blocks: int, tile: int) -> Part:
    part = FirstBlocks(net, blocks=blocks)
    side = tile + 2 * reach_px(blocks)
    x = torch.from_numpy(np.concatenate([nchw_from_rgb(rgb) for rgb in sample_lr((side, side), count=2)]))
    depth_map = torch.linspace(-0.5, blocks, side).expand(2, 1, side, side).contiguous()
    graph = graph_of(part, (x, depth_map), inputs=["lr", "depth_map"], outputs=["sr"], dynamic=(_free(0), _free(0)), opset=OPSET)
    return graph, _error(graph, (x, depth_map), (part(x, depth_map),))


def _free(*dims: int) -> dict:
    return {n: torch.export.Dim.DYNAMIC for n in dims}


def _example(net: AdaEDSR) -> Tuple[Tensor, Tensor]:
    return torch.from_numpy(nchw_from_rgb(sample_lr(CHECKED_HW, count=1)[0])), torch.tensor([len(net.blocks) / 2])


def _error(graph: onnx.ModelProto, given: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    session = raw_session(graph.SerializeToString())
    names = [i.name for i in session.get_inputs()]
    found = session.run(None, {name: value.numpy() for name, value in zip(names, given)})
    return max(float(np.abs(y - e.detach().numpy()).max()) for y, e in zip(found, expected))


def _written(plan: DepthPlan, parts: Dict[str, Part], folder: Path) -> Path:
    for name, (_, error) in parts.items():
        if not error <= MAX_ABS_ERR:
            raise ExportError(f"{plan.model}.{name}: onnxruntime differs from torch by {error:.2g}, expected at most {MAX_ABS_ERR:g}")
    graphs, errors = {}, {}
    for part, (graph, error) in parts.items():
        path = folder / f"{plan.model}.{part}.onnx"
        with atomic_path(path) as temporary:
            onnx.save(graph, str(temporary))
        graphs[path.name], errors[path.name] = sha256_of(path), error
    path = plan_path(folder, plan.model, plan.way)
    write_text(path, to_json(replace(plan, graphs=graphs, checks={"max_abs_err_vs_torch": errors})))
    return path
