from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from sr_deploy.cli import tables
from sr_deploy.results.rows import BenchmarkRow

ROW = BenchmarkRow(
    model="asrn_x4",
    variant="d1",
    backend="onnxruntime",
    input_hw=(64, 64),
    set="Set5",
    metric="y",
    latency_ms_median=10.0,
    latency_ms_mean=10.0,
    psnr_db=30.4,
    ssim=0.8,
)


@pytest.fixture()
def printed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def show(rows, *args, **kwargs):
        tables.emit_rows(rows, *args, **kwargs)
        return capsys.readouterr()

    return show


def test_a_pipe_gets_markdown_and_a_terminal_text(printed, monkeypatch):
    assert printed([ROW]).out.startswith("| Model")
    monkeypatch.setattr(tables, "stdout_is_terminal", lambda: True)
    assert "\nmodel " in printed([ROW]).out
    assert printed([ROW], "markdown").out.startswith("| Model")


@pytest.mark.parametrize("form", tables.FORMATS)
def test_failures_are_told_in_every_format(printed, form):
    out, err = printed([ROW, replace(ROW, variant="d5", error="no GPU")], form)
    assert "not run: asrn_x4.d5 (onnxruntime): no GPU" in (err if form in ("csv", "latex") else out)


def test_the_file_of_the_rows_is_named(printed, tmp_path):
    out = printed([ROW], "text", kept=tmp_path / "rows.jsonl").out
    assert f"srdeploy table {tmp_path / 'rows.jsonl'} --format markdown" in out.replace("\n  ", " ")


def test_protocols_have_a_table_each_and_ranks(printed):
    rows = [replace(r, protocol=p) for p in ("steady", "ntire2025") for r in (ROW,)]
    text, marked = printed(rows, "text").out, printed(rows, "markdown").out
    assert text.count("Set5, PSNR of Y") == 2 and "steady [ms] (rank)" in marked
    assert "10.00 (1)" in text and all(len(line) <= 80 for line in text.splitlines()), text


def test_nothing_is_printed_for_no_rows(printed):
    assert printed([], "text").out == ""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo-terminals")
@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("command", ["models", "targets"])
def test_in_a_terminal_of_so_many_columns(columns, command):
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    terminal, shell = os.openpty()
    fcntl.ioctl(
        shell,
        termios.TIOCSWINSZ,
        b"".join(n.to_bytes(2, sys.byteorder) for n in (40, columns, 0, 0)),
    )
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "sr_deploy.cli.main", command],
        stdin=subprocess.DEVNULL,
        stdout=shell,
        env=env,
    )
    os.close(shell)
    text = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the command ended
            break
        if not part:
            break
        text += part
    os.close(terminal)
    assert process.wait() == 0
    lines = text.decode().replace("\r\n", "\n").splitlines()
    assert any(line.startswith("---") for line in lines) and not lines[0].startswith("|")
    assert all(len(line) <= columns for line in lines), lines
