from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sr_deploy.results.rows import BenchmarkRow, append_rows

pytest.importorskip("torch", reason="torch is not installed")

ROW = BenchmarkRow(
    model="asrn_x4", variant="d5", backend="torch", set="Set14", metric="y", psnr_db=28.123
)


def test_the_papers(run_cli):
    shown = run_cli("reproduce")
    assert shown.exit_code == 0 and "asrn" in shown.stdout
    listed = json.loads(run_cli("reproduce", "--json").stdout)
    assert {"asrn", "imdeception", "srn", "cdnsr", "adadsr"} == {p["name"] for p in listed}


def test_one_table_with_counts_and_scores(run_cli):
    shown = run_cli("reproduce", "ASRN", "--only", "table 1", "--format", "markdown")
    assert shown.exit_code == 0
    assert shown.stdout.startswith("## Table 1")
    (line,) = [text for text in shown.stdout.splitlines() if "31.65/0.8867" in text]
    assert " 244 " in line  # printed 244K; counted 244,163


def test_measured_rows_fill_in_other_sets(run_cli, tmp_path):
    append_rows(tmp_path / "rows.jsonl", [replace(ROW, ssim=0.77)])
    shown = run_cli("reproduce", "asrn", tmp_path / "rows.jsonl", "--only", "Table 1", "--json")
    (table,) = json.loads(shown.stdout)
    assert "Set14, here" in table["headings"]
    assert any("28.12/0.7700" in line for line in table["lines"])


@pytest.mark.parametrize("form, mark", [("text", "="), ("latex", "%"), ("csv", "#")])
def test_a_table_in_other_formats(run_cli, form, mark):
    shown = run_cli("reproduce", "imdeception", "--only", "Table 2", "--format", form)
    assert shown.exit_code == 0 and mark in shown.stdout and "Table 2" in shown.stdout


def test_an_unknown_paper_table_and_file(run_cli, tmp_path):
    assert "did you mean 'asrn'" in run_cli("reproduce", "arsn").stderr
    wrong = run_cli("reproduce", "asrn", "--only", "Table 77")
    assert wrong.exit_code == 1 and "ASRN has no 'Table 77'" in wrong.stderr
    assert run_cli("reproduce", "asrn", tmp_path / "none.jsonl").exit_code == 1
