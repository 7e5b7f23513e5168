"""The graphs of a network, and what onnxruntime executes of one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Dict

import numpy as np

PLAIN = ("dynamo", "TorchScript")
"""torch's exporters."""
OURS = {
    "ours": ("cpu", "fp32"),
    "ours for OpenVINO": ("cpu-openvino", "bf16"),
    "ours for OpenVINO INT8": ("cpu-openvino", "int8"),
}
"""Our graphs, with the target and the precision that their form was chosen for."""


def graphs(net: Any, arch: str, variant: str, size: str, folder: Path) -> Dict[str, Path]:
    """Write the graphs of a network; TorchScript's only if it supports the operators."""
    import onnx
    import onnxslim
    import torch

    from sr_deploy.core.sizes import parse_hw, parse_sizes
    from sr_deploy.core.target import load_target
    from sr_deploy.export.forms import apply_form, default_form
    from sr_deploy.export.graph import graph_from_network
    from sr_deploy.export.opset import EXPORTED

    models = {"dynamo": graph_from_network(net, parse_sizes(size), opset=EXPORTED)}
    # The TorchScript exporter does not support ChannelShuffle.
    if not any(isinstance(module, torch.nn.ChannelShuffle) for module in net.modules()):
        buffer = io.BytesIO()
        x = torch.zeros(1, 3, *parse_hw(size))
        torch.onnx.export(
            net,
            (x,),
            buffer,
            input_names=["lr"],
            output_names=["sr"],
            opset_version=EXPORTED,
            dynamo=False,
        )
        models["TorchScript"] = onnx.load_model_from_string(buffer.getvalue())
    models.update(
        {f"{form}, onnxslim": onnxslim.slim(model) for form, model in list(models.items())}
    )
    for name, (target, precision) in OURS.items():
        ours = apply_form(net, default_form(load_target(target), arch, variant, precision))[0]
        models[name] = graph_from_network(ours, parse_sizes(size), opset=EXPORTED)
    files = {}
    for form, model in models.items():
        files[form] = folder / f"{form.replace(', ', '-').replace(' ', '-')}.onnx"
        onnx.save(model, str(files[form]))
    return files


def nodes(path: Path) -> int:
    import onnx

    return len(onnx.load(str(path)).graph.node)


def executed(path: Path, x: np.ndarray) -> Dict[str, float]:
    """Return MACs and bytes of the nodes onnxruntime executed, from its profile."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix, options.log_severity_level = (
        True,
        str(path),
        3,
    )
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    session.run(None, {"lr": x})
    macs = size = 0
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        node = event["args"]
        size += sum(int(node[key]) for key in ("activation_size", "parameter_size", "output_size"))
        first, *others = (list(shape.values())[0] for shape in node["input_type_shape"])
        result = list(node["output_type_shape"][0].values())[0]
        if node["op_name"] in ("Conv", "FusedConv"):
            macs += int(np.prod(result)) * int(np.prod(others[0][1:]))
        elif node["op_name"] == "ConvTranspose":
            macs += int(np.prod(first)) * int(np.prod(others[0][1:]))
        elif node["op_name"] in ("MatMul", "FusedMatMul", "Gemm"):
            macs += int(np.prod(result)) * int(np.prod(first)) // max(int(np.prod(result[:-1])), 1)
    return {"macs_g": macs / 1e9, "bytes_gb": size / 1e9}
