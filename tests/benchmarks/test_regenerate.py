"""Every table and figure of the documents equals the output of its command."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sr_deploy.results.rows import BenchmarkRow, append_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def regenerate():
    spec = importlib.util.spec_from_file_location(
        "regenerate", ROOT / "benchmarks" / "regenerate.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def document(rows="rows.jsonl", between="what stood here\n"):
    table = f"<!-- srdeploy table {rows} --layout srn5 -->\n{between}<!-- end of table -->"
    return f"before\n\n{table}\n\nafter\n"


@pytest.mark.parametrize(
    "name", ["README.md", "benchmarks/README.md", "docs/benchmarks.md", "docs/devices.md"]
)
def test_the_tables_are_fresh(regenerate, name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert regenerate.regenerated(text) == text, "run: python3 benchmarks/regenerate.py"


def test_a_stale_table_is_written_anew_and_a_fresh_one_stays(regenerate, tmp_path):
    row = BenchmarkRow(
        model="m_x4", variant="c4", backend="torch", latency_ms_median=12.345, psnr_db=30.0
    )
    append_rows(tmp_path / "rows.jsonl", [row])
    fresh = regenerate.regenerated(document(), folder=tmp_path)
    assert "what stood here" not in fresh and "| m_x4.c4 " in fresh and "12.35" in fresh
    assert fresh.startswith("before\n\n<!-- srdeploy table") and fresh.endswith(
        "<!-- end of table -->\n\nafter\n"
    )
    assert regenerate.regenerated(fresh, folder=tmp_path) == fresh
    append_rows(
        tmp_path / "rows.jsonl",
        [
            BenchmarkRow(
                model="m_x4", variant="c8", backend="torch", latency_ms_median=2.0, psnr_db=31.0
            )
        ],
    )
    assert regenerate.regenerated(fresh, folder=tmp_path) != fresh


def test_a_table_whose_rows_are_gone_or_whose_end_is_missing(regenerate, tmp_path):
    with pytest.raises(RuntimeError, match="cannot read the rows absent.jsonl"):
        regenerate.regenerated(document("absent.jsonl"), folder=tmp_path)
    with pytest.raises(RuntimeError, match="has no"):
        regenerate.regenerated(document().replace("<!-- end of table -->", ""), folder=tmp_path)
    assert regenerate.regenerated("no table") == "no table"


@pytest.fixture(scope="module")
def drawn(regenerate):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the figures")
    files = {}
    for name, where in regenerate.FIGURES.items():
        files.update(regenerate.figures(ROOT / regenerate.ROWS, name=name, where=where))
    return files


def test_the_figures_are_fresh_and_no_other_lies_beside(regenerate, drawn):
    assert {
        str(path.relative_to(ROOT).as_posix())
        for path in (ROOT / "benchmarks" / "figures").iterdir()
    } == set(drawn)
    stale = [
        name for name, content in drawn.items() if not regenerate.is_fresh(ROOT / name, content)
    ]
    assert not stale, "run: python3 benchmarks/regenerate.py"
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert all(f"({name.partition('/')[2]})" in text for name in drawn), "a figure is shown"


def test_a_figure_is_stale_when_it_differs_unless_another_matplotlib_drew_it(
    regenerate, drawn, tmp_path
):
    path, content = tmp_path / "figure.svg", next(iter(drawn.values()))
    assert not regenerate.is_fresh(path, content)
    path.write_bytes(content)
    assert regenerate.is_fresh(path, content) and not regenerate.is_fresh(path, content + b" ")
    path.write_bytes(regenerate._DRAWN_BY.sub(b"Matplotlib v0.1", content))
    assert regenerate.is_fresh(path, content)
    path.write_bytes(b"no figure")
    assert not regenerate.is_fresh(path, content)


def test_rows_that_are_not_one_figure_are_refused(regenerate, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the figures")
    for device in ("one", "another"):
        for ms in (1.0, 2.0):
            row = BenchmarkRow(
                model="m",
                variant=f"d{ms:.0f}",
                backend="torch",
                device=device,
                latency_ms_median=ms,
                psnr_db=30.0,
            )
            append_rows(tmp_path / "rows.jsonl", [row])
    with pytest.raises(RuntimeError, match="do not compare: expected one device"):
        regenerate.figures(tmp_path / "rows.jsonl", name="f", where=["model=m"])
    assert list(regenerate.figures(tmp_path / "rows.jsonl", name="f", where=["device=one"])) == [
        "f-cost.svg",
        "f-elastic.svg",
    ]
