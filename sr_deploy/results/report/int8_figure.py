"""What INT8 graphs lose against how many of their layers are kept in floating point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from sr_deploy.results.report import drawing
from sr_deploy.results.report.drawing import COLOURS, FAMILIES, one_line
from sr_deploy.results.report.groups import Entry, RowGroup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = Tuple[int, float]
"""Layers kept, and the loss in dB."""


def int8_curves(group: RowGroup) -> Dict[str, List[Tuple[Entry, List[Point]]]]:
    """Return the curves of each model, by the entries whose graphs have one of two points or more.

    The losses were measured by the export, with the pictures for calibration.
    """
    curves: Dict[str, List[Tuple[Entry, List[Point]]]] = {}
    for e in group.entries:
        points = sorted((p["kept"], p["loss_db"]) for p in (e.row.int8 or {}).get("curve", ()))
        if len(points) > 1:
            curves.setdefault(e.row.model, []).append((e, points))
    return curves


def plot_int8_curves(
    ax: Axes, curves: List[Tuple[Entry, List[Point]]], prefix: str
) -> Dict[str, str]:
    """Plot the curves of one model, the chosen point filled; return the titles of the marks.

    Colours are variants and lines runtimes.
    """
    variants = list(dict.fromkeys(e.row.variant for e, _ in curves))
    runtimes = list(dict.fromkeys(e.runtime for e, _ in curves))
    titles = {}
    for e, points in curves:
        colour = FAMILIES[variants.index(e.row.variant) % len(FAMILIES)]
        line = drawing.LINE_STYLES[runtimes.index(e.runtime) % len(drawing.LINE_STYLES)]
        name = " ".join(filter(None, (e.row.variant, e.runtime if len(runtimes) > 1 else "")))
        ax.plot(*zip(*points), color=colour, ls=line, lw=0.8, label=one_line(name) or "network")
        chosen = _chosen(e)
        for kept, loss_db in points:
            gid = f"{prefix}-{e.id}-{kept}"
            titles[gid] = f"{e.name}, {e.runtime}, {kept} layers kept: {loss_db:.3f} dB lost"
            face = colour if kept == chosen else COLOURS["paper"]
            ax.plot(kept, loss_db, "o", color=colour, mfc=face, ms=3.5, gid=gid)
    limits = [(e.row.int8 or {}).get("max_loss_db") for e, _ in curves]
    for limit in sorted({limit for limit in limits if isinstance(limit, (int, float))}):
        ax.axhline(limit, color=COLOURS["soft"], lw=0.7, ls=(0, (5, 3)), zorder=1)
    ax.set(xlabel="Layers kept in floating point", ylabel="Loss [dB]")
    ax.legend(fontsize=6.5, loc="best")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return titles


def describe_int8_curves(curves: List[Tuple[Entry, List[Point]]]) -> str:
    """Return the curves in words."""
    return "; ".join(
        f"{e.name} ({e.runtime}): "
        + ", ".join(f"{kept} kept lose {loss_db:.3f} dB" for kept, loss_db in points)
        for e, points in curves
    )


def _chosen(entry: Entry) -> Optional[int]:
    """The number of layers that the measured graph keeps."""
    record: Dict[str, Any] = entry.row.int8 or {}
    kept: Optional[int] = record.get("kept")
    return kept
