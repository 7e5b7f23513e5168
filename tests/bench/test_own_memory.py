from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.bench import own_memory
from sr_deploy.bench.own_memory import MemoryProcessError, peak_mib
from sr_deploy.core.run_options import DEFAULT_RUN
from sr_deploy.runtime.opener import describe

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs the graph")


@pytest.fixture()
def nearest(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graph")
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, *sides])
        for name, sides in (("lr", ("h", "w")), ("sr", ("H", "W")))
    ]
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    node = onnx.helper.make_node("Resize", ["lr", "", "scales"], ["sr"], mode="nearest")
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [scales])
    opset = [onnx.helper.make_opsetid("", 17)]
    path = tmp_path / "nearest.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


@pytest.mark.skipif("not __import__('sys').platform.startswith('linux')")
def test_the_peak_of_a_process_of_its_own(nearest):
    """A nearest x2 of 512x512 holds its output: 12 MiB."""
    (network,) = describe(nearest)
    x = np.zeros((1, 3, 512, 512), np.float32)
    first, second = (peak_mib(network, DEFAULT_RUN, x) for _ in range(2))
    assert 11 < first < 60
    assert second == pytest.approx(first, rel=0.05)


def test_a_process_that_fails_tells_why(nearest, monkeypatch):
    (network,) = describe(nearest)
    x = np.zeros((1, 3, 8, 8), np.float32)
    nearest.write_bytes(nearest.read_bytes().replace(b"nearest", b"nearesT"))
    with pytest.raises(MemoryProcessError, match="changed while it was measured"):
        peak_mib(network, DEFAULT_RUN, x)
    for code, reason in (
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL: the memory ran out"),
        ("import os; os.abort()", "ended by SIGABRT: it crashed"),
        ("import sys; sys.exit(3)", "exited with 3"),
    ):
        monkeypatch.setattr(own_memory, "_CHILD", code)
        with pytest.raises(MemoryProcessError, match=reason):
            peak_mib(network, DEFAULT_RUN, x)
