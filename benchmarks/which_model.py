"""Print the README's table "Which model?" from measured rows.

Usage: python3 benchmarks/which_model.py --table benchmarks/rows.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import List

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sr_deploy.results.rows import BenchmarkRow, filter_rows, read_rows  # noqa: E402

CHOICES = {
    "asrn_x4.d5": "the default: the best one, and its tiles are exact",
    "asrn_x4.d3": "the same file, cut to three of five blocks",
    "asrn_x4.d1": "the same file, cut to one block",
    "srn-ntire_x4.b4": "nearly as good in half of the memory; its tiles are not exact",
    "imdeception_x4.c4": "little memory",
    "fsrcnn-w16_x4.w16": "the fastest",
}
"""A variant, and what it is chosen for."""
WHERE = ("input_hw=256x256", "target=cpu", "precision=fp32", "protocol=steady")
_HEAD = ("| model | choose it for | PSNR [dB] | frames/s | parameters |", "|---|---|--:|--:|--:|")


def table(rows: List[BenchmarkRow]) -> str:
    """Return the table and its conditions. Raises SystemExit if the rows do not compare."""
    found = {f"{row.model}.{row.variant}": row for row in filter_rows(rows, WHERE)}
    chosen = [found[name] for name in CHOICES]
    conditions = {(row.device, row.backend, row.backend_version, row.set) for row in chosen}
    if len(conditions) != 1:
        sys.exit(f"error: the rows have several conditions: {conditions}")
    device, runtime, version, images = conditions.pop()
    lines = [*_HEAD, *(_line(name, row) for name, row in zip(CHOICES, chosen))]
    return "\n".join(lines) + (
        f"\n\nPSNR: {images}, Y; bicubic has 28.43 dB at x4. "
        f"Frames of 256x256 enlarged per second by {runtime} {version} in FP32 on {device}."
    )


def _line(name: str, row: BenchmarkRow) -> str:
    assert row.psnr_db and row.latency_ms_median and row.params
    rate = 1000 / row.latency_ms_median
    cells = (
        f"`{name}`",
        CHOICES[name],
        f"{row.psnr_db:.2f}",
        f"{rate:.1f}" if rate < 10 else f"{rate:.0f}",
        f"{row.params / 1000:.0f} k",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", type=Path, required=True, metavar="ROWS")
    print(table(read_rows(parser.parse_args().table)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
