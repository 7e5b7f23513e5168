"""The charts of a group of rows: figures for papers, whose panels are the charts of the page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from sr_deploy.results.protocols import time_ms
from sr_deploy.results.report import drawing
from sr_deploy.results.report.drawing import COLOURS, MARKERS, Point, one_line, short_number
from sr_deploy.results.report.groups import (
    CostAxis,
    CostPoint,
    RowGroup,
    cost_axes,
    cost_points,
    pareto_front,
)
from sr_deploy.results.report.series import Curves, elastic_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_WIDTH, _PANEL_HEIGHT = 3.2, 2.75  # inches: on the page 8 points become 12 pixels
_MARK = {"ls": "none", "mfc": COLOURS["paper"], "mec": COLOURS["mark"], "mew": 0.9}
_BEST = {"ls": "none", "mfc": COLOURS["accent"], "mec": COLOURS["paper"], "mew": 0.6}


@dataclass
class Drawing:
    """A drawn figure with texts for the page. Parts of the figure are named by their `gid`."""

    figure: Figure
    descriptions: Dict[str, str] = field(default_factory=dict)
    """Of each panel, for screen readers."""
    titles: Dict[str, str] = field(default_factory=dict)
    """Of each mark, shown when the pointer is over it."""
    keys: Dict[str, str] = field(default_factory=dict)
    """Of each sample in the legend."""

    def panels(self, count: int) -> List[Any]:
        """Return new panels from left to right: `panel-0`, `panel-1`, ..."""
        panels = self.figure.subfigures(1, count, squeeze=False)[0]
        for i, panel in enumerate(panels):
            panel.set(gid=f"panel-{i}", facecolor="none")
        return list(panels)


def draw_figures(groups: Sequence[RowGroup]) -> Dict[str, Drawing]:
    """Return the figures of the groups, `g1-cost` and `g1-elastic`, where there is data for them.

    Raises MissingPackageError without matplotlib.
    """
    drawing.check_can_draw()
    figures: Dict[str, Drawing] = {}
    with drawing.drawing_style():
        for group in groups:
            for name, figure in (("cost", _draw_costs(group)), ("elastic", _draw_elastic(group))):
                if figure is not None:
                    figures[f"{group.id}-{name}"] = figure
    return figures


def figure_files(drawings: Dict[str, Drawing]) -> Dict[str, bytes]:
    """Return the figures as files by name: `g1-cost.png`, `g1-cost.svg`, ..."""
    return {
        f"{name}.{suffix}": drawing.figure_file(figure.figure, suffix)
        for name, figure in drawings.items()
        for suffix in ("png", "svg")
    }


def _draw_costs(group: RowGroup) -> Optional[Drawing]:
    """Draw PSNR against each cost, with the Pareto front and a line for each model and backend."""
    from matplotlib.lines import Line2D

    axes = cost_axes(group)
    if not axes:
        return None
    looks = _legend_looks(group)
    legend_height = 0.17 * -(-len(looks) // len(axes))
    size = _PANEL_WIDTH * len(axes), _PANEL_HEIGHT + legend_height
    figure = Drawing(drawing.new_figure(*size))
    charts = [panel.subplots() for panel in figure.panels(len(axes))]
    for i, (chart, axis) in enumerate(zip(charts, axes)):
        _plot_costs(chart, group, axis, figure.titles)
        figure.descriptions[f"panel-{i}"] = _describe_front(group, axis)
    legend = figure.figure.legend(
        handles=[Line2D([], [], **look) for look in looks.values()],
        labels=[one_line(text) for text in looks],
        loc="outside lower center",
        ncols=len(axes),
    )
    for i, (handle, text) in enumerate(zip(legend.legend_handles, looks)):
        handle.set_gid(f"key-{i}")
        figure.keys[f"key-{i}"] = text
    drawing.settle_layout(figure.figure)
    for chart, axis in zip(charts, axes):
        points = [p.xy for p in cost_points(group.entries, axis)]
        drawing.place_labels(chart, _cost_labels(group, axis), points)
    return figure


def _plot_costs(ax: Axes, group: RowGroup, axis: CostAxis, titles: Dict[str, str]) -> None:
    lines, markers = _line_styles(group), _markers(group)
    for (_, how), family in _families(group, axis).items():
        ax.plot(*zip(*(p.xy for p in family)), color=COLOURS["line"], ls=lines[how], lw=0.8)
    front = pareto_front(group.entries, axis)
    best = {p.entry.id for p in front}
    # The front is drawn last, on top.
    for p in sorted(cost_points(group.entries, axis), key=lambda p: p.entry.id in best):
        name, look = ("best", _BEST) if p.entry.id in best else ("mark", _MARK)
        gid = f"{name}-{axis.id}-{p.entry.id}"
        cost = f"{short_number(p.cost)} {axis.name}"
        titles[gid] = f"{p.entry.name}, {p.entry.how}: {p.psnr_db:.3f} dB, {cost}"
        ax.plot(*p.xy, marker=markers[p.entry.row.model], zorder=3, gid=gid, **look)
    drawing.use_log_x(ax, axis.name)
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


def _cost_labels(group: RowGroup, axis: CostAxis) -> List[Tuple[List[Point], str, str]]:
    """The variants on the front, best first, then each family at its best point with room."""
    labels = [
        ([p.xy], p.entry.row.variant or p.entry.row.model, COLOURS["accent"])
        for p in reversed(pareto_front(group.entries, axis))
    ]
    families = _families(group, axis)
    # The backends of a single model differ in latency only. With several models the line tells.
    by_backend = axis.of is time_ms and len({model for model, _ in families}) == 1
    names: Dict[str, List[CostPoint]] = {}
    for (model, how), points in families.items():
        names.setdefault(how if by_backend and len(families) > 1 else model, points)
    named = {text for _, text, _ in labels}  # a network without variants, on the front
    for name, points in names.items():
        if name in named:
            continue
        best_first = sorted(points, key=lambda p: -p.psnr_db)
        labels.append(([p.xy for p in best_first], name, COLOURS["ink"]))
    return labels


def _families(group: RowGroup, axis: CostAxis) -> Dict[Tuple[str, str], List[CostPoint]]:
    """The points of each model and backend, cheapest first."""
    families: Dict[Tuple[str, str], List[CostPoint]] = {}
    for p in cost_points(group.entries, axis):
        families.setdefault((p.entry.row.model, p.entry.how), []).append(p)
    return {key: sorted(points, key=lambda p: p.cost) for key, points in families.items()}


def _markers(group: RowGroup) -> Dict[str, str]:
    """The marker of each model, the same in all charts of a group."""
    models = dict.fromkeys(e.row.model for e in group.entries)
    return {model: MARKERS[i % len(MARKERS)] for i, model in enumerate(models)}


def _line_styles(group: RowGroup) -> Dict[str, object]:
    """The line of each backend and precision, the same in all charts of a group."""
    styles = drawing.LINE_STYLES
    hows = dict.fromkeys(e.how for e in group.entries)
    return {how: styles[min(i, len(styles) - 1)] for i, how in enumerate(hows)}


def _legend_looks(group: RowGroup) -> Dict[str, Dict[str, Any]]:
    """The front, the models by their markers and, if there are several, the backends by lines."""
    front = {"ls": ":", "color": COLOURS["accent"], "marker": "o", "ms": 4}
    looks: Dict[str, Dict[str, Any]] = {"Pareto front": front}
    looks.update({model: {**_MARK, "marker": m} for model, m in _markers(group).items()})
    lines = _line_styles(group)
    if len(lines) > 1:
        looks.update({how: {"ls": ls, "color": COLOURS["line"]} for how, ls in lines.items()})
    return looks


def _draw_elastic(group: RowGroup) -> Optional[Drawing]:
    """Draw PSNR and latency over the size: a panel for each model, a line for each backend."""
    models = elastic_curves(group)
    if not models:
        return None
    figure = Drawing(drawing.new_figure(_PANEL_WIDTH * len(models), 4.4))
    for i, (panel, model) in enumerate(zip(figure.panels(len(models)), models)):
        charts = [
            ("PSNR [dB]", model.psnr, "lower right"),
            ("Latency [ms]", model.latency, "upper left"),
        ]
        charts = [chart for chart in charts if chart[1]]
        texts = [model.model]
        axes = panel.subplots(len(charts), squeeze=False)[:, 0]
        for ax, (name, curves, legend_at) in zip(axes, charts):
            figure.titles.update(_plot_curves(ax, curves, f"mark-{i}-{name[0]}"))
            ax.set(xlabel=model.axis, ylabel=name)
            if len(curves) > 1:
                ax.legend(fontsize=6.5, loc=legend_at)
            texts.append(f"{name} over {model.axis}. {_describe_curves(curves)}")
        axes[0].set_title(one_line(model.model), fontsize=9)
        figure.descriptions[f"panel-{i}"] = ". ".join(texts)
    drawing.settle_layout(figure.figure)
    return figure


def _plot_curves(ax: Axes, curves: Curves, prefix: str) -> Dict[str, str]:
    """Plot the curves of one chart; return the titles of their marks."""
    titles = {}
    for i, (how, points) in enumerate(curves.items()):
        look = {"color": COLOURS["accent"], "marker": MARKERS[i % len(MARKERS)], "ms": 3.5}
        line = drawing.LINE_STYLES[i % len(drawing.LINE_STYLES)]
        ax.plot(*zip(*points), ls=line, label=one_line(how), **look)
        for size, value in points:
            gid = f"{prefix}-{i}-{size}"
            titles[gid] = f"{how}, {size}: {value:.2f}"
            ax.plot(size, value, ls="none", gid=gid, **look)
    ax.set_xticks(sorted({size for points in curves.values() for size, _ in points}))
    ax.margins(y=0.12)
    ax.locator_params(axis="y", nbins=5)
    return titles


def _describe_curves(curves: Curves) -> str:
    return "; ".join(
        f"{how}: " + ", ".join(f"{size} gives {short_number(value)}" for size, value in points)
        for how, points in curves.items()
    )
