"""The rows and the table of `benchmarks/graphs`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "graphs"


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("compare")
    for name in ("compare", "ceilings", "graph_files", "memory", "runtimes"):
        sys.modules.pop(name, None)


def test_ratios_are_to_the_same_precision_and_medians_of_rounds(compare):
    key = compare.Key
    ours = key("ours for OpenVINO", "OpenVINO", "bf16")
    times = {
        key("dynamo", "onnxruntime", "fp32"): [40.0, 44.0, 400.0],
        key("TorchScript", "onnxruntime", "fp32"): [30.0, 33.0, 300.0],
        key("dynamo", "OpenVINO", "bf16"): [10.0, 10.0, 10.0],
        ours: [5.0, 5.5, 50.0],
    }
    found = compare.ratios(ours, times)
    assert found["ratio_openvino"] == pytest.approx(0.55)
    assert found["ratio"] == pytest.approx(1 / 6), "the faster of the two exporters' graphs"
    assert found["ratio_ours"] is None, "ours was not measured in onnxruntime"


def test_the_floor_is_that_of_the_precision(compare):
    gmacs = {"fp32": 100.0, "bf16": 200.0, "int8": 400.0}
    row = {"macs_g": 1.0, "bytes_gb": 0.1, "precision": "fp32"}
    assert compare.floor_ms(row, (gmacs, 10.0)) == pytest.approx(10.0)
    assert compare.floor_ms({**row, "precision": "int8"}, (gmacs, 10.0)) == pytest.approx(2.5)
    assert compare.floor_ms({**row, "precision": "bf16"}, (gmacs, 2.0)) == pytest.approx(25.0)


def test_a_line_has_a_cell_for_each_column_and_tells_why_a_time_is_missing(compare):
    row = {"network": "asrn_x4.d1", "lr": "128x128", "graph": "ours", "runtime": "ncnn"}
    row.update(precision="bf16", error="its output is not finite")
    line = compare.line(row)
    assert line.count("|") == compare.TIMES.splitlines()[0].count("|")
    assert "its output is not finite" in line
    row.update(error=None, ms_median=2.0, ms_min=1.0, ms_max=3.0, ratio=0.5, macs_g=1.25)
    assert "| 2.0 (1.0-3.0) | 0.50 |" in compare.line(row)
