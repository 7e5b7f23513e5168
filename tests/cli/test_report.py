from __future__ import annotations

import json
import sys

import pytest

from sr_deploy.results.rows import BenchmarkRow, append_rows


@pytest.fixture()
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    fast = {
        "backend": "torch",
        "latency_ms_median": 5.0,
        "psnr_db": 30.0,
        "params": 1000,
        "set": "Set5",
        "protocol": "steady",
    }
    append_rows(
        path,
        [
            BenchmarkRow(model="m_x4", variant="d1", **fast),
            BenchmarkRow(model="m_x4", variant="d2", **{**fast, "latency_ms_median": 9.0}),
        ],
    )
    return path


@pytest.fixture()
def writer():
    pytest.importorskip("jinja2", reason="jinja2 is not installed; it writes the page")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the charts")


def test_a_page_of_rows(run_cli, rows, tmp_path, writer):
    out = tmp_path / "new" / "report.html"
    result = run_cli("report", rows, "-o", out)
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert result.stdout == "" and f"wrote {out}" in result.stderr
    text = out.read_text(encoding="utf-8")
    assert (
        text.startswith("<!doctype html>")
        and "m_x4.d2" in text
        and [p.name for p in out.parent.iterdir()] == ["report.html"]
    )


def test_several_files_make_one_page(run_cli, rows, tmp_path, writer):
    other = tmp_path / "other.jsonl"
    append_rows(other, [BenchmarkRow(model="n_x4", variant="", backend="torch", error="crashed")])
    assert run_cli("report", rows, other, "-o", tmp_path / "r.html").exit_code == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "m_x4.d1" in text and "crashed" in text


def test_crops_are_made_here(run_cli, rows, tmp_path, perfect, writer):
    graph, images = perfect
    result = run_cli("report", rows, "-o", tmp_path / "r.html", "--crops", graph, "--data", images)
    assert result.exit_code == 0, (result.stderr, result.exception)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert (
        text.count("data:image/png;base64,") == 4
        and "nearest, onnxruntime fp32: crops of 1 images" in result.stderr
    )


def test_figures_are_files(run_cli, rows, tmp_path, writer):
    result = run_cli("report", rows, "-o", tmp_path / "r.html", "--figures", tmp_path / "fig")
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert sorted(p.name for p in (tmp_path / "fig").iterdir()) == [
        "g1-cost.png",
        "g1-cost.svg",
        "g1-elastic.png",
        "g1-elastic.svg",
    ]


def test_bad_input_leaves_nothing(fails, rows, tmp_path, writer):
    out = tmp_path / "out" / "report.html"
    assert "cannot read the rows" in fails("report", tmp_path / "absent.jsonl", "-o", out)
    (tmp_path / "empty.jsonl").write_text("")
    assert "no rows" in fails("report", tmp_path / "empty.jsonl", "-o", out)
    old = json.loads(rows.read_text(encoding="utf-8").splitlines()[0])
    (tmp_path / "old.jsonl").write_text(json.dumps({**old, "schema": 0}))
    assert "not a row of schema" in fails("report", tmp_path / "old.jsonl", "-o", out)
    assert "there is nothing to run on the images" in fails(
        "report", rows, "-o", out, "--data", tmp_path
    )
    assert "--box is set, but there is nothing" in fails("report", rows, "-o", out, "--box", "1")
    assert "is not a box" in fails("report", rows, "-o", out, "--crops", "m", "--box", "1,2,3")
    assert "there is no folder" in fails(
        "report", rows, "-o", out, "--crops", "asrn_x4", "--data", tmp_path / "absent"
    )
    assert "is a folder" in fails("report", rows, "-o", tmp_path)
    before = rows.read_bytes()
    assert "already exists, and is not an HTML page" in fails("report", rows, "-o", rows)
    assert rows.read_bytes() == before
    assert not out.parent.exists()


def test_without_jinja2_nothing_is_run(fails, rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "hint: pip install " in fails(
        "report", rows, "-o", tmp_path / "r.html", "--crops", "absent"
    )
    assert not (tmp_path / "r.html").exists()


def test_without_rows_those_that_bench_keeps_are_shown(
    run_cli, fails, rows, tmp_path, monkeypatch, writer
):
    monkeypatch.chdir(tmp_path)
    assert "no rows" in fails("report")
    kept = tmp_path / "engines" / "rows" / "rows.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(rows.read_bytes())
    result = run_cli("report")
    assert result.exit_code == 0 and "wrote report.html" in result.stderr
    assert "m_x4.d2" in (tmp_path / "report.html").read_text(encoding="utf-8")
