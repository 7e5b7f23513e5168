from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.runtime.ort_profile import NodeRuns, read_profile

CPU = "CPUExecutionProvider"


def event(name, provider, kind="float16", op="Conv"):
    types = [{kind: [1, 3, 8, 8]}]
    args = {"provider": provider, "op_name": op, "output_type_shape": types}
    return {"cat": "Node", "name": f"{name}_kernel_time", "args": args}


def write(tmp_path, *events):
    path = tmp_path / "run.json"
    path.write_text(json.dumps([{"cat": "Session", "name": "model_run", "args": {}}, *events]))
    return read_profile(path)


def test_a_real_profile_names_the_nodes_and_their_types(tiny, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "run")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(tiny()), options, providers=[CPU])
    for _ in range(2):
        session.run(None, {"lr": np.zeros((1, 3, 16, 24), np.float32)})
    nodes = read_profile(Path(session.end_profiling()))
    assert nodes == NodeRuns({CPU: ("conv", "shuffle")}, {CPU: {"fp32": 2}})
    assert nodes.precision == "fp32" and not nodes.describe_elsewhere(CPU)


def test_nodes_that_ran_elsewhere_are_named(tmp_path):
    shapes = [event(f"shape{n}", CPU, "int64", "Shape") for n in range(7)]
    nodes = write(tmp_path, event("conv", "GPU"), event("last", CPU), *shapes)
    assert nodes.describe_elsewhere("GPU") == (
        f"8 of 9 nodes by {CPU}: last, shape0, shape1, shape2, shape3 and 3 more"
    )
    assert nodes.elsewhere("GPU")[CPU][-1] == "shape6"


def test_the_precision_is_that_of_the_results_but_for_casts_and_copies(tmp_path):
    ends = [event("in", "GPU", "float", "Cast"), event("m", "GPU", "float", "MemcpyToHost")]
    assert write(tmp_path, event("conv", "GPU"), *ends).precision == "fp16"
    mixed = write(tmp_path, event("conv", "GPU"), event("norm", "GPU", "float", "Softmax"))
    assert mixed.precision == "mixed: 1 fp16, 1 fp32"
    assert write(tmp_path, event("shape", "GPU", "int64", "Shape")).precision == ""
