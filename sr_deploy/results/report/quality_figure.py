"""PSNR against parameters and multiply-accumulates: scores measured here beside those of papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from sr_deploy.results.columns import over
from sr_deploy.results.precisions import has_several_precisions, precision_of
from sr_deploy.results.report import drawing
from sr_deploy.results.report.drawing import MARKERS, one_line
from sr_deploy.results.report.printed import printed_for
from sr_deploy.results.reproduction import set_key
from sr_deploy.results.rows import BICUBIC, QualityRow
from sr_deploy.results.slips import slips_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MEASURED = ("tab:blue", "tab:orange", "tab:red", "tab:cyan", "tab:pink", "tab:olive")
_PAPERS = {"ASRN": "tab:green", "IMDeception": "tab:purple", "SRN": "tab:brown"}
_COSTS = ("parameters [K]", "multiply-accumulates at 256x256 [G]")


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

    def xy(self, chart: int) -> Tuple[float, float]:
        return self.costs[chart] or 0.0, self.psnr_db


def quality_figure(rows: Sequence[QualityRow]) -> Dict[str, bytes]:
    """Return `psnr.png` and `psnr.svg`: two charts for each set, scale, metric and degradation.

    Measured scores are filled and joined by family (a model on a backend). Printed ones are hollow
    and not joined. Rows without PSNR or counts are left out. Raises MissingPackageError without
    matplotlib.
    """
    drawing.check_can_draw()
    panels: Dict[Tuple[Any, ...], List[_Score]] = {}
    several = has_several_precisions(rows)
    for row in rows:
        if row.backend != BICUBIC and row.psnr_db is not None and row.params is not None:
            name = f"{row.model} {precision_of(row)}" if several else row.model
            family = f"{name} ({row.backend}, measured)"
            costs = over(row.params, 1e3), row.macs_g
            score = _Score(family, "", row.variant or row.model, row.psnr_db, costs)
            panel = row.set, row.scale, row.metric, row.degradation
            panels.setdefault(panel, []).append(score)
    for panel, scores in panels.items():
        scores += _printed(*panel)
    looks = _looks([score for scores in panels.values() for score in scores])
    with drawing.drawing_style():
        height = 4 * max(len(panels), 1) + 0.2 * (2 + len(looks) // 3)
        figure = drawing.new_figure(10, height)
        axes = figure.subplots(max(len(panels), 1), 2, squeeze=False, sharey="row")
        charts = [
            (ax, [s for s in scores if s.costs[chart] is not None], chart)
            for line, scores in zip(axes, panels.values())
            for chart, ax in enumerate(line)
        ]
        handles: Dict[str, Any] = {}
        for ax, scores, chart in charts:
            handles.update(_plot(ax, scores, chart, looks))
        for line, (name, scale, metric, degradation) in zip(axes, panels):
            suffix = "" if degradation == "bi" else f", {degradation}"
            for ax in line:
                ax.set_title(one_line(f"{name}, x{scale}{suffix}"))
            line[0].set_ylabel(f"PSNR [dB], {metric}")
        if handles:
            names = [name for name in looks if name in handles]
            samples, texts = [handles[name] for name in names], list(map(one_line, names))
            figure.legend(samples, texts, loc="outside lower center", ncols=3)
        else:
            axes[0][0].text(0.5, 0.5, "no row has both PSNR and counts", ha="center")
        drawing.settle_layout(figure)
        for ax, scores, chart in charts:
            best_first = sorted((s for s in scores if not s.paper), key=lambda s: -s.psnr_db)
            labels = [([s.xy(chart)], s.label, looks[s.series]["color"], "") for s in best_first]
            drawing.place_labels(ax, labels, [s.xy(chart) for s in scores], size=7.5)
        return {f"psnr.{kind}": drawing.figure_file(figure, kind) for kind in ("png", "svg")}


def printed_notes(rows: Sequence[QualityRow]) -> List[str]:
    """Return the notes on the printed numbers in the figure of these rows: of tables and papers."""
    panels = dict.fromkeys((r.set, r.scale, r.metric, r.degradation) for r in rows)
    shown = [row for panel in panels for row in printed_for(*panel)]
    slips = slips_in({row.paper for row in shown})
    return list(dict.fromkeys([*(row.note for row in shown), *map(str, slips)]))


def _printed(set_name: str, scale: Optional[int], metric: str, degradation: str) -> List[_Score]:
    """The scores that papers print under the same conditions."""
    scores = []
    for row in printed_for(set_name, scale, metric, degradation):
        series = f"{row.series} (printed, not measured)"
        psnr_db, _ = row.scores[set_key(set_name)]
        scores.append(_Score(series, row.paper, "", psnr_db, (row.params_k, row.macs_g)))
    return scores


def _looks(scores: Sequence[_Score]) -> Dict[str, Dict[str, Any]]:
    """How each series is drawn, measured ones first."""
    papers = {score.series: score.paper for score in scores}
    looks: Dict[str, Dict[str, Any]] = {}
    for i, name in enumerate(name for name, paper in papers.items() if not paper):
        colour = _MEASURED[i % len(_MEASURED)]
        looks[name] = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "zorder": 3}
    for i, (name, paper) in enumerate((n, paper) for n, paper in papers.items() if paper):
        look = {"color": _PAPERS[paper], "marker": MARKERS[i % len(MARKERS)]}
        looks[name] = {**look, "ls": "none", "mfc": "none", "zorder": 2}
    return looks


def _plot(
    ax: Axes, scores: Sequence[_Score], chart: int, looks: Dict[str, Dict[str, Any]]
) -> Dict[str, Any]:
    """Plot the scores that have the chart's cost; return the artists by series."""
    handles = {}
    for name in dict.fromkeys(score.series for score in scores):
        points = sorted(s.xy(chart) for s in scores if s.series == name)
        (handles[name],) = ax.plot(*zip(*points), **looks[name])
    drawing.use_log_x(ax, _COSTS[chart])
    ax.tick_params(labelleft=True)
    return handles
