"""The series that the report shows of a group of rows: elastic curves and spreads of latency."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from sr_deploy.results.columns import VALUES
from sr_deploy.results.precisions import losses_db
from sr_deploy.results.protocols import time_ms
from sr_deploy.results.report.drawing import log_ticks, tick_text
from sr_deploy.results.report.groups import Entry, RowGroup
from sr_deploy.results.rows import BenchmarkRow

Curves = Dict[str, List[Tuple[int, float]]]
"""Points (size, value) by backend and precision: `torch fp32`."""
_AXIS_NAMES = {"d": "Depth [blocks]", "c": "Core width", "b": "Depth [blocks]"}


@dataclass(frozen=True)
class ElasticCurves:
    """PSNR and latency of a model over its size."""

    model: str
    axis: str
    psnr: Curves
    latency: Curves


def elastic_curves(group: RowGroup) -> List[ElasticCurves]:
    """Return the curves of every model of which the group has two or more sizes."""
    models = dict.fromkeys((e.row.model, e.size.axis) for e in group.entries if e.size)
    curves = [
        ElasticCurves(
            model,
            _AXIS_NAMES.get(axis, "Size"),
            _curves(group, model, axis, "psnr_db"),
            _curves(group, model, axis, "time_ms"),
        )
        for model, axis in models
    ]
    return [c for c in curves if c.psnr or c.latency]


def _curves(group: RowGroup, model: str, axis: str, key: str) -> Curves:
    """Of one value, by its key in VALUES; empty where no curve has two points."""
    points: Dict[str, Dict[int, float]] = {}
    for e in group.entries:
        value = VALUES[key](e.row)
        if e.size and (e.row.model, e.size.axis) == (model, axis) and value is not None:
            how = " ".join((e.how, *e.size.tags))
            points.setdefault(how, {}).setdefault(e.size.size, value)
    curves = {how: sorted(by_size.items()) for how, by_size in points.items()}
    return curves if any(len(curve) > 1 for curve in curves.values()) else {}


@dataclass(frozen=True)
class PrecisionCost:
    """What a network in a lower precision loses and gains against FP32, where that is known."""

    entry: Entry
    loss_db: Optional[float]
    """PSNR against the FP32 row of the same network on the same images; below 0 is a gain."""
    time_ms: Optional[float]
    fp32: Optional[Entry]
    """The fastest one of the same network in FP32."""
    fp32_ms: Optional[float]

    @property
    def time_share(self) -> Optional[float]:
        """The part of FP32's time that it takes."""
        return self.time_ms / self.fp32_ms if self.time_ms and self.fp32_ms else None


def precision_costs(group: RowGroup) -> List[PrecisionCost]:
    """Return the costs of every entry below FP32, by network, in the order of the entries."""
    fp32: Dict[Tuple[str, str], List[Entry]] = {}
    for e in group.entries:
        if e.precision == "fp32" and time_ms(e.row):
            fp32.setdefault((e.row.model, e.row.variant), []).append(e)
    losses = losses_db([e.row for e in group.entries])
    costs: Dict[Tuple[str, str], List[PrecisionCost]] = {}
    for e, loss in zip(group.entries, losses):
        network = e.row.model, e.row.variant
        if e.precision not in ("", "fp32"):
            fastest = min(fp32.get(network, []), key=lambda f: time_ms(f.row) or 0, default=None)
            ms = None if fastest is None else time_ms(fastest.row)
            cost = PrecisionCost(e, loss, time_ms(e.row), fastest, ms)
            costs.setdefault(network, []).append(cost)
    return [cost for of_network in costs.values() for cost in of_network]


def latency_strips(group: RowGroup) -> Optional[Dict[str, Any]]:
    """Return the latencies of a group's networks on one logarithmic scale, fastest first.

    The result holds `strips`, each with its `entry`, `time_ms`, `place`, `percentiles` (name,
    milliseconds and place) and `runs` (places), and `ticks` (text and place). Places are per cent
    of the width. None where nothing was timed. The page draws strips as lines of a list, so that
    the text keeps its size on a phone.
    """
    times = [(time_ms(e.row) or 0.0, e) for e in group.entries]
    timed = sorted((pair for pair in times if pair[0] > 0), key=lambda pair: pair[0])
    if not timed:
        return None
    values = [ms for ms, _ in timed]
    for _, e in timed:
        values += [*_percentiles(e.row).values(), *(ms for ms in e.row.latencies_ms if ms > 0)]
    gap = max(0.03 * math.log(max(values) / min(values)), 0.08)
    low, high = min(values) * math.exp(-gap), max(values) * math.exp(gap)

    def place(ms: float) -> float:
        return 1 + 96 * math.log(ms / low) / math.log(high / low)

    strips = [
        {
            "entry": e,
            "time_ms": ms,
            "place": place(ms),
            "percentiles": [(name, v, place(v)) for name, v in _percentiles(e.row).items()],
            "runs": [place(v) for v in e.row.latencies_ms if v > 0],
        }
        for ms, e in timed
    ]
    return {"strips": strips, "ticks": [(tick_text(v), place(v)) for v in log_ticks(low, high)]}


def _percentiles(row: BenchmarkRow) -> Dict[str, float]:
    values = {
        "p50": row.latency_ms_median,
        "p90": row.latency_ms_p90,
        "p95": row.latency_ms_p95,
        "p99": row.latency_ms_p99,
    }
    return {name: ms for name, ms in values.items() if ms is not None and ms > 0}
