"""Tables for a terminal: few columns, what all rows share in a line above, warnings in one line."""

from __future__ import annotations

import textwrap
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

from sr_deploy.results.columns import VALUES, Column, label, labels, number, settings_text
from sr_deploy.results.conditions import tiling_text, warnings_of
from sr_deploy.results.protocols import protocol_of
from sr_deploy.results.render import Table, make_table, table_lines
from sr_deploy.results.rows import PUBLISHED, BenchmarkRow, text_of
from sr_deploy.results.tables import comparable

WIDTH = 100
"""The widest that prose gets; tables fit in it too, unless names are very long."""

_Text = Callable[[BenchmarkRow], str]


def fps_text(fps: Optional[float]) -> str:
    """Return frames per second with about three digits, an empty text for None."""
    return "" if fps is None else number(fps, 0 if fps >= 100 else 1 if fps >= 1 else 2)


def _star(row: BenchmarkRow) -> str:
    return "*" if "tiled" in row.tiling else ""


_NUMBERS: Tuple[Tuple[str, _Text], ...] = (
    ("PSNR [dB]", lambda r: Column("", "psnr_db").text(r) + _star(r)),
    ("time [ms]", Column("", "time_ms").text),
    ("fps", lambda r: fps_text(VALUES["fps"](r))),
    ("score here", lambda r: number(VALUES["score_here"](r), 2)),
    ("params [M]", Column("", "params_m", 3).text),
    ("memory [MiB]", Column("", "memory_mib", 0).text),
)
"""The columns of numbers, the most important first: those that do not fit are left out."""


def _input(row: BenchmarkRow) -> str:
    return text_of(row.input_hw) or "each image"


def _device(row: BenchmarkRow) -> str:
    return row.device + (f", {row.threads} threads" if row.threads else "")


_CONDITIONS: Tuple[Tuple[str, _Text], ...] = (
    ("runtime", lambda r: r.backend),
    ("target", lambda r: r.target),
    ("precision", lambda r: r.precision),
    ("settings", settings_text),
    ("LR size", _input),
    ("rate [Hz]", lambda r: "" if r.cadence_hz is None else f"{r.cadence_hz:g}"),
    ("device", _device),
)
"""A column where rows differ; otherwise part of the line above."""


def rows_text(rows: Sequence[BenchmarkRow], *, width: int, details: str) -> str:
    """Return the table of rows that compare, for a terminal of so many columns.

    details: what to type for all columns, conditions and warnings. Raises InputError when the rows
    do not compare.
    """
    measured = comparable(rows)
    varying = _varying(measured)
    columns = [(h, [text(r) for r in measured]) for h, text in _CONDITIONS if h in varying]
    columns += [
        (h, cells) for h, t in _NUMBERS for cells in [[t(r) for r in measured]] if any(cells)
    ]
    names = [label(r) for r in measured]
    if len({*zip(names, *(cells for h, cells in columns if h in varying))}) < len(measured):
        names = labels(measured)
    cells = list(zip(names, *(cells for _, cells in columns)))
    table = make_table(["model", *(heading for heading, _ in columns)], cells, [])
    below = [*_tiled(measured), *_one_line_of_warnings(measured, width)]
    parts = [fill(_shared(measured, varying), width), "", table_text(table, width), *below]
    return "\n".join([*parts, *fill_lines(f"all columns and conditions: {details}", width)])


def table_text(table: Table, width: int) -> str:
    """Return a table for a terminal of so many columns, then its notes.

    Columns that do not fit are left out, from the last one on, and named below. The first column
    is shortened where it alone is too wide.
    """
    headings, cells = list(table.headings), [list(row) for row in table.cells]
    left_out: List[str] = []
    while len(headings) > 2 and _width_of(headings, cells) > width:
        left_out.insert(0, headings.pop())
        cells = [row[:-1] for row in cells]
    spare = width - (_width_of(headings, cells) - _column_width(headings, cells, 0))
    if spare < _column_width(headings, cells, 0):
        for row in cells:
            row[0] = shortened(row[0], max(spare, 12))
    lines = table_lines(headings, cells)
    notes = [f"too wide, left out: {', '.join(left_out)}"] if left_out else []
    return "\n".join([*lines, *(fill(note, width) for note in (*notes, *table.notes))])


def fill(text: str, width: int) -> str:
    """Return a text in lines of at most `width`, and at most WIDTH, characters."""
    return "\n".join(fill_lines(text, width))


def fill_lines(text: str, width: int) -> List[str]:
    """Return the lines of `fill`; later ones are indented. A longer word keeps its length."""
    return textwrap.wrap(
        text,
        min(width, WIDTH),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]


def shortened(text: str, width: int) -> str:
    """Return a text with its middle left out where it is longer than `width`."""
    if len(text) <= width:
        return text
    end = (width - 3) * 2 // 3
    return text[: width - 3 - end] + "..." + text[len(text) - end :]


def _width_of(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    return len(table_lines(headings, cells)[0])


def _column_width(headings: Sequence[str], cells: Sequence[Sequence[str]], i: int) -> int:
    return max(len(line[i]) for line in (headings, *cells))


def _varying(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Return the conditions that rows differ in, without a target that the runtime tells."""
    values: Dict[str, Set[str]] = {h: {text(r) for r in rows} for h, text in _CONDITIONS}
    varying = [heading for heading, texts in values.items() if len(texts) > 1]
    if "target" in varying and len({(r.backend, r.target) for r in rows}) == len(values["runtime"]):
        varying.remove("target")
    return varying


def _shared(rows: Sequence[BenchmarkRow], varying: Sequence[str]) -> str:
    """Return the line above a table: what the numbers of all rows were measured with."""
    here = [r for r in rows if r.backend != PUBLISHED] or list(rows)
    row = here[0]
    same = {h: text(row) for h, text in _CONDITIONS if h not in varying}
    runtime = same.get("runtime", "")
    versions = {r.backend_version for r in here}
    if runtime and len(versions) == 1:
        runtime += f" {row.backend_version}".rstrip()
    target = f"target {same['target']}" if same.get("target") else ""
    size = same.get("LR size", "")
    scored = sum(i["split"] == "valid" for i in row.images)
    images = f" ({scored} images)" if scored else ""
    parts = [
        f"{row.set}{images}, PSNR of {row.metric}" if row.set and row.metric else "",
        f"LR {size}" if row.input_hw and size else size,
        f"{row.protocol}, {protocol_of(row).statistic} time",
        ", ".join(filter(None, [runtime, target, same.get("precision"), same.get("settings")])),
        f"{same['rate [Hz]']} frames a second" if same.get("rate [Hz]") else "",
        same.get("device", ""),
    ]
    return "; ".join(filter(None, parts))


def _tiled(rows: Sequence[BenchmarkRow]) -> List[str]:
    return list(dict.fromkeys(tiling_text(r.tiling) for r in rows if "tiled" in r.tiling))


def _one_line_of_warnings(rows: Sequence[BenchmarkRow], width: int) -> List[str]:
    """Return a line that counts the warnings and shows the first, or none."""
    found = warnings_of(rows)
    if not found:
        return []
    count = "1 warning" if len(found) == 1 else f"{len(found)} warnings, the first"
    line = f"{count}: {found[0]}"
    limit = min(width, WIDTH)
    return [line if len(line) <= limit else line[: limit - 3].rstrip() + "..."]
