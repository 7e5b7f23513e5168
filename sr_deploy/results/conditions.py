"""The conditions under which the numbers of rows were measured."""

from __future__ import annotations

import os
from typing import Dict, Iterable, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.degradation import GIVEN
from sr_deploy.results.columns import label, labels, names_of
from sr_deploy.results.precisions import precision_of
from sr_deploy.results.protocols import misses_min_psnr, protocol_of, time_ms
from sr_deploy.results.rows import (
    PUBLISHED,
    BenchmarkRow,
    QualityRow,
    executed_of_plain,
    text_of,
)
from sr_deploy.results.slips import SLIPS

_STATISTIC = {
    "median": "median of the timed runs",
    "mean": "plain mean over the images, one run each, the first one included",
}
_ALIKE = (
    "model backend target settings device threads input_hw protocol set metric tiling "
    "degradation cadence_hz"
).split()
"""The conditions of rows whose scores and times are compared."""
_PUBLISHED_NOTE = (
    f"{PUBLISHED}: numbers of a challenge's results.json, not measured here. The file names "
    "neither device nor images. Its times, memory and scores are ranked apart from measured ones"
)
LR_TEXTS = {
    "bi": "bi: MATLAB's bicubic",
    "bd": "bd: Gaussian 7x7, sigma 1.6, every third pixel",
    "dn": "dn: bicubic, then noise of sigma 30, seeded by the file's name",
    GIVEN: "given, not made from HR",
}
"""How LR images are made, by the name of the degradation."""
MIN_GAIN_DB = 0.01
"""The least gain of a variant's tag that is worth no note."""
_DEPLOYED = "the same count of the graph that runs, after its exact rewrites"

OF_PATCHES = "(of the same patches)"
"""Marks executed work of older rows."""
EXECUTED = "of the plain network's multiply-accumulates on the whole image, overlaps included"
_EXECUTED_OLD = (
    f"{OF_PATCHES}: an older row, of the largest branch's on the same overlapping patches; "
    "more of the plain network's"
)


def tiling_text(tiling: str) -> str:
    """Return how images were evaluated. * marks tiles, whose scores are not exact."""
    return f"* {tiling}" if "tiled" in tiling else tiling


def conditions(rows: Sequence[BenchmarkRow]) -> Dict[str, List[str]]:
    """Return the conditions by name, each with its values: several where rows differ."""
    owners = [(text, label(r)) for r in rows for text in uncounted_texts(r)]
    counts = [(_counted(r), label(r)) for r in rows if r.counter]
    of_all = {
        "counted": _with_owners(counts, (name for _, name in counts)),
        "† not counted": _with_owners(owners, map(label, rows)),
        "runs": [f"{_span(r.warmup for r in rows)} warm-up; {_span(r.runs for r in rows)} timed"]
        if any(time_ms(r) is not None for r in rows)
        else [],
    }
    of_rows = [_conditions_of(row) for row in rows]
    values = {
        name: of_all.get(name) or list(dict.fromkeys(filter(None, (of[name] for of in of_rows))))
        for name in of_rows[0]
    }
    return {name: texts for name, texts in values.items() if texts}


def uncounted_texts(row: BenchmarkRow) -> List[str]:
    """Return the operators that a row's counter ignores, with the work that its FLOPs lack."""
    macs = row.uncounted_macs or {}
    return [
        f"{name}: {macs[name] / 1e9:.3g} G more" if macs.get(name) else name
        for name in row.uncounted or {}
    ]


def useless_tags(rows: Sequence[Union[BenchmarkRow, QualityRow]]) -> List[str]:
    """Return a line for each variant whose tag, such as nla of `c4-nla`, gains nothing.

    It is compared with the same variant without the tag under the same conditions: a graph with a
    graph, an engine with an engine.
    """

    def alike(r: Union[BenchmarkRow, QualityRow]) -> Tuple[object, ...]:
        kind = os.path.splitext(r.artifact)[1]
        return (kind, precision_of(r), *(getattr(r, key, None) for key in _ALIKE))

    plain = {(alike(r), r.variant): r for r in rows}
    names = {id(r): name for r, name in zip(rows, names_of(rows))}
    lines = []
    for row in rows:
        size, _, tag = row.variant.partition("-")
        without = plain.get((alike(row), size)) if tag else None
        if without is None or row.psnr_db is None or without.psnr_db is None:
            continue
        gain, cost = row.psnr_db - without.psnr_db, ""
        if isinstance(row, BenchmarkRow) and isinstance(without, BenchmarkRow):
            ms, without_ms = time_ms(row), time_ms(without)
            cost = f", and takes {ms / without_ms - 1:+.0%} time" if ms and without_ms else ""
        if gain < MIN_GAIN_DB:
            lines.append(f"{names[id(row)]} gains {gain:+.3f} dB over {names[id(without)]}{cost}")
    return list(dict.fromkeys(lines))


def condition_notes(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Return the notes below a table: a line for each condition, then the rows' warnings."""
    notes = [f"{name}: {'; '.join(texts)}" for name, texts in conditions(rows).items()]
    if any(r.backend == PUBLISHED for r in rows):
        notes += [_PUBLISHED_NOTE, *_slips(rows)]
    return notes + [f"note: {text}" for text in warnings_of(rows)]


def warnings_of(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Return the reasons to distrust the numbers or a choice among them, with their rows."""
    names = labels(rows)
    warnings = [(w, name) for row, name in zip(rows, names) for w in row.warnings]
    return useless_tags(rows) + _with_owners(warnings, names)


def score_notes(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Return how the scores are computed, and the rows that the challenge would not rank."""
    protocol = protocol_of(rows[0])
    b = protocol.baseline
    if b is None:
        return []
    names = ("runtime", "FLOPs", "parameters")
    parts = " + ".join(f"{w:.2f} {name}" for w, name in zip(protocol.weights, names))
    baseline = f"{b.name}, {b.ms} ms on its GPU ({protocol.device}), {b.macs_g} G, {b.params_m} M"
    notes = [f"score: {parts} of exp(2 x / baseline), less is better; baseline {baseline}"]
    named = list(zip(labels(rows), rows))
    here = [(name, row.baseline) for name, row in named if row.baseline]
    if here:
        times = "; ".join(f"{name}: {base['name']} {base['ms']:.2f} ms" for name, base in here)
        notes.append(
            "score here: by the baseline measured in turns with the network, by torch in FP32 as "
            f"the harness runs it ({times}). On a device other than the challenge's only this "
            "score means something"
        )
    elif any(row.backend != PUBLISHED for row in rows):
        notes.append(
            "on a device other than the challenge's the score means nothing: bench --score "
            "measures the baseline beside the network"
        )
    return notes + [
        f"below the challenge's PSNR, which would not rank it: {name}"
        for name, row in named
        if misses_min_psnr(row)
    ]


def _slips(rows: Sequence[BenchmarkRow]) -> List[str]:
    """The slips of the challenges' own numbers among published rows."""
    slips = [
        f"note: {slip} ({label(row)})"
        for row in rows
        for slip in SLIPS
        if row.backend == PUBLISHED
        and slip.paper.lower().replace(" ", "") == row.protocol
        and any(architecture in row.model.lower() for architecture in slip.architectures)
    ]
    return list(dict.fromkeys(slips))


def _conditions_of(r: BenchmarkRow) -> Dict[str, str]:
    """The conditions of one row; empty where they do not apply, or follow from all rows."""
    valid, test = (sum(i["split"] == split for i in r.images) for split in ("valid", "test"))
    return {
        "images": f"{r.set} ({valid})" if r.set else "",
        "test images": f"{r.test_set} ({test})" if r.test_set else "",
        "LR": "" if r.degradation == "bi" else LR_TEXTS[r.degradation],
        "PSNR, SSIM": f"{r.metric}, border {r.border_px}" if r.metric else "",
        "evaluated": tiling_text(r.tiling),
        "counted": "",
        "† not counted": "",
        "deployed": _DEPLOYED if r.deployed else "",
        "executed": ""
        if r.executed is None
        else EXECUTED
        if executed_of_plain(r)
        else _EXECUTED_OLD,
        "time": ""
        if time_ms(r) is None
        else f"{r.protocol}: {_STATISTIC[protocol_of(r).statistic]}",
        "runs": "",
        "frames": f"one by one, {r.cadence_hz:g} a second" if r.cadence_hz else "",
        "timed by": r.timer and r.timer + ("" if r.copies_ms is None else " (copies apart)"),
        "memory": r.mem_definition,
        "device": r.device + (f", {r.threads} threads" if r.threads else ""),
        "software": ""
        if r.backend == PUBLISHED
        else f"{r.backend} {r.backend_version}" + (f" ({r.settings})" if r.settings else ""),
    }


def _counted(row: BenchmarkRow) -> str:
    return f"{row.counter} at {text_of(row.counted_hw)}, multiply-accumulates"


def _with_owners(owned: Iterable[Tuple[str, str]], everyone: Iterable[str]) -> List[str]:
    """Return each text once, with the names of its owners where not all have it."""
    owners: Dict[str, List[str]] = {}
    for text, name in owned:
        owners.setdefault(text, []).append(name)
    names = set(everyone)
    return [
        text if set(who) == names else f"{text} ({', '.join(dict.fromkeys(who))})"
        for text, who in owners.items()
    ]


def _span(counts: Iterable[Optional[int]]) -> str:
    known = sorted({n for n in counts if n is not None}) or [0]
    return " to ".join(dict.fromkeys(map(str, (known[0], known[-1]))))
