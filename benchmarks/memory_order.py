"""Measure the memory of several networks in every order that is asked for; print the spread.

    python benchmarks/memory_order.py asrn_x4.d1 asrn_x4.d5 imdeception_x4.c4 --orders 4

Each figure comes from a process of its own, so the order must not matter: at most 5 % are allowed.
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sr_deploy.bench.measure import MeasureOptions, rows_from_artifacts  # noqa: E402
from sr_deploy.core.images import write_png  # noqa: E402
from sr_deploy.core.run_options import RunOptions  # noqa: E402

ALLOWED = 0.05


@click.command()
@click.argument("networks", nargs=-1, required=True)
@click.option("--orders", default=3, show_default=True, help="Number of random orders.")
@click.option("--lr", default="256x256", show_default=True, help="LR size.")
def main(networks: tuple, orders: int, lr: str) -> None:
    """Print the smallest and largest figure of each network over the orders."""
    all_orders = list(itertools.islice(itertools.permutations(networks), 5040))
    chosen = random.Random(0).sample(all_orders, min(orders, len(all_orders)))
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        write_png(Path(folder) / "noise.png", noise)
        options = MeasureOptions(data=folder, lr=lr, runs=1, run=RunOptions(runtime="torch"))
        for order in chosen:
            for row in rows_from_artifacts(list(order), options):
                found[row.artifact or f"{row.model}.{row.variant}", row.backend].append(row)
    print(f"| network | backend | Mem [MiB], {len(chosen)} orders | spread |\n|---|---|---|---|")
    worst = 0.0
    for (name, backend), rows in found.items():
        values = [row.mem_peak_mib for row in rows]
        spread = max(values) / min(values) - 1
        worst = max(worst, spread)
        print(f"| {name} | {backend} | {min(values):.1f} to {max(values):.1f} | {spread:.1%} |")
    sys.exit(0 if worst <= ALLOWED else f"the spread is {worst:.1%}; at most {ALLOWED:.0%}")


if __name__ == "__main__":
    main()
