"""Adaptive networks as graphs with a plan: a router with its branches, or an AdaEDSR both ways."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from sr_deploy.core.depth_plan import (
    WAYS,
    DepthPlan,
    block_groups,
    depth_plan_path,
    graph_names,
    read_depth_plan,
)
from sr_deploy.core.errors import ExportError
from sr_deploy.core.files import atomic_path, make_output_folder, sha256_of, write_text
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.routers import PLAN_SUFFIX, RoutedPlan, is_router
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.sizes import hw_text
from sr_deploy.core.timing import time_in_turns
from sr_deploy.export.graph import dynamic_dims, export_module
from sr_deploy.nets.adaedsr import AdaEDSR
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.fuse import fuse_network
from sr_deploy.nets.router import Router, load_router
from sr_deploy.nets.sparse import TILE, depth_plan, load_adaedsr, split_network
from sr_deploy.runtime.adaptive.adadsr import AdaDSR
from sr_deploy.runtime.ort import raw_session

MAX_ABS_ERR = 1e-4
"""Allowed difference from torch, for images in 0..1, depths in blocks and log-odds."""
OPSET = 17
"""The newest that TensorRT 8.5 reads."""
CHECK_PATCHES = 3
CHECK_HW = (37, 50)
TIMED_HW = (256, 256)
TIMED_ROUNDS = 3


@dataclass(frozen=True)
class CheckedGraph:
    """A graph and its largest absolute difference from torch in ONNX Runtime."""

    graph: onnx.ModelProto
    max_abs_err: float


def plans_from_model(
    model: Union[str, Path, Checkpoint],
    output: Union[str, Path],
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Export a router or an AdaEDSR checkpoint to `output`; return the paths of its plans.

    The two ways of an AdaEDSR are timed in turns on a photograph at half its depth. The fastest on
    this machine comes first; each plan records its time. Raises an SrDeployError.
    """
    if is_router(str(model)):
        return [plan_from_router(str(model), output, progress=progress)]
    checkpoint, net = load_adaedsr(model)
    graphs: Dict[str, CheckedGraph] = {}
    paths = [_export_depths(net, depth_plan(checkpoint, net, way=w), output, graphs) for w in WAYS]
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
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Export a router and its fused branches to `output`; return the path of their plan.

    Each graph takes any number of patches, lr (N, 3, patch, patch). The router's gives logits
    (N, classes), a branch's sr. Raises an SrDeployError; ExportError when a graph differs from
    torch, in which case nothing is written.
    """
    router = model if isinstance(model, Router) else load_router(model)
    plan = router.plan()
    patches = sample_lr((plan.patch, plan.patch), count=CHECK_PATCHES)
    x = torch.from_numpy(np.concatenate([nchw_from_rgb(rgb) for rgb in patches]))
    networks: Dict[str, nn.Module] = {"router": router.network()}
    networks.update(zip(plan.names, router.branch_networks()))
    graphs: Dict[str, CheckedGraph] = {}
    for number, (name, net) in enumerate(networks.items(), 1):
        file = f"{router.name}.{name}.onnx"
        branch = name != "router"
        graphs[file] = checked_graph(
            fuse_network(net)[0] if branch else net,
            (x,),
            inputs={"lr": dynamic_dims(0)},
            outputs=["sr" if branch else "logits"],
            reference=net,
        )
        error = graphs[file].max_abs_err
        progress(f"[{number}/{len(networks)}] {file}: differs from torch by {error:.2g}")
    return _write_plan(plan, graphs, make_output_folder(Path(output)) / (router.name + PLAN_SUFFIX))


def plan_from_checkpoint(
    model: Union[str, Path, Checkpoint],
    output: Union[str, Path],
    *,
    way: str = "rows",
    dense_above: Optional[float] = None,
    tile: int = TILE,
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
    return _export_depths(net, plan, output, {})


def _export_depths(
    net: AdaEDSR, plan: DepthPlan, output: Union[str, Path], graphs: Dict[str, CheckedGraph]
) -> Path:
    """Export the graphs of a plan that are not in `graphs` yet; write all of them and the plan.

    Both ways share the start, the end and the graphs that compute everywhere.
    """
    names = graph_names(plan)
    for name, (module, example, inputs, outputs) in zip(names, _depth_modules(net, plan)):
        if name not in graphs:
            graphs[name] = checked_graph(module, example, inputs=inputs, outputs=outputs)
    folder = make_output_folder(Path(output))
    path = depth_plan_path(folder, plan.model, plan.way)
    return _write_plan(plan, {name: graphs[name] for name in names}, path)


ModuleSpec = Tuple[nn.Module, Tuple[Tensor, ...], Dict[str, dict], List[str]]
"""A module, example inputs, their names with `dynamic_dims`, and the names of its outputs."""


def _depth_modules(net: AdaEDSR, plan: DepthPlan) -> List[ModuleSpec]:
    """Return what to export, in the order of `graph_names`."""
    start, end, *versions = split_network(net, plan.depths, plan.way)
    x = torch.from_numpy(nchw_from_rgb(sample_lr(CHECK_HW, count=1)[0]))
    depth = torch.tensor([len(net.blocks) / 2])
    with torch.no_grad():
        features, depth_map = start(x, depth)
    hw = dynamic_dims(2, 3)
    specs: List[ModuleSpec] = [
        (start, (x, depth), {"lr": hw, "depth": {}}, ["features", "depth_map"]),
        (end, (features.flip(2), features), {"y": hw, "features": hw}, ["sr"]),
    ]
    for (before, last), everywhere, skipping in zip(
        block_groups(plan), versions[::2], versions[1::2]
    ):
        example, dims = (features, depth_map), hw
        specs.append((everywhere, example, {"y": dims, "depth_map": dims}, ["y_next"]))
        if plan.way == "tiles":
            example, dims = _example_tiles(features, plan, last - before), dynamic_dims(0)
        specs.append((skipping, example, {"y": dims, "depth_map": dims}, ["y_next"]))
    return specs


def _example_tiles(features: Tensor, plan: DepthPlan, blocks: int) -> Tuple[Tensor, Tensor]:
    """Return two tiles with all depths and a border of the image."""
    side = plan.tile + 4 * blocks
    depth_map = torch.linspace(-0.5, plan.blocks, side).expand(2, 1, side, side).contiguous()
    h, w = features.shape[2:]
    tile = features.repeat(1, 1, -(-side // h), -(-side // w))[:, :, :side, :side]
    return torch.cat([tile, tile.flip(3)]) * (depth_map >= 0), depth_map


def checked_graph(
    net: nn.Module,
    example: Sequence[Tensor],
    *,
    inputs: Mapping[str, dict],
    outputs: Sequence[str],
    reference: Optional[nn.Module] = None,
) -> CheckedGraph:
    """Export `net`, and compare its graph with torch on the example.

    inputs: names with their `dynamic_dims`. reference: the module to compare with, if not `net`.
    Raises ExportError when the export fails; a difference is only returned.
    """
    graph = export_module(net, example, inputs=inputs, outputs=outputs, opset=OPSET)
    with torch.no_grad():
        expected = (reference or net)(*example)
    feeds = {name: x.numpy() for name, x in zip(inputs, example)}
    results = raw_session(graph.SerializeToString()).run(None, feeds)
    expected = expected if isinstance(expected, tuple) else (expected,)
    errors = [float(np.abs(y - e.numpy()).max()) for y, e in zip(results, expected)]
    return CheckedGraph(graph, max(errors))


def write_graphs(
    folder: Path, graphs: Mapping[str, CheckedGraph]
) -> Tuple[Dict[str, str], Dict[str, dict]]:
    """Write graphs by file name; return their SHA-256s, and their checks as a plan stores them.

    Raises ExportError when one differs from torch, in which case nothing is written.
    """
    for name, checked in graphs.items():
        if not checked.max_abs_err <= MAX_ABS_ERR:
            raise ExportError(
                f"{name}: ONNX Runtime differs from torch by {checked.max_abs_err:.2g}, "
                f"expected at most {MAX_ABS_ERR:g}"
            )
    digests = {}
    for name, checked in graphs.items():
        path = make_output_folder(folder) / name
        with atomic_path(path) as temporary:
            onnx.save(checked.graph, str(temporary))
        digests[name] = sha256_of(path)
    errors = {name: checked.max_abs_err for name, checked in graphs.items()}
    return digests, {"max_abs_err_vs_torch": errors}


def _write_plan(
    plan: Union[DepthPlan, RoutedPlan], graphs: Mapping[str, CheckedGraph], path: Path
) -> Path:
    digests, checks = write_graphs(path.parent, graphs)
    write_text(path, to_json(replace(plan, graphs=digests, checks=checks)))
    return path
