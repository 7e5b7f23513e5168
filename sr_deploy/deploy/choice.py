"""Which variant and precision to use: by measured times, or by what is known without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.deploy.options import DeployOptions
from sr_deploy.results.columns import frame_ms, labels, number
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.results.selection import Limits, select_network


@dataclass(frozen=True)
class Choice:
    """The network to use and why, or why none is chosen."""

    name: str
    """`asrn_x4.d3`, or `asrn_x4.d3 int8` among several precisions; empty: none is chosen."""
    why: str
    row: Optional[BenchmarkRow] = None
    """Its row; None: none is chosen."""
    remarks: Tuple[str, ...] = ()
    by_time: bool = True
    """Whether the networks were timed on the target."""
    hint: str = ""
    """What to do where no network meets the limits; empty otherwise."""


Names = Dict[int, str]
"""The name of each row's network, by the row's id."""


def choose(rows: Sequence[BenchmarkRow], options: DeployOptions) -> Choice:
    """Choose among the rows of one deployment. Those with a time were timed on the target."""
    profile, limits = options.profile, options.limits
    measured = [row for row in rows if not row.error]
    names = {id(row): name for row, name in zip(measured, labels(measured))}
    timed = [row for row in measured if frame_ms(row) is not None]
    left_out = [names[id(row)] for row in measured if frame_ms(row) is None]
    untimed = []
    if left_out:
        untimed = [f"not timed on '{profile.name}', so left out: {', '.join(left_out)}"]
    if not measured:
        return Choice("", "no network could be measured", by_time=False)
    try:
        if not timed:
            return _choose_untimed(measured, options, names)
        if limits is None:
            return _highest_psnr(timed, untimed, names)
        selection = select_network(timed, target=profile.name, limits=limits)
    except InputError as e:
        return Choice("", e.message, by_time=bool(timed), hint=e.hint)
    remarks = (*untimed, *selection.rejected, *selection.remarks)
    return Choice(names[id(selection.row)], selection.why, selection.row, remarks)


def _highest_psnr(timed: Sequence[BenchmarkRow], untimed: Sequence[str], names: Names) -> Choice:
    """Choose without a limit. untimed: a remark on those without a time."""
    best = _best(timed)
    ms = frame_ms(best) or 0
    remarks = list(untimed)
    fastest = min(timed, key=lambda row: frame_ms(row) or 0)
    if fastest is not best:
        remarks.append(
            f"{names[id(fastest)]} is {ms / (frame_ms(fastest) or 1):.1f} times as fast: "
            f"{_text(fastest)}; --fps, --max-ms or --min-psnr choose by a limit"
        )
    why = f"the highest PSNR of {len(timed)}, as no limit was given: {_text(best)}"
    return Choice(names[id(best)], why, best, (*remarks, *best.warnings))


def _choose_untimed(rows: Sequence[BenchmarkRow], options: DeployOptions, names: Names) -> Choice:
    """Choose by PSNR and counts; none under a limit of the time. Raises InputError."""
    nothing_timed = f"nothing was timed on '{options.target}' yet ({options.profile.title})"
    if options.time_limit_ms is not None:
        return Choice(
            "",
            f"{nothing_timed}, so it is not known which variant takes at most "
            f"{options.time_limit_ms:.4g} ms",
            by_time=False,
        )
    if options.min_psnr is None:
        best = _best(rows)
        why = f"the highest PSNR of {len(rows)}, as no limit was given: {_text(best)}"
        return Choice(names[id(best)], why, best, (nothing_timed,), by_time=False)
    bound = Limits(min_psnr_db=options.min_psnr).bounds()[0][0]
    meeting = [row for row in rows if not bound.violation(row, options.min_psnr)]
    if not meeting:
        named = [(names[id(row)], row) for row in rows]
        raise InputError(
            f"none of {len(rows)} networks has {options.min_psnr:g} dB", hint=bound.nearest(named)
        )
    counted = [row for row in meeting if _macs(row) is not None] or meeting
    best = min(counted, key=lambda row: _macs(row) or 0)
    why = (
        f"the fewest multiply-accumulates of {len(meeting)} with at least "
        f"{options.min_psnr:g} dB: {_text(best)}"
    )
    remarks = (f"{nothing_timed}: the fastest may be another one",)
    return Choice(names[id(best)], why, best, remarks, by_time=False)


def _best(rows: Sequence[BenchmarkRow]) -> BenchmarkRow:
    """Return the row of the highest PSNR, of equal ones the fastest. Raises InputError."""
    scored = [row for row in rows if row.psnr_db is not None]
    if not scored:
        raise InputError("no network has a PSNR, so none can be preferred", hint="give --data")
    return max(scored, key=lambda row: (row.psnr_db, -(frame_ms(row) or 0)))


def _macs(row: BenchmarkRow) -> Optional[float]:
    """Return the multiply-accumulates as deployed, in G."""
    deployed = row.deployed.get("macs") if row.deployed else None
    return row.macs_g if deployed is None else deployed / 1e9


def _text(row: BenchmarkRow) -> str:
    parts = [(row.psnr_db, 2, "dB"), (frame_ms(row), 1, "ms"), (_macs(row), 1, "G FLOPs")]
    return ", ".join(f"{number(v, digits)} {unit}" for v, digits, unit in parts if v is not None)
