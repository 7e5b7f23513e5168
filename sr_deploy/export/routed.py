"""From a router to what is deployed: its graph and one for each branch, for any number of patches at once, and their plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, Tuple, Union

import numpy as np
import onnx
import torch
from torch import nn

from sr_deploy.core.errors import ExportError
from sr_deploy.core.files import atomic_path, output_folder, sha256_of, write_text
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.routing import PLAN_SUFFIX
from sr_deploy.core.samples import sample_lr
from sr_deploy.export.forms import forms_of, in_form
from sr_deploy.export.graph import graph_of
from sr_deploy.nets.router import Router, load_router
from sr_deploy.runtime.ort import raw_session

MAX_ABS_ERR = 1e-4
"""Against torch, of images in 0..1, and relative to the largest of log-odds above 1."""
OPSET = 17
"""What TensorRT 8.5 reads."""
CHECKED_PATCHES = 3


def plan_from_router(
    model: Union[str, Path, Router], output: Union[str, Path], *, progress: Callable[[str], None] = lambda line: None
) -> Path:  # fmt: skip
    """Export a router to `output`, its branches with it; return the path of their plan, NAME.routed.json.

    Each graph takes lr (N, 3, patch, patch), N free: the router's gives logits (N, classes), a branch's sr, its exact rewrites
    done. Raises an SrDeployError on bad input, ExportError when a graph differs from torch; then nothing is written.
    """
    router = model if isinstance(model, Router) else load_router(model)
    plan = router.plan()
    networks: Dict[str, Tuple[nn.Module, str]] = {f"{router.name}.router.onnx": (router.network(), "logits")}
    for name, net in zip(plan.names, router.branch_networks()):
        networks[f"{router.name}.{name}.onnx"] = (net, "sr")
    graphs: Dict[str, onnx.ModelProto] = {}
    errors: Dict[str, float] = {}
    for number, (file, (net, result)) in enumerate(networks.items(), 1):
        graphs[file], errors[file] = _graph(net, plan.patch, result, file)
        progress(f"[{number}/{len(networks)}] {file}: {errors[file]:.2g} from torch at most")
    folder = output_folder(Path(output))
    checksums = {}
    for file, graph in graphs.items():
        with atomic_path(folder / file) as temporary:
            onnx.save(graph, str(temporary))
        checksums[file] = sha256_of(folder / file)
    path = folder / (router.name + PLAN_SUFFIX)
    write_text(path, to_json(replace(plan, graphs=checksums, checks={"max_abs_err_vs_torch": errors})))
    return path


def _graph(net: nn.Module, patch: int, result: str, name: str) -> Tuple[onnx.ModelProto, float]:
    x = torch.from_numpy(np.concatenate([nchw_from_rgb(rgb) for rgb in sample_lr((patch, patch), count=CHECKED_PATCHES)]))
    exported = in_form(net, forms_of(net)[0])[0] if result == "sr" else net
    free = {0: torch.export.Dim.DYNAMIC}
    graph = graph_of(exported, (x,), inputs=["lr"], outputs=[result], dynamic=(free,), opset=OPSET)
    with torch.inference_mode():
        expected = net(x).numpy()
    found = raw_session(graph.SerializeToString()).run(None, {"lr": x.numpy()})[0]
    error = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    if not error <= MAX_ABS_ERR:
        raise ExportError(f"{name}: onnxruntime differs from torch by {error:.2g}, expected at most {MAX_ABS_ERR:g}")
    return graph, error
