"""The tables of `bench` and `eval`, of measured rows only."""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.errors import InputError
from sr_deploy.core.network_code import is_code
from sr_deploy.results.columns import (
    SCORES,
    VALUES,
    Column,
    label,
    names_of,
    number,
    over,
    settings_text,
)
from sr_deploy.results.conditions import (
    EXECUTED,
    LR_TEXTS,
    OF_PATCHES,
    condition_notes,
    score_notes,
    tiling_text,
    useless_tags,
)
from sr_deploy.results.precisions import has_several_precisions, losses_db, precision_of
from sr_deploy.results.protocols import of_own_images, score_text
from sr_deploy.results.render import Table, make_table, render_table
from sr_deploy.results.rows import (
    BICUBIC,
    PUBLISHED,
    BenchmarkRow,
    QualityRow,
    executed_of_plain,
    scored_images,
    text_of,
)

_ALIKE = ("protocol", "metric", "set")
"""Rows that differ in one of these are not comparable. The protocol decides the counter."""


def _source(row: BenchmarkRow) -> str:
    suffix = row.artifact.rpartition(".")[2]
    if row.backend == PUBLISHED:
        return "results.json"
    if is_code(row.artifact):
        return "code"
    if not suffix:
        return "checkpoint" if row.artifact_sha256 else "random weights"
    return {"json": "plan"}.get(suffix, suffix)


def precision_text(row: BenchmarkRow) -> str:
    """Return the precision with its parts, and the requested one where that was not obtained."""
    if row.precision_asked in ("", precision_of(row)):
        return row.precision
    return f"{row.precision} ({row.precision_asked} asked)"


def loss_cells(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Return the PSNR that each row lost against the FP32 row of its network on the same images.

    Empty where there is none.
    """
    return [number(None if loss is None else round(loss, 3) + 0.0, 3) for loss in losses_db(rows)]


LOSS = "loss [dB]"
"""The heading of the PSNR lost against FP32, a column where precisions differ."""


def _executed(row: BenchmarkRow) -> str:
    """Of the plain network's multiply-accumulates: on the timed input, and over the set.

    Older rows, marked, have another basis.
    """
    if row.executed is None:
        return ""
    shares = f"{row.executed['timed_share']:.1%} / {row.executed['share']:.1%}"
    return shares if executed_of_plain(row) else f"{shares} {OF_PATCHES}"


def _score(key: str) -> Callable[[BenchmarkRow], str]:
    """Return the column of a score."""

    def text(row: BenchmarkRow) -> str:
        value = VALUES[key](row)
        return "" if value is None else score_text(value)

    return text


_PSNR = Column("PSNR [dB]", "psnr_db", 3)
_BENCH: Tuple[Tuple[str, Callable[[BenchmarkRow], str]], ...] = (
    ("Model", label),
    ("Backend", lambda r: r.backend),
    ("From", _source),
    ("Precision", precision_text),
    ("Settings", settings_text),
    (_PSNR.heading, lambda r: _PSNR.text(r) + ("*" if "tiled" in r.tiling else "")),
    ("SSIM", Column("SSIM", "ssim", 4).text),
    ("Input", lambda r: text_of(r.input_hw)),
    ("Time [ms]", Column("Time [ms]", "time_ms").text),
    ("p95 [ms]", Column("p95 [ms]", "p95_ms").text),
    ("#Params [M]", Column("#Params [M]", "params_m", 3).text),
    ("FLOPs [G]", Column("FLOPs [G]", "macs_g").text),
    ("deployed [G]", Column("deployed [G]", "deployed_g").text),
    ("executed [G]", Column("executed [G]", "executed_g").text),
    ("executed, timed / set", _executed),
    ("#Acts [M]", Column("#Acts [M]", "acts_m").text),
    ("Mem [MiB]", Column("Mem [MiB]", "memory_mib", 1).text),
    ("#Conv", Column("#Conv", "convs", 0).text),
    *((heading, _score(key)) for heading, key in SCORES.items()),
)
_LOSS_AT = 1 + [heading for heading, _ in _BENCH].index(_PSNR.heading)
_OPTIONAL = ("Settings", LOSS, "deployed [G]", "executed, timed / set", *SCORES)
"""Columns that are left out where all their cells are empty."""


def ntire_table(rows: Sequence[BenchmarkRow]) -> str:
    """Return Markdown tables of the rows with their conditions, then the rows that could not run.

    >>> options = sr_deploy.MeasureOptions(data="photos", lr="32x32", runs=3)
    >>> rows = list(sr_deploy.rows_from_artifacts("fsrcnn-w16_x4", options))
    >>> table = sr_deploy.ntire_table(rows).splitlines()
    >>> table[0]  # doctest: +ELLIPSIS
    '| Model ...| PSNR [dB] |...| Time [ms] |...'

    Rows of different protocols, sets or metrics are not comparable and get a table each.
    """
    parts = [render_table(bench_table(group), "markdown") for group in comparable_groups(rows)]
    return "\n\n".join([*parts, *filter(None, ["\n".join(failures(rows))])])


def comparable_groups(rows: Sequence[BenchmarkRow]) -> List[List[BenchmarkRow]]:
    """Return the measured rows in groups that compare: of one protocol, set and metric each."""
    groups: Dict[Tuple[object, ...], List[BenchmarkRow]] = {}
    for row in rows:
        if not row.error:
            groups.setdefault(tuple(getattr(row, key) for key in _ALIKE), []).append(row)
    return list(groups.values())


def bench_table(rows: Sequence[BenchmarkRow]) -> Table:
    """Return the table of `bench`: all columns. Raises InputError when the rows do not compare."""
    measured = comparable(rows)
    columns = [(heading, [text(r) for r in measured]) for heading, text in _BENCH]
    if has_several_precisions(measured):
        columns.insert(_LOSS_AT, (LOSS, loss_cells(measured)))
    columns = [(h, cells) for h, cells in columns if h not in _OPTIONAL or any(cells)]
    if not any(r.executed for r in measured):  # then it is what is deployed
        columns = [(h, cells) for h, cells in columns if h != "executed [G]"]
    cells = list(zip(*(cells for _, cells in columns)))
    notes = condition_notes(measured)
    if columns[-1][0] in SCORES:
        notes += score_notes(measured)
    return make_table([heading for heading, _ in columns], cells, notes)


def comparable(rows: Sequence[BenchmarkRow]) -> List[BenchmarkRow]:
    """Return the rows that were measured.

    Raises InputError when there is none, or when they mix protocols, sets or metrics.
    """
    measured = [r for r in rows if not r.error]
    if not rows:
        raise InputError("there are no rows", hint="measure some: srdeploy bench -o DIR")
    if not measured:
        raise InputError("all rows are failed measurements", hint="; ".join(failures(rows))[:300])
    here = [r for r in measured if r.backend != PUBLISHED]
    on_own_images = all(any(of_own_images(r)[:1]) for r in here)
    for key in _ALIKE:
        alike = here if key == "set" and on_own_images and here else measured
        require_same([r for r in alike if getattr(r, key)], key)
    _require_same_images([r for r in here if r.images])
    return measured


def _require_same_images(rows: Sequence[BenchmarkRow]) -> None:
    """Raise InputError when rows of the same sets and scale were scored on different images."""
    first: Dict[Tuple[object, ...], BenchmarkRow] = {}
    for row in rows:
        other = first.setdefault((row.scale, row.test_set), row)
        if scored_images(other) != scored_images(row):
            a, b = (f"{len(scored_images(r))} by {label(r)}" for r in (other, row))
            raise InputError(
                f"rows of the set {row.set} cannot be compared: they are of different images ({a}, "
                f"{b})",
                hint="two folders had this name, or its images were changed: measure again, or "
                "select rows by another key: --where KEY=VALUE",
            )


def require_same(rows: Sequence[BenchmarkRow], key: str) -> None:
    """Raise InputError when rows differ in a field, because then they do not compare."""
    values = list(dict.fromkeys(text_of(getattr(r, key)) for r in rows))
    if len(values) > 1:
        raise InputError(
            f"rows of different {key} cannot be compared: {', '.join(values)}",
            hint=f"select one of them: --where {key}={values[0]}",
        )


def failures(rows: Sequence[Union[BenchmarkRow, QualityRow]]) -> List[str]:
    """Return a line for each row that could not be measured."""
    return [f"not run: {_name(r)}{_asked(r)} ({r.backend}): {r.error}" for r in rows if r.error]


def _asked(row: Union[BenchmarkRow, QualityRow]) -> str:
    """The precision asked of a network that could not be made; a file's name has it."""
    asked = "" if row.artifact or isinstance(row, QualityRow) else row.precision_asked
    return f" in {asked}" if asked not in ("", "fp32") else ""


def _name(row: Union[BenchmarkRow, QualityRow]) -> str:
    return label(row) if is_code(row.artifact) else row.artifact or label(row)


def quality_table(rows: Sequence[QualityRow]) -> str:
    """Return a Markdown table for each scale, metric and degradation, then conditions and failures.

    >>> rows = list(sr_deploy.quality_from_artifacts("fsrcnn-w16_x4", data="photos"))
    >>> table = sr_deploy.quality_table(rows).splitlines()
    >>> table[0]  # doctest: +ELLIPSIS
    '| x4, y, bi ...| #Params [K] | photos PSNR/SSIM |'

    As in ASRN's Table 5: a column for each set, bicubic first.
    """
    scored = [r for r in rows if not r.error]
    parts = [render_table(table, "markdown") for table in quality_tables(rows)]
    if scored:
        parts.append("\n".join(quality_conditions(scored)))
    return "\n\n".join([*parts, *filter(None, ["\n".join(dict.fromkeys(failures(rows)))])])


def quality_tables(rows: Sequence[QualityRow], *, ssim: bool = True) -> List[Table]:
    """Return a table for each scale, metric and degradation, bicubic first, without notes.

    ssim: cells are `PSNR/SSIM`; False: PSNR only.
    """
    scored = [r for r in rows if not r.error]
    groups: Dict[Tuple[object, ...], List[QualityRow]] = {}
    for row in scored:
        groups.setdefault((row.scale, row.metric, row.degradation), []).append(row)
    sets = list(dict.fromkeys(r.set for r in scored))
    return [_quality_table(group, sets, ssim) for group in groups.values()]


def _quality_table(rows: Sequence[QualityRow], sets: Sequence[str], ssim: bool) -> Table:
    networks: Dict[Tuple[object, ...], Dict[str, QualityRow]] = {}
    for row in rows:
        key = row.model, row.variant, row.backend, row.artifact, row.artifact_sha256, _how(row)
        networks.setdefault(key, {})[row.set] = row
    ordered = sorted(networks.values(), key=lambda b: _first(b).backend != BICUBIC)
    names = names_of(list(map(_first, ordered)))
    files = [_name(_first(by_set)) for by_set in ordered]
    cells = []
    for by_set, shown in zip(ordered, names):
        row = _first(by_set)
        if names.count(shown) > 1:
            shown = _name(row) + (f" ({_how(row)})" if files.count(_name(row)) > 1 else "")
        scores = [_quality(by_set.get(name), ssim) for name in sets]
        works = [_work(by_set.get(name)) for name in sets]
        cells.append([shown, number(over(row.params, 1e3), 1), *scores, *works])
    conditions = f"x{rows[0].scale}, {rows[0].metric}, {rows[0].degradation}"
    headings = [conditions, "#Params [K]"]
    headings += [f"{s} PSNR/SSIM" if ssim else f"{s} PSNR" for s in sets]
    headings += [f"{s} work" for s in sets]
    kept = [i for i, h in enumerate(headings) if i < 2 + len(sets) or any(c[i] for c in cells)]
    return make_table([headings[i] for i in kept], [[c[i] for i in kept] for c in cells], [])


def _work(row: Optional[QualityRow]) -> str:
    """The multiply-accumulates that an adaptive network executed, of the plain network's."""
    return "" if row is None or row.executed is None else f"{row.executed['share']:.1%}"


def _how(row: QualityRow) -> str:
    parts = row.backend, row.precision, settings_text(row), row.device
    return ", ".join(filter(None, parts))


def _first(by_set: Dict[str, QualityRow]) -> QualityRow:
    return next(iter(by_set.values()))


def _quality(row: Optional[QualityRow], ssim: bool) -> str:
    if row is None or row.ssim is None:
        return ""
    psnr = "inf" if row.psnr_db is None else number(row.psnr_db, 3)
    score = f"{psnr}/{number(row.ssim, 4)}" if ssim else psnr
    return score + ("*" if "tiled" in row.tiling else "")


def quality_conditions(rows: Sequence[QualityRow]) -> List[str]:
    """Return a line for each condition of rows without errors, then notes."""
    networks = [r for r in rows if r.backend != BICUBIC]
    parts = [
        ("images", [f"{r.set} ({len(r.images)})" for r in rows]),
        ("PSNR, SSIM", [f"{r.metric}, border {r.border_px}" for r in rows]),
        ("LR", [LR_TEXTS[r.degradation] for r in rows]),
        ("evaluated", [tiling_text(r.tiling) for r in networks]),
        ("work", [EXECUTED for r in networks if r.executed]),
        ("software", [f"{r.backend} {r.backend_version}, {r.precision}" for r in networks]),
    ]
    lines = [f"{name}: {'; '.join(dict.fromkeys(values))}" for name, values in parts if values]
    return lines + [f"note: {text}" for text in useless_tags(networks)]
