"""Tables as the NTIRE efficient super-resolution challenge prints them, from rows only."""

from __future__ import annotations

from typing import Callable, List, Optional, Sequence, Tuple

from sr_deploy.core.rows import BenchmarkRow

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


def markdown(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> List[str]:
    """Return the lines of an aligned Markdown table; the first column is left-aligned, the others right."""
    widths = [max(len(h), *(len(row[i]) for row in cells)) if cells else len(h) for i, h in enumerate(headings)]

    def line(values: Sequence[str]) -> str:
        padded = [v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(values, widths))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return [line(headings), rule] + [line(row) for row in cells]


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
