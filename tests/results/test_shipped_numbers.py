from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import data_folder
from sr_deploy.core.shipped import read_card, shipped_checkpoints
from sr_deploy.results import shipped_numbers as module
from sr_deploy.results.rows import BenchmarkRow, read_rows
from sr_deploy.results.shipped_numbers import (
    FILE,
    numbers_file,
    shipped_numbers,
    shipped_precisions,
)

ROWS = Path(__file__).resolve().parents[2] / "benchmarks" / "rows.jsonl"
ROW = BenchmarkRow(
    model="m_x4",
    variant="d1",
    backend="onnxruntime",
    backend_version="1.31",
    device="CPU",
    threads=2,
    precision="fp32",
    input_hw=(256, 256),
    set="Set5",
    metric="y",
    psnr_db=30.12345,
    latency_ms_median=8.0,
    params=1000,
    date_utc="2026-01-02T03:04:05Z",
)


@pytest.mark.skipif(not ROWS.is_file(), reason="the published rows are not in this installation")
def test_the_shipped_numbers_are_those_of_the_published_rows():
    written = (data_folder("models") / FILE).read_text(encoding="utf-8")
    precisions = ROWS.with_name("precision") / "rows.jsonl"
    of_precisions = read_rows(precisions) if precisions.is_file() else []
    expected = numbers_file(read_rows(ROWS), of_precisions)
    assert written == expected, "run: python3 benchmarks/regenerate.py"


def test_every_shipped_checkpoint_has_numbers_and_their_conditions():
    conditions, numbers = shipped_numbers()
    for path in shipped_checkpoints():
        if (read_card(path).training or {}).get("method") == "int8":
            continue  # those of the network that it was trained from: docs/train.md has its loss
        of_model = {name for name in numbers if name.startswith(path.stem + ".")}
        assert of_model, path.stem
        assert of_model <= {f"{path.stem}.{v}" for v in read_card(path).variants}
    assert conditions is not None and conditions.set == "Set5" and conditions.threads > 0
    assert all(n.psnr_db and n.time_ms and n.fps for n in numbers.values())


def test_other_rows_are_left_out_and_a_missing_value_stays_missing(tmp_path, monkeypatch):
    others = [
        replace(ROW, variant="d2", backend="torch"),
        replace(ROW, variant="d3", input_hw=(64, 64)),
        replace(ROW, variant="d4", error="SIGSEGV"),
        replace(ROW, variant="d5", protocol="ntire2025"),
    ]
    (tmp_path / FILE).write_text(numbers_file([ROW, *others]), encoding="utf-8")
    monkeypatch.setattr(module, "data_folder", lambda name: tmp_path)
    conditions, numbers = shipped_numbers()
    assert list(numbers) == ["m_x4.d1"] and conditions.dates == "2026-01-02 to 2026-01-02"
    assert (numbers["m_x4.d1"].psnr_db, numbers["m_x4.d1"].fps) == (30.123, 125.0)
    assert numbers["m_x4.d1"].macs_g is None and numbers["m_x4.d1"].memory_mib is None


def test_rows_of_several_machines_are_refused():
    with pytest.raises(InputError, match="rows of 2 conditions; expected one"):
        numbers_file([ROW, replace(ROW, variant="d2", device="another")])


def test_without_the_file_there_are_no_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "data_folder", lambda name: tmp_path)
    assert shipped_numbers() == (None, {})
    assert shipped_precisions() is None


def test_numbers_in_each_precision_are_apart(tmp_path, monkeypatch):
    int8 = replace(
        ROW,
        backend="openvino",
        backend_version="2026.4",
        precision="mixed: 1 fp32, 9 int8",
        precision_asked="int8",
        psnr_db=30.05,
        latency_ms_median=4.0,
    )
    failed = replace(int8, variant="d2", error="no INT8 here")
    (tmp_path / FILE).write_text(numbers_file([ROW, int8], [ROW, int8, failed]), encoding="utf-8")
    monkeypatch.setattr(module, "data_folder", lambda name: tmp_path)
    _, numbers = shipped_numbers()
    assert numbers["m_x4.d1"].psnr_db == 30.123, "that in FP32"
    found = shipped_precisions()
    assert (
        found is not None
        and "in turns, by onnxruntime 1.31 and openvino 2026.4" in found.conditions
    )
    fp32, lower = found.networks
    assert (fp32.precision, fp32.loss_db, fp32.fps) == ("fp32", 0.0, 125.0)
    assert (lower.network, lower.runtime, lower.precision) == ("m_x4.d1", "openvino", "int8")
    assert (lower.loss_db, lower.fps) == (0.073, 250.0)
    other = numbers_file([replace(ROW, psnr_db=30.5)], [ROW, int8])
    assert "precisions" not in other.replace('"precisions": null', ""), "of another checkpoint"
    with pytest.raises(InputError, match="rows in several precisions of 2 conditions"):
        numbers_file([ROW], [ROW, replace(int8, device="another")])
