"""Which variant to take, by measured rows only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.results.columns import labels, number
from sr_deploy.results.protocols import time_ms
from sr_deploy.results.rows import BenchmarkRow, text_of
from sr_deploy.results.tables import comparable


@dataclass(frozen=True)
class Bound:
    """What a user asks of a network: a number of a row, and its limit."""

    text: str
    value: Callable[[BenchmarkRow], Optional[float]]
    limit: float
    unit: str
    least: bool = False
    """The limit is the least it may be, not the most."""

    def broken_by(self, row: BenchmarkRow) -> str:
        """Say how a row breaks the bound, or that it lacks the number; empty when it keeps it."""
        value = self.value(row)
        if value is None:
            return f"{self.text} is not known"
        if (value < self.limit) if self.least else (value > self.limit):
            return f"{value:.3f} {self.unit} is {'below' if self.least else 'above'} {self.limit:g}"
        return ""


def frame_ms(row: BenchmarkRow) -> Optional[float]:
    """Return what a frame takes: the network's time, and the copies where they are timed apart."""
    ms = time_ms(row)
    return None if ms is None else ms + (row.copies_ms or 0)


BOUNDS: Dict[str, Tuple[str, Callable[[BenchmarkRow], Optional[float]], str, bool]] = {
    "max_ms": ("the time", frame_ms, "ms", False),
    "max_gflops": ("the FLOPs", lambda r: r.macs_g, "G", False),
    "max_params_k": (
        "the parameters",
        lambda r: None if r.params is None else r.params / 1e3,
        "K",
        False,
    ),
    "max_mem_mib": ("the memory", lambda r: r.mem_peak_mib, "MiB", False),
    "min_psnr_db": ("the PSNR", lambda r: r.psnr_db, "dB", True),
}


@dataclass(frozen=True)
class Choice:
    """The network to take, the next best, and why not the others."""

    best: str
    row: BenchmarkRow
    why: str
    runner_up: str
    runner_up_row: Optional[BenchmarkRow]
    rejected: Tuple[str, ...]
    """A line for each row that breaks a bound."""
    remarks: Tuple[str, ...]


def select_network(
    rows: Sequence[BenchmarkRow], *, target: str, limits: Dict[str, float]
) -> Choice:
    """Choose among the rows of engines and graphs for `target`: the highest PSNR within the limits; where only a least PSNR is
    asked for, the shortest time.

    limits: by the keys of BOUNDS. Raises InputError when no row is of the target, rows do not compare, or none keeps the limits.
    """
    if not limits:
        raise InputError(
            "no limit to select by",
            hint="give --max-ms, --fps, --max-gflops, --max-params, --max-mem or --min-psnr",
        )
    for key, limit in limits.items():
        if not 0 < limit < float("inf"):
            raise InputError(
                f"a limit of {limit:g} for {BOUNDS[key][0]}; expected a number above 0"
            )
    bounds = [
        Bound(text, value, limits[key], unit, least)
        for key, (text, value, unit, least) in BOUNDS.items()
        if key in limits
    ]
    own = [r for r in rows if r.target == target]
    if not own:
        others = sorted({r.target for r in rows if r.target})
        raise InputError(
            f"no row was measured for target '{target}'; without one nothing is recommended",
            hint=f"there are rows for {', '.join(others)}"
            if others
            else "measure its engines: srdeploy bench engines/built/TARGET -o DIR",
        )
    measured = comparable(own)
    for key in ("scale", "input_hw", "device", "threads", "power_mode", "cadence_hz"):
        values = list(dict.fromkeys(text_of(getattr(r, key)) for r in measured))
        if len(values) > 1:
            raise InputError(
                f"rows of different {key} do not compare: {', '.join(values)}",
                hint=f"take one: --where {key}={values[0]}",
            )
    named = list(zip(labels(measured), measured))
    reasons = [
        (name, row, [why for bound in bounds for why in [bound.broken_by(row)] if why])
        for name, row in named
    ]
    rejected = tuple(f"{name}: {'; '.join(why)}" for name, _, why in reasons if why)
    kept = [(name, row) for name, row, why in reasons if not why]
    if not kept:
        raise InputError(
            f"none of {len(measured)} rows keeps the limits: {'; '.join(rejected[:12])}"
            + ("; ..." if len(rejected) > 12 else ""),
            hint="; ".join(filter(None, (_nearest(bound, named) for bound in bounds))),
        )
    fastest = set(limits) == {"min_psnr_db"}
    known = [
        (name, row) for name, row in kept if row.psnr_db is not None and frame_ms(row) is not None
    ]
    if not known:
        raise InputError(
            "the rows that keep the limits lack a PSNR or a time, so none is better",
            hint="measure them where they run",
        )

    def order(pair: Tuple[str, BenchmarkRow]) -> Tuple[float, float]:
        ms, worse = frame_ms(pair[1]) or 0, -(pair[1].psnr_db or 0)
        return (ms, worse) if fastest else (worse, ms)

    known.sort(key=order)
    (best, row), second = known[0], (known[1] if len(known) > 1 else None)
    why = f"the {'shortest time' if fastest else 'highest PSNR'} of {len(known)} that keep the limits: {_said(row)}"
    return Choice(
        best,
        row,
        why,
        second[0] if second else "",
        second[1] if second else None,
        rejected,
        tuple(_remarks(row, second, limits)),
    )


def _nearest(bound: Bound, named: Sequence[Tuple[str, BenchmarkRow]]) -> str:
    known = [
        (value, name) for name, row in named for value in [bound.value(row)] if value is not None
    ]
    if not known:
        return ""
    value, name = max(known) if bound.least else min(known)
    return f"the {'highest' if bound.least else 'lowest'}{bound.text[len('the') :]} is {value:.3f} {bound.unit} ({name})"


def _remarks(
    row: BenchmarkRow, second: Optional[Tuple[str, BenchmarkRow]], limits: Dict[str, float]
) -> List[str]:
    found = []
    limit = limits.get("max_ms")
    if (
        limit is not None
        and row.latency_ms_p95 is not None
        and row.latency_ms_p95 + (row.copies_ms or 0) > limit
    ):
        found.append(
            f"1 run in 20 takes longer than {limit:g} ms: p95 is {row.latency_ms_p95 + (row.copies_ms or 0):.2f} ms"
        )
    if second is not None:
        found.append(f"the runner-up, {second[0]}: {_said(second[1])}")
        a, b = frame_ms(row), frame_ms(second[1])
        if (
            a
            and b
            and abs(a - b) <= max((row.latency_cv or 0) * a, (second[1].latency_cv or 0) * b)
        ):
            found.append("their times differ by less than single runs vary")
    return found + list(row.warnings)


def _said(row: BenchmarkRow) -> str:
    return f"{number(row.psnr_db, 3)} dB, {number(frame_ms(row), 2)} ms, {number(row.macs_g, 2) or 'unknown'} G"
