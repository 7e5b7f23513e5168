"""Groups of rows that may be compared: of the same protocol, device, input and set."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from operator import attrgetter
from typing import Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import VariantError
from sr_deploy.core.precisions import LOWEST_FIRST
from sr_deploy.core.spec import Variant
from sr_deploy.results.columns import VALUES, Value, counter_name, label, settings_text
from sr_deploy.results.precisions import precision_of
from sr_deploy.results.protocols import time_ms
from sr_deploy.results.rows import (
    BenchmarkRow,
    executed_of_plain,
    scored_images,
)

# Rows that differ in one of these are never ranked together. CPU and GPU differ in `device`.
_named_conditions_of = attrgetter(
    "device", "power_mode", "threads", "protocol", "cadence_hz", "input_hw", "batch",
    "set", "test_set", "metric", "border_px", "scale",
)  # fmt: skip
_artifact_of = attrgetter(
    "model", "variant", "artifact", "artifact_sha256", "backend", "backend_version", "precision"
)
# Groups that agree in these and differ in protocol show how a protocol changes ranks.
_setting_of = attrgetter("device", "power_mode", "threads", "batch", "scale", "set")


def _conditions_of(row: BenchmarkRow) -> Tuple[object, ...]:
    return (*_named_conditions_of(row), scored_images(row))


def _network_of(row: BenchmarkRow) -> Tuple[object, ...]:
    return (*_artifact_of(row), settings_text(row))


@dataclass(frozen=True)
class Entry:
    """One network as measured under the conditions of its group."""

    id: str
    """Unique on the page: `r7`."""
    row: BenchmarkRow
    """The newest measurement."""
    earlier: Tuple[BenchmarkRow, ...] = ()
    """Older measurements of the same network, newest first."""

    @property
    def name(self) -> str:
        return label(self.row)

    @property
    def precision(self) -> str:
        """The lowest that it computes in."""
        return precision_of(self.row)

    @property
    def runtime(self) -> str:
        """The backend and settings: `torch channels-last`."""
        return " ".join(filter(None, (self.row.backend, settings_text(self.row))))

    @property
    def how(self) -> str:
        """The backend, precision and settings: `torch fp16 channels-last`."""
        parts = (self.row.backend, self.precision, settings_text(self.row))
        return " ".join(filter(None, parts))

    @property
    def family(self) -> str:
        """The model, with the tags of its variant: `imdeception_x4 nla`."""
        return " ".join((self.row.model, *(self.size.tags if self.size else ())))

    @property
    def size(self) -> Optional[Variant]:
        """The variant of an elastic network, None for another network."""
        try:
            return Variant.parse(self.row.variant) if self.row.variant else None
        except VariantError:
            return None


@dataclass(frozen=True)
class RowGroup:
    """Networks that may be ranked together."""

    id: str
    """Unique on the page: `g1`."""
    entries: Tuple[Entry, ...]

    @property
    def conditions(self) -> BenchmarkRow:
        """Return a row with the conditions of all: protocol, device, input, set and metric."""
        return self.entries[0].row

    @property
    def precisions(self) -> List[str]:
        """Return the precisions of the entries, the highest first."""
        found = {e.precision for e in self.entries}
        return [*(p for p in LOWEST_FIRST[::-1] if p in found), *sorted(found - set(LOWEST_FIRST))]

    @property
    def bicubic_db(self) -> Optional[float]:
        """Return bicubic's PSNR on the images of all, where one row has it."""
        known = (e.row.bicubic_psnr_db for e in self.entries)
        return next((db for db in known if db is not None), None)

    @property
    def below_bicubic(self) -> List[Entry]:
        """Return the entries that make images worse than bicubic. Charts leave them out."""
        floor = self.bicubic_db
        scored = [e for e in self.entries if e.row.psnr_db is not None]
        below = [e for e in scored if floor is not None and (e.row.psnr_db or 0) < floor]
        return below if len(below) < len(scored) else []

    @property
    def counters(self) -> List[str]:
        """Return the counters of the FLOPs. Counts of different counters are not comparable."""
        rows = [e.row for e in self.entries]
        return sorted({counter_name(r) for r in rows if r.counter and r.macs_g is not None})


@dataclass(frozen=True)
class CostAxis:
    """A cost that PSNR is drawn against."""

    id: str
    name: str
    """With its unit."""
    subject: str
    """The same in running text."""
    of: Value


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
    """Return the groups of the rows without an error, in the order of their first rows."""
    by_conditions: Dict[object, Dict[object, List[BenchmarkRow]]] = {}
    for row in rows:
        if not row.error:
            networks = by_conditions.setdefault(_conditions_of(row), {})
            networks.setdefault(_network_of(row), []).append(row)
    numbers = itertools.count(1)
    groups = []
    for i, networks in enumerate(by_conditions.values(), 1):
        entries = []
        for repeated in networks.values():
            newest, *earlier = sorted(reversed(repeated), key=lambda r: r.date_utc, reverse=True)
            entries.append(Entry(f"r{next(numbers)}", newest, tuple(earlier)))
        groups.append(RowGroup(f"g{i}", tuple(entries)))
    return groups


def flops(row: BenchmarkRow) -> Optional[float]:
    """Return the multiply-accumulates of the graph that runs in G; None for adaptive networks."""
    if row.executed:
        return None
    deployed = VALUES["deployed_g"](row)
    return row.macs_g if deployed is None else deployed


def flops_by(counter: str) -> Value:
    """Return the value `flops` of the rows of one counter."""
    return lambda r: flops(r) if (counter_name(r) or "hooks") == counter else None


def executed_g(row: BenchmarkRow) -> Optional[float]:
    """Return the multiply-accumulates that ran for an image of 256x256 on average, in G."""
    if row.executed:
        return row.executed.get("macs_g") if executed_of_plain(row) else None
    return row.executed_g


def cost_axes(group: RowGroup) -> List[CostAxis]:
    """Return the costs that two or more entries at different places have beside a PSNR."""
    axes = [CostAxis("latency", "Latency [ms]", "latency", time_ms)]
    for i, counter in enumerate(group.counters):
        name = f"FLOPs as deployed [G], {counter}"
        axes.append(CostAxis(f"flops{i}", name, "FLOPs", flops_by(counter)))
    axes.append(CostAxis("params", "Parameters [K]", "parameters", VALUES["params_k"]))
    if any(e.row.executed for e in group.entries):
        name = "Multiply-accumulates executed [G]"
        axes.append(CostAxis("executed", name, "executed multiply-accumulates", executed_g))
    return [
        axis
        for axis in axes
        if len({(p.cost, round(p.psnr_db, 3)) for p in cost_points(group, axis)}) > 1
    ]


def cost_points(group: RowGroup, axis: CostAxis) -> List[CostPoint]:
    """Return the entries that have a positive cost, as the axis is logarithmic, and beat bicubic.

    All of them where none does.
    """
    below = {e.id for e in group.below_bicubic}
    values = [(e, axis.of(e.row), e.row.psnr_db) for e in group.entries if e.id not in below]
    return [
        CostPoint(entry, cost, psnr_db)
        for entry, cost, psnr_db in values
        if psnr_db is not None and cost is not None and cost > 0
    ]


def pareto_front(group: RowGroup, axis: CostAxis) -> List[CostPoint]:
    """Return the entries with a higher PSNR than all that cost no more, cheapest first.

    PSNR counts as it is printed, to 0.001 dB: the same network's scores by two backends differ in
    the sixth digit.
    """
    front: List[CostPoint] = []
    for point in sorted(cost_points(group, axis), key=lambda p: (p.cost, -p.psnr_db)):
        if not front or round(point.psnr_db, 3) > round(front[-1].psnr_db, 3):
            front.append(point)
    return front


@dataclass(frozen=True)
class RankChanges:
    """The ranks by latency of the networks that two protocols measured on one device."""

    groups: Tuple[RowGroup, RowGroup]
    lines: Tuple[Tuple[Entry, int, int], ...]
    """Entry of the first group, its rank there and in the second group, ordered by the first."""


def rank_changes(groups: Sequence[RowGroup]) -> List[RankChanges]:
    """Return the pairs of groups that differ in protocol only and share two or more networks.

    Ranks count from 1, fastest first, among the shared networks. Equal times share a rank.
    """
    changes = []
    for a, b in itertools.combinations(groups, 2):
        same_setting = _setting_of(a.conditions) == _setting_of(b.conditions)
        if same_setting and a.conditions.protocol != b.conditions.protocol:
            there_by_network = {_network_of(e.row): time_ms(e.row) for e in b.entries}
            times = [
                (e, time_ms(e.row), there_by_network.get(_network_of(e.row))) for e in a.entries
            ]
            pairs = [
                (e, here, there)
                for e, here, there in times
                if here is not None and there is not None
            ]
            lines = [
                (
                    e,
                    1 + sum(other < here for _, other, _ in pairs),
                    1 + sum(other < there for _, _, other in pairs),
                )
                for e, here, there in pairs
            ]
            if len(lines) > 1:
                changes.append(RankChanges((a, b), tuple(sorted(lines, key=lambda line: line[1]))))
    return changes
