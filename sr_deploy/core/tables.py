"""Tables as the NTIRE efficient super-resolution challenge and the papers print them, from rows only."""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.rows import BICUBIC, BenchmarkRow, QualityRow

# Heading, and what a row shows under it. Time is the median; FLOPs are multiply-accumulates.
_COLUMNS: Tuple[Tuple[str, Callable[[BenchmarkRow], str]], ...] = (
    ("Model", lambda r: f"{r.model}.{r.variant}" if r.variant else r.model),
    ("Backend", lambda r: r.backend),
    ("From", lambda r: r.artifact.rpartition(".")[2] or "checkpoint"),
    (
        "Precision",
        lambda r: r.precision if r.precision_asked in ("", r.precision) else f"{r.precision} ({r.precision_asked} asked)",
    ),
    ("PSNR [dB]", lambda r: _number(r.psnr_db, 3) + ("*" if "tiled" in r.tiling else "")),
    ("SSIM", lambda r: _number(r.ssim, 4)),
    ("Input", lambda r: "x".join(map(str, r.input_hw)) if r.input_hw else ""),
    ("Time [ms]", lambda r: _number(r.latency_ms_median, 2)),
    ("p95 [ms]", lambda r: _number(r.latency_ms_p95, 2)),
    ("#Params [M]", lambda r: _number(_over(r.params, 1e6), 3)),
    ("FLOPs [G]", lambda r: _number(r.macs_g, 2)),
    ("#Acts [M]", lambda r: _number(r.acts_m, 2)),
    ("Mem [MiB]", lambda r: _number(r.mem_peak_mib, 1)),
    ("#Conv", lambda r: "" if r.convs is None else str(r.convs)),
)

_DEGRADED = {
    "bi": "bi: MATLAB's bicubic",
    "bd": "bd: Gaussian 7x7, sigma 1.6, every third pixel",
    "dn": "dn: bicubic, then noise of sigma 30, seeded by the file's name",
}


def ntire_table(rows: Sequence[BenchmarkRow]) -> str:
    """Return a Markdown table of the rows, the conditions they share below it, and those that could not run with the reason."""
    measured = [r for r in rows if not r.error]
    lines: List[str] = []
    if measured:
        lines += markdown([h for h, _ in _COLUMNS], [[cell(r) for _, cell in _COLUMNS] for r in measured])
        lines += [""] + _conditions(measured)
    for row in (r for r in rows if r.error):
        lines.append(f"not run: {row.artifact or f'{row.model}.{row.variant}'} ({row.backend}): {row.error}")
    return "\n".join(lines)


def quality_table(rows: Sequence[QualityRow]) -> str:
    """Return a Markdown table per scale and metric, a column per set as in ASRN's Table 5, bicubic first, conditions below."""
    scored = [r for r in rows if not r.error]
    sets = list(dict.fromkeys(r.set for r in scored))
    tables: Dict[Tuple, Dict[Tuple, Dict[str, QualityRow]]] = {}
    for row in scored:
        lines_of = tables.setdefault((row.scale, row.metric, row.degradation), {})
        lines_of.setdefault((row.model, row.variant, row.backend, row.artifact, row.artifact_sha256), {})[row.set] = row
    parts = []
    for (scale, metric, degradation), lines_of in tables.items():
        cells = []
        for by_set in sorted(lines_of.values(), key=lambda by_set: next(iter(by_set.values())).model != BICUBIC):
            row = next(iter(by_set.values()))
            cells.append([_name(row), _number(_over(row.params, 1e3), 1), *(_quality(by_set.get(name)) for name in sets)])
        headings = [f"x{scale}, {metric}, {degradation}", "#Params [K]", *(f"{name} PSNR/SSIM" for name in sets)]
        parts.append("\n".join(markdown(headings, cells)))
    if scored:
        parts.append("\n".join(_quality_conditions(scored)))
    failed = dict.fromkeys(f"not run: {_name(r)} ({r.backend}): {r.error}" for r in rows if r.error)
    return "\n\n".join(parts + (["\n".join(failed)] if failed else []))


def markdown(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> List[str]:
    """Return the lines of an aligned Markdown table; the first column is left-aligned, the others right."""
    widths = [max(len(h), *(len(row[i]) for row in cells)) if cells else len(h) for i, h in enumerate(headings)]

    def line(values: Sequence[str]) -> str:
        padded = [v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(values, widths))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return [line(headings), rule] + [line(row) for row in cells]


def _name(row: QualityRow) -> str:
    return row.artifact or (f"{row.model}.{row.variant}" if row.variant else row.model)


def _quality(row: Optional[QualityRow]) -> str:
    if row is None or row.ssim is None:
        return ""
    psnr = "inf" if row.psnr_db is None else _number(row.psnr_db, 3)
    return f"{psnr}/{_number(row.ssim, 4)}" + ("*" if "tiled" in row.tiling else "")


def _quality_conditions(rows: Sequence[QualityRow]) -> List[str]:
    networks = [r for r in rows if r.backend != BICUBIC]
    parts = [
        ("images", [f"{r.set} ({len(r.images)})" for r in rows]),
        ("PSNR, SSIM", [f"{r.metric}, border {r.border_px}" for r in rows]),
        ("LR", [_DEGRADED[r.degradation] for r in rows]),
        ("evaluated", [("* " if "tiled" in r.tiling else "") + r.tiling for r in networks]),
        ("software", [f"{r.backend} {r.backend_version}, {r.precision}" for r in networks]),
    ]
    return [f"{name}: {'; '.join(dict.fromkeys(values))}" for name, values in parts if values]


def _conditions(rows: Sequence[BenchmarkRow]) -> List[str]:
    """What the numbers hold for; a condition in which rows differ lists its values."""
    parts = [
        ("images", [f"{r.set} ({r.images})" for r in rows if r.set]),
        ("PSNR, SSIM", [f"{r.metric}, border {r.border_px}" for r in rows if r.metric]),
        ("evaluated", [("* " if "tiled" in r.tiling else "") + r.tiling for r in rows if r.tiling]),
        (
            "counted",
            [f"{r.counter} at {'x'.join(map(str, r.counted_hw or ()))}, multiply-accumulates" for r in rows if r.counter],
        ),
        ("runs", [f"{r.warmup} warm-up" for r in rows if r.runs] + [f"{_span([r.runs for r in rows if r.runs])} timed"]),
        ("timed by", [r.timer + (" (copies apart)" if r.copies_ms is not None else "") for r in rows if r.timer]),
        ("memory", [r.mem_definition for r in rows if r.mem_definition]),
        ("device", [f"{r.device}" + (f", {r.threads} threads" if r.threads else "") for r in rows]),
        ("software", [f"{r.backend} {r.backend_version}" for r in rows]),
    ]
    return [f"{name}: {'; '.join(dict.fromkeys(values))}" for name, values in parts if values]


def _span(values: Sequence[Optional[int]]) -> str:
    known = sorted({v for v in values if v is not None})
    return "0" if not known else str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def _number(value: Optional[float], digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _over(value: Optional[float], unit: float) -> Optional[float]:
    return None if value is None else value / unit
