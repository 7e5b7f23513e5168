"""PSNR against parameters and multiply-accumulates: scores measured here beside those of papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, Iterable, List, Optional, Sequence, Tuple

from sr_deploy.results.columns import over
from sr_deploy.results.report.drawing import (
    MARKERS,
    check_can_draw,
    drawing_style,
    figure_file,
    new_figure,
    one_line,
    place_labels,
    settle_layout,
    use_log_x,
)
from sr_deploy.results.report.printed import printed_for, score_of
from sr_deploy.results.rows import BICUBIC, QualityRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MEASURED = ("tab:blue", "tab:orange", "tab:red", "tab:cyan", "tab:pink", "tab:olive")
_PAPERS = {"ASRN": "tab:green", "IMDeception": "tab:purple", "SRN": "tab:brown"}
_COSTS = ("parameters [K]", "multiply-accumulates at 256x256 [G]")

Look = Tuple[str, str]
"""Colour and marker."""


@dataclass(frozen=True)
class _Score:
    """One point, measured or printed."""

    series: str
    """Its name in the legend."""
    paper: str
    """Empty for a measured score."""
    label: str
    psnr_db: float
    costs: Tuple[Optional[float], Optional[float]]
    """In the order of _COSTS."""

    def at(self, chart: int) -> Tuple[float, float]:
        return self.costs[chart] or 0.0, self.psnr_db


def quality_figure(rows: Sequence[QualityRow]) -> Dict[str, bytes]:
    """Return `psnr.png` and `psnr.svg`: a line of two charts for each set, scale and metric.

    Measured scores are filled and joined by family (a model on a backend). Printed ones are hollow
    and not joined. Rows without PSNR or counts are left out, and so are the smaller sizes of
    ASRN (SS), 2 to 3 dB below all others. Raises MissingPackageError without matplotlib.
    """
    check_can_draw()
    panels: Dict[Tuple[object, ...], List[QualityRow]] = {}
    for row in rows:
        if row.backend != BICUBIC and row.psnr_db is not None and row.params is not None:
            key = row.set, row.scale, row.metric, row.degradation
            panels.setdefault(key, []).append(row)
    scores = [
        (members[0], [*map(_measured, members), *_printed(members[0])])
        for members in panels.values()
    ]
    looks = _looks(score for _, members in scores for score in members)
    lines = max(len(scores), 1)
    with drawing_style():
        figure = new_figure(10, 4 * lines + 0.2 * (2 + len(looks) // 3))
        axes = figure.subplots(lines, 2, squeeze=False, sharey="row")
        for charts, (first, members) in zip(axes, scores):
            for chart, ax in enumerate(charts):
                _plot(ax, chart, members, looks)
                suffix = "" if first.degradation == "bi" else f", {first.degradation}"
                ax.set_title(one_line(f"{first.set}, x{first.scale}{suffix}"))
            charts[0].set_ylabel(f"PSNR [dB], {first.metric}")
        handles = {
            name: handle
            for ax in figure.axes
            for handle, name in zip(*ax.get_legend_handles_labels())
        }
        if handles:
            names = [name for name in map(one_line, looks) if name in handles]
            samples = [handles[name] for name in names]
            figure.legend(samples, names, loc="outside lower center", ncols=3)
        else:
            axes[0][0].text(0.5, 0.5, "no row has both PSNR and counts", ha="center")
        settle_layout(figure)
        for charts, (_, members) in zip(axes, scores):
            for chart, ax in enumerate(charts):
                _label(ax, chart, members, looks)
        return {f"psnr.{suffix}": figure_file(figure, suffix) for suffix in ("png", "svg")}


def _measured(row: QualityRow) -> _Score:
    series = f"{row.model} ({row.backend}, measured)"
    costs = over(row.params, 1e3), row.macs_g
    return _Score(series, "", row.variant or row.model, row.psnr_db or 0.0, costs)


def _printed(row: QualityRow) -> List[_Score]:
    """The scores that papers print under the conditions of a row."""
    scores = []
    for printed in printed_for(
        row.set, scale=row.scale, metric=row.metric, degradation=row.degradation
    ):
        score = score_of(printed, row.set)
        if score is not None and (printed.series != "ASRN (SS)" or printed.label == "5B"):
            series = f"{printed.series} (printed, not measured)"
            costs = printed.params_k, printed.macs_g
            scores.append(_Score(series, printed.paper, "", score[0], costs))
    return scores


def _looks(scores: Iterable[_Score]) -> Dict[str, Look]:
    """The look of each series, measured ones first."""
    papers = {score.series: score.paper for score in scores}
    measured = [name for name, paper in papers.items() if not paper]
    looks = {
        name: (_MEASURED[i % len(_MEASURED)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(measured)
    }
    printed = [name for name, paper in papers.items() if paper]
    for i, name in enumerate(printed):
        looks[name] = _PAPERS[papers[name]], MARKERS[i % len(MARKERS)]
    return looks


def _by_series(scores: Sequence[_Score], chart: int) -> Dict[str, List[_Score]]:
    """The scores that have the chart's cost, cheapest first."""
    series: Dict[str, List[_Score]] = {}
    for score in sorted(scores, key=lambda score: score.at(chart)):
        if score.costs[chart] is not None:
            series.setdefault(score.series, []).append(score)
    return series


def _plot(ax: Axes, chart: int, scores: Sequence[_Score], looks: Dict[str, Look]) -> None:
    for name, members in _by_series(scores, chart).items():
        colour, marker = looks[name]
        look = {"color": colour, "marker": marker, "label": one_line(name)}
        xy = zip(*(score.at(chart) for score in members))
        if members[0].paper:
            ax.plot(*xy, **look, linestyle="none", markerfacecolor="none", zorder=2)
        else:
            ax.plot(*xy, **look, linewidth=1.5, zorder=3)
    use_log_x(ax, _COSTS[chart])
    ax.tick_params(labelleft=True)


def _label(ax: Axes, chart: int, scores: Sequence[_Score], looks: Dict[str, Look]) -> None:
    """Name the measured variants; of several in one place those that fit, the best first."""
    drawn = [s for members in _by_series(scores, chart).values() for s in members]
    best_first = sorted((s for s in drawn if not s.paper), key=lambda s: -s.psnr_db)
    labels = [([s.at(chart)], s.label, looks[s.series][0]) for s in best_first]
    place_labels(ax, labels, [s.at(chart) for s in drawn], size=7.5)
