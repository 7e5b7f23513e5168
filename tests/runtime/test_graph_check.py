"""The findings of `check` for graphs that sessions cannot serve, by target."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sr_deploy.core.errors import MissingPackageError
from sr_deploy.core.target import load_target
from sr_deploy.runtime.graph_check import check_graph

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs them")

TARGETS = ("cpu", "cuda", "rtx", "orin")
FREE = (1, 3, "h", "w")


def save_graph(path, *, shape=FREE, element="FLOAT", scales=np.float32, scale=2, op="Resize"):
    """Save a graph of nearest x2, or one that differs from it."""
    value, kind = onnx.helper.make_tensor_value_info, getattr(onnx.TensorProto, element)
    node = onnx.helper.make_node(op, ["x", "", "scales"], ["y"], mode="nearest")
    weights = onnx.numpy_helper.from_array(np.array([1, 1, scale, scale], scales), "scales")
    out = ("N", shape[1], "H", "W")
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", kind, shape)], [value("y", kind, out)], [weights]
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def errors(path, target):
    return [f.what for f in check_graph(path, load_target(target)) if f.severity == "error"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "facts, words",
    [
        (dict(shape=(4, 3, "h", "w")), "the batch of the input is 4; expected 1"),
        (dict(shape=("n", 4, "h", "w")), r"the input has 4 channels; expected 3 \(RGB\) or 1"),
        (dict(shape=(1, "h", "w", 12)), "the input has 12 channels; expected 3"),
        (dict(shape=(1, 3, 0, 0)), "the height of the input is 0; expected 1 to 16384"),
        (dict(shape=(1, 3, 1 << 40, 8)), "the height of the input is 1099511627776"),
        (dict(element="INT8"), "the input is int8; expected float, float16 or uint8"),
        (dict(scale=1.5), "32x32 becomes 48x48"),
        (dict(element="FLOAT16", scales=np.float16), "invalid model.*float16"),
    ],
)
def test_what_no_session_serves_is_an_error_for_every_target(tmp_path, target, facts, words):
    found = errors(save_graph(tmp_path / "net.onnx", **facts), target)
    assert any(re.search(words, what) for what in found), found


def test_what_is_served_has_no_error(tmp_path):
    for shape in (FREE, (1, 3, 48, "w"), (1, 3, 8, 8), ("n", "c", "h", "w"), (1, 1, "h", "w")):
        assert errors(save_graph(tmp_path / "net.onnx", shape=shape), "cpu") == []


def test_an_operator_that_onnxruntime_lacks_is_a_warning_for_other_runtimes(tmp_path):
    path = save_graph(tmp_path / "net.onnx", op="Resize")
    model = onnx.load(str(path))
    model.opset_import[0].version = 99
    onnx.save(model, str(path))
    assert any("onnxruntime cannot load" in what for what in errors(path, "cpu"))
    findings = check_graph(path, load_target("rtx"))
    assert ["warning"] == [f.severity for f in findings if "onnxruntime cannot" in f.what]


def test_damaged_files_are_findings(tmp_path):
    path = save_graph(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[:90])
    assert errors(path, "cpu") == [f"{path} is not an ONNX graph"]


def test_names_that_are_no_text_and_damaged_tensors_are_findings(tmp_path):
    path = save_graph(tmp_path / "net.onnx")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"Resize", b"Re\xffize"))
    assert errors(path, "rtx") == [f"{path} is damaged: a name in it is not UTF-8"]
    model = onnx.load_from_string(whole)
    model.graph.initializer[0].dims[0] = 1 << 40
    onnx.save(model, str(path))
    assert any("'scales' has data that do not fit" in what for what in errors(path, "orin"))


def test_without_onnxruntime_the_declared_shapes_are_checked(tmp_path, monkeypatch):
    def missing(*args, **options):
        raise MissingPackageError("onnxruntime", needed_for="it")

    monkeypatch.setattr("sr_deploy.runtime.graph_check.raw_session", missing)
    assert errors(save_graph(tmp_path / "net.onnx"), "cpu") == []
    found = errors(save_graph(tmp_path / "net.onnx", shape=("n", 4, "h", "w")), "cpu")
    assert found == ["the input has 4 channels; expected 3 (RGB) or 1 (luma)"]
