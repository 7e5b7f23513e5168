"""The words beside the numbers of a group: its conditions, what to know before comparing, and each row's receipt."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from sr_deploy.results.protocols import protocol_of, time_ms
from sr_deploy.results.report.drawing import short_number
from sr_deploy.results.report.groups import RowGroup
from sr_deploy.results.rows import BenchmarkRow

_NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(?![\w.]*[A-Za-z_])")
"""Numbers of their own: not the 4 of x4 nor those of a version or a name."""


def machine(row: BenchmarkRow) -> str:
    """Return the device, its threads and its power mode, as far as known."""
    parts = (
        row.device,
        f"{row.threads} thread{'s' if row.threads != 1 else ''}" if row.threads else "",
        row.power_mode or "",
    )
    return ", ".join(part for part in parts if part)


def remarks_of(group: RowGroup) -> List[str]:
    """What a reader must know before comparing: hidden differences, warnings, tiled scores, operators not counted."""
    rows = [e.row for e in group.entries]
    remarks = []
    if len(group.counters) > 1:
        remarks.append(
            f"FLOPs were counted by {' and '.join(group.counters)}: not comparable, so each has a column and a chart."
        )
    if any("tiled" in r.tiling for r in rows):
        remarks.append(
            "A score with * is of tiles: near their borders not what the whole image gives."
        )
    uncounted = sorted({name for r in rows for name in (r.uncounted or {})})
    if uncounted:
        remarks.append(f"Operators that the counter of FLOPs does not see: {', '.join(uncounted)}.")
    return remarks + _warnings(group)


def _warnings(group: RowGroup) -> List[str]:
    """The rows' warnings; those that differ in their numbers only are said once, with the span. Receipts have each."""
    said: Dict[Tuple[str, ...], Dict[str, List[List[str]]]] = {}
    for e in group.entries:
        for warning in e.row.warnings:
            parts = _NUMBER.split(warning)  # words and numbers in turns
            said.setdefault(tuple(parts[::2]), {}).setdefault(f"{e.name}, {e.how}", []).append(
                parts[1::2]
            )
    lines = []
    for texts, by_name in said.items():
        every = [numbers for found in by_name.values() for numbers in found]
        spans = [sorted({number[i] for number in every}, key=float) for i in range(len(texts) - 1)]
        numbers = [span[0] if len(span) == 1 else f"{span[0]} to {span[-1]}" for span in spans]
        text = "".join(part for pair in zip(texts, [*numbers, ""]) for part in pair)
        if len(by_name) == len(group.entries) > 1:
            who = "All"
        else:
            who = (
                f"{len(by_name)} of {len(group.entries)}"
                if len(by_name) > 3
                else "; ".join(by_name)
            )
        lines.append(f"{who}: {text}")
    return lines


_CONDITIONS: Tuple[Tuple[str, Callable[[BenchmarkRow], str]], ...] = (
    ("Device", machine),
    (
        "Quality",
        lambda r: (
            f"{r.set} ({len(r.images)} images), {r.metric}, border {r.border_px} px"
            if r.set
            else ""
        ),
    ),
    ("Time", lambda r: f"{protocol_of(r).statistic} of the runs" if time_ms(r) is not None else ""),
    ("Timed by", lambda r: r.timer + (", copies apart" if r.copies_ms is not None else "")),
    (
        "Counted",
        lambda r: (
            f"{r.counter} at {_hw(r.counted_hw)}, multiply-accumulates of the network as trained"
            if r.counter
            else ""
        ),
    ),
    ("Memory", lambda r: r.mem_definition),
    ("Software", lambda r: f"{r.backend} {r.backend_version}".strip()),
    ("Python", lambda r: r.python),
    ("Revision", lambda r: r.git_rev),
    ("Measured", lambda r: r.date_utc[:10]),
)


def conditions_of(group: RowGroup) -> List[Tuple[str, str]]:
    """What the numbers hold for; a condition in which rows differ lists its values."""
    found = []
    for name, of in _CONDITIONS:
        values = list(dict.fromkeys(v for v in (of(e.row) for e in group.entries) if v))
        if len(values) > 4:
            values = [*values[:3], f"{len(values) - 3} more: see the receipts"]
        if values:
            found.append((name, "; ".join(values)))
        if name == "Time":
            runs = ", ".join(f"{_span(counts)} {what}" for counts, what in _runs(group) if counts)
            found += [("Runs", runs)] if runs else []
    return found


def _runs(group: RowGroup) -> List[Tuple[List[int], str]]:
    rows = [e.row for e in group.entries]
    return [
        ([r.warmup for r in rows if r.warmup is not None], "to warm up"),
        ([r.runs for r in rows if r.runs is not None], "timed"),
    ]


def receipt_of(row: BenchmarkRow) -> List[Tuple[str, str]]:
    """Every field that the row has, under its own name; lists as how many there are and their ends."""
    lines = []
    for name, value in asdict(row).items():
        if value is None or value in ("", (), [], {}):
            continue
        if name == "latencies_ms":
            text = f"{len(value)} runs, {short_number(min(value))} to {short_number(max(value))}"
        elif name == "images":
            text = "; ".join(
                f"{i['image']} {'identical' if i['psnr_db'] is None else format(i['psnr_db'], '.2f') + ' dB'}"
                for i in value
            )
        else:
            text = _plain(value)
        lines.append((name, text))
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(
            f"{key}: {_plain(v)}" for key, v in value.items() if v not in (None, {}, ())
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _span(values: Sequence[int]) -> str:
    return f"{min(values)}" if len(set(values)) == 1 else f"{min(values)} to {max(values)}"


def _hw(hw: Optional[Sequence[int]]) -> str:
    return "×".join(map(str, hw or ()))
