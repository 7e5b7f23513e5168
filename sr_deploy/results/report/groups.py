"""Rows in groups that may be compared with each other: one protocol, device, input and set of images each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import VariantError
from sr_deploy.core.spec import Variant
from sr_deploy.results.columns import over
from sr_deploy.results.protocols import time_ms
from sr_deploy.results.rows import BenchmarkRow

# Rows that differ in one of these are never ranked together. Of those of one machine, CPU and GPU differ by `device`.
_MACHINE = ("device", "power_mode", "threads")
_SHARED = (
    *_MACHINE,
    "protocol",
    "cadence_hz",
    "input_hw",
    "batch",
    "set",
    "test_set",
    "metric",
    "border_px",
    "scale",
)
_SUBJECT = (
    "model",
    "variant",
    "artifact",
    "artifact_sha256",
    "backend",
    "backend_version",
    "precision",
)


@dataclass(frozen=True)
class Entry:
    """One network as measured under the conditions of its group."""

    id: str
    """Unique on the page: `r7`."""
    row: BenchmarkRow
    """The newest measurement."""
    earlier: Tuple[BenchmarkRow, ...] = ()
    """Measurements of the same before it, newest first."""

    @property
    def name(self) -> str:
        return ".".join(part for part in (self.row.model, self.row.variant) if part)

    @property
    def how(self) -> str:
        """What ran it: `onnxruntime fp32`."""
        return f"{self.row.backend} {self.row.precision}".strip()

    @property
    def size(self) -> Optional[Variant]:
        """Its place in an elastic space, None for a network that has none."""
        try:
            return Variant.parse(self.row.variant)
        except VariantError:
            return None


@dataclass(frozen=True)
class RowGroup:
    """What may be ranked together."""

    id: str
    """Unique on the page: `g1`."""
    entries: Tuple[Entry, ...]

    @property
    def conditions(self) -> BenchmarkRow:
        """A row whose protocol, device, input, set and metric are those of all."""
        return self.entries[0].row

    @property
    def counters(self) -> List[str]:
        """The counters of its FLOPs; numbers of two are not comparable."""
        return sorted(
            {e.row.counter for e in self.entries if e.row.counter and e.row.macs_g is not None}
        )


@dataclass(frozen=True)
class CostAxis:
    """A cost that PSNR is drawn against."""

    id: str
    name: str
    """With its unit."""
    subject: str
    """The same in running text."""
    of: Callable[[BenchmarkRow], Optional[float]]


@dataclass(frozen=True)
class CostPoint:
    """An entry in a chart of PSNR against a cost."""

    entry: Entry
    cost: float
    psnr_db: float

    @property
    def xy(self) -> Tuple[float, float]:
        return self.cost, self.psnr_db


def group_rows(rows: Sequence[BenchmarkRow]) -> List[RowGroup]:
    """Return the groups of the rows that were measured (those with an error are left out), in the order of their first row."""
    by_group: Dict[Tuple[object, ...], Dict[Tuple[object, ...], List[BenchmarkRow]]] = {}
    for row in rows:
        if not row.error:
            subjects = by_group.setdefault(_key(row, _SHARED), {})
            subjects.setdefault(_key(row, _SUBJECT), []).append(row)
    groups: List[RowGroup] = []
    count = 0
    for subjects in by_group.values():
        entries = []
        for repeated in subjects.values():
            newest, *earlier = sorted(reversed(repeated), key=lambda r: r.date_utc, reverse=True)
            count += 1
            entries.append(Entry(f"r{count}", newest, tuple(earlier)))
        groups.append(RowGroup(f"g{len(groups) + 1}", tuple(entries)))
    return groups


def cost_axes(group: RowGroup) -> List[CostAxis]:
    """Return the costs known beside a PSNR: latency, FLOPs by each counter, parameters."""

    def flops(counter: str) -> Callable[[BenchmarkRow], Optional[float]]:
        return lambda r: r.macs_g if r.counter == counter else None

    axes = [
        CostAxis("latency", "Latency [ms]", "latency", time_ms),
        *(
            CostAxis(f"flops{i}", f"FLOPs [G], counted by {c}", "FLOPs", flops(c))
            for i, c in enumerate(group.counters)
        ),
        CostAxis("params", "Parameters [K]", "parameters", lambda r: over(r.params, 1e3)),
    ]
    return [axis for axis in axes if cost_points(group.entries, axis)]


def cost_points(entries: Sequence[Entry], axis: CostAxis) -> List[CostPoint]:
    """Return the entries that have a PSNR and a positive cost: the axis is logarithmic."""
    points = []
    for entry in entries:
        cost, psnr_db = axis.of(entry.row), entry.row.psnr_db
        if psnr_db is not None and cost is not None and cost > 0:
            points.append(CostPoint(entry, cost, psnr_db))
    return points


def pareto_front(entries: Sequence[Entry], axis: CostAxis) -> List[CostPoint]:
    """Return the entries with a higher PSNR than all that cost no more, cheapest first.

    PSNR counts as it is printed, to 0.001 dB: the same network's scores by two backends differ in
    the sixth digit.
    """
    front: List[CostPoint] = []
    for point in sorted(cost_points(entries, axis), key=lambda p: (p.cost, -p.psnr_db)):
        if not front or round(point.psnr_db, 3) > round(front[-1].psnr_db, 3):
            front.append(point)
    return front


@dataclass(frozen=True)
class RankChanges:
    """The ranks by latency of the networks that two protocols measured on one device."""

    groups: Tuple[RowGroup, RowGroup]
    lines: Tuple[Tuple[Entry, int, int], ...]
    """Entry of the first group, its rank there and its rank in the second, in order of the first."""


def rank_changes(groups: Sequence[RowGroup]) -> List[RankChanges]:
    """Return the pairs of groups that differ in protocol only and share two or more networks.

    Ranks count from 1, fastest first, among the shared networks. Equal times share a rank.
    """
    changes = []
    for a, b in itertools.combinations(groups, 2):
        same = (*_MACHINE, "batch", "scale", "set")
        if a.conditions.protocol == b.conditions.protocol or _key(a.conditions, same) != _key(
            b.conditions, same
        ):
            continue
        times_a, times_b = _times(a), _times(b)
        shared = [network for network in times_a if network in times_b]
        lines = []
        for e in a.entries:
            network = _key(e.row, _SUBJECT)
            if network in shared:
                here, there = (
                    1 + sum(times[other] < times[network] for other in shared)
                    for times in (times_a, times_b)
                )
                lines.append((e, here, there))
        if len(lines) > 1:
            changes.append(RankChanges((a, b), tuple(sorted(lines, key=lambda line: line[1]))))
    return changes


def _times(group: RowGroup) -> Dict[Tuple[object, ...], float]:
    times = ((_key(e.row, _SUBJECT), time_ms(e.row)) for e in group.entries)
    return {network: ms for network, ms in times if ms is not None}


def _key(row: BenchmarkRow, names: Sequence[str]) -> Tuple[object, ...]:
    return tuple(getattr(row, name) for name in names)
