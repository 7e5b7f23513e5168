"""The page's charts as SVG: PSNR against a cost, elastic curves, and how latencies spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from sr_deploy.results.protocols import time_ms
from sr_deploy.results.report.groups import Axis, Entry, RowGroup, front, on_axis
from sr_deploy.results.report.svg import (
    Places,
    Scale,
    figure,
    line,
    marker,
    padded,
    path,
    short,
    text_width,
    tick_text,
    words,
)
from sr_deploy.results.rows import BenchmarkRow

_WIDTH, _HEIGHT = 380.0, 330.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 10.0, 26.0, 44.0


def shapes_of(group: RowGroup) -> Dict[str, int]:
    """Return the marker of each model, the same in all charts of a group."""
    return {model: i for i, model in enumerate(dict.fromkeys(e.row.model for e in group.entries))}


def lines_of(group: RowGroup) -> Dict[str, str]:
    """Return the class of the line of each backend and precision, the same in all charts of a group; later ones are dashed."""
    return {
        how: f"family line{min(i, 3)}"
        for i, how in enumerate(dict.fromkeys(e.how for e in group.entries))
    }


def cost_chart(group: RowGroup, axis: Axis) -> str:
    """Draw PSNR against a cost, with the Pareto front; one line joins the variants of a model that one backend ran."""
    entries = [e for e in group.entries if on_axis(e, axis)]
    best = front(entries, axis)
    x = padded([axis.of(e.row) for e in entries], _LEFT, _WIDTH - _RIGHT, log=True)
    y = padded([e.row.psnr_db for e in entries], _HEIGHT - _BOTTOM, _TOP, room=0.1)
    parts = _frame(x, y, axis.name)

    families: Dict[Tuple[str, str], List[Entry]] = {}
    for entry in entries:
        families.setdefault((entry.row.model, entry.how), []).append(entry)
    lines = lines_of(group)
    for (_, how), members in families.items():
        members.sort(key=lambda e: axis.of(e.row))
        parts.append(path([(x(axis.of(e.row)), y(e.row.psnr_db)) for e in members], lines[how]))
    steps = []
    for before, entry in zip([None, *best], best):
        if before is not None:
            steps.append((x(axis.of(entry.row)), y(before.row.psnr_db)))
        steps.append((x(axis.of(entry.row)), y(entry.row.psnr_db)))
    parts.append(path([*steps, (_WIDTH - _RIGHT, steps[-1][1])], "front-line"))

    shapes, places = shapes_of(group), Places((_LEFT + 2, _TOP - 12, _WIDTH, _HEIGHT - _BOTTOM - 2))
    kept = {id(e) for e in best}
    for entry in sorted(entries, key=lambda e: id(e) in kept):  # the front is drawn last, on top
        at = x(axis.of(entry.row)), y(entry.row.psnr_db)
        places.take_point(*at)
        title = f"{entry.name}, {entry.how}: {entry.row.psnr_db:.3f} dB, {short(axis.of(entry.row))} {axis.name}"
        parts.append(
            marker(
                *at, shapes[entry.row.model], "mark best" if id(entry) in kept else "mark", title
            )
        )
    for entry in reversed(best):
        name = entry.row.variant or entry.row.model
        parts.append(
            places.label(x(axis.of(entry.row)), y(entry.row.psnr_db), name, cls="label best")
        )
    named: List[str] = []
    by_backend = (
        axis.of is time_ms and len({model for model, _ in families}) == 1
    )  # of several models the line's style tells it
    for (model, how), members in families.items():
        text = how if by_backend and len(families) > 1 else model
        if text not in named:
            named.append(text)
            at = [
                (x(axis.of(e.row)), y(e.row.psnr_db))
                for e in sorted(members, key=lambda e: -e.row.psnr_db)
            ]
            # At its highest point, or where there is room.
            parts.append(
                next(filter(None, (places.label(*point, text, cls="label") for point in at)), "")
            )
    name = f"PSNR against {axis.name}. On the Pareto front, cheapest first: " + "; ".join(
        f"{e.name} ({e.how}), {short(axis.of(e.row))}, {e.row.psnr_db:.2f} dB" for e in best
    )
    return figure(_WIDTH, _HEIGHT, parts, name=name)


def _frame(x: Scale, y: Scale, x_name: str) -> List[str]:
    parts = []
    for value in y.ticks(5):
        parts += [
            line(_LEFT, y(value), _WIDTH - _RIGHT, y(value), "grid"),
            words(_LEFT - 7, y(value) + 4, f"{value:g}", anchor="end"),
        ]
    bottom = _HEIGHT - _BOTTOM
    for value in x.ticks(5):
        parts += [
            line(x(value), bottom, x(value), bottom + 4, "axis"),
            words(x(value), bottom + 17, tick_text(value), anchor="middle"),
        ]
    parts.append(line(_LEFT, bottom, _WIDTH - _RIGHT, bottom, "axis"))
    parts.append(words(_WIDTH - _RIGHT, _HEIGHT - 6, x_name, cls="name", anchor="end"))
    parts.append(words(4, 12, "PSNR [dB]", cls="name"))
    return parts


@dataclass(frozen=True)
class Curve:
    """One network at all its sizes, as one backend ran it: (size, PSNR or latency)."""

    how: str
    label: str
    """What tells it from its neighbours in the chart; empty where nothing need."""
    points: Tuple[Tuple[int, float], ...]


@dataclass(frozen=True)
class ElasticCurves:
    """A model's curves over its size."""

    model: str
    axis: str
    psnr: Tuple[Curve, ...]
    latency: Tuple[Curve, ...]


_AXIS_NAMES = {"d": "depth [blocks]", "c": "core width", "b": "depth [blocks]"}


def elastic_curves(group: RowGroup) -> List[ElasticCurves]:
    """Return the curves of the models of which two or more sizes were measured in a group."""
    found: Dict[Tuple[str, str], Dict[Tuple[str, str], List[Entry]]] = {}
    for entry in group.entries:
        if entry.size is not None:
            how = (entry.how, " ".join(entry.size.tags))
            found.setdefault((entry.row.model, entry.size.axis), {}).setdefault(how, []).append(
                entry
            )
    elastic = []
    for (model, axis), by_how in found.items():
        psnr, latency = (_curves(by_how, value) for value in (lambda r: r.psnr_db, time_ms))
        if psnr or latency:
            elastic.append(ElasticCurves(model, _AXIS_NAMES.get(axis, "size"), psnr, latency))
    return elastic


def _curves(
    by_how: Dict[Tuple[str, str], List[Entry]], value: Callable[[BenchmarkRow], Optional[float]]
) -> Tuple[Curve, ...]:
    curves = []
    several = len({how for how, _ in by_how}) > 1
    for (how, tags), entries in by_how.items():
        best: Dict[int, float] = {}
        for entry in entries:
            if value(entry.row) is not None:
                best.setdefault(entry.size.size, value(entry.row))
        if best:
            full = f"{how} {tags}".strip()
            curves.append(Curve(full, full if several else tags, tuple(sorted(best.items()))))
    return tuple(curves) if any(len(c.points) > 1 for c in curves) else ()


def elastic_chart(curves: Sequence[Curve], x_name: str, y_name: str) -> str:
    """Draw one value of a model over its size, a line for each backend, named at its end. Curves in one place share a name."""
    width, height, top, bottom = 360.0, 216.0, 26.0, 40.0
    right = min(14 + max(text_width(c.label) for c in curves), 170.0)
    sizes = sorted({size for c in curves for size, _ in c.points})
    values = [v for c in curves for _, v in c.points]
    x = Scale(sizes[0], max(sizes[-1], sizes[0] + 1), 44.0, width - right)
    y = padded(values, height - bottom, top, room=0.1)
    parts = [words(4, 12, y_name, cls="name"), words(44, height - 4, x_name, cls="name")]
    for value in y.ticks(4):
        parts += [
            line(44, y(value), width - right, y(value), "grid"),
            words(37, y(value) + 4, tick_text(value), anchor="end"),
        ]
    for size in sizes:
        parts.append(words(x(size), height - 22, str(size), anchor="middle"))
    ends: List[Tuple[float, List[str]]] = []
    for curve in curves:
        points = [(x(s), y(v)) for s, v in curve.points]
        parts += [path(points, "curve")] + [
            marker(px, py, 0, "dot", f"{curve.how}, {s}: {v:.2f}")
            for (px, py), (s, v) in zip(points, curve.points)
        ]
        end = points[-1][1]
        near = next((names for at, names in ends if abs(at - end) < 3), None)
        if near is None:
            ends.append((end, [curve.label]))
        else:
            near.append(curve.label)
    parts += _named_ends(ends, width - right + 9, height - bottom)
    said = "; ".join(
        f"{c.how}: " + ", ".join(f"{s} gives {short(v)}" for s, v in c.points) for c in curves
    )
    return figure(width, height, parts, name=f"{y_name} over {x_name}. {said}")


def _named_ends(ends: Sequence[Tuple[float, List[str]]], x: float, bottom: float) -> List[str]:
    """Names at the ends of lines, moved apart where two would touch."""
    lines = [
        (at + 4 + 13 * i, name)
        for at, names in ends
        for i, name in enumerate(dict.fromkeys(n for n in names if n))
    ]
    lines.sort()
    placed: List[Tuple[float, str]] = []
    for at, name in lines:
        placed.append((max(at, placed[-1][0] + 13) if placed else at, name))
    over = max(placed[-1][0] - bottom - 4, 0) if placed else 0
    return [words(x, at - over, name, cls="label") for at, name in placed]


@dataclass(frozen=True)
class Strip:
    """One line of the chart of latencies, its marks in per cent of the width; drawn by the page, so that its type never shrinks."""

    entry: Entry
    time_ms: float
    middle: float
    percentiles: Tuple[Tuple[str, float, float], ...]
    """Name, milliseconds, place."""
    runs: Tuple[float, ...]


@dataclass(frozen=True)
class Strips:
    """How the latencies of a group spread, fastest first."""

    strips: Tuple[Strip, ...]
    ticks: Tuple[Tuple[str, float], ...]


def strips_of(group: RowGroup) -> Optional[Strips]:
    """Return the latencies of a group's networks on one logarithmic scale; None where none was timed."""
    timed = sorted(
        (e for e in group.entries if time_ms(e.row) is not None), key=lambda e: time_ms(e.row)
    )
    values = [
        v
        for e in timed
        for v in (time_ms(e.row), *(ms for _, ms in _percentiles(e.row)), *e.row.latencies_ms)
        if v > 0
    ]
    if not values:
        return None
    scale = padded(values, 1.0, 97.0, log=True, room=0.03)
    strips = tuple(
        Strip(
            e,
            time_ms(e.row),
            scale(time_ms(e.row)),
            tuple((name, ms, scale(ms)) for name, ms in _percentiles(e.row)),
            tuple(scale(ms) for ms in e.row.latencies_ms if ms > 0),
        )
        for e in timed
        if time_ms(e.row) > 0
    )
    return Strips(strips, tuple((tick_text(v), scale(v)) for v in scale.ticks(4)))


def _percentiles(row: BenchmarkRow) -> List[Tuple[str, float]]:
    named = (
        ("p50", row.latency_ms_median),
        ("p90", row.latency_ms_p90),
        ("p95", row.latency_ms_p95),
        ("p99", row.latency_ms_p99),
    )
    return [(name, ms) for name, ms in named if ms is not None and ms > 0]
