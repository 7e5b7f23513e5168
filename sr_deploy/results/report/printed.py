"""PSNR and SSIM as papers print them, for the figure of PSNR against cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Dict, Iterator, List, Optional, Tuple

from sr_deploy.core.spec import network_name
from sr_deploy.results.paper_numbers import Score, cells_of, item_of, printed_count, score_in
from sr_deploy.results.reproduction import read_paper, set_key

_SETS = ("Set5", "Set14", "B100", "BSD100", "Urban100", "Manga109")


@dataclass(frozen=True)
class _Series:
    """Lines of a paper's table, of its own networks: in most cases the sizes of one model."""

    name: str
    paper: str
    """As `read_paper` takes it. The names of its networks begin with it."""
    table: str
    cells: Dict[str, str]
    """Which lines: what they have in some columns."""
    note: str


_DISTILLED = "x4 with distillation on DIV2K and LSDIR, x2 without."
_SERIES = (
    _Series(
        "ASRN (SS)",
        "asrn",
        "Table 4",
        {"Method": "ASRN (SS)", "Blocks": "5B"},
        "Without the smaller sizes, which are what remains when blocks of it are removed.",
    ),
    _Series(
        "ASRN (DSL)",
        "asrn",
        "Table 4",
        {"Method": "ASRN (DSL)"},
        "Deep supervision without self-distillation.",
    ),
    _Series("ASRN", "asrn", "Table 5", {"Method": "ASRN"}, "With self-distillation."),
    _Series("ASRN, 25B and 45B", "asrn", "Table 6", {}, "Each trained for itself."),
    _Series(
        "IMDeception",
        "imdeception",
        "Table 3",
        {},
        "The likeliest readings of a damaged copy: srdeploy reproduce imdeception names the least "
        "certain. Parameters and FLOPs are those of Table 2.",
    ),
    _Series("SRN", "srn", "Table 1", {"Model": "SRN(ours)"}, _DISTILLED),
    _Series("SRN-S", "srn", "Table 1", {"Model": "SRN-S(ours)"}, _DISTILLED),
    _Series(
        "SRN and SRN-S, DIV2K only",
        "srn",
        "Table 4",
        {"distillation": "✗"},
        "Without distillation. Parameters are those of Table 1.",
    ),
    _Series(
        "SRN and SRN-S, DIV2K only, distilled",
        "srn",
        "Table 4",
        {"distillation": "✓"},
        "With distillation. Parameters are those of Table 1.",
    ),
)


@dataclass(frozen=True)
class PrintedRow:
    """A row of a paper's table: copied, not measured."""

    paper: str
    table: str
    series: str
    network: str
    """As it is called here, such as `asrn_x4.d5`."""
    scale: int
    params_k: Optional[float]
    macs_g: Optional[float]
    """At 256x256, only where the paper counts as `--counter hooks` does."""
    scores: Dict[str, Score]
    """On Y, with LR made by bicubic; by `set_key`."""


@lru_cache(maxsize=1)
def printed_rows() -> Tuple[PrintedRow, ...]:
    """Return all rows that are copied from papers."""
    return tuple(row for series in _SERIES for row in _rows_of(series))


def _rows_of(series: _Series) -> Iterator[PrintedRow]:
    paper = read_paper(series.paper)
    item = item_of(paper, series.table)
    for line in item.lines:
        cells = cells_of(item, line)
        if line.network.startswith(series.paper) and series.cells.items() <= cells.items():
            yield PrintedRow(
                paper.paper,
                item.name,
                series.name,
                network_name(line.network, line.variant),
                int(line.network.rpartition("_x")[2]),
                printed_count(paper, line, "params", 1e3),
                printed_count(paper, line, "macs", 1e9),
                {
                    set_key(name): score_in(cells[heading])
                    for name in _SETS
                    for heading in (name, f"{name} PSNR")
                    if heading in cells
                },
            )


def table_notes() -> List[Tuple[str, str]]:
    """Return each series with a note on the table that it is copied from."""
    return [
        (series.name, f"{read_paper(series.paper).paper}, {series.table}: {series.note}")
        for series in _SERIES
    ]


def printed_for(
    set_name: str, *, scale: Optional[int], metric: str, degradation: str
) -> List[PrintedRow]:
    """Return the rows that have a score of a set under the same conditions.

    The papers' scores are all on Y and with bicubic LR.
    """
    if (metric, degradation) != ("y", "bi"):
        return []
    return [row for row in printed_rows() if row.scale == scale and set_key(set_name) in row.scores]
