"""The table of `benchmarks/agreement.py`, and its bare loop."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "agreement.py"


@pytest.fixture(scope="module")
def agreement():
    spec = importlib.util.spec_from_file_location("agreement", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(by, *times_ms, number=0):
    common = {
        "network": "m_x4.d1",
        "size": "64x64",
        "round": number,
        "device": "a CPU",
        "threads": 2,
        "backend_version": "1.0",
    }
    return {**common, "by": by, "times_ms": list(times_ms)}


# In the first round both agree. In the second, bench differs by more than single runs vary.
ROWS = [
    row("bench", 9, 10, 11),
    row("bare", 10, 10.5, 11),
    row("bench", 12, 13, 14, number=1),
    row("bare", 10, 10.5, 11, 11, number=1),
]


def test_the_table_says_what_agrees(agreement, tmp_path):
    text = agreement.table(ROWS)
    line = [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")]
    assert line == [
        "m_x4.d1",
        "64x64",
        "10.00, 13.00",
        "10.50, 10.75",
        "0.952 to 1.209",
        "8.2% / 3.9%",
        "1 of 2",
        "0 of 1",
    ]
    assert "device: a CPU, 2 threads; onnxruntime 1.0; 3 to 4 runs each" in text
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--table", str(path)],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.stdout == text + "\n"


def test_the_bare_loop_knows_nothing_of_our_code(agreement):
    assert "sr_deploy" not in agreement.BARE


def test_the_bare_loop_times_a_graph(agreement, tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; it writes the graph")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs the graph")
    shape = [1, 3, 8, 8]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(tmp_path / "relu.onnx"))
    times = json.loads(
        agreement._output("-c", agreement.BARE, str(tmp_path / "relu.onnx"), "8", "8", "1", "4")
    )
    assert len(times) == 4 and min(times) > 0
