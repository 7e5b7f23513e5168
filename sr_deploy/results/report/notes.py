"""The words beside the numbers of a group: its conditions, what to know before comparing, and each row's receipt."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any, Dict, List, Tuple

from sr_deploy.results.conditions import conditions
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


_SHOWN_ELSEWHERE = ("evaluated", "† not counted")
"""Conditions that the page states in its remarks."""


def conditions_of(group: RowGroup) -> List[Tuple[str, str]]:
    """Return the conditions of a group's numbers: where rows differ, at most four values of each."""
    rows = [e.row for e in group.entries]
    listed = [(name, texts) for name, texts in conditions(rows) if name not in _SHOWN_ELSEWHERE]
    listed += [
        ("power mode", [r.power_mode or "" for r in rows]),
        ("Python", [r.python for r in rows]),
        ("revision", [r.git_rev for r in rows]),
        ("measured", [r.date_utc[:10] for r in rows]),
    ]
    shown = []
    for name, texts in listed:
        values = list(dict.fromkeys(filter(None, texts)))
        if len(values) > 4:
            values = [*values[:3], f"{len(values) - 3} more: see the receipts"]
        if values:
            shown.append((name[0].upper() + name[1:], "; ".join(values)))
    return shown


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
