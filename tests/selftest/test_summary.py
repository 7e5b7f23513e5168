from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from sr_deploy.results.rows import BenchmarkRow, append_rows
from sr_deploy.selftest.checks import CheckResult
from sr_deploy.selftest.runner import Selftest
from sr_deploy.selftest.summary import device_name, table, write_page

DONE = Selftest(
    "2026-11-28T13:00:00Z",
    {"cpu": "a CPU"},
    (CheckResult("environment", "pass", "", 1.0), CheckResult("a <way>", "fail", "it & that", 2.5)),
)


def test_the_table_has_a_line_per_check():
    assert table(DONE).splitlines() == [
        "pass     environment     1.0 s",
        "fail     a <way>         2.5 s  it & that",
        "",
        "1 passed, 1 failed, 0 skipped, 0 not run; a CPU",
    ]


def test_a_device_is_named_by_board_and_gpu_else_by_its_cpu():
    board = {"board": "Jetson", "gpu": "gv11b"}
    assert device_name({"cpu": "x", "board": board}) == "Jetson gv11b"
    assert device_name({"cpu": "x", "board": {}}) == "x" and device_name({}) == "unknown"


def test_the_page_has_the_checks_with_and_without_the_report(tmp_path, monkeypatch):
    row = BenchmarkRow("m_x4", "c4", "torch", latency_ms_median=3.0, psnr_db=30.0, set="Set")
    row = replace(row, cell="a <way>: m_x4.c4")
    append_rows(tmp_path / "rows.jsonl", [row])
    pytest.importorskip("matplotlib", reason="the report's figures need it")
    pytest.importorskip("jinja2", reason="the report's page needs it")
    full = write_page(DONE, tmp_path).read_text(encoding="utf-8")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    plain = write_page(DONE, tmp_path).read_text(encoding="utf-8")
    for page in (full, plain):
        assert "a &lt;way&gt;" in page and "it &amp; that" in page and "1 passed, 1 failed" in page
    assert len(plain) < len(full)
    assert full.index("Self-test") < full.index("m_x4.c4")
