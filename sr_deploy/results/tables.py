"""Tables from rows only: how one is written (Markdown, CSV, LaTeX), and those that `bench` and `eval` print."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.results.protocols import protocol_of, time_ms
from sr_deploy.results.rows import BICUBIC, BenchmarkRow, QualityRow, text_of


@dataclass(frozen=True)
class Table:
    """Text to be laid out: as many cells in each row as there are headings, and the conditions that belong below."""

    headings: Tuple[str, ...]
    cells: Tuple[Tuple[str, ...], ...]
    notes: Tuple[str, ...] = ()


EXECUTED = "executed, timed / set"
"""Of the largest network's multiply-accumulates, on the input that was timed and over the scored images."""

# Heading, and what a row shows under it. FLOPs are multiply-accumulates.
_COLUMNS: Tuple[Tuple[str, Callable[[BenchmarkRow], str]], ...] = (
    ("Model", lambda r: label(r)),
    ("Backend", lambda r: r.backend),
    (
        "From",
        lambda r: {"": "checkpoint", "json": "plan"}.get(
            r.artifact.rpartition(".")[2], r.artifact.rpartition(".")[2]
        ),
    ),
    (
        "Precision",
        lambda r: (
            r.precision
            if r.precision_asked in ("", r.precision)
            else f"{r.precision} ({r.precision_asked} asked)"
        ),
    ),
    ("PSNR [dB]", lambda r: number(r.psnr_db, 3) + ("*" if "tiled" in r.tiling else "")),
    ("SSIM", lambda r: number(r.ssim, 4)),
    ("Input", lambda r: "x".join(map(str, r.input_hw)) if r.input_hw else ""),
    ("Time [ms]", lambda r: number(time_ms(r), 2)),
    ("p95 [ms]", lambda r: number(r.latency_ms_p95, 2)),
    ("#Params [M]", lambda r: number(over(r.params, 1e6), 3)),
    ("FLOPs [G]", lambda r: flops(r)),
    ("deployed [G]", lambda r: number(over(r.deployed["macs"], 1e9), 2) if r.deployed else ""),
    (
        EXECUTED,
        lambda r: (
            ""
            if r.executed is None
            else f"{r.executed['timed_share']:.1%} / {r.executed['share']:.1%}"
        ),
    ),
    ("#Acts [M]", lambda r: number(r.acts_m, 2)),
    ("Mem [MiB]", lambda r: number(r.mem_peak_mib, 1)),
    ("#Conv", lambda r: "" if r.convs is None else str(r.convs)),
)

_ALIKE = ("protocol", "metric", "set")
"""What rows must have in common to be compared. The protocol decides the counter."""

_DEGRADED = {
    "bi": "bi: MATLAB's bicubic",
    "bd": "bd: Gaussian 7x7, sigma 1.6, every third pixel",
    "dn": "dn: bicubic, then noise of sigma 30, seeded by the file's name",
}


def ntire_table(rows: Sequence[BenchmarkRow]) -> str:
    """Return a Markdown table of the rows, the conditions they share below it, and those that could not run with the reason.

    Rows of several protocols, sets or metrics are not comparable, and get a table each.
    """
    groups: Dict[Tuple[object, ...], List[BenchmarkRow]] = {}
    for row in rows:
        if not row.error:
            groups.setdefault(tuple(getattr(row, key) for key in _ALIKE), []).append(row)
    tables = [render_table(bench_table(group), "markdown") for group in groups.values()]
    return "\n\n".join(tables + (["\n".join(failures(rows))] if failures(rows) else []))


def bench_table(rows: Sequence[BenchmarkRow]) -> Table:
    """Return what `bench` prints of comparable rows; a column that is empty for all is left out where it is a new one of ours."""
    measured = comparable(rows)
    ours = {
        "deployed [G]": any(r.deployed for r in measured),
        EXECUTED: any(r.executed for r in measured),
    }
    columns = [(h, cell) for h, cell in _COLUMNS if ours.get(h, True)]
    cells = tuple(tuple(cell(r) for _, cell in columns) for r in measured)
    return Table(tuple(h for h, _ in columns), cells, tuple(conditions(measured)))


def comparable(rows: Sequence[BenchmarkRow]) -> List[BenchmarkRow]:
    """Return the rows that were measured. Raises InputError when none was, or protocols, sets or metrics are mixed."""
    measured = [r for r in rows if not r.error]
    if not rows:
        raise InputError("there are no rows", hint="measure something with srdeploy bench -o DIR")
    if not measured:
        raise InputError("none of the rows was measured", hint="; ".join(failures(rows))[:300])
    for key in _ALIKE:
        values = list(dict.fromkeys(getattr(r, key) for r in measured if getattr(r, key)))
        if len(values) > 1:
            raise InputError(
                f"rows of different {key} do not compare: {', '.join(values)}",
                hint=f"take one of them: --where {key}={values[0]}",
            )
    return measured


def failures(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Return a line for each row that could not be measured."""
    return [
        f"not run: {row.artifact or label(row)} ({row.backend}): {row.error}"
        for row in rows
        if row.error
    ]


def render_table(table: Table, form: str) -> str:
    """Return a table as `markdown`, `csv` or `latex`. Notes follow: as text, as lines of `#`, as lines of `%`."""
    return TABLE_FORMATS[form](table)


def _markdown(table: Table) -> str:
    lines = markdown(
        [_plain(h) for h in table.headings], [[_plain(c) for c in row] for row in table.cells]
    )
    return "\n".join(
        lines + ([""] if table.notes else []) + [f"- {note}" for note in table.notes]
    )  # else they become one paragraph


def _csv(table: Table) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([table.headings, *table.cells])
    return out.getvalue() + "".join(f"# {note}\n" for note in table.notes).rstrip("\n")


_TEX = {c: "\\" + c for c in "&%$#_{}"}
_TEX.update(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "†": r"\dag{}",
    }
)


def _latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(_TEX.get(c, c) for c in _plain(cell)) for cell in cells) + r" \\"

    lines = [
        r"\begin{tabular}{l" + "r" * (len(table.headings) - 1) + "}",
        r"\hline",
        line(table.headings),
        r"\hline",
    ]
    lines += [line(row) for row in table.cells] + [r"\hline", r"\end{tabular}"]
    return "\n".join(lines + [f"% {_plain(note)}" for note in table.notes])


TABLE_FORMATS: Mapping[str, Callable[[Table], str]] = {
    "markdown": _markdown,
    "csv": _csv,
    "latex": _latex,
}


def label(row: BenchmarkRow) -> str:
    """Return what a table calls a row's network: `asrn_x4.d3`."""
    return f"{row.model}.{row.variant}" if row.variant else row.model


def labels(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Return a name for each row; where several are the same network, with what they differ in: `asrn_x4.d3 (torch)`."""
    distinguishing = (
        "backend",
        "target",
        "precision",
        "input_hw",
        "threads",
        "device",
        "cadence_hz",
        "artifact",
    )
    names = [label(r) for r in rows]
    details: List[List[str]] = [[] for _ in rows]
    for key in distinguishing:
        shown = [name + str(d) for name, d in zip(names, details)]
        for i, row in enumerate(rows):
            others = {text_of(getattr(r, key)) for r, s in zip(rows, shown) if s == shown[i]}
            if len(others) > 1:
                details[i].append(
                    text_of(getattr(row, key)) or ("no target" if key == "target" else "checkpoint")
                )
    return [f"{name} ({', '.join(d)})" if d else name for name, d in zip(names, details)]


def flops(row: BenchmarkRow) -> str:
    """Return the multiply-accumulates in G, marked where the counter does not see every operator that computes."""
    return number(row.macs_g, 2) + ("†" if row.uncounted and row.macs_g is not None else "")


def quality_table(rows: Sequence[QualityRow]) -> str:
    """Return a Markdown table per scale and metric, a column per set as in ASRN's Table 5, bicubic first, conditions below."""
    scored = [r for r in rows if not r.error]
    sets = list(dict.fromkeys(r.set for r in scored))
    tables: Dict[Tuple, Dict[Tuple, Dict[str, QualityRow]]] = {}
    for row in scored:
        lines_of = tables.setdefault((row.scale, row.metric, row.degradation), {})
        lines_of.setdefault(
            (row.model, row.variant, row.backend, row.artifact, row.artifact_sha256), {}
        )[row.set] = row
    parts = []
    for (scale, metric, degradation), lines_of in tables.items():
        cells = []
        for by_set in sorted(
            lines_of.values(), key=lambda by_set: next(iter(by_set.values())).model != BICUBIC
        ):
            row = next(iter(by_set.values()))
            cells.append(
                [
                    _name(row),
                    number(over(row.params, 1e3), 1),
                    *(_quality(by_set.get(name)) for name in sets),
                ]
            )
        headings = [
            f"x{scale}, {metric}, {degradation}",
            "#Params [K]",
            *(f"{name} PSNR/SSIM" for name in sets),
        ]
        parts.append("\n".join(markdown(headings, cells)))
    if scored:
        parts.append("\n".join(_quality_conditions(scored)))
    failed = dict.fromkeys(f"not run: {_name(r)} ({r.backend}): {r.error}" for r in rows if r.error)
    return "\n\n".join(parts + (["\n".join(failed)] if failed else []))


def markdown(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> List[str]:
    """Return the lines of an aligned Markdown table; the first column is left-aligned, the others right."""
    widths = [
        max(len(h), *(len(row[i]) for row in cells)) if cells else len(h)
        for i, h in enumerate(headings)
    ]

    def line(values: Sequence[str]) -> str:
        padded = [
            v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(values, widths))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = (
        "|"
        + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths))
        + "|"
    )
    return [line(headings), rule] + [line(row) for row in cells]


def _name(row: QualityRow) -> str:
    return row.artifact or (f"{row.model}.{row.variant}" if row.variant else row.model)


def _quality(row: Optional[QualityRow]) -> str:
    if row is None or row.ssim is None:
        return ""
    psnr = "inf" if row.psnr_db is None else number(row.psnr_db, 3)
    return f"{psnr}/{number(row.ssim, 4)}" + ("*" if "tiled" in row.tiling else "")


def _quality_conditions(rows: Sequence[QualityRow]) -> List[str]:
    networks = [r for r in rows if r.backend != BICUBIC]
    parts = [
        ("images", [f"{r.set} ({len(r.images)})" for r in rows]),
        ("PSNR, SSIM", [f"{r.metric}, border {r.border_px}" for r in rows]),
        ("LR", [_DEGRADED[r.degradation] for r in rows]),
        ("evaluated", [("* " if "tiled" in r.tiling else "") + r.tiling for r in networks]),
        ("software", [f"{r.backend} {r.backend_version}, {r.precision}" for r in networks]),
    ]
    return [f"{name}: {'; '.join(dict.fromkeys(values))}" for name, values in parts if values]


def conditions(rows: Sequence[BenchmarkRow]) -> List[str]:
    """What the numbers hold for; a condition in which rows differ lists its values."""
    parts = [
        ("images", [f"{r.set} ({_images(r, 'valid')})" for r in rows if r.set]),
        ("test images", [f"{r.test_set} ({_images(r, 'test')})" for r in rows if r.test_set]),
        ("PSNR, SSIM", [f"{r.metric}, border {r.border_px}" for r in rows if r.metric]),
        ("evaluated", [("* " if "tiled" in r.tiling else "") + r.tiling for r in rows if r.tiling]),
        (
            "counted",
            [
                f"{r.counter} at {'x'.join(map(str, r.counted_hw or ()))}, multiply-accumulates"
                for r in rows
                if r.counter
            ],
        ),
        ("† not counted", _uncounted(rows)),
        (
            "deployed",
            [
                "the same count of the graph that runs, after its exact rewrites"
                for r in rows
                if r.deployed
            ],
        ),
        ("time", [f"{r.protocol}: {_STATISTIC[protocol_of(r).statistic]}" for r in rows]),
        (
            "runs",
            [f"{_span([r.warmup for r in rows])} warm-up; {_span([r.runs for r in rows])} timed"],
        ),
        ("frames", [f"one by one, {r.cadence_hz:g} a second" for r in rows if r.cadence_hz]),
        (
            "timed by",
            [
                r.timer + (" (copies apart)" if r.copies_ms is not None else "")
                for r in rows
                if r.timer
            ],
        ),
        ("memory", [r.mem_definition for r in rows if r.mem_definition]),
        ("device", [f"{r.device}" + (f", {r.threads} threads" if r.threads else "") for r in rows]),
        (
            "software",
            [
                f"{r.backend} {r.backend_version}" + (f" ({r.settings})" if r.settings else "")
                for r in rows
            ],
        ),
    ]
    shared = [f"{name}: {'; '.join(dict.fromkeys(values))}" for name, values in parts if values]
    return shared + [f"note: {warning}" for warning in _warnings(rows)]


_STATISTIC = {
    "median": "median of the timed runs",
    "mean": "plain mean over the images, one run each, the first one included",
}


def _images(row: BenchmarkRow, split: str) -> int:
    return sum(image["split"] == split for image in row.images)


def _uncounted(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Each operator that computes and is not counted, with the networks that have it where not all do."""
    owners: Dict[str, List[str]] = {}
    for row in rows:
        for name in row.uncounted or {}:
            owners.setdefault(name, []).append(label(row))
    everywhere = {label(r) for r in rows}
    return [
        name + ("" if set(who) == everywhere else f" ({', '.join(dict.fromkeys(who))})")
        for name, who in owners.items()
    ]


def _warnings(rows: Sequence[BenchmarkRow]) -> List[str]:
    owners: Dict[str, List[str]] = {}
    for row, name in zip(rows, labels(rows)):
        for warning in row.warnings:
            owners.setdefault(warning, []).append(name)
    return [
        warning + ("" if len(who) == len(rows) else f" ({', '.join(who)})")
        for warning, who in owners.items()
    ]


def _plain(text: str) -> str:
    """One line, and no end of a cell, whatever a name holds."""
    return " ".join(text.split()).replace("|", "/")


def _span(values: Sequence[Optional[int]]) -> str:
    known = sorted({v for v in values if v is not None})
    return "0" if not known else str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def number(value: Optional[float], digits: int) -> str:
    """Return a number with so many decimals, an empty text for None."""
    return "" if value is None else f"{value:.{digits}f}"


def over(value: Optional[float], unit: float) -> Optional[float]:
    """Return a value in another unit, None for None."""
    return None if value is None else value / unit
