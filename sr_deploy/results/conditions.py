"""The conditions that the numbers of rows hold for: what was measured, on what, by what and how."""

from __future__ import annotations

from typing import Callable, Dict, List, Sequence, Tuple

from sr_deploy.results.columns import label, labels
from sr_deploy.results.protocols import protocol_of
from sr_deploy.results.rows import BenchmarkRow, text_of

_STATISTIC = {
    "median": "median of the timed runs",
    "mean": "plain mean over the images, one run each, the first one included",
}


def images_text(row: BenchmarkRow, split: str) -> str:
    """Return the set of a split, valid or test, with its number of images; empty without a set."""
    name = row.set if split == "valid" else row.test_set
    count = sum(image["split"] == split for image in row.images)
    return f"{name} ({count})" if name else ""


def tiling_text(tiling: str) -> str:
    """Return how images were evaluated. * marks tiles, whose scores are not exact."""
    return f"* {tiling}" if "tiled" in tiling else tiling


def _device(row: BenchmarkRow) -> str:
    return row.device + (f", {row.threads} threads" if row.threads else "")


def _software(row: BenchmarkRow) -> str:
    return f"{row.backend} {row.backend_version}" + (f" ({row.settings})" if row.settings else "")


_CONDITIONS: Tuple[Tuple[str, Callable[[BenchmarkRow], str]], ...] = (
    ("images", lambda r: images_text(r, "valid")),
    ("test images", lambda r: images_text(r, "test")),
    ("PSNR, SSIM", lambda r: f"{r.metric}, border {r.border_px}" if r.metric else ""),
    ("evaluated", lambda r: tiling_text(r.tiling)),
    (
        "counted",
        lambda r: (
            f"{r.counter} at {text_of(r.counted_hw)}, multiply-accumulates" if r.counter else ""
        ),
    ),
    ("† not counted", lambda r: ""),
    (
        "deployed",
        lambda r: (
            "the same count of the graph that runs, after its exact rewrites" if r.deployed else ""
        ),
    ),
    ("time", lambda r: f"{r.protocol}: {_STATISTIC[protocol_of(r).statistic]}"),
    ("runs", lambda r: ""),
    ("frames", lambda r: f"one by one, {r.cadence_hz:g} a second" if r.cadence_hz else ""),
    (
        "timed by",
        lambda r: (
            r.timer + (" (copies apart)" if r.copies_ms is not None else "") if r.timer else ""
        ),
    ),
    ("memory", lambda r: r.mem_definition),
    ("device", _device),
    ("software", _software),
)


def conditions(rows: Sequence[BenchmarkRow]) -> List[Tuple[str, List[str]]]:
    """Return the conditions by name, each with its values: several where rows differ."""
    of_all = {"† not counted": _uncounted(rows), "runs": [_runs(rows)]}
    values = [
        (name, of_all.get(name) or list(dict.fromkeys(filter(None, map(text, rows)))))
        for name, text in _CONDITIONS
    ]
    return [(name, texts) for name, texts in values if texts]


def condition_notes(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Return the notes below a table: a line for each condition, then the rows' warnings."""
    notes = [f"{name}: {'; '.join(texts)}" for name, texts in conditions(rows)]
    return notes + [f"note: {warning}" for warning in _warnings(rows)]


def _uncounted(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Each operator that is not counted, with the networks that have it where not all do."""
    owners: Dict[str, List[str]] = {}
    for row in rows:
        for name in row.uncounted or {}:
            owners.setdefault(name, []).append(label(row))
    everywhere = {label(r) for r in rows}
    return [
        name + ("" if set(who) == everywhere else f" ({', '.join(dict.fromkeys(who))})")
        for name, who in owners.items()
    ]


def _warnings(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Each warning, with the rows that have it where not all do."""
    owners: Dict[str, List[str]] = {}
    for row, name in zip(rows, labels(rows)):
        for warning in row.warnings:
            owners.setdefault(warning, []).append(name)
    return [
        warning + ("" if len(who) == len(rows) else f" ({', '.join(who)})")
        for warning, who in owners.items()
    ]


def _runs(rows: Sequence[BenchmarkRow]) -> str:
    warmup, timed = (
        sorted({n for n in counts if n is not None}) or [0]
        for counts in ([r.warmup for r in rows], [r.runs for r in rows])
    )
    return f"{_span(warmup)} warm-up; {_span(timed)} timed"


def _span(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
