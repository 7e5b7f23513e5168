"""The table of networks of other people: its rows, and where it is written."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "any_network.py"
_spec = importlib.util.spec_from_file_location("any_network", PROGRAM)
any_network = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(any_network)

KNOWN = {
    "scale": 4,
    "min_hw": [1, 1],
    "fixed_hw": [None, None],
    "multiple": 1,
    "halo_px": 4,
    "align_px": 1,
    "params": 4920,
    "macs": 317_718_528,
}


def row(name, **steps):
    return {"name": name, "steps": {"import": KNOWN, **steps}, "seconds": 1.0}


def test_the_table_says_what_works_and_why_not():
    rows = {
        "SPAN": row(
            "SPAN",
            fp32={"file": "f"},
            dynamic={"error": "it fails"},
            fp16={"psnr_db": 61.4, "fp32_nodes": 2},
            cpu={"bytes": 1},
        ),
        "Compact": {"name": "Compact", "steps": {"import": {"error": "refused"}}},
        "Unknown": row("Unknown"),  # no longer among the networks
    }
    text = any_network.table(rows)
    spans = "| SPAN | x4 | 5 k | 0.32 | exact at 4 px | yes | no | 61 dB, 2 nodes FP32 | yes |  |"
    assert spans in text.splitlines()
    assert "| Compact | refused |  |  |  |  |  |  |  |  |" in text.splitlines()
    assert "- SPAN, any size: it fails" in text and "- Compact, import: refused" in text
    assert "Unknown" not in text


def test_tiles_that_are_not_exact_or_on_a_grid():
    assert any_network.described({**KNOWN, "halo_px": None})[-1] == "not exact"
    assert any_network.described({**KNOWN, "align_px": 8})[-1] == "exact at 4 px, on 8"


def test_sizes_are_what_the_network_takes(tmp_path):
    steps = any_network.Steps("x", tmp_path)
    steps.row["steps"]["import"] = {**KNOWN, "multiple": 20, "min_hw": [1, 100]}
    assert steps.sizes() == ("60x100", "40x100:60x100:80x100")
    steps.row["steps"]["import"] = {**KNOWN, "fixed_hw": [16, 20]}
    assert steps.sizes() == ("16x20", "16x20:16x20:16x20")


def test_a_step_that_fails_is_a_row(tmp_path):
    steps = any_network.Steps("x", tmp_path)
    steps.run("fp32", lambda: 1 / 0)
    saved = json.loads((tmp_path / "row.json").read_text())
    assert saved["steps"]["fp32"] == {"error": "ZeroDivisionError: division by zero"}


def test_the_table_is_written_between_the_markers(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{any_network.BEGIN}\nold\n{any_network.END}\nafter\n")
    monkeypatch.setattr(any_network, "PAGE", page)
    any_network.write_table({"SPAN": row("SPAN")})
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "| SPAN |" in text and "old" not in text
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="lacks the markers"):
        any_network.write_table({})


@pytest.mark.slow
def test_a_network_goes_through_every_step(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    any_network.run_one("Compact", tmp_path)
    steps = json.loads((tmp_path / "row.json").read_text())["steps"]
    assert list(steps) == ["import", "fp32", "dynamic", "fp16", "cpu", "rtx"]
    assert not any("error" in result for result in steps.values())
