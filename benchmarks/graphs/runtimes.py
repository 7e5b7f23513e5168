"""The runtimes that graphs are measured in, and what they need: INT8 graphs, ncnn's files."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Union

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]
Opened = Tuple[Optional[Run], str]
"""(1, 3, H, W) to (1, 3, sH, sW); or None, and why not."""
OPENVINO = "OpenVINO"


def openers() -> Mapping[str, Callable[[Union[Path, bytes], str], Opened]]:
    """Return by runtime what opens a graph in a precision."""
    return {"onnxruntime": _onnxruntime, OPENVINO: _openvino, "ncnn": _ncnn}


def quantised(model: Any, x: np.ndarray, target: str) -> Any:
    """Return an INT8 graph as `export` places it for a target, with the ranges of one picture."""
    from sr_deploy.core.target import load_target
    from sr_deploy.export.int8.placement import placed, ready_to_quantise
    from sr_deploy.export.int8.ranges import MIN_MAX, collect_ranges

    rules = load_target(target).int8
    assert rules is not None
    ready = ready_to_quantise(model)
    return placed(ready, collect_ranges(ready, [x], rules)[MIN_MAX], rules)


def _onnxruntime(graph: Union[Path, bytes], precision: str) -> Opened:
    from sr_deploy.runtime.ort import raw_session

    session = raw_session(str(graph) if isinstance(graph, Path) else graph)
    return (lambda x: session.run(None, {"lr": x})[0]), ""


def _openvino(graph: Union[Path, bytes], precision: str) -> Opened:
    from sr_deploy.runtime.openvino_session import CPU, compiled_graph

    reason = CPU.why_no_precision(precision)
    if reason:
        return None, reason
    content = str(graph) if isinstance(graph, Path) else graph
    request = compiled_graph(content, precision, CPU, "the graph").create_infer_request()
    return (lambda x: request.infer({0: x}, share_inputs=True, share_outputs=True)[0]), ""


def _ncnn(graph: Union[Path, bytes], precision: str) -> Opened:
    """Convert a graph by pnnx and open it; bf16 is the type in which ncnn then stores maps."""
    import ncnn

    from sr_deploy.core.device import usable_cores

    assert isinstance(graph, Path)
    found = importlib.util.find_spec("pnnx")
    assert found is not None and found.origin is not None
    options: Dict[str, Any] = {"num_threads": usable_cores(), "use_bf16_storage": False}
    options["use_bf16_storage"] = precision == "bf16"
    options.update(dict.fromkeys(_FP16, False))
    with tempfile.TemporaryDirectory() as folder:
        name = graph.stem.replace("-", "_").replace(".", "_")
        copied = Path(folder) / f"{name}.onnx"
        copied.write_bytes(graph.read_bytes())
        size = ",".join(map(str, _input_shape(copied)))
        done = subprocess.run(
            [str(Path(found.origin).with_name("pnnx")), copied.name, f"inputshape=[{size}]"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        param = copied.with_suffix(".ncnn.param")
        if not param.is_file():
            return None, f"pnnx: {(done.stdout.strip().splitlines() or ['failed'])[-1]}"
        net = ncnn.Net()
        for option, value in options.items():
            setattr(net.opt, option, value)
        if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
            return None, "ncnn lacks an operator that pnnx writes"

    def run(x: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(x[0]))
        return np.array(extractor.extract("out0")[1])[None]

    return run, ""


_FP16 = ("use_fp16_storage", "use_fp16_arithmetic", "use_fp16_packed")


def _input_shape(path: Path) -> list:
    import onnx

    dims = onnx.load(str(path)).graph.input[0].type.tensor_type.shape.dim
    return [dim.dim_value for dim in dims]
