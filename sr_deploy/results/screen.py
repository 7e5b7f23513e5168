"""Tables for a terminal: few columns, what all rows share in a line above, warnings in one line."""

from __future__ import annotations

import textwrap
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

from sr_deploy.results.columns import VALUES, Column, label, labels, number, settings_text
from sr_deploy.results.conditions import LR_TEXTS, tiling_text, useless_tags, warnings_of
from sr_deploy.results.precisions import has_several_precisions, precision_of
from sr_deploy.results.protocols import protocol_of
from sr_deploy.results.published import build_table
from sr_deploy.results.render import Table, make_table, table_lines
from sr_deploy.results.rows import BICUBIC, PUBLISHED, BenchmarkRow, QualityRow, text_of
from sr_deploy.results.tables import (
    LOSS,
    comparable,
    failures,
    loss_cells,
    quality_tables,
)

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
    return text_of(row.input_hw) or "own size"


def _device(row: BenchmarkRow) -> str:
    return row.device + (f", {row.threads} threads" if row.threads else "")


_CONDITIONS: Tuple[Tuple[str, _Text], ...] = (
    ("runtime", lambda r: r.backend),
    ("target", lambda r: r.target),
    ("precision", precision_of),
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
    columns = [
        (h, [_cut(text(r), 28) for r in measured]) for h, text in _CONDITIONS if h in varying
    ]
    numbers = [(h, [t(r) for r in measured]) for h, t in _NUMBERS]
    if has_several_precisions(measured):
        numbers.insert(1, (LOSS, loss_cells(measured)))  # after the PSNR
    columns += [(h, cells) for h, cells in numbers if any(cells)]
    names = [label(r) for r in measured]
    if len({*zip(names, *(cells for h, cells in columns if h in varying))}) < len(measured):
        names = labels(measured)
    cells = list(zip(names, *(cells for _, cells in columns)))
    table = make_table(["model", *(heading for heading, _ in columns)], cells, _tiled(measured))
    return _with_conditions(table, measured, width, details)


def layout_text(rows: Sequence[BenchmarkRow], layout: str, *, width: int, details: str) -> str:
    """Return rows in one of `published.TABLE_LAYOUTS`, for a terminal, with conditions in short.

    Raises InputError when the layout is unknown or the rows do not compare.
    """
    if layout == "bench":
        return rows_text(rows, width=width, details=details)
    table = _without_empty(build_table(rows, layout))
    return _with_conditions(table, [r for r in rows if not r.error], width, details)


def _with_conditions(table: Table, rows: Sequence[BenchmarkRow], width: int, details: str) -> str:
    warnings = in_one_line("warnings", warnings_of(rows), width)
    notes = [*table.notes, *warnings, f"all columns and conditions: {details}"]
    shown = make_table(table.headings, table.cells, notes)
    return f"{fill(_shared(rows), width)}\n\n{table_text(shown, width)}"


def _without_empty(table: Table) -> Table:
    """Return a table with the note of a mark only, and without columns of empty cells."""
    kept = [i for i in range(len(table.headings)) if i == 0 or any(row[i] for row in table.cells)]
    cells = [[row[i] for i in kept] for row in table.cells]
    marked = any("†" in cell for row in cells for cell in row)
    notes = ["† operators that the counter does not see come on top"] if marked else []
    return make_table([table.headings[i] for i in kept], cells, notes)


def in_one_line(what: str, texts: Sequence[str], width: int) -> List[str]:
    """Return a line that counts texts and shows the first, cut to the width; none for no text."""
    if not texts:
        return []
    count = "1" if len(texts) == 1 else f"{len(texts)}, the first"
    line = " ".join(f"{what}: {count}: {texts[0]}".split())
    return [_cut(line, min(width, WIDTH))]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."


def quality_text(rows: Sequence[QualityRow], *, width: int, details: str) -> str:
    """Return the tables of `eval` for a terminal, then the rows that failed.

    SSIM is left out where it does not fit. details: what to type for all conditions.
    """
    scored = [r for r in rows if not r.error]
    tables, notes = quality_tables(rows), []
    if any(_widest(_narrow_lines(table)) > width for table in tables):
        tables, notes = quality_tables(rows, ssim=False), ["too wide, left out: SSIM"]
    networks = [r for r in scored if r.backend != BICUBIC]
    tiled = dict.fromkeys(tiling_text(r.tiling) for r in networks if "tiled" in r.tiling)
    warnings = [*useless_tags(networks), *(w for r in networks for w in r.warnings)]
    notes += [*tiled, *in_one_line("warnings", list(dict.fromkeys(warnings)), width)]
    notes.append(f"all conditions: {details}")
    last = [make_table(t.headings, t.cells, notes) for t in tables[-1:]]
    parts = [table_text(table, width) for table in (*tables[:-1], *last)]
    if scored:
        parts.insert(0, fill("; ".join(_shared_quality(scored, networks)), width))
    failed = [fill(line, width) for line in dict.fromkeys(failures(rows))]
    return "\n\n".join([*parts, *filter(None, ["\n".join(failed)])])


def _shared_quality(scored: Sequence[QualityRow], networks: Sequence[QualityRow]) -> List[str]:
    texts = [_images(r.set, len(r.images)) for r in scored]
    texts += [f"{r.metric}: PSNR of {r.metric.upper()}, border {r.border_px}" for r in scored]
    texts += [f"LR {LR_TEXTS[r.degradation]}" for r in scored]
    texts += [f"{r.backend} {r.backend_version}, {r.precision}" for r in networks]
    return list(dict.fromkeys(texts))


def _narrow_lines(table: Table) -> List[str]:
    return table_lines(table.headings, table.cells, narrow=True)


def table_text(table: Table, width: int) -> str:
    """Return a table for a terminal of so many columns, then its notes.

    Columns that do not fit are left out, from the last one on, and named below. The first column
    is shortened where it alone is too wide.
    """
    headings, cells = list(table.headings), [list(row) for row in table.cells]
    left_out: List[str] = []
    lines = table_lines(headings, cells)
    narrow = _widest(lines) > width
    while (
        narrow and len(headings) > 2 and _widest(table_lines(headings, cells, narrow=True)) > width
    ):
        left_out.insert(0, headings.pop())
        cells = [row[:-1] for row in cells]
    lines = table_lines(headings, cells, narrow=narrow)
    excess = _widest(lines) - width
    if excess > 0:
        longest = max(len(row[0]) for row in cells)
        for row in cells:
            row[0] = shortened(row[0], max(longest - excess, 12))
        lines = table_lines(headings, cells, narrow=True)
    notes = [f"too wide, left out: {', '.join(left_out)}"] if left_out else []
    below = [fill(note, width) for note in (*notes, *table.notes)]
    return "\n".join([*lines, *([""] if below else []), *below])


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


def _widest(lines: Sequence[str]) -> int:
    return max(map(len, lines))


def _varying(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Return the conditions that rows differ in, without a target that the runtime tells."""
    values: Dict[str, Set[str]] = {h: {text(r) for r in rows} for h, text in _CONDITIONS}
    varying = [heading for heading, texts in values.items() if len(texts) > 1]
    if "target" in varying and len({(r.backend, r.target) for r in rows}) == len(values["runtime"]):
        varying.remove("target")
    return varying


def _shared(rows: Sequence[BenchmarkRow]) -> str:
    """Return the line above a table: what the numbers of all rows were measured with."""
    here = [r for r in rows if r.backend != PUBLISHED] or list(rows)
    row = here[0]
    same = {h: text(row) for h, text in _CONDITIONS if len({text(r) for r in rows}) == 1}
    runtime = same.get("runtime", "")
    versions = {r.backend_version for r in here}
    if runtime and len(versions) == 1:
        runtime += f" {row.backend_version}".rstrip()
    target = f"target {same['target']}" if same.get("target") else ""
    size = same.get("LR size", "")
    timed = any(r.latency_ms_median is not None for r in here)
    scored = sum(i["split"] == "valid" for i in row.images)
    parts = [
        f"{_images(row.set, scored)}, PSNR of {row.metric.upper()}"
        if row.set and row.metric
        else "",
        f"LR {size}" if row.input_hw and size else size and "each image in its own size",
        _protocol(row) if timed and len({r.protocol for r in here}) == 1 else "",
        ", ".join(filter(None, [runtime, target, same.get("precision"), same.get("settings")])),
        f"{same['rate [Hz]']} frames a second" if same.get("rate [Hz]") else "",
        same.get("device", ""),
    ]
    return "; ".join(filter(None, parts))


def _images(name: str, count: int) -> str:
    return f"{name} ({count} image{'s' * (count != 1)})" if count else name


def _protocol(row: BenchmarkRow) -> str:
    return f"{row.protocol}, {protocol_of(row).statistic} time"


def _tiled(rows: Sequence[BenchmarkRow]) -> List[str]:
    return list(dict.fromkeys(tiling_text(r.tiling) for r in rows if "tiled" in r.tiling))
