"""A self-test as text: the table, JSON, and a page."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path
from typing import Any, Dict, List

from sr_deploy.core.errors import SrDeployError
from sr_deploy.core.files import write_text
from sr_deploy.results.rows import BenchmarkRow, filter_rows, read_rows
from sr_deploy.selftest.runner import Selftest

_STYLE = (
    ".checks td,.checks th{text-align:left;vertical-align:top;padding:2px 10px}"
    ".checks td:last-child{white-space:normal;overflow-wrap:anywhere}"
    ".selftest{margin-top:2rem}.check-fail{color:#b00}"
)
_MAIN = '<main id="main">'
"""The start of the report's content."""


def table(selftest: Selftest) -> str:
    """Return a line per check, and the machine below."""
    width = max(len(result.name) for result in selftest.results)
    lines = [
        f"{r.state:7}  {r.name:{width}}  {r.seconds:6.1f} s  {r.reason}".rstrip()
        for r in selftest.results
    ]
    return "\n".join([*lines, "", f"{counts(selftest)}; {device_name(selftest.facts)}"])


def counts(selftest: Selftest) -> str:
    """Return `7 passed, 1 failed, 3 skipped, 0 not run`."""
    words = {"pass": "passed", "fail": "failed", "skip": "skipped", "not run": "not run"}
    return ", ".join(f"{selftest.count(state)} {word}" for state, word in words.items())


def as_dict(selftest: Selftest) -> Dict[str, Any]:
    """Return the self-test as JSON data."""
    return {"schema": 1, "device": device_name(selftest.facts), **dataclasses.asdict(selftest)}


def device_name(facts: Dict[str, Any]) -> str:
    """Return the board and the GPU, else the CPU."""
    board = facts.get("board", {})
    parts = dict.fromkeys(filter(None, (board.get("board"), board.get("gpu"))))
    return " ".join(map(str, parts)) or str(facts.get("cpu", "unknown"))


def rows_of(selftest: Selftest, folder: Path) -> List[BenchmarkRow]:
    """Return the rows of a self-test's checks in its folder, of each cell the last."""
    file = folder / "rows.jsonl"
    rows = filter_rows(read_rows(file), []) if file.exists() else []
    starts = tuple(f"{result.name}: " for result in selftest.results)
    return [row for row in rows if row.cell.startswith(starts)]


def write_page(selftest: Selftest, folder: Path) -> Path:
    """Write `selftest.html`: the table, with the report of the rows where it can be drawn."""
    page = folder / "selftest.html"
    write_text(page, _with_report(_checks_html(selftest), rows_of(selftest, folder)))
    return page


def _checks_html(selftest: Selftest) -> str:
    cells = "".join(
        f'<tr class="check-{r.state}"><td>{r.state}</td><td>{html.escape(r.name)}</td>'
        f"<td>{r.seconds:.1f} s</td><td>{html.escape(r.reason)}</td></tr>\n"
        for r in selftest.results
    )
    title = html.escape(f"{device_name(selftest.facts)}, {selftest.date_utc}: {counts(selftest)}")
    heading = "<tr><th>state</th><th>check</th><th>time</th><th>found</th></tr>"
    table_html = f'<table class="checks">{heading}\n{cells}</table>'
    return f'<h2 class="selftest">Self-test</h2><p>{title}</p>{table_html}'


def _with_report(checks: str, rows: List[BenchmarkRow]) -> str:
    from sr_deploy.results.report.figures import draw_figures
    from sr_deploy.results.report.groups import group_rows
    from sr_deploy.results.report.html import check_can_render, report_html

    measured = [row for row in rows if not row.error]
    plain = f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style>{checks}"
    try:
        check_can_render()
    except SrDeployError as e:
        return f"{plain}<p>{html.escape(e.message)}</p>"
    if not measured:
        return plain
    report = report_html(measured, [], drawings=draw_figures(group_rows(measured)))
    return report.replace(_MAIN, f"{_MAIN}<style>{_STYLE}</style>{checks}", 1)
