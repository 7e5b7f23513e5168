"""What our charts are drawn with: scales, ticks, markers, and labels that keep clear of each other. All returns SVG text.

Colours and type are the page's: elements carry classes, never a colour.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field
from typing import List, Sequence, Tuple

TEXT_PX = 12.0
_ADVANCE = 0.6
"""Mean width of a character in sizes of the type, of the widest of the common sans-serifs (DejaVu Sans)."""

Box = Tuple[float, float, float, float]


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int) -> List[float]:
        """Return round values inside the scale, about `wanted` of them."""
        return (
            _log_ticks(self.low, self.high, wanted)
            if self.log
            else _linear_ticks(self.low, self.high, wanted)
        )


def padded(
    values: Sequence[float], start: float, end: float, *, log: bool = False, room: float = 0.08
) -> Scale:
    """Return a scale that holds all values, with room beyond the outermost; values of a logarithmic one are positive."""
    if log:
        low, high = math.log(min(values)), math.log(max(values))
        gap = max((high - low) * room, 0.08)
        return Scale(math.exp(low - gap), math.exp(high + gap), start, end, log=True)
    low, high = min(values), max(values)
    gap = (high - low) * room or max(abs(high) * 0.01, 0.1)
    return Scale(low - gap, high + gap, start, end)


@dataclass
class Places:
    """The boxes (left, top, right, bottom) already taken in a chart, for labels to keep clear of."""

    inside: Box
    taken: List[Box] = field(default_factory=list)

    def take_point(self, x: float, y: float, *, radius: float = 5) -> None:
        self.taken.append((x - radius, y - radius, x + radius, y + radius))

    def label(
        self, x: float, y: float, text: str, *, cls: str = "label", size: float = TEXT_PX
    ) -> str:
        """Return a label beside the point (x, y), on the first side with room; empty where there is none."""
        width, height = text_width(text, size), size
        around = [
            (x + 8, y + 4, "start"),
            (x - 8, y + 4, "end"),
            (x, y - 9, "middle"),
            (x, y + 9 + height * 0.8, "middle"),
            (x + 7, y - 7, "start"),
            (x - 7, y - 7, "end"),
            (x + 7, y + 8 + height * 0.8, "start"),
            (x - 7, y + 8 + height * 0.8, "end"),
        ]
        for at_x, at_y, anchor in around:
            left = at_x - {"start": 0, "middle": width / 2, "end": width}[anchor]
            box = (left, at_y - height * 0.85, left + width, at_y + height * 0.2)
            if self._free(box):
                self.taken.append(box)
                return words(at_x, at_y, text, cls=cls, anchor=anchor)
        return ""

    def _free(self, box: Box) -> bool:
        left, top, right, bottom = self.inside
        if box[0] < left or box[1] < top or box[2] > right or box[3] > bottom:
            return False
        return all(
            box[2] <= b[0] or box[0] >= b[2] or box[3] <= b[1] or box[1] >= b[3] for b in self.taken
        )


def text_width(text: str, size: float = TEXT_PX) -> float:
    """Return about how many pixels the text is wide."""
    return len(text) * size * _ADVANCE


def words(x: float, y: float, text: str, *, cls: str = "tick", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}" text-anchor="{anchor}">{html.escape(text)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{cls}"/>'


def path(points: Sequence[Tuple[float, float]], cls: str) -> str:
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{cls}"/>'


_SHAPES = (
    "M-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0 -8.4 0z",
    "M-3.8 -3.8h7.6v7.6h-7.6z",
    "M0 -5.2L5.2 0L0 5.2L-5.2 0z",
    "M0 -5L4.8 3.6H-4.8z",
    "M0 5L4.8 -3.6H-4.8z",
    "M-1.6 -4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",
    "M0 -5L4.8 -1.5L2.9 4.1H-2.9L-4.8 -1.5z",
    "M-4.2 -4.6H4.2L-4.2 4.6H4.2z",
    "M0 -5.6L1.6 -1.6L5.6 0L1.6 1.6L0 5.6L-1.6 1.6L-5.6 0L-1.6 -1.6z",
    "M-4.6 -4.2V4.2L4.6 -4.2V4.2z",
)


def marker(x: float, y: float, shape: int, cls: str, title: str = "") -> str:
    """Return a mark at (x, y); shapes repeat after the tenth."""
    said = f"<title>{html.escape(title)}</title>" if title else ""
    return f'<path d="{_SHAPES[shape % len(_SHAPES)]}" transform="translate({x:.1f} {y:.1f})" class="{cls}">{said}</path>'


def figure(width: float, height: float, parts: Sequence[str], *, name: str) -> str:
    """Return a whole image that scales with the page; `name` is what a screen reader says in its place, empty for an ornament."""
    said = f'role="img" aria-label="{html.escape(name)}"' if name else 'aria-hidden="true"'
    return f'<svg viewBox="0 0 {width:g} {height:g}" {said}>{"".join(parts)}</svg>'


def tick_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def short(value: float) -> str:
    """Write a value in three or four digits, as many as a reader can use."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, min(4, 2 - math.floor(math.log10(abs(value)))))}f}"


def _linear_ticks(low: float, high: float, wanted: int) -> List[float]:
    rough = (high - low) / max(wanted, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float, wanted: int) -> List[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        found = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
        if len(found) >= min(wanted, 3):
            return found[:: math.ceil(len(found) / (2 * wanted))]
    return _linear_ticks(low, high, wanted)
