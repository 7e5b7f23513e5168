"""One self-contained HTML page from rows and crops.

It loads nothing, and escapes everything that comes from a row.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.core.version import __version__
from sr_deploy.results.columns import SCORES, VALUES, Value, counter_name, frame_ms
from sr_deploy.results.conditions import OF_PATCHES
from sr_deploy.results.crops import CropSet
from sr_deploy.results.precisions import losses_db
from sr_deploy.results.protocols import score_text, time_ms
from sr_deploy.results.report.drawing import check_can_draw, require_package, short_number
from sr_deploy.results.report.figures import Drawing, draw_figures
from sr_deploy.results.report.groups import (
    Entry,
    RowGroup,
    cost_axes,
    executed_g,
    flops_by,
    group_rows,
    pareto_front,
    rank_changes,
)
from sr_deploy.results.report.notes import (
    conditions_of,
    machine,
    receipt_of,
    remarks_of,
    use_command,
)
from sr_deploy.results.report.page_svg import PageCharts, page_charts
from sr_deploy.results.report.series import latency_strips, precision_costs
from sr_deploy.results.rows import BenchmarkRow, executed_of_plain

_PAGE = Path(__file__).resolve().parent / "page"


def check_can_render() -> None:
    """Raise MissingPackageError without jinja2 or matplotlib."""
    check_can_draw()
    require_package("jinja2", needed_for="writing the report")


def report_html(
    rows: Sequence[BenchmarkRow],
    crops: Sequence[CropSet] = (),
    *,
    drawings: Optional[Dict[str, Drawing]] = None,
) -> str:
    """Return the page. Only rows of the same protocol, device, input and set are ranked together.

    drawings: the figures of the rows' groups, if they are already drawn.
    Raises InputError without rows and crops, MissingPackageError without jinja2 or matplotlib.
    """
    check_can_render()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    if not rows and not crops:
        raise InputError(
            "no rows and no crops to report", hint="measure some rows: srdeploy bench -o DIR"
        )
    groups = group_rows(rows)
    if drawings is None:
        drawings = draw_figures(groups)
    titles = _titles(groups)
    style, script = (
        (_PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "script.js")
    )
    environment = Environment(
        loader=FileSystemLoader(str(_PAGE)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        version=__version__,
        style=style,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        summary=_summary(rows, groups, titles),
        short_titles=_short_titles(titles),
        filters=_filters(groups),
        sections=[_section(group, titles[group.id], drawings) for group in groups],
        rank_changes=[
            (*(titles[group.id] for group in change.groups), change.lines)
            for change in rank_changes(groups)
        ],
        failed=[row for row in rows if row.error],
        box_given=any(crop_set.box_given for crop_set in crops),
        galleries=[_gallery(i, crop_set) for i, crop_set in enumerate(crops, 1)],
        short=short_number,
    )


# The helpers below return the values that page/report.html shows, by the names that it uses.


def _section(group: RowGroup, title: str, drawings: Dict[str, Drawing]) -> Dict[str, Any]:
    axes = cost_axes(group)
    cost, elastic, int8 = (
        page_charts(drawings[name]) if name in drawings else PageCharts((), ())
        for name in (f"{group.id}-cost", f"{group.id}-elastic", f"{group.id}-int8")
    )
    fastest_first = sorted(
        group.entries, key=lambda e: (time_ms(e.row) is None, time_ms(e.row) or 0.0)
    )
    columns = _columns(group)
    return {
        "group": group,
        "title": title,
        "conditions": conditions_of(group),
        "remarks": remarks_of(group),
        "legend": cost.legend,
        "charts": list(zip([f"PSNR against {axis.subject}" for axis in axes], cost.panels)),
        "elastic": elastic.panels,
        "precision_costs": precision_costs(group),
        "int8": int8.panels,
        "strips": latency_strips(group),
        "columns": columns,
        "lines": [(e, _facets(e), _cells(e.row, columns)) for e in fastest_first],
        "on_front": {
            point.entry.id
            for axis in axes
            if axis.of is time_ms
            for point in pareto_front(group, axis)
        },
        "receipts": [(e, use_command(e.row), receipt_of(e.row)) for e in fastest_first],
    }


_FACETS = ("family", "runtime", "target", "precision")


def _facets(entry: Entry) -> Dict[str, str]:
    """What the page can be filtered by."""
    row = entry.row
    values = entry.family, row.backend, row.target or "no target", entry.precision
    return dict(zip(_FACETS, values))


def _filters(groups: Sequence[RowGroup]) -> Dict[str, List[str]]:
    """The values of each facet that differs between networks."""
    facets = [_facets(e) for group in groups for e in group.entries]
    values = {name: sorted({f[name] for f in facets}) for name in _FACETS}
    return {name: texts for name, texts in values.items() if len(texts) > 1}


@dataclass(frozen=True)
class PageColumn:
    """A column of the table of all numbers."""

    heading: str
    digits: int
    of: Value
    best: str = "low"
    """Whether the lowest or the highest value is best, which a click on the heading puts first."""


def _columns(group: RowGroup) -> List[PageColumn]:
    """The columns that have a value in at least one row: first what most choose by."""
    several = len(group.counters) > 1
    counted = [(counter, f", {counter}" if several else "") for counter in group.counters]

    def trained(counter: str) -> Value:
        return lambda r: r.macs_g if counter_name(r) == counter else None

    def executed(share: str, of_plain: bool = True) -> Value:
        return lambda r: (
            100 * r.executed[share] if r.executed and executed_of_plain(r) == of_plain else None
        )

    rows = [e.row for e in group.entries]
    losses = {id(row): loss for row, loss in zip(rows, losses_db(rows))}
    loss = PageColumn("Loss [dB]", 3, lambda r: losses[id(r)])
    columns = [
        PageColumn("PSNR [dB]", 3, VALUES["psnr_db"], "high"),
        *([loss] if len(group.precisions) > 1 else []),
        PageColumn("Time [ms]", 2, time_ms),
        *(PageColumn(heading, 2, VALUES[key]) for heading, key in SCORES.items()),
        PageColumn("Params [M]", 3, VALUES["params_m"]),
        *(PageColumn(f"FLOPs as deployed [G]{by}", 2, flops_by(name)) for name, by in counted),
        PageColumn("Memory [MiB]", 0, VALUES["memory_mib"]),
        PageColumn("SSIM", 4, VALUES["ssim"], "high"),
        PageColumn("p95 [ms]", 2, VALUES["p95_ms"]),
        *(PageColumn(f"FLOPs as trained [G]{by}", 2, trained(name)) for name, by in counted),
        PageColumn("Executed [G]", 2, executed_g),
        PageColumn("Executed, timed input [%]", 1, executed("timed_share")),
        PageColumn("Executed, scored set [%]", 1, executed("share")),
        PageColumn(f"Executed, timed input [%] {OF_PATCHES}", 1, executed("timed_share", False)),
        PageColumn(f"Executed, scored set [%] {OF_PATCHES}", 1, executed("share", False)),
        PageColumn("Acts [M]", 1, VALUES["acts_m"]),
        PageColumn("Conv", 0, VALUES["convs"]),
    ]
    if not any(e.row.executed for e in group.entries):
        columns = [c for c in columns if c.heading != "Executed [G]"]
    if not any(e.row.deployed for e in group.entries):
        columns = [c for c in columns if "as trained" not in c.heading]
    return [c for c in columns if any(c.of(e.row) is not None for e in group.entries)]


def _cells(row: BenchmarkRow, columns: Sequence[PageColumn]) -> List[Tuple[str, str]]:
    """The number to sort by and the text of each cell; both empty where the value is missing."""
    cells = []
    for column in columns:
        value = column.of(row)
        if value is None:
            cells.append(("", ""))
            continue
        is_score = column.heading in SCORES
        text = score_text(value) if is_score else f"{value:,.{column.digits}f}"
        mark = "*" if column.heading == "PSNR [dB]" and "tiled" in row.tiling else ""
        cells.append((repr(float(value)), text + mark))
    return cells


def _summary(
    rows: Sequence[BenchmarkRow], groups: Sequence[RowGroup], titles: Dict[str, str]
) -> Dict[str, Any]:
    short = _short_titles(titles)
    days = sorted({row.date_utc[:10] for row in rows if row.date_utc})
    return {
        "networks": len({(e.row.model, e.row.variant) for g in groups for e in g.entries}),
        "measurements": sum(1 for row in rows if not row.error),
        "devices": list(dict.fromkeys(g.conditions.device for g in groups if g.conditions.device)),
        "days": " to ".join(dict.fromkeys([*days[:1], *days[-1:]])),
        "groups": [_glance(g, short[g.id]) for g in groups],
    }


_VIDEO_FPS = 30


def _glance(group: RowGroup, title: str) -> Dict[str, Any]:
    """The networks that most will take, with the command for each: none is below bicubic."""
    below = {e.id for e in group.below_bicubic}
    left = [e for e in group.entries if e.id not in below]
    timed = [(ms, e) for e in left for ms in [time_ms(e.row)] if ms is not None]
    scored = [(db, e) for e in left for db in [e.row.psnr_db] if db is not None]
    frame = 1000 * group.conditions.batch / _VIDEO_FPS
    video = [(db, e) for db, e in scored if 0 < (frame_ms(e.row) or 0) <= frame]

    def best(pairs: Sequence[Tuple[float, Entry]]) -> Optional[Entry]:
        order = [(-round(db, 3), time_ms(e.row) or math.inf, i) for i, (db, e) in enumerate(pairs)]
        return pairs[min(order)[-1]][1] if order else None  # of equals the fastest

    picks = {
        "Fastest": min(timed, key=lambda pair: pair[0])[1] if timed else None,
        f"Highest PSNR at {_VIDEO_FPS} frames per second": best(video),
        "Highest PSNR": best(scored),
    }
    order = list(picks)
    named = [(e, [name for name in order if picks[name] is e]) for e in left]
    shown = sorted((p for p in named if p[1]), key=lambda p: order.index(p[1][0]))
    return {
        "id": group.id,
        "title": title,
        "picks": [
            ("; ".join(names), e, _pick_texts(e, names), use_command(e.row)) for e, names in shown
        ],
    }


def _pick_texts(entry: Entry, names: Sequence[str]) -> List[str]:
    """Time and PSNR, what it was picked by first."""
    ms, db = time_ms(entry.row), entry.row.psnr_db
    texts = ["" if ms is None else f"{short_number(ms)} ms", "" if db is None else f"{db:.2f} dB"]
    return list(filter(None, texts if "Fastest" in names else texts[::-1]))


def _titles(groups: Sequence[RowGroup]) -> Dict[str, str]:
    """The heading of each group, with the machine where there are several."""
    machines = {g.id: machine(g.conditions) for g in groups}
    several = len(set(machines.values())) > 1
    titles = {}
    for group in groups:
        row = group.conditions
        parts = [
            row.set,
            f"x{row.scale}" if row.scale else "",
            f"{'×'.join(map(str, row.input_hw))} input" if row.input_hw else "",
            f"batch {row.batch}" if row.batch != 1 else "",
            f"{row.protocol} protocol",
            f"{row.cadence_hz:g} Hz" if row.cadence_hz else "",
            machines[group.id] if several else "",
        ]
        titles[group.id] = ", ".join(filter(None, parts))
    return titles


def _short_titles(titles: Dict[str, str]) -> Dict[str, str]:
    """Titles without the parts that all have."""
    parts = {key: title.split(", ") for key, title in titles.items()}
    common = set.intersection(*map(set, parts.values())) if parts else set()
    short = {key: ", ".join(p for p in ps if p not in common) for key, ps in parts.items()}
    return {key: text or titles[key] for key, text in short.items()}


def _gallery(number: int, crop_set: CropSet) -> Dict[str, Any]:
    top, left, height, width = crop_set.box_px
    return {
        "id": f"c{number}",
        "image": crop_set.image,
        "place": f"{height}×{width} pixels from row {top}, column {left}, x{crop_set.scale}",
        "ratio": f"{width} / {height}",
        "metric": crop_set.metric,
        "tiles": [(crop, *_picture(crop.png)) for crop in crop_set.crops],
        "maps": [(work, *_picture(work.png)) for work in crop_set.maps],
    }


def _picture(png: bytes) -> Tuple[str, int, int]:
    """The URL, width and height of a PNG file."""
    width, height = struct.unpack(">II", png[16:24])  # in its first chunk
    return "data:image/png;base64," + base64.b64encode(png).decode(), width, height
