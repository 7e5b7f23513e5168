from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import data_folder
from sr_deploy.core.shipped import read_card, shipped_checkpoints
from sr_deploy.results import shipped_numbers as module
from sr_deploy.results.rows import BenchmarkRow, read_rows
from sr_deploy.results.shipped_numbers import FILE, numbers_file, shipped_numbers

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
    assert written == numbers_file(read_rows(ROWS)), "run: python3 benchmarks/regenerate.py"


def test_every_shipped_checkpoint_has_numbers_and_their_conditions():
    conditions, numbers = shipped_numbers()
    for path in shipped_checkpoints():
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
