"""The charts of a group of rows: figures for papers, whose panels are the charts of the page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.results.protocols import time_ms
from sr_deploy.results.report import drawing
from sr_deploy.results.report.drawing import (
    COLOURS,
    FAMILIES,
    MARKERS,
    Point,
    one_line,
    short_number,
)
from sr_deploy.results.report.groups import (
    CostAxis,
    CostPoint,
    RowGroup,
    cost_axes,
    cost_points,
    pareto_front,
)
from sr_deploy.results.report.int8_figure import (
    describe_int8_curves,
    int8_curves,
    plot_int8_curves,
)
from sr_deploy.results.report.series import Curves, elastic_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_WIDTH, _PANEL_HEIGHT = 3.2, 2.75  # inches: on the page 8 points become 12 pixels
_LEGEND_WIDTH = 1.8  # of a column in a wide panel
FRAMES_PER_SECOND = {60: "center", 30: "right", 24: "left"}
"""Rates of video, with the alignment that keeps their texts apart."""


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
    """Return the figures of the groups, `g1-cost`, `g1-elastic` and `g1-int8`, where there is data.

    Raises MissingPackageError without matplotlib.
    """
    drawing.check_can_draw()
    figures: Dict[str, Drawing] = {}
    with drawing.drawing_style():
        for group in groups:
            for name, draw in (
                ("cost", _draw_costs),
                ("elastic", _draw_elastic),
                ("int8", _draw_int8),
            ):
                figure = draw(group)
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
    """Draw PSNR against each cost."""
    axes = cost_axes(group)
    return _cost_figure(group, axes, (_PANEL_WIDTH, _PANEL_HEIGHT)) if axes else None


def latency_figure(group: RowGroup, panel_size: Tuple[float, float]) -> Drawing:
    """Return the chart of PSNR against latency alone. panel_size: width and height in inches.

    Raises MissingPackageError without matplotlib, InputError without two timed and scored rows.
    """
    return _one_cost(group, "latency", "a time", panel_size)


def executed_figure(group: RowGroup, panel_size: Tuple[float, float]) -> Drawing:
    """Return the chart of PSNR against the multiply-accumulates executed, as `latency_figure`.

    It has the slices of static networks, and a curve for each adaptive one: CDNSR's Fig. 1 and
    AdaDSR's Figs. 1d and 5.
    """
    return _one_cost(group, "executed", "executed multiply-accumulates", panel_size)


def _one_cost(group: RowGroup, cost: str, what: str, panel_size: Tuple[float, float]) -> Drawing:
    drawing.check_can_draw()
    axes = [axis for axis in cost_axes(group) if axis.id == cost]
    if not axes:
        raise InputError(f"fewer than two rows have both {what} and a PSNR")
    with drawing.drawing_style():
        return _cost_figure(group, axes, panel_size)


def _cost_figure(
    group: RowGroup, axes: Sequence[CostAxis], panel_size: Tuple[float, float]
) -> Drawing:
    """Draw PSNR against costs, with the Pareto front, and a line for each model, by each runtime.

    Colours are models and lines runtimes. Marks tell models too, or else precisions if the group
    has several.
    """
    from matplotlib.lines import Line2D

    looks = _legend_looks(group)
    columns = max(len(axes), int(panel_size[0] / _LEGEND_WIDTH))
    legend_height = 0.17 * -(-len(looks) // columns)
    size = panel_size[0] * len(axes), panel_size[1] + legend_height
    figure = Drawing(drawing.new_figure(*size))
    charts = [panel.subplots() for panel in figure.panels(len(axes))]
    for i, (chart, axis) in enumerate(zip(charts, axes)):
        _plot_costs(chart, group, axis, figure.titles)
        figure.descriptions[f"panel-{i}"] = _describe_front(group, axis)
    legend = figure.figure.legend(
        handles=[Line2D([], [], **look) for look in looks.values()],
        labels=[one_line(text) for text in looks],
        loc="outside lower center",
        ncols=columns,
    )
    for i, (handle, text) in enumerate(zip(legend.legend_handles, looks)):
        handle.set_gid(f"key-{i}")
        figure.keys[f"key-{i}"] = text
    drawing.settle_layout(figure.figure)
    for chart, axis in zip(charts, axes):
        points = [p.xy for p in cost_points(group, axis)]
        drawing.place_labels(chart, _cost_labels(group, axis), points)
    return figure


def _plot_costs(ax: Axes, group: RowGroup, axis: CostAxis, titles: Dict[str, str]) -> None:
    lines, looks = _line_styles(group), _looks(group)
    for family in _families(group, axis).values():
        entry = family[0].entry
        gid = f"curve-{axis.id}-{entry.id}"
        look = {"color": looks[entry.id]["color"], "ls": lines[entry.runtime], "lw": 0.8}
        ax.plot(*zip(*(p.xy for p in family)), gid=gid, **look)
    front = pareto_front(group, axis)
    best = {p.entry.id for p in front}
    # The front is drawn last, on top.
    for p in sorted(cost_points(group, axis), key=lambda p: p.entry.id in best):
        look = looks[p.entry.id]
        filled = p.entry.id in best
        gid = f"{'best' if filled else 'mark'}-{axis.id}-{p.entry.id}"
        cost = f"{short_number(p.cost)} {axis.name}"
        titles[gid] = f"{p.entry.name}, {p.entry.how}: {p.psnr_db:.3f} dB, {cost}"
        ax.plot(*p.xy, zorder=3, gid=gid, **{**look, "mfc": look["color"]} if filled else look)
    drawing.use_log_x(ax, axis.name)
    steps = [*(p.xy for p in front), (ax.get_xlim()[1], front[-1].psnr_db)]
    ax.step(
        *zip(*steps), where="post", color=COLOURS["ink"], lw=0.9, ls=":", gid=f"front-{axis.id}"
    )
    _draw_limits(ax, group, axis)
    ax.set_ylabel("PSNR [dB]")
    ax.locator_params(axis="y", nbins=5)


def _draw_limits(ax: Axes, group: RowGroup, axis: CostAxis) -> None:
    """Draw bicubic's PSNR, where the axis then starts, and the times of frames of video."""
    look = {"color": COLOURS["soft"], "lw": 0.7, "ls": (0, (5, 3)), "zorder": 1}
    low, high = ax.get_ylim()
    floor = group.bicubic_db
    if floor is not None and floor < high:
        low = floor - 0.04 * (high - floor)
        ax.axhline(floor, **look)
    ax.set_ylim(low, high)
    if axis.of is time_ms:
        left, right = ax.get_xlim()
        times = [(fps, 1000 * group.conditions.batch / fps) for fps in FRAMES_PER_SECOND]
        shown = [(fps, ms) for fps, ms in times if left < ms < right]
        for i, (fps, ms) in enumerate(shown):
            ax.axvline(ms, **look)
            text, ha = f"{fps}" if i else f"{fps} fps", FRAMES_PER_SECOND[fps]
            at = ax.get_xaxis_transform()
            ax.text(ms, 1.01, text, size=6, color=look["color"], ha=ha, transform=at)


def _describe_front(group: RowGroup, axis: CostAxis) -> str:
    front = "; ".join(
        f"{p.entry.name} ({p.entry.how}), {short_number(p.cost)}, {p.psnr_db:.2f} dB"
        for p in pareto_front(group, axis)
    )
    return f"PSNR against {axis.name}. On the Pareto front, cheapest first: {front}"


def _cost_labels(group: RowGroup, axis: CostAxis) -> List[Tuple[List[Point], str, str, str]]:
    """Bicubic, the variants on the front, best first, then each family where there is room."""
    looks, points = _looks(group), cost_points(group, axis)
    several = len(group.precisions) > 1
    labels: List[Tuple[List[Point], str, str, str]] = []
    if group.bicubic_db is not None:
        ends = sorted((p.cost, group.bicubic_db) for p in points)
        labels.append((ends[::-1], f"bicubic {group.bicubic_db:.2f}", COLOURS["soft"], ""))
    for p in reversed(pareto_front(group, axis)):
        text, colour = p.entry.row.variant or p.entry.row.model, looks[p.entry.id]["color"]
        text += f" {p.entry.precision}" if several else ""
        labels.append(([p.xy], text, colour, f"label-{axis.id}-{p.entry.id}"))
    named = {text for _, text, _, _ in labels}  # a network without variants, on the front
    families = _families(group, axis)
    # The backends of a single model differ in latency only. With several models the line tells.
    by_backend = axis.of is time_ms and len({name for name, _ in families}) == 1
    names: Dict[str, List[CostPoint]] = {}
    for (name, how), family in families.items():
        names.setdefault(how if by_backend and len(families) > 1 else name, family)
    for text, family in names.items():
        if text not in named:
            best_first = sorted(family, key=lambda p: -p.psnr_db)
            gid = f"name-{axis.id}-{best_first[0].entry.id}"
            colour = looks[best_first[0].entry.id]["color"]
            labels.append(([p.xy for p in best_first], text, colour, gid))
    return labels


def _families(group: RowGroup, axis: CostAxis) -> Dict[Tuple[str, str], List[CostPoint]]:
    """The points of each family and backend, cheapest first."""
    families: Dict[Tuple[str, str], List[CostPoint]] = {}
    for p in cost_points(group, axis):
        families.setdefault((p.entry.family, p.entry.how), []).append(p)
    return {key: sorted(points, key=lambda p: p.cost) for key, points in families.items()}


def _family_looks(group: RowGroup) -> Dict[str, Dict[str, Any]]:
    """The colour and marker of each family that is drawn, the same in all charts of a group."""
    below = {e.id for e in group.below_bicubic}
    drawn = [e for e in group.entries if e.row.psnr_db is not None and e.id not in below]
    return {
        name: {
            "color": FAMILIES[i % len(FAMILIES)],
            "marker": MARKERS[i % len(MARKERS)],
            "ls": "none",
            "mfc": COLOURS["paper"],
            "mew": 0.9,
        }
        for i, name in enumerate(dict.fromkeys(e.family for e in drawn))
    }


def _looks(group: RowGroup) -> Dict[str, Dict[str, Any]]:
    """The look of each entry, by its id: of its family, and of its precision if there are some."""
    families, marks = _family_looks(group), _precision_marks(group)
    return {
        e.id: {**families[e.family], **marks.get(e.precision, {})}
        for e in group.entries
        if e.family in families
    }


def _precision_marks(group: RowGroup) -> Dict[str, Dict[str, str]]:
    """The marker of each precision, highest first; empty where there is only one."""
    names = group.precisions
    if len(names) < 2:
        return {}
    known = drawing.PRECISION_MARKERS
    return {name: {"marker": known.get(name, MARKERS[-1])} for name in names}


def _line_styles(group: RowGroup) -> Dict[str, object]:
    """The line of each runtime, the same in all charts of a group."""
    styles = drawing.LINE_STYLES
    runtimes = dict.fromkeys(e.runtime for e in group.entries)
    return {name: styles[min(i, len(styles) - 1)] for i, name in enumerate(runtimes)}


def _legend_looks(group: RowGroup) -> Dict[str, Dict[str, Any]]:
    """The front and the families; if there are several, the precisions and the runtimes."""
    front = {"ls": ":", "color": COLOURS["ink"], "marker": "o", "ms": 4}
    looks: Dict[str, Dict[str, Any]] = {"Pareto front, filled": front}
    families, marks, lines = _family_looks(group), _precision_marks(group), _line_styles(group)
    for name, look in families.items():
        looks[name] = {"color": look["color"], "lw": 2.5} if marks else look
    hollow = {"ls": "none", "color": COLOURS["mark"], "mfc": COLOURS["paper"], "mew": 0.9}
    looks.update({name: {**hollow, **mark} for name, mark in marks.items()})
    if len(lines) > 1:
        hows = {} if marks else {e.runtime: e.how for e in group.entries}
        for name, line in lines.items():
            looks[hows.get(name, name)] = {"ls": line, "color": COLOURS["mark"]}
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


def _draw_int8(group: RowGroup) -> Optional[Drawing]:
    """Draw the loss over the layers that INT8 graphs keep: a panel for each model."""
    models = int8_curves(group)
    if not models:
        return None
    figure = Drawing(drawing.new_figure(_PANEL_WIDTH * len(models), _PANEL_HEIGHT))
    for i, (panel, (model, curves)) in enumerate(zip(figure.panels(len(models)), models.items())):
        ax = panel.subplots()
        figure.titles.update(plot_int8_curves(ax, curves, f"mark-int8{i}"))
        ax.set_title(one_line(model), fontsize=9)
        figure.descriptions[f"panel-{i}"] = f"{model}. {describe_int8_curves(curves)}"
    drawing.settle_layout(figure.figure)
    return figure


def _plot_curves(ax: Axes, curves: Curves, prefix: str) -> Dict[str, str]:
    """Plot the curves of one chart; return the titles of their marks."""
    titles = {}
    for i, (how, points) in enumerate(curves.items()):
        look: Dict[str, Any] = {
            "color": FAMILIES[i % len(FAMILIES)],
            "marker": MARKERS[i % len(MARKERS)],
        }
        look["ms"] = 3.5
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
