from __future__ import annotations

import json

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.rows import BenchmarkRow, append_rows, read_rows

FULL = BenchmarkRow(
    model="asrn_x4",
    variant="d3",
    backend="torch",
    threads=2,
    input_hw=(256, 512),
    runs=5,
    latency_ms_median=1.5,
    psnr_db=31.9,
    params=10**6,
    uncounted={"matmul": 2},
    latencies_ms=(1.5, 1.25),
    images=({"image": "a.png", "split": "valid", "lr_hw": [4, 5], "psnr_db": None, "ssim": 1.0, "ms": 1.5},),
    warnings=("drift",),
    conditions={"before": {"load_1min": 0.5}, "during": {}},
    error="né",
)


def test_rows_are_appended_and_read_back(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    bare = BenchmarkRow(model="m", variant="", backend="onnxruntime")
    append_rows(path, [FULL])
    append_rows(path, [bare, FULL])
    assert read_rows(path) == [FULL, bare, FULL]
    assert len(path.read_bytes().splitlines()) == 3


def test_missing_is_null_never_zero():
    bare = BenchmarkRow(model="m", variant="", backend="b")
    assert all(getattr(bare, k) is None for k in ("latency_ms_median", "mem_peak_mib", "params", "macs_g", "convs", "psnr_db", "ssim"))


@pytest.mark.parametrize("text", ["a\nb", "a\u2028b", "a\u0085b", "a\x0cb"])
def test_a_line_break_inside_a_value_stays_inside_it(tmp_path, text):
    row = BenchmarkRow(model="m", variant="", backend="b", error=text)
    append_rows(tmp_path / "r.jsonl", [row, FULL])
    assert read_rows(tmp_path / "r.jsonl") == [row, FULL]


@pytest.mark.parametrize(
    "line, words",
    [
        ("{", "line 2: not valid JSON"),
        ("[]", "line 2: not a row of schema 2"),
        (json.dumps({"model": "m", "variant": "", "backend": "b"}), "line 2: not a row of schema 2"),
        (json.dumps({"model": "m", "variant": "", "backend": "b", "schema": 1}), "schema 2; its schema is 1"),
        (json.dumps({"model": "m", "variant": "", "backend": "b", "schema": 99}), "line 2: not a row of schema 2"),
        (json.dumps({"model": "m", "variant": "", "backend": "b", "schema": 2, "psnr": 1}), "line 2: unknown key 'psnr'"),
        (json.dumps({"model": "m", "variant": "", "schema": 2}), "line 2: the key 'backend' is missing"),
        (json.dumps({"model": "m", "variant": "", "backend": "b", "schema": 2, "runs": "5"}), "line 2: key 'runs': expected int"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, words):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [FULL])
    with open(path, "a") as f:
        f.write(line + "\n")
    with pytest.raises(InputError, match=words):
        read_rows(path)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(InputError, match="cannot read the rows .*absent"):
        read_rows(tmp_path / "absent.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        append_rows(tmp_path / "file" / "rows.jsonl", [FULL])
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot write .*rows.jsonl"):
        append_rows(tmp_path / "rows.jsonl", [FULL])
