"""How every figure is drawn by matplotlib: its style, its files, and labels that overlap nothing.

matplotlib is imported by the functions, because the package runs without it.
"""

from __future__ import annotations

import importlib
import io
import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Dict, Iterable, Iterator, List, Sequence, Tuple

from sr_deploy.core.errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The page replaces each colour by the variable of its theme, so no two may be equal.
COLOURS: Dict[str, str] = {
    "paper": "#ffffff",
    "ink": "#1c1f22",
    "soft": "#5a6168",
    "mark": "#8b9298",
    "line": "#b4b9bc",
    "faint": "#d9d8d2",
    "hair": "#ebe9e3",
    "accent": "#0b6a78",
    "family0": "#1f5fbf",
    "family1": "#b05400",
    "family2": "#237a30",
    "family3": "#b0408f",
    "family4": "#6a4fc0",
    "family5": "#c23b3b",
    "family6": "#7a5a2b",
    "family7": "#5f6c10",
}
FAMILIES = tuple(colour for name, colour in COLOURS.items() if name.startswith("family"))
LINE_STYLES = ("-", (0, (4, 2.5)), (0, (1, 1.6)), (0, (6, 2, 1, 2)))
MARKERS = "osD^vPp*<>"
PRECISION_MARKERS = {"fp32": "o", "fp16": "D", "bf16": "s", "int8": "^", "fp8": "v"}
"""Of points where networks in several precisions are drawn."""
POINTS_PER_INCH = 72
"""The resolution of SVG and of the layout: extents are in points."""

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "srdeploy",
    "text.parse_math": False,
    "font.size": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["faint"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": COLOURS["hair"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "lines.markersize": 5,
    "xtick.color": COLOURS["faint"],
    "ytick.color": COLOURS["faint"],
    "xtick.labelcolor": COLOURS["soft"],
    "ytick.labelcolor": COLOURS["soft"],
}
_LABEL_SIDES = (
    ((0, 5), "center", "bottom"),
    ((5, 0), "left", "center"),
    ((-5, 0), "right", "center"),
    ((0, -5), "center", "top"),
    ((4, 4), "left", "bottom"),
    ((-4, 4), "right", "bottom"),
    ((4, -4), "left", "top"),
    ((-4, -4), "right", "top"),
)
"""Offset from the point, in typographic points, and the alignment of the text."""

Point = Tuple[float, float]


def check_can_draw() -> None:
    """Raise MissingPackageError without matplotlib."""
    require_package("matplotlib", needed_for="drawing figures")


def require_package(package: str, *, needed_for: str) -> None:
    """Raise MissingPackageError if a package of the extra `report` cannot be imported."""
    try:
        importlib.import_module(package)
    except ImportError as e:
        raise MissingPackageError(package, needed_for=needed_for, cause=e) from e


@contextmanager
def drawing_style() -> Iterator[None]:
    """Set the style of all figures. It is needed while they are drawn and while they are saved."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a name in a script without a font
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, with matplotlib's constrained layout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=POINTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def settle_layout(figure: Figure) -> None:
    """Lay the figure out and freeze the result, so that labels can be placed by their extents."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")


def figure_file(figure: Figure, suffix: str) -> bytes:
    """Return the figure as a `png` or `svg` file, reproducible because it has no date."""
    buffer = io.BytesIO()
    with drawing_style():
        if suffix == "svg":
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        else:
            figure.savefig(buffer, format=suffix, dpi=200)
    return buffer.getvalue()


def use_log_x(ax: Axes, name: str) -> None:
    """Make the x axis logarithmic with round ticks. Call it when everything is plotted."""
    from matplotlib.ticker import NullFormatter

    ax.set_xscale("log")
    ax.margins(x=0.1, y=0.12)
    ax.autoscale_view()
    ax.autoscale(False)
    ticks = log_ticks(*ax.get_xlim())
    ax.set_xticks(ticks, [tick_text(tick) for tick in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(which="minor", length=0)
    ax.set_xlabel(name)


def log_ticks(low: float, high: float) -> List[float]:
    """Return round values between two positive ones: powers of ten where at least four fit."""
    from matplotlib.ticker import LogLocator

    ticks: List[float] = []
    for multiples, enough in (
        ((1.0,), 4),
        ((1.0, 2.0, 5.0), 2),
        ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), 0),
    ):
        values = LogLocator(subs=multiples).tick_values(low, high)
        ticks = [round(float(v), 10) for v in values if low <= v <= high]
        if len(ticks) >= enough:
            break
    return ticks


def tick_text(value: float) -> str:
    """Return the text of a tick: 12,000 or 0.5."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def short_number(value: float) -> str:
    """Return a value with three or four digits."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, min(4, 2 - math.floor(math.log10(abs(value)))))}f}"


def one_line(text: str) -> str:
    """Return a name as a figure can hold it: without line breaks and control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def place_labels(
    ax: Axes,
    labels: Iterable[Tuple[Sequence[Point], str, str, str]],
    marks: Iterable[Point],
    *,
    size: float = 6.5,
) -> None:
    """Write labels beside points, where they overlap no mark, no other label and no border.

    labels: the points that a label may stand at, best first, its text, its colour and its gid.
    Earlier labels take precedence. One that fits nowhere is left out. The layout must be settled.
    """
    from matplotlib.transforms import Bbox

    taken = [
        Bbox.from_extents(x - 4, y - 4, x + 4, y + 4)
        for x, y in (ax.transData.transform(mark) for mark in marks)
    ]
    border = ax.get_window_extent()
    for points, text, colour, gid in labels:
        places = [(point, *side) for point in points for side in _LABEL_SIDES]
        for point, offset, ha, va in places:
            label = ax.annotate(
                one_line(text),
                point,
                offset,
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=size,
                color=colour,
                bbox={"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 0.4},
                zorder=4,
                gid=gid or None,
            )
            box = label.get_window_extent()
            if (
                border.x0 <= box.x0
                and box.x1 <= border.x1
                and border.y0 <= box.y0
                and box.y1 <= border.y1
                and not box.count_overlaps(taken)
            ):
                taken.append(box.padded(1))
                break
            label.remove()
