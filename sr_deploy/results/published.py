"""Rows in the layouts of published tables: of NTIRE and of papers. And their ranks."""

from __future__ import annotations

from operator import attrgetter
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.results.adaptive_tables import adadsr_table2, cdnsr_table1
from sr_deploy.results.columns import (
    SCORES,
    VALUES,
    Column,
    counter_name,
    label,
    labels,
    number,
    settings_text,
)
from sr_deploy.results.conditions import condition_notes, score_notes
from sr_deploy.results.precisions import precision_of
from sr_deploy.results.protocols import score_text, time_ms
from sr_deploy.results.render import Table, make_table
from sr_deploy.results.rows import PUBLISHED, BenchmarkRow, text_of
from sr_deploy.results.tables import bench_table, comparable, require_same

_NTIRE = (
    Column("PSNR [val]", "psnr_db"),
    Column("PSNR [test]", "test_psnr_db"),
    Column("Ave. Time [ms]", "time_ms"),
    Column("#Params [M]", "params_m", 3),
    Column("FLOPs [G]", "macs_g"),
    Column("#Acts [M]", "acts_m"),
    Column("Mem. [M]", "memory_mib"),
    Column("#Conv", "convs", 0),
)
_SRN_TABLE5 = (
    Column("PSNR [Val]", "psnr_db"),
    Column("PSNR [Test]", "test_psnr_db"),
    Column("Ave Time [ms]", "time_ms"),
    Column("Params [M]", "params_m", 3),
    Column("FLOPs [G]", "macs_g"),
    Column("Acts [M]", "acts_m"),
    Column("Mem [M]", "memory_mib"),
    Column("Conv", "convs", 0),
)
_IMDECEPTION_TABLE2 = (
    Column("#Params", "params_k", 0, "K"),
    Column("FLOPS[G]", "macs_g"),
    Column("Act.[M]", "acts_m", 0),
    Column("Runtime[ms]", "time_ms"),
    Column("#Conv2d", "convs", 0),
)


def build_table(rows: Sequence[BenchmarkRow], layout: str) -> Table:
    """Return rows in one of TABLE_LAYOUTS.

    Raises InputError when the layout is unknown or the rows do not compare.
    """
    if layout not in TABLE_LAYOUTS:
        raise InputError(
            f"unknown table layout '{layout}'; expected one of {', '.join(TABLE_LAYOUTS)}",
            hint=did_you_mean(layout, TABLE_LAYOUTS),
        )
    return TABLE_LAYOUTS[layout](rows)


def ntire(rows: Sequence[BenchmarkRow]) -> Table:
    """Return the challenge's table: numbers with their ranks, and the scores if the year has one.

    Times, memory and scores are ranked within each device, published ones apart from measured ones.
    """
    measured = comparable(rows)
    headings, texts = ["Model"], [labels(measured)]
    for column in _NTIRE:
        cells = [column.text(r) for r in measured]
        if column.heading in _RANKED_WITHIN:
            values = [VALUES[column.key](r) for r in measured]
            # Values that read the same share a rank.
            read = [None if v is None else round(v, column.digits) for v in values]
            cells = _with_ranks(cells, read, list(map(_RANKED_WITHIN[column.heading], measured)))
        headings.append(column.heading)
        texts.append(cells)
    notes = condition_notes(measured)
    for heading, key in SCORES.items():
        values = [VALUES[key](r) for r in measured]
        if any(v is not None for v in values):
            headings.append(heading)
            cells = ["" if v is None else score_text(v) for v in values]
            texts.append(_with_ranks(cells, values, list(map(_device_of, measured))))
    if len(headings) > 1 + len(_NTIRE):
        notes += score_notes(measured)
    return make_table(headings, list(zip(*texts)), notes)


def _device_of(row: BenchmarkRow) -> Tuple[bool, str]:
    return row.backend == PUBLISHED, row.device


_RANKED_WITHIN: Mapping[str, Callable[[BenchmarkRow], object]] = {
    "Ave. Time [ms]": _device_of,
    "#Params [M]": lambda row: None,
    "FLOPs [G]": counter_name,
    "#Acts [M]": counter_name,
    "Mem. [M]": _device_of,
}
"""The ranked columns of NTIRE's table, and what rows must share to be ranked together."""


def srn_table5(rows: Sequence[BenchmarkRow]) -> Table:
    """Return SRN's Table 5: the challenge's numbers without ranks, fastest first.

    Published rows follow the measured ones: their times are of another device.
    """
    measured = sorted(
        comparable(rows),
        key=lambda r: (r.backend == PUBLISHED, time_ms(r) is None, time_ms(r) or 0),
    )
    cells = [
        [name, *(column.text(r) for column in _SRN_TABLE5)]
        for name, r in zip(labels(measured), measured)
    ]
    headings = ["Team Name", *(column.heading for column in _SRN_TABLE5)]
    return make_table(headings, cells, condition_notes(measured))


def imdeception_table2(rows: Sequence[BenchmarkRow]) -> Table:
    """Return IMDeception's Table 2: a column for each variant."""
    measured = comparable(rows)
    sets = "".join(dict.fromkeys(r.set for r in measured))
    lines = (*_IMDECEPTION_TABLE2, Column(f"#{sets} (PSNR)", "psnr_db"))
    cells = [[line.heading, *map(line.text, measured)] for line in lines]
    return make_table(["", *labels(measured)], cells, condition_notes(measured))


def imdeception_table4(rows: Sequence[BenchmarkRow]) -> Table:
    """Return IMDeception's Table 4: times at one size, a column for each device and runtime."""
    measured = comparable(rows)
    require_same(measured, "input_hw")
    times: Dict[str, Dict[str, str]] = {}
    for row in measured:
        threads = f", {row.threads} threads" if row.threads else ""
        target = f" {row.target}" if row.target else ""
        how = " ".join(filter(None, (precision_of(row), settings_text(row))))
        column = f"{row.device}{threads}: {row.backend}{target} {how} (ms)"
        line = times.setdefault(label(row), {})
        if column in line:
            raise InputError(
                f"two rows for {label(row)} on {column}", hint="select one of them with --where"
            )
        line[column] = number(time_ms(row), 2)
    columns = list(dict.fromkeys(column for line in times.values() for column in line))
    cells = [[name, *(line.get(column, "") for column in columns)] for name, line in times.items()]
    size = text_of(measured[0].input_hw)
    return make_table([f"Model, input {size}", *columns], cells, condition_notes(measured))


_artifact_of = attrgetter(
    "model", "variant", "backend", "artifact_sha256", "precision", "device", "threads"
)


def ranks(rows: Sequence[BenchmarkRow]) -> Table:
    """Return each network's time and rank by each protocol, and where the ranks differ.

    Networks without a row of every protocol are left out. Raises InputError when none is left.
    """
    measured = [r for r in rows if not r.error]
    protocols = list(dict.fromkeys(r.protocol for r in measured))
    networks: Dict[object, Dict[str, BenchmarkRow]] = {}
    for row in measured:
        by_protocol = networks.setdefault((*_artifact_of(row), settings_text(row)), {})
        earlier = by_protocol.get(row.protocol, row)
        if earlier.input_hw != row.input_hw:
            sizes = text_of(earlier.input_hw), text_of(row.input_hw)
            raise InputError(
                f"{label(row)} was measured at {' and '.join(sizes)}",
                hint=f"select one: --where input_hw={sizes[0]},",
            )
        by_protocol[row.protocol] = row
    lines = [[by_protocol.get(p) for p in protocols] for by_protocol in networks.values()]
    columns = list(
        zip(*(line for line in lines if all(r and time_ms(r) is not None for r in line)))
    )
    if len(protocols) < 2 or not columns:
        raise InputError(
            "ranks need rows of the same networks by two or more protocols",
            hint="srdeploy bench --protocol steady --protocol ntire2025",
        )
    texts, places, notes = [], [], []
    for column in columns:
        times = [time_ms(r) for r in column]
        texts.append(_with_ranks([number(ms, 2) for ms in times], times))
        places.append(_ranks(times))
        notes += [note for note in condition_notes(column) if note.startswith("time:")]
    differs = ["differs" if len(set(line)) > 1 else "" for line in zip(*places)]
    headings = ["Model", *(f"{p} [ms] (rank)" for p in protocols), "rank"]
    return make_table(headings, list(zip(labels(columns[0]), *texts, differs)), notes)


TABLE_LAYOUTS: Mapping[str, Callable[[Sequence[BenchmarkRow]], Table]] = {
    "bench": bench_table,
    "ntire": ntire,
    "srn5": srn_table5,
    "imdeception2": imdeception_table2,
    "imdeception4": imdeception_table4,
    "cdnsr1": cdnsr_table1,
    "adadsr2": adadsr_table2,
    "ranks": ranks,
}


def _ranks(values: Sequence[Optional[float]]) -> List[Optional[int]]:
    """The rank of each value, the smallest first; equal ones share theirs."""
    ordered = sorted(v for v in values if v is not None)
    return [None if v is None else ordered.index(v) + 1 for v in values]


def _with_ranks(
    cells: Sequence[str],
    values: Sequence[Optional[float]],
    groups: Optional[Sequence[object]] = None,
) -> List[str]:
    """Return the cells with their ranks, within each of `groups` if they are given."""
    of = list(groups or [None] * len(cells))
    ranked = []
    for cell, value, group in zip(cells, values, of):
        among = [v for v, g in zip(values, of) if g == group]
        rank = _ranks(among)[among.index(value)]
        ranked.append(cell + (f" ({rank})" if rank else ""))
    return ranked
