"""Rows in groups that may be compared with each other: one protocol, device, input and set of images each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import VariantError
from sr_deploy.core.spec import Variant
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
class Axis:
    """A cost that PSNR is drawn against."""

    name: str
    """With its unit."""
    subject: str
    """The same in running text."""
    of: Callable[[BenchmarkRow], Optional[float]]


def group_rows(rows: Sequence[BenchmarkRow]) -> List[RowGroup]:
    """Return the groups of the rows that were measured (those with an error are left out), in the order of their first row."""
    by_group: Dict[tuple, Dict[tuple, List[BenchmarkRow]]] = {}
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


def axes_of(group: RowGroup) -> List[Axis]:
    """Return the costs that the group's rows know beside their PSNR: latency, FLOPs by each counter, parameters."""

    def flops(counter: str) -> Callable[[BenchmarkRow], Optional[float]]:
        return lambda r: r.macs_g if r.counter == counter else None

    axes = [Axis("Latency [ms]", "latency", time_ms)]
    axes += [Axis(f"FLOPs [G], counted by {c}", "FLOPs", flops(c)) for c in group.counters]
    axes += [
        Axis("Parameters [K]", "parameters", lambda r: None if r.params is None else r.params / 1e3)
    ]
    return [axis for axis in axes if any(on_axis(e, axis) for e in group.entries)]


def on_axis(entry: Entry, axis: Axis) -> bool:
    """Tell whether the entry has both a PSNR and a positive cost: the axis is logarithmic."""
    cost = axis.of(entry.row)
    return entry.row.psnr_db is not None and cost is not None and cost > 0


def front(entries: Sequence[Entry], axis: Axis) -> List[Entry]:
    """Return the Pareto front, cheapest first: those that no other equals in PSNR at the same cost or less.

    PSNR counts as it is printed, to 0.001 dB: one network's scores by two backends differ in the sixth digit.
    """
    best: List[Entry] = []
    for entry in sorted(
        (e for e in entries if on_axis(e, axis)), key=lambda e: (axis.of(e.row), -e.row.psnr_db)
    ):
        if not best or round(entry.row.psnr_db, 3) > round(best[-1].row.psnr_db, 3):
            best.append(entry)
    return best


def ranks(group: RowGroup) -> Dict[tuple, int]:
    """Return the rank by latency of each subject, fastest first, from 1; equal times share a rank."""
    times = {
        _key(e.row, _SUBJECT): time_ms(e.row) for e in group.entries if time_ms(e.row) is not None
    }
    return {
        subject: 1 + sum(other < ms for other in times.values()) for subject, ms in times.items()
    }


def rank_changes(
    groups: Sequence[RowGroup],
) -> List[Tuple[RowGroup, RowGroup, List[Tuple[Entry, int, int]]]]:
    """Return pairs of groups of one device and two protocols, with what both measured and its rank by latency in each.

    Ranks are taken among what both measured. Pairs with fewer than two such networks are left out.
    """
    pairs = []
    for i, a in enumerate(groups):
        for b in groups[i + 1 :]:
            x, y = a.conditions, b.conditions
            same = (*_MACHINE, "batch", "scale", "set")
            if x.protocol == y.protocol or _key(x, same) != _key(y, same):
                continue
            both = set(ranks(a)) & set(ranks(b))
            here, there = (
                ranks(RowGroup(g.id, tuple(e for e in g.entries if _key(e.row, _SUBJECT) in both)))
                for g in (a, b)
            )
            shared = [
                (e, here[k], there[k])
                for e in a.entries
                for k in [_key(e.row, _SUBJECT)]
                if k in both
            ]
            if len(shared) > 1:
                pairs.append((a, b, sorted(shared, key=lambda line: line[1])))
    return pairs


def _key(row: BenchmarkRow, names: Sequence[str]) -> tuple:
    return tuple(getattr(row, name) for name in names)
