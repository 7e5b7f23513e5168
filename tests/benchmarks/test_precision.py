"""The table of `benchmarks/precision.py`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from sr_deploy.results.rows import BenchmarkRow, append_rows

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "precision.py"
FP32 = BenchmarkRow(
    model="asrn_x4",
    variant="d1",
    backend="onnxruntime",
    backend_version="1.32",
    precision="fp32",
    precision_asked="fp32",
    device="a CPU",
    threads=2,
    scale=4,
    input_hw=(256, 256),
    latency_ms_median=50.0,
    runs=15,
    set="Set5",
    metric="y",
    psnr_db=30.375,
    bicubic_psnr_db=28.43,
)


def faster(share, loss, precision, **changes):
    ms, psnr = FP32.latency_ms_median * share, FP32.psnr_db - loss
    asked = {
        "precision": precision,
        "precision_asked": "int8" if "int8" in precision else precision,
    }
    other = {"backend": "openvino", "backend_version": "2026.4", **asked, **changes}
    return replace(FP32, latency_ms_median=ms, psnr_db=psnr, **other)


ROWS = [
    FP32,
    faster(1.1, 0.0, "fp32"),
    faster(0.4, 0.001, "bf16"),
    faster(0.3, 0.0504, "mixed: 2 fp32, 10 int8"),
    replace(FP32, variant="d2", latency_ms_median=80.0, psnr_db=30.691),
    faster(0.5, 0.1, "int8", variant="d2", error="no INT8 here"),
]


def test_the_table_says_what_each_precision_takes_and_loses(tmp_path):
    append_rows(tmp_path / "rows.jsonl", ROWS)
    command = [sys.executable, str(PROGRAM), "--table", str(tmp_path / "rows.jsonl")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "|  | PSNR [dB] | onnxruntime fp32 [ms] | openvino bf16 | openvino fp32 | openvino int8 |"
    )
    assert lines[2] == (
        "| asrn_x4.d1 | 30.375 | 50.00 | 0.40 (0.001) | 1.10 (0.000) | 0.30 (0.050) |"
    )
    assert lines[3] == "| asrn_x4.d2 | 30.691 | 80.00 |  |  |  |"
    assert (
        "fastest first: asrn_x4.d1 int8 by openvino (15.0 ms, 30.32 dB); asrn_x4.d1 bf16 by "
        "openvino (20.0 ms, 30.37 dB); asrn_x4.d1 fp32 by onnxruntime (50.0 ms, 30.38 dB); "
        "asrn_x4.d2 fp32 by onnxruntime (80.0 ms, 30.69 dB)."
    ) in done.stdout
    assert "median of 15 rounds in turns at 256x256 on a CPU, 2 threads" in done.stdout


def test_the_slices_are_those_of_the_main_models():
    spec = importlib.util.spec_from_file_location("precision", PROGRAM)
    assert spec is not None and spec.loader is not None
    precision = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(precision)
    names = list(precision.slices("asrn_x4,srn-ntire_x4", ""))
    assert names[:2] == ["asrn_x4.d1", "asrn_x4.d2"] and names[-1] == "srn-ntire_x4.b4"
    only = "imdeception_x4.c4,asrn_x4.d5"
    found = list(precision.slices("asrn_x4,imdeception_x4", only))
    assert found == ["asrn_x4.d5", "imdeception_x4.c4"]
