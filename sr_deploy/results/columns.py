"""The numbers and names of rows, as tables, charts and the choice of a network show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, List, Mapping, Optional, Sequence, Union

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.spec import network_name
from sr_deploy.results.precisions import has_several_precisions, precision_of
from sr_deploy.results.protocols import scores, scores_here, split_mean, time_ms
from sr_deploy.results.rows import PUBLISHED, BenchmarkRow, QualityRow, text_of

Value = Callable[[BenchmarkRow], Optional[float]]


def over(value: Optional[float], unit: float) -> Optional[float]:
    """Return a value in another unit, None for None."""
    return None if value is None else value / unit


def frame_ms(row: BenchmarkRow) -> Optional[float]:
    """Return the time of a frame: of the network, and of the copies where they are timed apart."""
    ms = time_ms(row)
    return None if ms is None else ms + (row.copies_ms or 0)


def fps(row: BenchmarkRow) -> Optional[float]:
    """Return how many frames a second fit, one after the other, copies included."""
    ms = frame_ms(row)
    return None if ms is None else 1000 / ms


VALUES: Mapping[str, Value] = {
    "psnr_db": lambda r: r.psnr_db,
    "test_psnr_db": lambda r: split_mean(r, "test", "psnr_db"),
    "ssim": lambda r: r.ssim,
    "time_ms": time_ms,
    "fps": fps,
    "p95_ms": lambda r: r.latency_ms_p95,
    "score": lambda r: (scores(r) or (None,))[0],
    "score_here": lambda r: (scores_here(r) or (None,))[0],
    "params_m": lambda r: over(r.params, 1e6),
    "params_k": lambda r: over(r.params, 1e3),
    "macs_g": lambda r: r.macs_g,
    "deployed_g": lambda r: r.deployed["macs"] / 1e9 if r.deployed else None,
    "executed_g": lambda r: r.executed_g,
    "acts_m": lambda r: r.acts_m,
    "memory_mib": lambda r: r.mem_peak_mib,
    "convs": lambda r: r.convs,
}
"""The values that a row can have, by a key with their unit."""
SCORES = {"Score": "score", "Score here": "score_here"}
"""The headings of the scores: by the printed baseline, and by that measured here."""


@dataclass(frozen=True)
class Column:
    """A column of numbers."""

    heading: str
    key: str
    """Of VALUES."""
    digits: int = 2
    suffix: str = ""

    def text(self, row: BenchmarkRow) -> str:
        """Return a row's cell: empty where the value is missing.

        † marks FLOPs whose counter does not see every operator that computes.
        """
        value = VALUES[self.key](row)
        if value is None:
            return ""
        mark = "†" if self.key == "macs_g" and row.uncounted else ""
        return number(value, self.digits) + self.suffix + mark


def number(value: Optional[float], digits: int) -> str:
    """Return a number with so many decimals, an empty text for None."""
    return "" if value is None else f"{value:.{digits}f}"


def label(row: Union[BenchmarkRow, QualityRow]) -> str:
    """Return the name of a row's network in a table: `asrn_x4.d3`, `00_SPAN (published)`."""
    name = network_name(row.model, row.variant)
    return f"{name} ({PUBLISHED})" if row.backend == PUBLISHED else name


def names_of(rows: Sequence[Union[BenchmarkRow, QualityRow]]) -> List[str]:
    """Return the label of each row, with its precision where rows have several: `asrn_x4.d3 int8`.

    Rows of the same network in the same precision have the same name, unlike those of `labels`.
    """
    if not has_several_precisions(rows):
        return [label(r) for r in rows]
    return [f"{label(r)} {precision_of(r)}".rstrip() for r in rows]


def counter_name(row: BenchmarkRow) -> str:
    """Return the counter of a row's counts, which are compared with those of the same one.

    `fvcore`, or `fvcore at 48x64` of a graph of one size that was counted at that.
    """
    if row.counted_hw in (None, NTIRE_HW):
        return row.counter
    return f"{row.counter} at {text_of(row.counted_hw)}"


def settings_text(row: Union[BenchmarkRow, QualityRow]) -> str:
    """Return the settings that a user chose: `channels-last, CUDA graph`.

    Those that follow from the protocol, as the rounding of NTIRE's harnesses, are left out.
    """
    shown = {"channels-last": "channels-last", "torch.compile": "torch.compile"}
    shown["one CUDA graph"] = "CUDA graph"
    return ", ".join(text for setting, text in shown.items() if setting in row.settings)


_DISTINGUISHING = (
    "backend",
    "target",
    "precision",
    "settings",
    "input_hw",
    "threads",
    "device",
    "cadence_hz",
    "artifact",
    "artifact_sha256",
)


_MISSING = {
    "target": "no target",
    "settings": "default settings",
    "artifact_sha256": "random weights",
}


def labels(rows: Sequence[BenchmarkRow]) -> List[str]:
    """Return a name for each row, with their differences where several rows are of one network.

    For example `asrn_x4.d3 (torch)`, or `asrn_x4.d3 int8` beside rows in another precision.
    """
    names = names_of(rows)
    details: List[List[str]] = [[] for _ in rows]
    for key in _DISTINGUISHING:
        shown = [name + str(d) for name, d in zip(names, details)]
        texts = [text_of(getattr(r, key)) for r in rows]
        texts = [t[:8] for t in texts] if key == "artifact_sha256" else texts
        missing = _MISSING.get(key, "checkpoint")
        for i, text in enumerate(texts):
            if any(s == shown[i] and other != text for s, other in zip(shown, texts)):
                details[i].append(text or missing)
    return [f"{name} ({', '.join(d)})" if d else name for name, d in zip(names, details)]
