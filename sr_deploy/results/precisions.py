"""The precision of rows, and what a lower one loses against FP32."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.precisions import lowest_precision
from sr_deploy.results.rows import (
    BICUBIC,
    PUBLISHED,
    BenchmarkRow,
    QualityRow,
    scored_images,
)


def precision_of(row: Union[BenchmarkRow, QualityRow]) -> str:
    """Return the lowest precision that a row's network computes in.

    Empty where that is not known, as of published numbers, and for bicubic.
    """
    return "" if row.backend in (BICUBIC, PUBLISHED) else lowest_precision(row.precision)


def has_several_precisions(rows: Sequence[Union[BenchmarkRow, QualityRow]]) -> bool:
    """Return whether the networks of rows compute in different precisions."""
    return len({precision_of(row) for row in rows} - {""}) > 1


def fp32_partners(rows: Sequence[BenchmarkRow]) -> List[Optional[BenchmarkRow]]:
    """Return for each row the FP32 row of the same network, scored alike on the same images.

    That of an FP32 row is the row itself. Of several, one of the same target and backend is taken,
    and of equal ones the last. None where there is none.
    """
    of_network: Dict[Tuple[object, ...], List[BenchmarkRow]] = {}
    for row in rows:
        if _is_fp32(row) and not row.error:
            of_network.setdefault(_scored_alike(row), []).append(row)

    def partner(row: BenchmarkRow) -> Optional[BenchmarkRow]:
        if _is_fp32(row):
            return row
        found = of_network.get(_scored_alike(row), [])[::-1]
        return max(found, key=lambda r: _shared(r, row)) if found else None

    return [partner(row) for row in rows]


def losses_db(rows: Sequence[BenchmarkRow]) -> List[Optional[float]]:
    """Return the PSNR in dB that each row lost against its FP32 partner: 0 for FP32 rows.

    None without a partner, or without both scores.
    """

    def loss(row: BenchmarkRow, partner: Optional[BenchmarkRow]) -> Optional[float]:
        if partner is None or partner.psnr_db is None or row.psnr_db is None:
            return None
        return partner.psnr_db - row.psnr_db

    return [loss(row, partner) for row, partner in zip(rows, fp32_partners(rows))]


def _is_fp32(row: BenchmarkRow) -> bool:
    """Whether it is of FP32 throughout: an FP16 graph that is computed in FP32 is not."""
    return precision_of(row) == "fp32" and row.precision_asked in ("", "fp32")


def _scored_alike(row: BenchmarkRow) -> Tuple[object, ...]:
    keys = "model variant scale set test_set metric border_px degradation".split()
    tiling = row.tiling if "tiled" in row.tiling else ""  # exact tiles are as good as the whole
    return (*(getattr(row, key) for key in keys), tiling, scored_images(row))


def _shared(partner: BenchmarkRow, row: BenchmarkRow) -> Tuple[bool, ...]:
    return tuple(getattr(partner, k) == getattr(row, k) for k in ("target", "backend", "device"))
