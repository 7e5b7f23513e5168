"""srdeploy bench."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, List, Optional, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.core.errors import InputError
from sr_deploy.results.protocols import DEFAULT_PROTOCOL, PROTOCOL_NAMES


@click.command()
@click.argument("given", nargs=-1, metavar="MODEL|ARTIFACT...")
@click.option(
    "--variants",
    default="all",
    show_default=True,
    help="Of checkpoints: all (those of the paper's table), or a list: d1,d3.",
)
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    type=click.Choice(PROTOCOL_NAMES),
    default=(DEFAULT_PROTOCOL,),
    show_default=True,
    help="How to time and score; may be repeated. steady: warmed up, median. ntireYEAR: as that year's harness.",
)
@click.option(
    "--data",
    default="",
    metavar="HR_DIR",
    help="Folder of HR images; default: scikit-image's photographs.",
)
@click.option(
    "--test", default="", metavar="HR_DIR", help="A challenge's second folder, of its test set."
)
@click.option(
    "--metric",
    type=click.Choice(["y", "rgb"]),
    help="y: float luma, border = scale, as papers. rgb: uint8, border 4, as NTIRE.  [default: the protocol's; y]",
)
@click.option(
    "--lr",
    metavar="HxW",
    help="LR size of the latency, where the artifact leaves it open.  [default: 256x256]",
)
@click.option(
    "--runs",
    type=click.IntRange(1, 10000),
    help="Timed runs.  [default: as many as fit 3 s, 10 to 100]",
)
@click.option(
    "--cadence",
    type=float,
    metavar="HZ",
    help="Let frames come one by one at this rate.  [default: back to back]",
)
@click.option(
    "--threads", type=click.IntRange(1), help="Use so many CPU cores only.  [default: all]"
)
@click.option(
    "--trust",
    is_flag=True,
    help="Open artifacts that were changed after their manifests were written: engines are code.",
)
@click.option(
    "--sweep",
    metavar="PLAN.json",
    help="Measure what a plan lists, a process for each cell; goes on where it stopped.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the rows as a JSON list instead of the table."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder whose rows.jsonl the rows are added to; NTIRE's files are written beside it.",
)
@click.pass_context
def bench(
    ctx: click.Context,
    given: Tuple[str, ...],
    variants: str,
    protocols: Tuple[str, ...],
    data: str,
    test: str,
    metric: Optional[str],
    lr: Optional[str],
    runs: Optional[int],
    cadence: Optional[float],
    threads: Optional[int],
    trust: bool,
    sweep: Optional[str],
    as_json: bool,
    output: Optional[Path],
) -> None:
    """Measure checkpoints (by torch), ONNX graphs and engines: quality, latency, memory and counts.

    Prints a table in the columns of the NTIRE efficient super-resolution challenge, with its conditions. What cannot run on
    this machine is listed with the reason.
    """
    from sr_deploy.bench.measure import measured
    from sr_deploy.core.files import make_output_folder
    from sr_deploy.results.rows import drop_partial_line, read_rows

    if sweep is not None:
        _sweep(ctx, sweep, data, output, as_json)
        return
    if not given:
        raise click.UsageError("Missing argument 'MODEL|ARTIFACT...'.")
    if output is not None:
        make_output_folder(output)
        drop_partial_line(output / "rows.jsonl")
        if (output / "rows.jsonl").exists():
            read_rows(
                output / "rows.jsonl"
            )  # to learn afterwards that they are of another schema would cost the measurement
    rows: List[Any] = []
    try:
        for row in measured(
            given,
            variants=variants,
            protocols=protocols,
            data=data,
            test=test,
            metric=metric,
            lr=lr,
            runs=runs,
            cadence_hz=cadence,
            threads=threads,
            trust=trust,
            progress=log,
        ):
            rows.append(row)
    finally:  # an error half way costs no row that was measured before it
        _shown(rows, as_json)
        if output is not None and rows:
            _kept(rows, output)


def _sweep(ctx: click.Context, plan: str, data: str, output: Optional[Path], as_json: bool) -> None:
    from sr_deploy.bench.sweep import read_plan, rows_from_plan

    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        if (
            name not in ("sweep", "data", "output", "as_json")
            and ctx.params[name]
            and source is not None
            and source.name == "COMMANDLINE"
        ):
            raise click.UsageError(
                "--sweep goes with --data, --json and -o only: the plan says the rest"
            )
    if output is None:
        raise click.UsageError("--sweep needs -o: rows.jsonl there is what it goes on from")
    rows = rows_from_plan(read_plan(Path(plan)), output, data=data, progress=log)
    _shown(rows, as_json)
    _challenge_files(rows, output)
    if all(row.error for row in rows):
        hint = f"mend that, take their lines out of {output / 'rows.jsonl'}, and start again: failed cells count as done"
        raise InputError(
            f"none of the {len(rows)} cells could be measured; the first: {rows[0].error}",
            hint=hint,
        )


def _shown(rows: List[Any], as_json: bool) -> None:
    from sr_deploy.results.published import ranks
    from sr_deploy.results.render import render_table
    from sr_deploy.results.tables import ntire_table

    if as_json:
        if rows:
            emit_json([dataclasses.asdict(row) for row in rows])
        return
    if rows:
        emit(ntire_table(rows))
    if len({row.protocol for row in rows if not row.error}) > 1:
        with contextlib.suppress(InputError):  # no network was measured by all of them
            emit("\n" + render_table(ranks(rows), "markdown"))


def _kept(rows: List[Any], output: Path) -> None:
    from sr_deploy.results.rows import append_rows

    append_rows(output / "rows.jsonl", rows)
    log(f"added {len(rows)} rows to {output / 'rows.jsonl'}")
    _challenge_files(rows, output)


def _challenge_files(rows: List[Any], output: Path) -> None:
    """Write NTIRE's two files anew of all the folder's rows of each year and set that `rows` has."""
    from sr_deploy.core.files import write_text
    from sr_deploy.results.harness import results_files
    from sr_deploy.results.protocols import protocol_of
    from sr_deploy.results.rows import filter_rows, read_rows

    for year, images in dict.fromkeys(
        (row.protocol, row.set) for row in rows if not row.error and protocol_of(row).of_images
    ):
        kept = [
            row
            for row in filter_rows(read_rows(output / "rows.jsonl"), [])
            if (row.protocol, row.set, row.error) == (year, images, "")
        ]
        for file, text in results_files(kept).items():
            write_text(output / year / file, text)
        log(f"wrote results.txt and results.json of {len(kept)} rows to {output / year}")
