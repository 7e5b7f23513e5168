"""srdeploy bench."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Optional, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, say


@click.command()
@click.argument("given", nargs=-1, required=True, metavar="MODEL|ARTIFACT...")
@click.option("--variants", default="all", show_default=True, help="Of checkpoints: all (those of the paper's table), or a list: d1,d3.")
@click.option("--data", default="", metavar="HR_DIR", help="Folder of HR images; default: scikit-image's photographs.")
@click.option("--metric", type=click.Choice(["y", "rgb"]), default="y", show_default=True,
              help="y: float luma, border = scale, as papers. rgb: uint8, border 4, as NTIRE.")  # fmt: skip
@click.option("--lr", metavar="HxW", help="LR size of the latency, where the artifact leaves it open.  [default: 256x256]")
@click.option("--runs", type=click.IntRange(1, 10000), help="Timed runs.  [default: as many as fit 3 s, 5 to 100]")
@click.option("--trust", is_flag=True, help="Open artifacts that were changed after their manifests were written: engines are code.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as a JSON list instead of the table.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder whose rows.jsonl the rows are added to.")
def bench(
    given: Tuple[str, ...], variants: str, data: str, metric: str, lr: Optional[str], runs: Optional[int], trust: bool,
    as_json: bool, output: Optional[Path],
) -> None:  # fmt: skip
    """Measure checkpoints (by torch), ONNX graphs and engines: quality, latency, memory and counts.

    Prints a table in the columns of the NTIRE efficient super-resolution challenge, with its conditions. What cannot run on
    this machine is listed with the reason.
    """
    from sr_deploy.bench.measure import measured
    from sr_deploy.core.files import output_folder
    from sr_deploy.core.rows import append_rows
    from sr_deploy.core.tables import ntire_table

    if output is not None:
        output_folder(output)
    rows = []
    try:
        for row in measured(given, variants=variants, data=data, metric=metric, lr=lr, runs=runs, trust=trust, progress=say):
            rows.append(row)
    finally:  # an error half way costs no row that was measured before it
        if rows and as_json:
            emit_json([dataclasses.asdict(row) for row in rows])
        elif rows:
            emit(ntire_table(rows))
        if output is not None and rows:
            append_rows(output / "rows.jsonl", rows)
            say(f"added {len(rows)} rows to {output / 'rows.jsonl'}")
