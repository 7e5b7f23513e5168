"""One self-contained HTML page from rows and crops: nothing on it is fetched, and nothing of a row is taken as markup."""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import sr_deploy
from sr_deploy.core.errors import InputError, MissingPackageError
from sr_deploy.results.columns import VALUES, Value
from sr_deploy.results.crops import CropSet, MethodCrop
from sr_deploy.results.protocols import score_text, time_ms
from sr_deploy.results.report.drawing import check_can_draw, short_number
from sr_deploy.results.report.figures import Drawing, draw_figures
from sr_deploy.results.report.groups import (
    Entry,
    RowGroup,
    cost_axes,
    cost_points,
    group_rows,
    pareto_front,
    rank_changes,
)
from sr_deploy.results.report.notes import conditions_of, machine, receipt_of, remarks_of
from sr_deploy.results.report.page_svg import PageCharts, page_charts
from sr_deploy.results.report.series import LatencyStrips, latency_strips
from sr_deploy.results.rows import BenchmarkRow

_PAGE = Path(__file__).resolve().parent / "page"


def check_can_render() -> None:
    """Raise MissingPackageError without jinja2 or matplotlib."""
    check_can_draw()
    try:
        import jinja2  # noqa: F401
    except ImportError as e:
        raise MissingPackageError(
            "jinja2", needed_for="writing the report", extra="report", cause=e
        ) from e


def report_html(
    rows: Sequence[BenchmarkRow],
    crops: Sequence[CropSet] = (),
    *,
    drawings: Optional[Dict[str, Drawing]] = None,
) -> str:
    """Return the page. Rows of two protocols, devices, inputs or sets never share a ranking.

    drawings: the figures of the rows' groups, where they are drawn already.
    Raises InputError without rows and crops, MissingPackageError without jinja2 or matplotlib.
    """
    check_can_render()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    if not rows and not crops:
        raise InputError(
            "the files hold no rows, and there is nothing to report",
            hint="measure something with srdeploy bench -o DIR",
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
        version=sr_deploy.__version__,
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


@dataclass(frozen=True)
class SortableColumn:
    """A column of the table that the page sorts."""

    heading: str
    digits: int
    value: Value

    def sort_key(self, row: BenchmarkRow) -> str:
        """Return the number to sort by, empty where the row has none."""
        value = self.value(row)
        return "" if value is None else repr(float(value))

    def text(self, row: BenchmarkRow) -> str:
        value = self.value(row)
        if value is None:
            return ""
        return score_text(value) if self.heading == "Score" else f"{value:,.{self.digits}f}"


def _columns(group: RowGroup) -> List[SortableColumn]:
    """The columns that have a value in at least one row."""

    def flops(counter: str) -> Value:
        return lambda r: r.macs_g if r.counter == counter else None

    def executed(share: str) -> Value:
        return lambda r: 100 * r.executed[share] if r.executed else None

    columns = [
        SortableColumn("PSNR [dB]", 3, VALUES["psnr_db"]),
        SortableColumn("SSIM", 4, VALUES["ssim"]),
        SortableColumn("Time [ms]", 2, time_ms),
        SortableColumn("Score", 2, VALUES["score"]),
        SortableColumn("p95 [ms]", 2, VALUES["p95_ms"]),
        SortableColumn("Params [M]", 3, VALUES["params_m"]),
        *(SortableColumn(f"FLOPs [G], {c}", 2, flops(c)) for c in group.counters),
        SortableColumn("FLOPs [G] as deployed", 2, VALUES["deployed_g"]),
        SortableColumn("Executed, timed input [%]", 1, executed("timed_share")),
        SortableColumn("Executed, scored set [%]", 1, executed("share")),
        SortableColumn("Acts [M]", 1, VALUES["acts_m"]),
        SortableColumn("Memory [MiB]", 0, VALUES["memory_mib"]),
        SortableColumn("Conv", 0, VALUES["convs"]),
    ]
    return [c for c in columns if any(c.value(e.row) is not None for e in group.entries)]


@dataclass(frozen=True)
class Section:
    """What the page says of one group."""

    group: RowGroup
    title: str
    conditions: Tuple[Tuple[str, str], ...]
    remarks: Tuple[str, ...]
    legend: Tuple[Tuple[str, str], ...]
    """Text and SVG."""
    charts: Tuple[Tuple[str, str], ...]
    """Title and SVG."""
    elastic: Tuple[str, ...]
    """SVG."""
    strips: Optional[LatencyStrips]
    columns: Tuple[SortableColumn, ...]
    order: Tuple[Entry, ...]
    """Fastest first."""
    on_front: Dict[str, bool]
    """By entry: whether it is on the Pareto front of PSNR and latency."""
    receipts: Tuple[Tuple[Entry, Tuple[Tuple[str, str], ...]], ...]


def _section(group: RowGroup, title: str, drawings: Dict[str, Drawing]) -> Section:
    axes = cost_axes(group)
    cost, elastic = (
        page_charts(drawings[name]) if name in drawings else PageCharts((), ())
        for name in (f"{group.id}-cost", f"{group.id}-elastic")
    )
    best = {
        p.entry.id for axis in axes if axis.of is time_ms for p in pareto_front(group.entries, axis)
    }
    order = sorted(group.entries, key=lambda e: (time_ms(e.row) is None, time_ms(e.row) or 0.0))
    titles = [f"PSNR against {axis.subject}" for axis in axes]
    return Section(
        group=group,
        title=title,
        conditions=tuple(conditions_of(group)),
        remarks=tuple(remarks_of(group)),
        legend=cost.legend,
        charts=tuple(zip(titles, cost.panels)),
        elastic=elastic.panels,
        strips=latency_strips(group),
        columns=tuple(_columns(group)),
        order=tuple(order),
        on_front={e.id: e.id in best for e in order},
        receipts=tuple((e, tuple(receipt_of(e.row))) for e in order),
    )


def _summary(
    rows: Sequence[BenchmarkRow], groups: Sequence[RowGroup], titles: Dict[str, str]
) -> Dict[str, Any]:
    days = sorted({row.date_utc[:10] for row in rows if row.date_utc})
    return {
        "networks": len({(e.row.model, e.row.variant) for g in groups for e in g.entries}),
        "models": len({e.row.model for g in groups for e in g.entries}),
        "measurements": sum(1 for row in rows if not row.error),
        "devices": list(dict.fromkeys(g.conditions.device for g in groups if g.conditions.device)),
        "days": days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else "",
        "groups": [_at_a_glance(g, titles[g.id]) for g in groups],
    }


def _at_a_glance(group: RowGroup, title: str) -> Dict[str, Any]:
    timed = [e for e in group.entries if time_ms(e.row) is not None]
    scored = [e for e in group.entries if e.row.psnr_db is not None]
    axes = [axis for axis in cost_axes(group) if axis.of is time_ms]
    return {
        "id": group.id,
        "title": title,
        "count": len(group.entries),
        "fastest": min(timed, key=lambda e: time_ms(e.row) or 0.0) if timed else None,
        "best": max(scored, key=lambda e: e.row.psnr_db or 0.0) if scored else None,
        "front": [
            (len(pareto_front(group.entries, axis)), len(cost_points(group.entries, axis)))
            for axis in axes
        ],
        "time": _time_text,
    }


def _time_text(entry: Entry) -> str:
    ms = time_ms(entry.row)
    return "" if ms is None else f"{short_number(ms)} ms"


def _titles(groups: Sequence[RowGroup]) -> Dict[str, str]:
    """A heading for each group, which names the machine where there are several."""
    machines = {g.id: machine(g.conditions) for g in groups}
    several = len(set(machines.values())) > 1
    return {
        g.id: ", ".join(p for p in (_title(g), machines[g.id] if several else "") if p)
        for g in groups
    }


def _title(group: RowGroup) -> str:
    row = group.conditions
    parts = [
        row.set,
        f"x{row.scale}" if row.scale else "",
        f"{'×'.join(map(str, row.input_hw))} input" if row.input_hw else "",
        f"batch {row.batch}" if row.batch != 1 else "",
        f"{row.protocol} protocol",
        f"{row.cadence_hz:g} Hz" if row.cadence_hz else "",
    ]
    return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Gallery:
    """The crops of one image, as data URLs."""

    id: str
    image: str
    place: str
    metric: str
    tiles: Tuple[Tuple[MethodCrop, str, int, int], ...]
    """MethodCrop, data URL, width and height in pixels."""


def _gallery(number: int, crop_set: CropSet) -> Gallery:
    top, left, height, width = crop_set.box_px
    tiles = tuple(
        (
            crop,
            "data:image/png;base64," + base64.b64encode(crop.png).decode(),
            *struct.unpack(">II", crop.png[16:24]),
        )
        for crop in crop_set.crops
    )  # the size stands in a PNG's first chunk
    place = f"{height}×{width} pixels from row {top}, column {left}, x{crop_set.scale}"
    return Gallery(f"c{number}", crop_set.image, place, crop_set.metric, tiles)
