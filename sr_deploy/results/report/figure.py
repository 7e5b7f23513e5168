"""PSNR against parameters and against multiply-accumulates: our points, and beside them what the papers printed."""

from __future__ import annotations

import io
import math
from typing import Any, Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import MissingPackageError
from sr_deploy.results.report.printed import Printed, printed_for, score_of
from sr_deploy.results.rows import BICUBIC, QualityRow

_OURS = ("tab:blue", "tab:orange", "tab:red", "tab:cyan", "tab:pink", "tab:olive")
_PAPERS = {"ASRN": "tab:green", "IMDeception": "tab:purple", "SRN": "tab:brown"}
_MARKERS = "os^Dvph*<>"
Point = Tuple[float, float, str]


def check_can_draw() -> None:
    """Raise MissingPackageError without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise MissingPackageError(
            "matplotlib", needed_for="drawing the figure", extra="report", cause=e
        ) from e


def psnr_figure(rows: Sequence[QualityRow]) -> Dict[str, bytes]:
    """Return `psnr.png` and `psnr.svg`: a row of two panels for each set and scale. Raises MissingPackageError.

    Ours are filled and joined by family (a model on a backend), the papers' hollow and not joined. Rows without PSNR or counts
    are not drawn, and neither is what is left of ASRN (SS) without some of its blocks: 2 to 3 dB below all others.
    """
    check_can_draw()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ours = [
        r for r in rows if r.backend != BICUBIC and r.psnr_db is not None and r.params is not None
    ]
    panels = list(dict.fromkeys((r.set, r.scale, r.metric, r.degradation) for r in ours))
    printed = {
        panel: [
            p
            for p in printed_for(panel[0], scale=panel[1], metric=panel[2], degradation=panel[3])
            if _is_drawn(p)
        ]
        for panel in panels
    }
    families = list(dict.fromkeys(_family(r) for r in ours))
    series = {p.series: p.paper for points in printed.values() for p in points}
    styles = {
        name: (_OURS[i % len(_OURS)], _MARKERS[i % len(_MARKERS)])
        for i, name in enumerate(families)
    }
    styles.update(
        {
            name: (_PAPERS[paper], _MARKERS[i % len(_MARKERS)])
            for i, (name, paper) in enumerate(series.items())
        }
    )

    lines = max(len(panels), 1)
    legend_in = 0.3 + 0.22 * math.ceil(len(styles) / 3)
    with matplotlib.rc_context({"svg.hashsalt": "srdeploy", "font.size": 9}):
        figure = Figure(figsize=(10, 4 * lines + legend_in), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(lines, 2, squeeze=False, sharey="row")
        handles: Dict[str, Any] = {}
        for pair, panel in zip(axes, panels):
            name, scale, metric, degradation = panel
            here = [r for r in ours if (r.set, r.scale, r.metric, r.degradation) == panel]
            for ax, x_of, x_label in zip(
                pair,
                (_params_k, _macs_g),
                ("parameters [K]", "multiply-accumulates at 256x256 [G]"),
            ):
                handles.update(_draw(ax, here, printed[panel], name, x_of=x_of, styles=styles))
                ax.set(
                    xlabel=x_label,
                    title=f"{name}, x{scale}" + ("" if degradation == "bi" else f", {degradation}"),
                )
            pair[0].set_ylabel(f"PSNR [dB], {metric}")
        if handles:
            names = [
                n
                for n in (*families, *(f"{s} (printed, not measured)" for s in series))
                if n in handles
            ]
            figure.legend(
                [handles[n] for n in names],
                names,
                loc="outside lower center",
                ncols=3,
                frameon=False,
                fontsize=8,
            )
        else:
            axes[0][0].text(
                0.5,
                0.5,
                "no row has both PSNR and counts",
                ha="center",
                transform=axes[0][0].transAxes,
            )
        files = {}
        for suffix, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, **options)
            files[f"psnr.{suffix}"] = buffer.getvalue()
    return files


def _draw(
    ax: Any,
    ours: Sequence[QualityRow],
    printed: Sequence[Printed],
    name: str,
    *,
    x_of: Any,
    styles: dict,
) -> Dict[str, Any]:
    """Draw one panel; return the artists by what the legend calls them."""
    handles: Dict[str, Any] = {}
    curves: Dict[str, List[Point]] = {}
    for series in dict.fromkeys(p.series for p in printed):
        points = [
            (x_of(p), score_of(p, name)[0])
            for p in printed
            if p.series == series and x_of(p) is not None
        ]
        if points:
            colour, marker = styles[series]
            look = {"facecolors": "none", "edgecolors": colour, "linewidths": 1.1, "zorder": 2}
            handles[f"{series} (printed, not measured)"] = ax.scatter(
                *zip(*points), s=34, marker=marker, **look
            )
    for row in ours:
        if x_of(row) is not None:
            curves.setdefault(_family(row), []).append(
                (x_of(row), row.psnr_db, row.variant or row.model)
            )
    for family, curve in curves.items():
        curve.sort()
        colour, marker = styles[family]
        x, y, _ = zip(*curve)
        handles[family] = ax.plot(
            x, y, marker=marker, color=colour, markersize=6, linewidth=1.5, zorder=3
        )[0]
    _dress(ax)
    for i, (family, curve) in enumerate(curves.items()):
        offset = (0, -13) if i % 2 == 0 else (0, 7)  # two families often lie close
        for x, y, text in joined_labels(curve, ax.get_xlim(), ax.get_ylim()):
            ax.annotate(
                text,
                (x, y),
                xytext=offset,
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=styles[family][0],
            )
    return handles


def joined_labels(
    curve: Sequence[Point], xlim: Tuple[float, float], ylim: Tuple[float, float]
) -> List[Point]:
    """Points in one place share a label; one that would touch its larger neighbour's has none."""
    width, height = math.log(xlim[1] / xlim[0]), ylim[1] - ylim[0]
    places: List[Point] = []
    for x, y, text in curve:
        if (
            places
            and math.log(x / places[-1][0]) < 0.015 * width
            and abs(y - places[-1][1]) < 0.03 * height
        ):
            places[-1] = places[-1][0], places[-1][1], f"{places[-1][2]}, {text}"
        else:
            places.append((x, y, text))
    kept: List[Point] = []
    for place in reversed(places):
        if (
            not kept
            or math.log(kept[-1][0] / place[0]) > 0.04 * width
            or abs(kept[-1][1] - place[1]) > 0.07 * height
        ):
            kept.append(place)
    return kept


def _dress(ax: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set_xscale("log")
    ax.margins(x=0.08, y=0.12)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(labelleft=True)
    ax.grid(True, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _family(row: QualityRow) -> str:
    return f"{row.model} ({row.backend}, measured)"


def _is_drawn(row: Printed) -> bool:
    return row.series != "ASRN (SS)" or row.label == "5B"


def _params_k(row: Any) -> Optional[float]:
    return row.params_k if isinstance(row, Printed) else row.params / 1e3


def _macs_g(row: Any) -> Optional[float]:
    return row.macs_g
