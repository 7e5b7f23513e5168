"""The charts of a group of rows, drawn once: each figure is a file for a paper, its panels are the page's charts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from sr_deploy.results.protocols import time_ms
from sr_deploy.results.report.drawing import (
    COLOURS,
    LINE_STYLES,
    MARKERS,
    check_can_draw,
    drawing_style,
    figure_file,
    new_figure,
    one_line,
    place_labels,
    settle_layout,
    short_number,
    use_log_x,
)
from sr_deploy.results.report.groups import (
    CostAxis,
    CostPoint,
    RowGroup,
    cost_axes,
    cost_points,
    pareto_front,
)
from sr_deploy.results.report.series import SizeCurve, elastic_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_PANEL_WIDTH, _PANEL_HEIGHT = 3.2, 2.75  # inches: on the page 8 points become 12 pixels


@dataclass
class Drawing:
    """A drawn figure, and what the page says of its parts. Parts are named by their `gid`."""

    figure: Figure
    descriptions: Dict[str, str] = field(default_factory=dict)
    """For a screen reader, of each panel."""
    titles: Dict[str, str] = field(default_factory=dict)
    """Shown when the pointer is over a mark."""
    keys: Dict[str, str] = field(default_factory=dict)
    """The texts of the legend, by their samples."""


def draw_figures(groups: Sequence[RowGroup]) -> Dict[str, Drawing]:
    """Return the figures of the groups: `g1-cost` and `g1-elastic`, where there is something to draw.

    Raises MissingPackageError without matplotlib.
    """
    check_can_draw()
    drawings: Dict[str, Drawing] = {}
    with drawing_style():
        for group in groups:
            for name, drawing in (("cost", _cost(group)), ("elastic", _elastic(group))):
                if drawing is not None:
                    drawings[f"{group.id}-{name}"] = drawing
    return drawings


def figure_files(drawings: Dict[str, Drawing]) -> Dict[str, bytes]:
    """Return the figures as files by name: `g1-cost.png`, `g1-cost.svg`, ..."""
    return {
        f"{name}.{suffix}": figure_file(drawing.figure, suffix)
        for name, drawing in drawings.items()
        for suffix in ("png", "svg")
    }


def _cost(group: RowGroup) -> Optional[Drawing]:
    """PSNR against each cost, with the Pareto fronts; a line joins the variants that one backend ran."""
    axes = cost_axes(group)
    if not axes:
        return None
    columns = len(axes)
    keys = _legend_keys(group)
    legend_height = 0.17 * -(-len(keys) // columns)
    drawing = Drawing(new_figure(_PANEL_WIDTH * columns, _PANEL_HEIGHT + legend_height))
    panels = drawing.figure.subfigures(1, columns, squeeze=False)[0]
    plots: List[Axes] = []
    for i, (panel, axis) in enumerate(zip(panels, axes)):
        panel.set(gid=f"panel-{i}", facecolor="none")
        ax = panel.subplots()
        _plot_cost(ax, group, axis, drawing.titles)
        drawing.descriptions[f"panel-{i}"] = _describe_front(group, axis)
        plots.append(ax)
    legend = drawing.figure.legend(
        handles=[_sample(look) for look in keys.values()],
        labels=[one_line(text) for text in keys],
        loc="outside lower center",
        ncols=columns,
    )
    for i, (handle, text) in enumerate(zip(legend.legend_handles, keys)):
        handle.set_gid(f"key-{i}")
        drawing.keys[f"key-{i}"] = text
    settle_layout(drawing.figure)
    for ax, axis in zip(plots, axes):
        points = cost_points(group.entries, axis)
        place_labels(ax, _cost_labels(group, axis), [p.xy for p in points])
    return drawing


def _plot_cost(ax: Axes, group: RowGroup, axis: CostAxis, titles: Dict[str, str]) -> None:
    lines, markers = _line_styles(group), _markers(group)
    for (_, how), family in _families(group, axis).items():
        ax.plot(*zip(*(p.xy for p in family)), color=COLOURS["line"], ls=lines[how], lw=0.8)
    points, front = cost_points(group.entries, axis), pareto_front(group.entries, axis)
    on_front = {p.entry.id for p in front}
    for p in sorted(points, key=lambda p: p.entry.id in on_front):  # the front is drawn on top
        best = p.entry.id in on_front
        gid = f"{'best' if best else 'mark'}-{axis.id}-{p.entry.id}"
        titles[gid] = (
            f"{p.entry.name}, {p.entry.how}: {p.psnr_db:.3f} dB, {short_number(p.cost)} {axis.name}"
        )
        ax.plot(
            *p.xy,
            ls="none",
            marker=markers[p.entry.row.model],
            mfc=COLOURS["accent" if best else "paper"],
            mec=COLOURS["paper" if best else "mark"],
            mew=0.6 if best else 0.9,
            zorder=3,
            gid=gid,
        )
    use_log_x(ax, axis.name)
    steps = [*(p.xy for p in front), (ax.get_xlim()[1], front[-1].psnr_db)]
    ax.step(*zip(*steps), where="post", color=COLOURS["accent"], lw=0.9, ls=":")
    ax.set_ylabel("PSNR [dB]")
    ax.locator_params(axis="y", nbins=5)


def _describe_front(group: RowGroup, axis: CostAxis) -> str:
    front = "; ".join(
        f"{p.entry.name} ({p.entry.how}), {short_number(p.cost)}, {p.psnr_db:.2f} dB"
        for p in pareto_front(group.entries, axis)
    )
    return f"PSNR against {axis.name}. On the Pareto front, cheapest first: {front}"


def _cost_labels(
    group: RowGroup, axis: CostAxis
) -> List[Tuple[List[Tuple[float, float]], str, str]]:
    """The variants on the front, best first, then the families: at their best point with room."""
    labels = [
        ([p.xy], p.entry.row.variant or p.entry.row.model, COLOURS["accent"])
        for p in reversed(pareto_front(group.entries, axis))
    ]
    families = _families(group, axis)
    # Of one model only the backends differ, and only in latency. Of several the line tells them.
    by_backend = axis.of is time_ms and len({model for model, _ in families}) == 1
    names: Dict[str, List[CostPoint]] = {}
    for (model, how), points in families.items():
        names.setdefault(how if by_backend and len(families) > 1 else model, points)
    for name, points in names.items():
        best_first = sorted(points, key=lambda p: -p.psnr_db)
        labels.append(([p.xy for p in best_first], name, COLOURS["ink"]))
    return labels


def _families(group: RowGroup, axis: CostAxis) -> Dict[Tuple[str, str], List[CostPoint]]:
    families: Dict[Tuple[str, str], List[CostPoint]] = {}
    for p in sorted(cost_points(group.entries, axis), key=lambda p: p.cost):
        families.setdefault((p.entry.row.model, p.entry.how), []).append(p)
    order = dict.fromkeys((e.row.model, e.how) for e in group.entries)
    return {key: families[key] for key in order if key in families}


def _markers(group: RowGroup) -> Dict[str, str]:
    """The marker of each model, the same in all charts of a group."""
    models = dict.fromkeys(e.row.model for e in group.entries)
    return {model: MARKERS[i % len(MARKERS)] for i, model in enumerate(models)}


def _line_styles(group: RowGroup) -> Dict[str, object]:
    """The line of each backend and precision, the same in all charts of a group."""
    hows = dict.fromkeys(e.how for e in group.entries)
    return {how: LINE_STYLES[min(i, len(LINE_STYLES) - 1)] for i, how in enumerate(hows)}


def _legend_keys(group: RowGroup) -> Dict[str, Dict[str, Any]]:
    """The looks of the legend: the front, models by their markers, several backends by their lines."""
    mark = {"ls": "none", "mfc": COLOURS["paper"], "mec": COLOURS["mark"], "mew": 0.9}
    keys: Dict[str, Dict[str, Any]] = {
        "Pareto front": {"ls": ":", "color": COLOURS["accent"], "marker": "o", "ms": 4}
    }
    keys.update({model: {**mark, "marker": m} for model, m in _markers(group).items()})
    lines = _line_styles(group)
    if len(lines) > 1:
        keys.update({how: {"ls": ls, "color": COLOURS["line"]} for how, ls in lines.items()})
    return keys


def _sample(look: Dict[str, Any]) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], **look)


def _elastic(group: RowGroup) -> Optional[Drawing]:
    """PSNR and latency over the size, a panel for each elastic model, a line for each backend."""
    models = elastic_curves(group)
    if not models:
        return None
    drawing = Drawing(new_figure(_PANEL_WIDTH * len(models), 2 * 2.2))
    panels = drawing.figure.subfigures(1, len(models), squeeze=False)[0]
    for i, (panel, model) in enumerate(zip(panels, models)):
        panel.set(gid=f"panel-{i}", facecolor="none")
        charts = [
            ("PSNR [dB]", model.psnr, "lower right"),
            ("Latency [ms]", model.latency, "upper left"),
        ]
        charts = [chart for chart in charts if chart[1]]
        descriptions = []
        rows = panel.subplots(len(charts), squeeze=False)[:, 0]
        for ax, (name, curves, legend) in zip(rows, charts):
            _plot_curves(ax, curves, f"{i}-{name[0]}", drawing.titles, legend=legend)
            ax.set(xlabel=model.axis, ylabel=name)
            descriptions.append(f"{name} over {model.axis}. {_describe_curves(curves)}")
        panel.axes[0].set_title(one_line(model.model), fontsize=9)
        drawing.descriptions[f"panel-{i}"] = f"{model.model}: {' '.join(descriptions)}"
    settle_layout(drawing.figure)
    return drawing


def _plot_curves(
    ax: Axes, curves: Sequence[SizeCurve], prefix: str, titles: Dict[str, str], *, legend: str
) -> None:
    for i, curve in enumerate(curves):
        look = {"color": COLOURS["accent"], "marker": MARKERS[i % len(MARKERS)], "ms": 3.5}
        line = LINE_STYLES[i % len(LINE_STYLES)]
        ax.plot(*zip(*curve.points), ls=line, label=one_line(curve.how), **look)
        for size, value in curve.points:
            gid = f"mark-{prefix}-{i}-{size}"
            titles[gid] = f"{curve.how}, {size}: {value:.2f}"
            ax.plot(size, value, ls="none", gid=gid, **look)
    ax.set_xticks(sorted({size for curve in curves for size, _ in curve.points}))
    ax.margins(y=0.12)
    ax.locator_params(axis="y", nbins=5)
    if len(curves) > 1:
        ax.legend(fontsize=6.5, loc=legend)


def _describe_curves(curves: Sequence[SizeCurve]) -> str:
    return "; ".join(
        f"{c.how}: " + ", ".join(f"{size} gives {short_number(v)}" for size, v in c.points)
        for c in curves
    )
