"""Numbers in the tables of papers, read from cells such as `31.65/0.8867` and `316K`."""

from __future__ import annotations

from typing import Dict, Optional, Tuple

from sr_deploy.results.reproduction import OurValue, Paper, PaperItem, PaperLine

Score = Tuple[float, Optional[float]]
"""PSNR in dB and, where printed, SSIM."""

_FACTORS = {"K": 1e3, "M": 1e6, "G": 1e9}


def item_of(paper: Paper, name: str) -> PaperItem:
    """Return a table of a paper."""
    return next(item for item in paper.items if item.name == name)


def cells_of(item: PaperItem, line: PaperLine) -> Dict[str, str]:
    """Return the cells of a line by heading."""
    return {column.heading: cell for column, cell in zip(item.columns, line.cells)}


def score_in(cell: str) -> Score:
    """Return PSNR and SSIM of `31.65/0.8867` or `31.65`."""
    psnr_db, _, ssim = cell.partition("/")
    return float(psnr_db), float(ssim) if ssim else None


def quantity_in(cell: str, unit: float = 1.0) -> float:
    """Return 316,000 of `316K`, 1,150,000,000 of `1.15G`, and of `244` as many units."""
    factor = _FACTORS.get(cell[-1])
    return float(cell[:-1]) * factor if factor else float(cell) * unit


def printed_count(paper: Paper, line: PaperLine, count: str) -> Optional[float]:
    """Return params, macs or acts of a line's network that any table of the paper prints.

    Only counts at 256x256 by the counter hooks. None where there is none.
    """
    network = line.network, line.variant, line.config
    for item in paper.items:
        for i, column in enumerate(item.columns):
            ours = column.ours
            if ours is None or ours != OurValue(count, ours.unit, ours.digits):
                continue
            for other in item.lines:
                if (other.network, other.variant, other.config) == network:
                    return quantity_in(other.cells[i], ours.unit)
    return None
