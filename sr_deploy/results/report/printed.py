"""PSNR and SSIM as papers print them, read from printed.json with its tables and notes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, Optional, Tuple

Score = Tuple[float, Optional[float]]
"""PSNR in dB and, where printed, SSIM: on Y, with LR made by bicubic."""

_ALIASES = {"bsd100": "b100", "bsds100": "b100"}


@dataclass(frozen=True)
class PrintedRow:
    """A row of a paper's table: copied, not measured."""

    paper: str
    table: str
    series: str
    """Rows of one series are sizes of one model."""
    label: str
    scale: int
    params_k: float
    macs_g: Optional[float]
    """At 256x256, only where the paper counts as `--counter hooks` does."""
    scores: Dict[str, Score]
    """By set."""


@lru_cache(maxsize=1)
def printed_rows() -> Tuple[PrintedRow, ...]:
    """Return all rows that are copied from papers."""
    path = Path(__file__).with_name("printed.json")
    rows = []
    for table in json.loads(path.read_text(encoding="utf-8")):
        for row in table["rows"]:
            scores = {name: (s[0], s[1] if s[1:] else None) for name, s in row["scores"].items()}
            names = table["paper"], table["table"], table["series"], row["label"]
            macs_g = row.get("macs_g")
            rows.append(PrintedRow(*names, row["scale"], row["params_k"], macs_g, scores))
    return tuple(rows)


def table_notes() -> List[Tuple[str, str]]:
    """Return the series and the note of each table that is copied from a paper."""
    path = Path(__file__).with_name("printed.json")
    return [
        (table["series"], f"{table['paper']}, {table['table']}: {table['note']}")
        for table in json.loads(path.read_text(encoding="utf-8"))
    ]


def printed_for(
    set_name: str, *, scale: Optional[int], metric: str, degradation: str
) -> List[PrintedRow]:
    """Return the rows that have a score of a set under the same conditions.

    The papers' scores are all on Y and with bicubic LR.
    """
    if (metric, degradation) != ("y", "bi"):
        return []
    rows = [row for row in printed_rows() if row.scale == scale]
    return [row for row in rows if score_of(row, set_name) is not None]


def score_of(row: PrintedRow, set_name: str) -> Optional[Score]:
    """Return a row's score on a set, whatever the case of its name; None where it has none."""
    name = _ALIASES.get(set_name.lower(), set_name.lower())
    return next((score for key, score in row.scores.items() if key.lower() == name), None)
