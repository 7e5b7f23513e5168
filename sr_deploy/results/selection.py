"""The choice of a network for a target, by measured rows only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.errors import InputError
from sr_deploy.results.columns import VALUES, Value, frame_ms, labels, number
from sr_deploy.results.precisions import fp32_partners, losses_db, precision_of
from sr_deploy.results.rows import BenchmarkRow, text_of
from sr_deploy.results.tables import comparable, require_same

Named = Tuple[str, BenchmarkRow]
_MEASURED_ALIKE = ("scale", "input_hw", "device", "threads", "power_mode", "cadence_hz")


@dataclass(frozen=True)
class Bound:
    """A kind of limit: on one value of a row."""

    name: str
    value: Value
    unit: str
    is_minimum: bool = False
    missing: str = "not known"
    """Said of a row that lacks the value."""
    before: str = ""
    """Said before a value that violates the limit."""

    def violation(self, row: BenchmarkRow, limit: float) -> str:
        """Return how a row violates the limit, or that it lacks the value; empty if it meets it."""
        value = self.value(row)
        if value is None:
            return f"{self.name}: {self.missing}"
        if (value < limit) if self.is_minimum else (value > limit):
            side = "below" if self.is_minimum else "above"
            return f"{self.before}{value:.3f} {self.unit} is {side} {limit:.6g} {self.unit}"
        return ""

    def nearest(self, rows: Sequence[Named]) -> str:
        """Return the best value that any row has, empty if none has one."""
        known = [(v, name) for name, row in rows for v in [self.value(row)] if v is not None]
        if not known:
            return ""
        value, name = max(known) if self.is_minimum else min(known)
        extreme = "highest" if self.is_minimum else "lowest"
        return f"the {extreme} {self.name} is {value:.3f} {self.unit} ({name})"


def _macs_g(row: BenchmarkRow) -> Optional[float]:
    """A graph of one size may be counted at that only; None then."""
    return row.macs_g if row.counted_hw in (None, NTIRE_HW) else None


_BOUNDS: Dict[str, Bound] = {
    "max_ms": Bound("time", frame_ms, "ms"),
    "max_gflops": Bound(f"FLOPs at {text_of(NTIRE_HW)}", _macs_g, "G"),
    "max_params_k": Bound("parameters", VALUES["params_k"], "K"),
    "max_mem_mib": Bound("memory", VALUES["memory_mib"], "MiB"),
    "min_psnr_db": Bound("PSNR", VALUES["psnr_db"], "dB", is_minimum=True),
}
_NO_FP32_ROW = "as no FP32 row of it is of the same images"
_QUALITY = ("min_psnr_db", "max_loss_db")
"""Where no other limit is given, the fastest network is selected."""


def _loss_bound(rows: Sequence[BenchmarkRow]) -> Bound:
    """Return the limit of the PSNR lost against FP32, for these rows."""
    losses = {id(row): loss for row, loss in zip(rows, losses_db(rows))}
    return Bound(
        "loss",
        lambda row: losses.get(id(row)),
        "dB",
        missing=f"not known, {_NO_FP32_ROW}",
        before="a loss of ",
    )


@dataclass(frozen=True)
class Limits:
    """Limits that a network must meet. Raises InputError without any, or if one is not above 0 (of
    `max_loss_db`: below 0).

    >>> limits = sr_deploy.Limits(max_ms=1000 / 30, min_psnr_db=28)
    """

    max_ms: Optional[float] = None
    """Of a frame, including copies."""
    max_gflops: Optional[float] = None
    """Multiply-accumulates at 256x256."""
    max_params_k: Optional[float] = None
    max_mem_mib: Optional[float] = None
    min_psnr_db: Optional[float] = None
    max_loss_db: Optional[float] = None
    """Of the PSNR in dB, against the FP32 row of the same network on the same images."""

    def __post_init__(self) -> None:
        if not self.bounds():
            raise InputError(
                "no limit is given to select by",
                hint="use --max-ms, --fps, --max-flops, --max-params, --max-memory, --min-psnr or "
                "--max-loss-db",
            )
        for bound, limit in self.bounds():
            may_be_0 = bound.name == "loss"
            if not (0 < limit < float("inf") or (may_be_0 and limit == 0)):
                expected = "0 or more" if may_be_0 else "a number above 0"
                raise InputError(f"the limit of the {bound.name} is {limit:g}; expected {expected}")

    def bounds(self, rows: Sequence[BenchmarkRow] = ()) -> List[Tuple[Bound, float]]:
        """Return the limits that are set. rows: all that may hold the FP32 row of a network."""
        bounds = {**_BOUNDS, "max_loss_db": _loss_bound(rows)}
        limits = dataclasses.asdict(self)
        return [(bounds[key], limit) for key, limit in limits.items() if limit is not None]

    @property
    def of_quality_only(self) -> bool:
        """Whether no other limit is set than those of the quality."""
        limits = dataclasses.asdict(self)
        return all(limit is None for key, limit in limits.items() if key not in _QUALITY)


@dataclass(frozen=True)
class Selection:
    """The selected network, the second best, and why the others were rejected."""

    best: str
    row: BenchmarkRow
    why: str
    runner_up: str
    runner_up_row: Optional[BenchmarkRow]
    rejected: Tuple[str, ...]
    """A line for each row that violates a limit."""
    remarks: Tuple[str, ...]


def select_network(rows: Sequence[BenchmarkRow], *, target: str, limits: Limits) -> Selection:
    """Select the network with the highest PSNR within the limits, among the rows of a target.

    >>> export = sr_deploy.ExportOptions(sizes=["64x64"], target="cpu")
    >>> graphs = sr_deploy.onnx_from_checkpoint("fsrcnn-w16_x4", "graphs", export)
    >>> engines = sr_deploy.engine_from_onnx(graphs, "engines", target="cpu")
    >>> options = sr_deploy.MeasureOptions(data="photos", runs=3)
    >>> rows = list(sr_deploy.rows_from_artifacts(engines, options))
    >>> sr_deploy.select_network(rows, target="cpu", limits=sr_deploy.Limits(max_ms=1000)).best
    'fsrcnn-w16_x4.w16'

    With limits of the quality only (`min_psnr_db`, `max_loss_db`), the fastest network is selected.
    The FP32 row that a loss is against may be of another target. Raises InputError when the target
    has no rows, the rows do not compare, or none meets the limits.
    """
    bounds = limits.bounds(rows)
    measured = _rows_of(target, rows)
    named = list(zip(labels(measured), measured))
    candidates, rejected = [], []
    for name, row in named:
        violations = [bound.violation(row, limit) for bound, limit in bounds]
        if any(violations):
            rejected.append(f"{name}: {'; '.join(filter(None, violations))}")
        else:
            candidates.append((name, row))
    if not candidates:
        raise InputError(
            f"none of {len(measured)} rows meets the limits: {'; '.join(rejected[:12])}"
            + ("; ..." if len(rejected) > 12 else ""),
            hint="; ".join(filter(None, (bound.nearest(named) for bound, _ in bounds))),
        )
    ranked = [
        (-row.psnr_db, ms, (name, row))
        for name, row in candidates
        for ms in [frame_ms(row)]
        if row.psnr_db is not None and ms is not None
    ]
    if not ranked:
        raise InputError(
            "the rows that meet the limits lack a PSNR or a time, so none can be preferred",
            hint="measure them on the target",
        )
    fastest = limits.of_quality_only
    ranked.sort(key=lambda r: (r[1], r[0]) if fastest else (r[0], r[1]))
    (best, row), *others = (network for _, _, network in ranked)
    runner_up, runner_up_row = others[0] if others else ("", None)
    criterion = "shortest time" if fastest else "highest PSNR"
    remarks = _remarks(row, runner_up, runner_up_row, limits.max_ms)
    return Selection(
        best,
        row,
        f"the {criterion} of {len(ranked)} that meet the limits: {_summary(row)}",
        runner_up,
        runner_up_row,
        tuple(rejected),
        (*_precision_remarks(best, row, rows), *remarks, *row.warnings),
    )


def _rows_of(target: str, rows: Sequence[BenchmarkRow]) -> List[BenchmarkRow]:
    """The measured rows of a target, all measured alike."""
    of_target = [r for r in rows if r.target == target]
    if not of_target:
        others = sorted({r.target for r in rows if r.target})
        raise InputError(
            f"no row was measured for target '{target}', so nothing can be recommended",
            hint=f"there are rows for {', '.join(others)}"
            if others
            else "measure its engines: srdeploy bench engines/built/TARGET -o DIR",
        )
    measured = comparable(of_target)
    for key in _MEASURED_ALIKE:
        require_same(measured, key)
    return measured


def _precision_remarks(name: str, row: BenchmarkRow, rows: Sequence[BenchmarkRow]) -> List[str]:
    """Return what a network in a lower precision loses and gains against its FP32 row."""
    precision = precision_of(row)
    if precision in ("", "fp32"):
        return []
    if not name.endswith(f" {precision}"):  # all rows have this one, so that no name has it
        name = f"{name} in {precision}"
    at = next(i for i, other in enumerate(rows) if other is row)
    loss, fp32 = losses_db(rows)[at], fp32_partners(rows)[at]
    if loss is None or fp32 is None:
        return [f"what {name} loses against FP32 is not known, {_NO_FP32_ROW}"]
    alike = all(getattr(fp32, key) == getattr(row, key) for key in ("target", *_MEASURED_ALIKE))
    ms = frame_ms(fp32) if alike else None
    time = "" if ms is None else f", which takes {ms:.2f} ms"
    text = f"gains {-loss:.3f}" if loss < 0 else f"loses {loss:.3f}"
    return [f"{name} {text} dB against FP32{time}"]


def _remarks(
    row: BenchmarkRow, runner_up: str, second: Optional[BenchmarkRow], max_ms: Optional[float]
) -> List[str]:
    remarks = []
    p95_ms = None if row.latency_ms_p95 is None else row.latency_ms_p95 + (row.copies_ms or 0)
    if max_ms is not None and p95_ms is not None and p95_ms > max_ms:
        remarks.append(f"1 run in 20 takes longer than {max_ms:g} ms: p95 is {p95_ms:.2f} ms")
    if second is not None:
        remarks.append(f"the runner-up, {runner_up}: {_summary(second)}")
        a, b = frame_ms(row) or 0, frame_ms(second) or 0
        if abs(a - b) <= max((row.latency_cv or 0) * a, (second.latency_cv or 0) * b):
            remarks.append("their times differ by less than single runs vary")
    return remarks


def _summary(row: BenchmarkRow) -> str:
    gflops = number(row.macs_g, 2) or "unknown"
    return f"{number(row.psnr_db, 3)} dB, {number(frame_ms(row), 2)} ms, {gflops} G FLOPs"
