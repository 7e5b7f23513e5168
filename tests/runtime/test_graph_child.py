from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from sr_deploy.runtime.graph_child import GraphChild, GraphRunError, may_crash
from sr_deploy.runtime.ort import OnnxRuntimeSession

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs them")


def windowed(folder):
    """Save nearest x2 that takes its sides modulo its number of windows of 12 pixels."""
    make, path = onnx.helper.make_node, folder / "windows.onnx"
    nodes = [
        make("Shape", ["x"], ["sides"], start=2),
        make("Div", ["sides", "twelve"], ["windows"]),
        make("Mod", ["sides", "windows"], ["each"]),
        make("Mul", ["each", "none"], ["zero"]),
        make("ReduceSum", ["zero"], ["nothing"], keepdims=0),
        make("Cast", ["nothing"], ["float"], to=onnx.TensorProto.FLOAT),
        make("Add", ["x", "float"], ["same"]),
        make("Resize", ["same", "", "scales"], ["y"], mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ]  # fmt: skip
    weights = {"twelve": np.array(12), "none": np.array(0), "scales": np.float32([1, 1, 2, 2])}
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, [1, 3, "h", "w"])],
        [value("y", onnx.TensorProto.FLOAT, [1, 3, "H", "W"])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def test_a_graph_that_computes_with_its_size_is_probed_and_run_apart(tmp_path):
    path = windowed(tmp_path)
    assert may_crash(path)
    session = OnnxRuntimeSession(path)
    assert (session.scale, session.min_hw, session.max_hw) == (2, (12, 12), None)
    x = np.random.default_rng(0).random((1, 3, 13, 16), dtype=np.float32)
    with GraphChild(path) as child:
        for _ in range(2):
            with pytest.raises(GraphRunError, match="modulo by zero"):
                child.run("y", {"x": x[:, :, :8]}, 60)
            y = child.run("y", {"x": x}, 60)
            np.testing.assert_array_equal(y, x.repeat(2, axis=2).repeat(2, axis=3))
            os.kill(child._child.pid, signal.SIGFPE)
            with pytest.raises(GraphRunError, match="crashed: its process ended by SIGFPE"):
                child.run("y", {"x": x}, 60)


def test_a_run_of_a_process_that_takes_too_long_is_ended(tmp_path):
    with GraphChild(windowed(tmp_path)) as child:
        with pytest.raises(GraphRunError, match="ended by SIGKILL"):
            child.run("y", {"x": np.zeros((1, 3, 16, 16), np.float32)}, 0.0)
