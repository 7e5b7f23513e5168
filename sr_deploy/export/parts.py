"""The graphs an adaptive network is deployed as: each checked against torch when it is made, and written beside its plan."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Mapping, Sequence, Tuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from sr_deploy.core.errors import ExportError
from sr_deploy.core.files import atomic_path, make_output_folder, sha256_of
from sr_deploy.export.graph import graph_of
from sr_deploy.runtime.ort import raw_session

MAX_ABS_ERR = 1e-4
"""Against torch, of images in 0..1, of depths in blocks and of log-odds."""
OPSET = 17
"""What TensorRT 8.5 reads."""

Part = Tuple[onnx.ModelProto, float]
"""A graph, and how far onnxruntime is from torch on it."""


def part_of(
    net: nn.Module,
    like: nn.Module,
    given: Sequence[Tensor],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Sequence[dict],
) -> Part:
    """Return the graph of `net`, compared with what `like`, the same function, makes of `given`: inputs that differ from each other.

    dynamic: for each input the dimensions that are free, see `free`. Raises ExportError.
    """
    graph = graph_of(net, given, inputs=inputs, outputs=outputs, dynamic=dynamic, opset=OPSET)
    with torch.no_grad():
        expected = like(*given)
    found = raw_session(graph.SerializeToString()).run(
        None, {name: x.numpy() for name, x in zip(inputs, given)}
    )
    wanted = expected if isinstance(expected, tuple) else (expected,)
    return graph, max(float(np.abs(y - e.numpy()).max()) for y, e in zip(found, wanted))


def free(*dims: int) -> dict:
    """Return that these dimensions of an input are free, as torch.export takes it."""
    return {n: torch.export.Dim.DYNAMIC for n in dims}


def write_parts(folder: Path, parts: Mapping[str, Part]) -> Tuple[Dict[str, str], Dict[str, dict]]:
    """Write graphs by file name; return their SHA-256s, and their checks as a plan holds them.

    Raises ExportError when one differs from torch; then nothing is written.
    """
    for name, (_, error) in parts.items():
        if not error <= MAX_ABS_ERR:
            raise ExportError(
                f"{name}: onnxruntime differs from torch by {error:.2g}, expected at most {MAX_ABS_ERR:g}"
            )
    graphs = {}
    for name, (graph, _) in parts.items():
        path = make_output_folder(folder) / name
        with atomic_path(path) as temporary:
            onnx.save(graph, str(temporary))
        graphs[name] = sha256_of(path)
    return graphs, {"max_abs_err_vs_torch": {name: error for name, (_, error) in parts.items()}}
