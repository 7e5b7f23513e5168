"""One self-contained HTML page from rows and crops.

It loads nothing, and escapes everything that comes from a row.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.core.version import __version__
from sr_deploy.results.columns import SCORES, VALUES, Value, counter_name
from sr_deploy.results.conditions import OF_PATCHES
from sr_deploy.results.crops import CropSet
from sr_deploy.results.protocols import score_text, time_ms
from sr_deploy.results.report.drawing import check_can_draw, require_package, short_number
from sr_deploy.results.report.figures import Drawing, draw_figures
from sr_deploy.results.report.groups import (
    RowGroup,
    cost_axes,
    cost_points,
    group_rows,
    pareto_front,
    rank_changes,
)
from sr_deploy.results.report.notes import conditions_of, machine, receipt_of, remarks_of
from sr_deploy.results.report.page_svg import PageCharts, page_charts
from sr_deploy.results.report.series import latency_strips
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
        sections=[_section(group, titles[group.id], drawings) for group in groups],
        rank_changes=[
            (*(titles[group.id] for group in change.groups), change.lines)
            for change in rank_changes(groups)
        ],
        failed=[row for row in rows if row.error],
        galleries=[_gallery(i, crop_set) for i, crop_set in enumerate(crops, 1)],
        short=short_number,
    )


# The helpers below return the values that page/report.html shows, by the names that it uses.


def _section(group: RowGroup, title: str, drawings: Dict[str, Drawing]) -> Dict[str, Any]:
    axes = cost_axes(group)
    cost, elastic = (
        page_charts(drawings[name]) if name in drawings else PageCharts((), ())
        for name in (f"{group.id}-cost", f"{group.id}-elastic")
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
        "strips": latency_strips(group),
        "headings": [heading for heading, _, _ in columns],
        "lines": [(e, _cells(e.row, columns)) for e in fastest_first],
        "on_front": {
            point.entry.id
            for axis in axes
            if axis.of is time_ms
            for point in pareto_front(group.entries, axis)
        },
        "receipts": [(e, receipt_of(e.row)) for e in fastest_first],
    }


def _columns(group: RowGroup) -> List[Tuple[str, int, Value]]:
    """Heading, decimals and value of the columns that have a value in at least one row."""

    def flops(counter: str) -> Value:
        return lambda r: r.macs_g if counter_name(r) == counter else None

    def executed(share: str, of_plain: bool = True) -> Value:
        return lambda r: (
            100 * r.executed[share] if r.executed and executed_of_plain(r) == of_plain else None
        )

    columns: List[Tuple[str, int, Value]] = [
        ("PSNR [dB]", 3, VALUES["psnr_db"]),
        ("SSIM", 4, VALUES["ssim"]),
        ("Time [ms]", 2, time_ms),
        *((heading, 2, VALUES[key]) for heading, key in SCORES.items()),
        ("p95 [ms]", 2, VALUES["p95_ms"]),
        ("Params [M]", 3, VALUES["params_m"]),
        *((f"FLOPs [G], {counter}", 2, flops(counter)) for counter in group.counters),
        ("FLOPs [G] as deployed", 2, VALUES["deployed_g"]),
        ("Executed, timed input [%]", 1, executed("timed_share")),
        ("Executed, scored set [%]", 1, executed("share")),
        (f"Executed, timed input [%] {OF_PATCHES}", 1, executed("timed_share", False)),
        (f"Executed, scored set [%] {OF_PATCHES}", 1, executed("share", False)),
        ("Acts [M]", 1, VALUES["acts_m"]),
        ("Memory [MiB]", 0, VALUES["memory_mib"]),
        ("Conv", 0, VALUES["convs"]),
    ]
    return [c for c in columns if any(c[2](e.row) is not None for e in group.entries)]


def _cells(row: BenchmarkRow, columns: Sequence[Tuple[str, int, Value]]) -> List[Tuple[str, str]]:
    """The number to sort by and the text of each cell; both empty where the value is missing."""
    cells = []
    for heading, digits, value_of in columns:
        value = value_of(row)
        if value is None:
            cells.append(("", ""))
            continue
        text = score_text(value) if heading in SCORES else f"{value:,.{digits}f}"
        mark = "*" if heading == "PSNR [dB]" and "tiled" in row.tiling else ""
        cells.append((repr(float(value)), text + mark))
    return cells


def _summary(
    rows: Sequence[BenchmarkRow], groups: Sequence[RowGroup], titles: Dict[str, str]
) -> Dict[str, Any]:
    days = sorted({row.date_utc[:10] for row in rows if row.date_utc})
    return {
        "networks": len({(e.row.model, e.row.variant) for g in groups for e in g.entries}),
        "measurements": sum(1 for row in rows if not row.error),
        "devices": list(dict.fromkeys(g.conditions.device for g in groups if g.conditions.device)),
        "days": " to ".join(dict.fromkeys([*days[:1], *days[-1:]])),
        "groups": [_glance(g, titles[g.id]) for g in groups],
    }


def _glance(group: RowGroup, title: str) -> Dict[str, Any]:
    timed = [(ms, e) for e in group.entries for ms in [time_ms(e.row)] if ms is not None]
    scored = [(db, e) for e in group.entries for db in [e.row.psnr_db] if db is not None]
    texts = {e.id: f"{short_number(ms)} ms" for ms, e in timed}
    return {
        "id": group.id,
        "title": title,
        "fastest": min(timed, key=lambda pair: pair[0])[1] if timed else None,
        "best": max(scored, key=lambda pair: pair[0])[1] if scored else None,
        "front": [
            (len(pareto_front(group.entries, axis)), len(cost_points(group.entries, axis)))
            for axis in cost_axes(group)
            if axis.of is time_ms
        ],
        "time": lambda entry: texts.get(entry.id, ""),
    }


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


def _gallery(number: int, crop_set: CropSet) -> Dict[str, Any]:
    top, left, height, width = crop_set.box_px
    tiles = []
    for crop in crop_set.crops:
        size = struct.unpack(">II", crop.png[16:24])  # in the first chunk of a PNG
        url = "data:image/png;base64," + base64.b64encode(crop.png).decode()
        tiles.append((crop, url, *size))
    return {
        "id": f"c{number}",
        "image": crop_set.image,
        "place": f"{height}×{width} pixels from row {top}, column {left}, x{crop_set.scale}",
        "metric": crop_set.metric,
        "tiles": tiles,
    }
