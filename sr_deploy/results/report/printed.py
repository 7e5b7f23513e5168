"""PSNR and SSIM as papers print them, for the figure of PSNR against cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Dict, Iterator, List, Optional, Tuple

from sr_deploy.core.spec import network_name
from sr_deploy.results.columns import over
from sr_deploy.results.paper_numbers import Score, cells_of, item_of, printed_count, score_in
from sr_deploy.results.reproduction import read_paper, set_key

_SETS = ("set5", "set14", "b100", "urban100", "manga109")
_SS = "The smaller sizes, which remain when blocks of it are removed, are left out."
_READINGS = (
    "The likeliest readings of a damaged copy: srdeploy reproduce imdeception names the least "
    "certain. Parameters and FLOPs are those of Table 2."
)
_LSDIR = "x4 with distillation on DIV2K and LSDIR, x2 without."
_ALONE, _TAUGHT = "SRN and SRN-S, DIV2K only", "SRN and SRN-S, DIV2K only, distilled"
_PARAMS = "Parameters are those of Table 1."
_SERIES: Tuple[Tuple[str, str, str, Dict[str, str], str], ...] = (
    ("ASRN (SS)", "asrn", "Table 4", {"Method": "ASRN (SS)", "Blocks": "5B"}, _SS),
    ("ASRN (DSL)", "asrn", "Table 4", {"Method": "ASRN (DSL)"}, "Without self-distillation."),
    ("ASRN", "asrn", "Table 5", {"Method": "ASRN"}, "With self-distillation."),
    ("ASRN, 25B and 45B", "asrn", "Table 6", {}, "Extended versions, each trained for itself."),
    ("IMDeception", "imdeception", "Table 3", {}, _READINGS),
    ("SRN", "srn", "Table 1", {"Model": "SRN(ours)"}, _LSDIR),
    ("SRN-S", "srn", "Table 1", {"Model": "SRN-S(ours)"}, _LSDIR),
    (_ALONE, "srn", "Table 4", {"distillation": "✗"}, f"Without distillation. {_PARAMS}"),
    (_TAUGHT, "srn", "Table 4", {"distillation": "✓"}, f"With distillation. {_PARAMS}"),
)
"""Name, paper, table, which of its lines (what they have in some columns), and a note. Only lines
of the paper's own networks, whose names begin with it."""


@dataclass(frozen=True)
class PrintedRow:
    """A row of a paper's table: copied, not measured."""

    paper: str
    series: str
    """Rows of one series are, in most cases, sizes of one model."""
    network: str
    """As it is called here, such as `asrn_x4.d5`."""
    scale: int
    params_k: Optional[float]
    macs_g: Optional[float]
    """At 256x256, only where the paper counts as `--counter hooks` does."""
    scores: Dict[str, Score]
    """On Y, with LR made by bicubic; by `set_key`."""
    note: str
    """On the table and the series."""


@lru_cache(maxsize=1)
def printed_rows() -> Tuple[PrintedRow, ...]:
    """Return all rows that are copied from papers."""
    return tuple(row for series in _SERIES for row in _rows_of(*series))


def _rows_of(
    series: str, name: str, table: str, chosen: Dict[str, str], note: str
) -> Iterator[PrintedRow]:
    paper = read_paper(name)
    item = item_of(paper, table)
    for line in item.lines:
        cells = cells_of(item, line)
        if line.network.startswith(name) and chosen.items() <= cells.items():
            by_set = {set_key(key.replace(" PSNR", "")): cell for key, cell in cells.items()}
            yield PrintedRow(
                paper.paper,
                series,
                network_name(line.network, line.variant),
                int(line.network.rpartition("_x")[2]),
                over(printed_count(paper, line, "params"), 1e3),
                over(printed_count(paper, line, "macs"), 1e9),
                {key: score_in(by_set[key]) for key in _SETS if key in by_set},
                f"{paper.paper}, {table}: {note}",
            )


def printed_for(
    set_name: str, scale: Optional[int], metric: str, degradation: str
) -> List[PrintedRow]:
    """Return the rows that have a score of a set under the same conditions.

    The papers' scores are all on Y and with bicubic LR.
    """
    if (metric, degradation) != ("y", "bi"):
        return []
    return [row for row in printed_rows() if row.scale == scale and set_key(set_name) in row.scores]
