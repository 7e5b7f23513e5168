"""The report's charts once more as PNG and SVG files for a paper, by matplotlib."""

from __future__ import annotations

import io
from typing import Any, Dict, List, Sequence, Tuple

from sr_deploy.results.report.charts import elastic_curves
from sr_deploy.results.report.figure import check_can_draw, joined_labels
from sr_deploy.results.report.groups import (
    Axis,
    Entry,
    RowGroup,
    axes_of,
    front,
    group_rows,
    on_axis,
)
from sr_deploy.results.rows import BenchmarkRow

_ACCENT, _GREY, _MARKERS, _LINES = "#0b6a78", "0.55", "osD^vP", ("-", "--", "-.", (0, (1, 1)))


def paper_figures(rows: Sequence[BenchmarkRow]) -> Dict[str, bytes]:
    """Return `g1-cost.png`, `g1-cost.svg`, `g1-elastic.…` for each group of the report that has them; no date in any.

    Raises MissingPackageError without matplotlib.
    """
    check_can_draw()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    files: Dict[str, bytes] = {}
    with matplotlib.rc_context(
        {
            "svg.hashsalt": "srdeploy",
            "font.size": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        for group in group_rows(rows):
            axes, elastic = axes_of(group), elastic_curves(group)
            for name, columns, lines in (("cost", len(axes), 1), ("elastic", len(elastic), 2)):
                if columns == 0:
                    continue
                figure = Figure(figsize=(3.2 * columns, 2.6 * lines), layout="constrained")
                FigureCanvasAgg(figure)
                panels = figure.subplots(lines, columns, squeeze=False)
                if name == "cost":
                    for ax, axis in zip(panels[0], axes):
                        _draw_cost(ax, group, axis)
                    panels[0][0].set_ylabel("PSNR [dB]")
                    handles = dict(zip(*reversed(panels[0][0].get_legend_handles_labels())))
                    figure.legend(
                        handles.values(),
                        handles,
                        loc="outside lower center",
                        ncols=3,
                        frameon=False,
                        fontsize=7,
                    )
                else:
                    for pair, curves in zip(panels.T, elastic):
                        _draw_curves(pair[0], curves.psnr, curves.axis, "PSNR [dB]")
                        _draw_curves(pair[1], curves.latency, curves.axis, "Latency [ms]")
                        pair[0].set_title(curves.model)
                for suffix, options in (
                    ("png", {"dpi": 200}),
                    ("svg", {"metadata": {"Date": None}}),
                ):
                    buffer = io.BytesIO()
                    figure.savefig(buffer, format=suffix, **options)
                    files[f"{group.id}-{name}.{suffix}"] = buffer.getvalue()
    return files


def _draw_cost(ax: Any, group: RowGroup, axis: Axis) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    families: Dict[Tuple[str, str], List[Entry]] = {}
    for entry in group.entries:
        if on_axis(entry, axis):
            families.setdefault((entry.row.model, entry.how), []).append(entry)
    models, hows = (
        list(dict.fromkeys(values))
        for values in ([e.row.model for e in group.entries], [e.how for e in group.entries])
    )
    for (model, how), members in families.items():
        points = sorted((axis.of(e.row), e.row.psnr_db) for e in members)
        look = {
            "marker": _MARKERS[models.index(model) % len(_MARKERS)],
            "linestyle": _LINES[hows.index(how) % len(_LINES)],
        }
        ax.plot(
            *zip(*points),
            color=_GREY,
            markersize=4,
            markerfacecolor="white",
            linewidth=0.8,
            label=f"{model} ({how})",
            **look,
        )
    best = front(group.entries, axis)
    points = [(axis.of(e.row), e.row.psnr_db) for e in best]
    ax.step(*zip(*points), where="post", color=_ACCENT, linewidth=0.9, linestyle=":")
    ax.plot(
        *zip(*points),
        color=_ACCENT,
        marker="o",
        markersize=3,
        linestyle="none",
        label="Pareto front",
    )
    ax.set_xscale("log")
    ax.margins(x=0.12, y=0.1)
    named = [(x, y, entry.row.variant or entry.row.model) for entry, (x, y) in zip(best, points)]
    for x, y, text in joined_labels(named, ax.get_xlim(), ax.get_ylim()):
        ax.annotate(
            text,
            (x, y),
            xytext=(3, -3),
            textcoords="offset points",
            fontsize=6,
            color=_ACCENT,
            va="top",
        )
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(axis.name)
    ax.grid(True, color="0.92", linewidth=0.6)


def _draw_curves(ax: Any, curves: Sequence[Any], x_name: str, y_name: str) -> None:
    for i, curve in enumerate(curves):
        marker, line = _MARKERS[i % len(_MARKERS)], _LINES[i % len(_LINES)]
        ax.plot(
            *zip(*curve.points),
            color=_ACCENT,
            marker=marker,
            markersize=3,
            linewidth=0.9,
            linestyle=line,
            label=curve.how,
        )
    ax.set_xlabel(x_name[0].upper() + x_name[1:])
    ax.set_ylabel(y_name)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(True, color="0.92", linewidth=0.6)
    if curves:
        ax.legend(frameon=False, fontsize=5.5)
