"""The layouts of published tables, from rows only: NTIRE's, IMDeception's Tables 2 and 4, SRN's Table 5; and ranks by protocol."""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.results.protocols import (
    below_gate,
    protocol_of,
    score_text,
    scores,
    split_mean,
    time_ms,
)
from sr_deploy.results.rows import BenchmarkRow, text_of
from sr_deploy.results.tables import (
    Table,
    bench_table,
    comparable,
    conditions,
    flops,
    label,
    labels,
    number,
    over,
)

Number = Callable[[BenchmarkRow], Optional[float]]


def build_table(rows: Sequence[BenchmarkRow], layout: str) -> Table:
    """Return rows in one of TABLE_LAYOUTS. Raises InputError when it is unknown, or the rows do not compare."""
    if layout not in TABLE_LAYOUTS:
        raise InputError(
            f"unknown layout '{layout}'; expected {', '.join(TABLE_LAYOUTS)}",
            hint=did_you_mean(layout, TABLE_LAYOUTS),
        )
    return TABLE_LAYOUTS[layout](rows)


def ntire(rows: Sequence[BenchmarkRow]) -> Table:
    """The challenge's table of results, with the rank of each number in parentheses, and the year's score where it has one."""
    measured = comparable(rows)
    scored = [scores(r) for r in measured]
    columns: List[Tuple[str, Number, int, bool]] = [
        ("PSNR [val]", lambda r: r.psnr_db, 2, False),
        ("PSNR [test]", lambda r: split_mean(r, "test", "psnr_db"), 2, False),
        ("Ave. Time [ms]", time_ms, 2, True),
        ("#Params [M]", lambda r: over(r.params, 1e6), 3, True),
        ("FLOPs [G]", lambda r: r.macs_g, 2, True),
        ("#Acts [M]", lambda r: r.acts_m, 2, True),
        ("Mem. [M]", lambda r: r.mem_peak_mib, 2, True),
        ("#Conv", lambda r: r.convs, 0, False),
    ]
    texts = [
        _ranked([value(r) for r in measured], digits)
        if ranked
        else [number(value(r), digits) for r in measured]
        for _, value, digits, ranked in columns
    ]
    headings = ["Model", *(heading for heading, *_ in columns)]
    counted = headings.index("FLOPs [G]") - 1
    texts[counted] = [
        text.replace(" (", "† (", 1) if r.uncounted else text
        for text, r in zip(texts[counted], measured)
    ]
    notes = conditions(measured)
    if all(scored):
        finals = [s[0] for s in scored if s]
        texts.append([f"{score_text(v)} ({p})" for v, p in zip(finals, _places(finals))])
        headings.append("Score")
        protocol = protocol_of(measured[0])
        parts = " + ".join(
            f"{w:.2f} {what}"
            for w, what in zip(protocol.weights, ("runtime", "FLOPs", "parameters"))
        )
        b = protocol.baseline
        assert b is not None
        baseline = (
            f"{b.name}, {b.ms} ms on its GPU ({protocol.device}), {b.macs_g} G, {b.params_m} M"
        )
        notes.append(f"score: {parts} of exp(2 x / baseline), less is better; baseline {baseline}")
        notes += [
            f"below the challenge's PSNR, which would not rank it: {n}"
            for n, r in zip(labels(measured), measured)
            if below_gate(r)
        ]
    cells = [[name, *(column[i] for column in texts)] for i, name in enumerate(labels(measured))]
    return _table(headings, cells, notes)


def srn_table5(rows: Sequence[BenchmarkRow]) -> Table:
    """SRN's Table 5: the challenge's numbers without ranks, fastest first."""
    measured = sorted(comparable(rows), key=lambda r: (time_ms(r) is None, time_ms(r) or 0))
    headings = [
        "Team Name",
        "PSNR [Val]",
        "PSNR [Test]",
        "Ave Time [ms]",
        "Params [M]",
        "FLOPs [G]",
        "Acts [M]",
        "Mem [M]",
        "Conv",
    ]
    cells = [
        [
            name,
            number(r.psnr_db, 2),
            number(split_mean(r, "test", "psnr_db"), 2),
            number(time_ms(r), 2),
            number(over(r.params, 1e6), 3),
            flops(r),
            number(r.acts_m, 2),
            number(r.mem_peak_mib, 2),
            "" if r.convs is None else str(r.convs),
        ]
        for name, r in zip(labels(measured), measured)
    ]
    return _table(headings, cells, conditions(measured))


def imdeception_table2(rows: Sequence[BenchmarkRow]) -> Table:
    """IMDeception's Table 2: a column for each variant."""
    measured = comparable(rows)
    sets = "".join(dict.fromkeys(r.set for r in measured))
    lines: List[Tuple[str, Callable[[BenchmarkRow], str]]] = [
        ("#Params", lambda r: "" if r.params is None else f"{r.params / 1e3:.0f}K"),
        ("FLOPS[G]", flops),
        ("Act.[M]", lambda r: number(r.acts_m, 0)),
        ("Runtime[ms]", lambda r: number(time_ms(r), 2)),
        ("#Conv2d", lambda r: "" if r.convs is None else str(r.convs)),
        (f"#{sets} (PSNR)", lambda r: number(r.psnr_db, 2)),
    ]
    return _table(
        ["", *labels(measured)],
        [[name, *(cell(r) for r in measured)] for name, cell in lines],
        conditions(measured),
    )


def imdeception_table4(rows: Sequence[BenchmarkRow]) -> Table:
    """IMDeception's Table 4: a line for each network, a column for each device and runtime, one input size."""
    measured = comparable(rows)
    sizes = list(dict.fromkeys(text_of(r.input_hw) for r in measured))
    if len(sizes) > 1:
        raise InputError(
            f"times at different sizes do not compare: {', '.join(sizes)}",
            hint=f"take one: --where input_hw={sizes[0]}",
        )
    found: Dict[str, Dict[str, str]] = {}
    for row in measured:
        threads = f", {row.threads} threads" if row.threads else ""
        made = f" {row.target}" if row.target else ""
        column = f"{row.device}{threads}: {row.backend}{made} {row.precision} (ms)"
        line = found.setdefault(label(row), {})
        if column in line:
            raise InputError(
                f"two rows for {label(row)} on {column}", hint="take one of them with --where"
            )
        line[column] = number(time_ms(row), 2)
    columns = list(dict.fromkeys(column for line in found.values() for column in line))
    cells = [[name, *(line.get(column, "") for column in columns)] for name, line in found.items()]
    return _table([f"Model, input {sizes[0]}", *columns], cells, conditions(measured))


def ranks(rows: Sequence[BenchmarkRow]) -> Table:
    """Each network's time and rank by each protocol it was measured by, and where the ranks differ."""
    measured = [r for r in rows if not r.error]
    protocols = list(dict.fromkeys(r.protocol for r in measured))
    subjects: Dict[Tuple[object, ...], Dict[str, BenchmarkRow]] = {}
    for row in measured:
        key = tuple(
            getattr(row, k)
            for k in (
                "model",
                "variant",
                "backend",
                "artifact_sha256",
                "precision",
                "device",
                "threads",
            )
        )
        earlier = subjects.setdefault(key, {}).setdefault(row.protocol, row)
        if earlier.input_hw != row.input_hw:
            sizes = text_of(earlier.input_hw), text_of(row.input_hw)
            raise InputError(
                f"{label(row)} was measured at {' and '.join(sizes)}",
                hint=f"take one: --where input_hw={sizes[0]},",
            )
        subjects[key][row.protocol] = row
    whole = [
        by
        for by in subjects.values()
        if len(by) == len(protocols) and all(time_ms(r) is not None for r in by.values())
    ]
    if len(protocols) < 2 or not whole:
        raise InputError(
            "ranks take rows of the same networks by two or more protocols",
            hint="srdeploy bench --protocol steady --protocol ntire2025",
        )
    names = labels([by[protocols[0]] for by in whole])
    placed = [_places([time_ms(by[p]) for by in whole]) for p in protocols]
    cells = []
    for i, (name, by) in enumerate(zip(names, whole)):
        places = [column[i] for column in placed]
        times = [f"{number(time_ms(by[p]), 2)} ({place})" for p, place in zip(protocols, places)]
        cells.append([name, *times, "differs" if len(set(places)) > 1 else ""])
    notes = [
        note
        for p in protocols
        for note in conditions([by[p] for by in whole])
        if note.startswith("time:")
    ]
    return _table(["Model", *(f"{p} [ms] (rank)" for p in protocols), "rank"], cells, notes)


TABLE_LAYOUTS: Mapping[str, Callable[[Sequence[BenchmarkRow]], Table]] = {
    "bench": bench_table,
    "ntire": ntire,
    "srn5": srn_table5,
    "imdeception2": imdeception_table2,
    "imdeception4": imdeception_table4,
    "ranks": ranks,
}


def _table(headings: Sequence[str], cells: Sequence[Sequence[str]], notes: Sequence[str]) -> Table:
    return Table(tuple(headings), tuple(tuple(row) for row in cells), tuple(notes))


def _places(values: Sequence[Optional[float]]) -> List[Optional[int]]:
    """The rank of each value, the smallest first; equal ones share theirs."""
    known = sorted(v for v in values if v is not None)
    return [None if v is None else known.index(v) + 1 for v in values]


def _ranked(values: Sequence[Optional[float]], digits: int) -> List[str]:
    rounded = [
        None if v is None else round(v, digits) for v in values
    ]  # what reads the same ranks the same
    return [
        number(v, digits) + (f" ({place})" if place else "")
        for v, place in zip(values, _places(rounded))
    ]
