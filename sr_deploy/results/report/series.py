"""The series that the report shows of a group of rows: elastic curves and spreads of latency."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from sr_deploy.results.protocols import time_ms
from sr_deploy.results.report.drawing import log_ticks, tick_text
from sr_deploy.results.report.groups import Entry, RowGroup
from sr_deploy.results.rows import BenchmarkRow


@dataclass(frozen=True)
class SizeCurve:
    """One network at all its sizes, as one backend ran it: (size, PSNR or latency)."""

    how: str
    points: Tuple[Tuple[int, float], ...]


@dataclass(frozen=True)
class ElasticCurves:
    """A model's curves over its size."""

    model: str
    axis: str
    psnr: Tuple[SizeCurve, ...]
    latency: Tuple[SizeCurve, ...]


_AXIS_NAMES = {"d": "Depth [blocks]", "c": "Core width", "b": "Depth [blocks]"}


def elastic_curves(group: RowGroup) -> List[ElasticCurves]:
    """Return the curves of every model of which the group has two or more sizes."""
    models: Dict[Tuple[str, str], Dict[str, List[Entry]]] = {}
    for entry in group.entries:
        if entry.size is not None:
            how = " ".join((entry.how, *entry.size.tags))
            by_how = models.setdefault((entry.row.model, entry.size.axis), {})
            by_how.setdefault(how, []).append(entry)
    curves = [
        ElasticCurves(
            model,
            _AXIS_NAMES.get(axis, "Size"),
            _size_curves(by_how, lambda r: r.psnr_db),
            _size_curves(by_how, time_ms),
        )
        for (model, axis), by_how in models.items()
    ]
    return [c for c in curves if c.psnr or c.latency]


def _size_curves(
    by_how: Dict[str, List[Entry]], value_of: Callable[[BenchmarkRow], Optional[float]]
) -> Tuple[SizeCurve, ...]:
    curves = []
    for how, entries in by_how.items():
        values: Dict[int, float] = {}
        for entry in entries:
            value = value_of(entry.row)
            if entry.size is not None and value is not None:
                values.setdefault(entry.size.size, value)
        if values:
            curves.append(SizeCurve(how, tuple(sorted(values.items()))))
    return tuple(curves) if any(len(c.points) > 1 for c in curves) else ()


@dataclass(frozen=True)
class LatencyStrip:
    """The latencies of one network. Places are per cent of the width.

    The page draws strips itself, as lines of a list, so that their type keeps its size on a phone.
    """

    entry: Entry
    time_ms: float
    place: float
    percentiles: Tuple[Tuple[str, float, float], ...]
    """Name, milliseconds and place."""
    runs: Tuple[float, ...]
    """Places of single runs."""


@dataclass(frozen=True)
class LatencyStrips:
    """The latencies of a group on one logarithmic scale, fastest network first."""

    strips: Tuple[LatencyStrip, ...]
    ticks: Tuple[Tuple[str, float], ...]
    """Text and place."""


def latency_strips(group: RowGroup) -> Optional[LatencyStrips]:
    """Return the latencies of a group's networks, None where none was timed."""
    times = [(time_ms(e.row) or 0.0, e) for e in group.entries]
    timed = sorted((pair for pair in times if pair[0] > 0), key=lambda pair: pair[0])
    if not timed:
        return None
    values = [
        ms
        for time, e in timed
        for ms in (time, *(ms for _, ms in _percentiles(e.row)), *e.row.latencies_ms)
        if ms > 0
    ]
    low, high = min(values), max(values)
    gap = max(0.03 * math.log(high / low), 0.08)

    def place(ms: float) -> float:
        share = (math.log(ms / low) + gap) / (math.log(high / low) + 2 * gap)
        return 1 + 96 * share

    strips = tuple(
        LatencyStrip(
            e,
            time,
            place(time),
            tuple((name, ms, place(ms)) for name, ms in _percentiles(e.row)),
            tuple(place(ms) for ms in e.row.latencies_ms if ms > 0),
        )
        for time, e in timed
    )
    ticks = log_ticks(low * math.exp(-gap), high * math.exp(gap))
    return LatencyStrips(strips, tuple((tick_text(ms), place(ms)) for ms in ticks))


def _percentiles(row: BenchmarkRow) -> Sequence[Tuple[str, float]]:
    named = (
        ("p50", row.latency_ms_median),
        ("p90", row.latency_ms_p90),
        ("p95", row.latency_ms_p95),
        ("p99", row.latency_ms_p99),
    )
    return [(name, ms) for name, ms in named if ms is not None and ms > 0]
