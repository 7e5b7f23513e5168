"""PSNR against parameters and against multiply-accumulates: our points, and beside them what the papers printed."""

from __future__ import annotations

import io
from typing import Any, Dict, List, Sequence, Tuple

from sr_deploy.core.errors import MissingPackageError
from sr_deploy.core.rows import BICUBIC, QualityRow
from sr_deploy.report.printed import Printed, printed_for, score_of

_MARKERS = "os^Dvph*"
_LABEL = {"fontsize": 7.5, "ha": "center", "textcoords": "offset points"}


def check_can_draw() -> None:
    """Raise MissingPackageError without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise MissingPackageError("matplotlib", needed_for="drawing the figure", extra="report", cause=e) from e


def psnr_figure(rows: Sequence[QualityRow]) -> Dict[str, bytes]:
    """Return `psnr.png` and `psnr.svg`: a row of two panels for each set and scale. Raises MissingPackageError.

    Ours are filled and joined by family (a model on a backend), the papers' hollow and not joined. Rows without PSNR or counts
    are not drawn, and neither is what is left of ASRN (SS) without some of its blocks: 2 to 3 dB below all others.
    """
    check_can_draw()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ours = [r for r in rows if r.backend != BICUBIC and r.psnr_db is not None and r.params is not None]
    panels = list(dict.fromkeys((r.set, r.scale, r.metric, r.degradation) for r in ours))
    printed = {
        key: [p for p in printed_for(key[0], scale=key[1], metric=key[2], degradation=key[3]) if p.series != "ASRN (SS)" or p.label == "5B"]
        for key in panels
    }
    families = list(dict.fromkeys((r.model, r.backend) for r in ours))
    series = list(dict.fromkeys(p.series for points in printed.values() for p in points))
    colours = [*matplotlib.color_sequences["tab10"]] if hasattr(matplotlib, "color_sequences") else [f"C{i}" for i in range(10)]
    style_of = {f: (colours[i % 10], _MARKERS[i % len(_MARKERS)]) for i, f in enumerate(families)}
    printed_style = {s: (colours[(i + len(families)) % 10], _MARKERS[i % len(_MARKERS)]) for i, s in enumerate(series)}

    height = 4.0 * max(len(panels), 1)
    legend = 0.3 + 0.22 * -(-(len(families) + len(series)) // 3)  # inches, three columns
    with matplotlib.rc_context({"svg.hashsalt": "srdeploy", "font.size": 9, "svg.fonttype": "path"}):
        figure = Figure(figsize=(10, height + legend), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(max(len(panels), 1), 2, squeeze=False)
        handles: Dict[str, Any] = {}
        for (left, right), key in zip(axes, panels):
            name, scale, metric, degradation = key
            here = [r for r in ours if (r.set, r.scale, r.metric, r.degradation) == key]
            for ax, what in ((left, "params"), (right, "macs")):
                for p_series in series:
                    points = [(_printed_x(p, what), score_of(p, name)[0]) for p in printed[key] if p.series == p_series]
                    points = [p for p in points if p[0] is not None]
                    if points:
                        colour, marker = printed_style[p_series]
                        drawn = ax.scatter(
                            *zip(*points), s=34, marker=marker, facecolors="none", edgecolors=[colour], linewidths=1.1, zorder=2
                        )
                        handles.setdefault(f"{p_series} (printed, not measured)", drawn)
                for family in families:
                    curve = sorted(
                        (_x(r, what), r.psnr_db, r.variant) for r in here if (r.model, r.backend) == family and _x(r, what) is not None
                    )
                    if not curve:
                        continue
                    colour, marker = style_of[family]
                    (line,) = ax.plot(
                        [c[0] for c in curve], [c[1] for c in curve], "-", marker=marker, color=colour, ms=6, lw=1.5, zorder=3
                    )
                    handles.setdefault(f"{family[0]} ({family[1]}, measured)", line)
                    for x, y, text in _labels(curve):
                        ax.annotate(text, (x, y), xytext=(0, -12), color=colour, **_LABEL)
                _dress(ax)
            title = f"{name}, x{scale}" + ("" if degradation == "bi" else f", {degradation}")
            left.set(xlabel="parameters [K]", ylabel=f"PSNR [dB], {metric}", title=title)
            right.set(xlabel="multiply-accumulates at 256x256 [G]", ylabel=f"PSNR [dB], {metric}", title=title)
            right.set_ylim(left.get_ylim())
        if handles:
            ordered = sorted(handles, key=lambda text: "printed" in text)  # ours first
            figure.legend([handles[t] for t in ordered], ordered, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        else:
            axes[0][0].text(0.5, 0.5, "nothing to draw: no row has PSNR and counts", ha="center", transform=axes[0][0].transAxes)
        files = {}
        for suffix, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, **options)
            files[f"psnr.{suffix}"] = buffer.getvalue()
    return files


def _x(row: QualityRow, what: str) -> Any:
    if what == "params":
        return None if row.params is None else row.params / 1e3
    return row.macs_g


def _printed_x(row: Printed, what: str) -> Any:
    return row.params_k if what == "params" else row.macs_g


def _labels(curve: Sequence[Tuple[float, float, str]]) -> List[Tuple[float, float, str]]:
    """Points at nearly the same place share one label, under the lowest."""
    labels: List[Tuple[float, float, str]] = []
    for x, y, text in curve:
        if labels and x < 1.05 * labels[-1][0] and abs(y - labels[-1][1]) < 0.3:
            labels[-1] = labels[-1][0], min(y, labels[-1][1]), f"{labels[-1][2]}, {text}"
        else:
            labels.append((x, y, text))
    return labels


def _dress(ax: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set_xscale("log")
    ax.margins(x=0.08, y=0.1)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(True, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
