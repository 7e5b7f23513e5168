"""srdeploy bench."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any, List, Optional, Tuple

import click

from sr_deploy.cli.alias import AliasedOption
from sr_deploy.cli.code_options import code_options
from sr_deploy.cli.output import emit_json, log
from sr_deploy.cli.run_options import budgets_option, run_options
from sr_deploy.cli.tables import emit_rows, format_option
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import data_folder
from sr_deploy.core.shipped import CHECKPOINT_SUFFIX, DEFAULT_MODELS, read_card
from sr_deploy.core.spec import network_name
from sr_deploy.core.workspace import ENGINES, ROWS
from sr_deploy.results.protocols import DEFAULT_PROTOCOL, PROTOCOL_NAMES


@click.command()
@click.argument("networks", nargs=-1, metavar="[MODEL|ARTIFACT...]")
@click.option(
    "--variants",
    default="all",
    show_default=True,
    help="Variants of checkpoints and code: all (of ours, those of the paper's table), or a list "
    "such as d1,d3.",
)
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    type=click.Choice(PROTOCOL_NAMES),
    default=(DEFAULT_PROTOCOL,),
    show_default=True,
    help="How to time and score; repeatable. steady: warmed up, median. ntireYEAR: like the "
    "harness of that year.",
)
@click.option(
    "--data",
    default="",
    metavar="HR_DIR",
    help="Folder of HR images.  [default: scikit-image's photographs]",
)
@click.option(
    "--lr-data",
    default="",
    metavar="LR_DIR",
    help="Folder of the LR images of --data.  [default: made from HR]",
)
@click.option(
    "--test", default="", metavar="HR_DIR", help="A challenge's second folder, its test set."
)
@click.option(
    "--lr-test",
    default="",
    metavar="LR_DIR",
    help="Folder of the LR images of --test.  [default: made from HR]",
)
@click.option(
    "--metric",
    type=click.Choice(["y", "rgb"]),
    help="y: float luma, border = scale, as in papers. rgb: uint8, border 4, as in NTIRE.  "
    "[default: that of the protocol, else y]",
)
@click.option(
    "--size",
    "lr",
    cls=AliasedOption,
    aliases=["--lr"],
    metavar="HxW",
    help="LR size for latency, if the network accepts several.  [default: 256x256]",
)
@click.option(
    "--runs",
    type=click.IntRange(1, 10000),
    help="Number of timed runs.  [default: as many as fit in 3 s, 10 to 100]",
)
@click.option(
    "--cadence",
    "cadence_hz",
    type=float,
    metavar="HZ",
    help="Start runs at this rate, like frames of a video.  [default: back to back]",
)
@budgets_option
@click.option(
    "--max-memory",
    metavar="SIZE",
    help="Bound on resident memory, such as 2GiB: larger images are run in tiles, as upscale does, "
    "and a --size that does not fit is not timed.  [default: a quarter of what is available; none "
    "for NTIRE's protocols]",
)
@click.option("--threads", type=click.IntRange(1), help="Number of CPU cores.  [default: all]")
@click.option(
    "--score",
    is_flag=True,
    help="Also measure the challenge's baseline, image by image in turns with each network, for a "
    "score that means something on this device. Give its checkpoint too for its PSNR.",
)
@code_options("networks")
@run_options
@click.option(
    "--trust",
    is_flag=True,
    help="Open artifacts that were changed after their manifests were written. An engine is code.",
)
@click.option(
    "--sweep",
    metavar="PLAN.json",
    help="Measure the cells of a plan, each in its own process; resumes an interrupted sweep.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the rows as a JSON list instead of a table."
)
@format_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder. Rows are appended to its rows.jsonl, and NTIRE's files are written beside it.  "
    "[default: engines/rows; with --json none]",
)
@click.pass_context
def bench(
    ctx: click.Context,
    networks: Tuple[str, ...],
    sweep: Optional[str],
    as_json: bool,
    table_format: Optional[str],
    output: Optional[Path],
    **options: Any,
) -> None:
    """Measure quality, latency, memory and complexity of checkpoints, code, graphs and engines.

    Without any, those in engines/ that this machine can run are measured, else a shipped model.
    Prints a table with the columns of the NTIRE efficient super-resolution challenge and the
    conditions of the measurement. Networks that cannot run on this machine are listed with the
    reason; the exit code is 1 if none can. Models run in the fastest form that is here, code by
    torch, under a challenge's protocol all of them by torch.
    """
    from sr_deploy.bench.measure import MeasureOptions, rows_from_artifacts
    from sr_deploy.core.files import remove_empty_folders
    from sr_deploy.results.rows import append_rows

    if sweep is not None:
        _run_sweep(ctx, Path(sweep), output, table_format)
        return
    measure_options = MeasureOptions(**options)
    folder = output or (None if as_json else ROWS)
    if folder is not None:
        ctx.with_resource(remove_empty_folders(folder))  # after bad input
        folder = _rows_folder(folder, given=output is not None)
    networks = networks or _networks_here(options["run"])
    rows: List[Any] = []
    try:
        for row in rows_from_artifacts(networks, measure_options, progress=log):
            rows.append(row)
            if folder is not None:
                append_rows(folder / "rows.jsonl", [row])
    finally:  # also of what was measured before an error
        _print_rows(rows, as_json, table_format, folder)
        _say_where(rows, output, folder)
    if all(row.error for row in rows):
        raise InputError("no network could be measured; the reasons are above")


def _rows_folder(folder: Path, *, given: bool) -> Optional[Path]:
    """Return the folder of the rows, ready to be written; None if the default one cannot be."""
    from sr_deploy.core.files import make_output_folder
    from sr_deploy.results.rows import drop_partial_line, read_rows

    try:
        make_output_folder(folder)
    except InputError as e:
        if given:
            raise
        log(f"rows are printed, not kept: {e.message}; -o DIR keeps them")
        return None
    drop_partial_line(folder / "rows.jsonl")
    if (folder / "rows.jsonl").exists():
        read_rows(folder / "rows.jsonl")  # fail now, not after the measurement
    return folder


def _networks_here(run: Any) -> Tuple[str, ...]:
    """Return what lies in `engines/` and can run here, else a shipped model."""
    from sr_deploy.deploy.workspace import measurable_here

    found = measurable_here(run)
    for line in found.left_out:
        log(f"left out: {line}")
    if found.networks:
        folders = dict.fromkeys(str(path.parent) for path in found.networks)
        log(f"{len(found.networks)} networks in {', '.join(folders)}: about 10 s each on two cores")
        return tuple(map(str, found.networks))
    model, rest = DEFAULT_MODELS[4], ""
    if find_spec("torch") is None:  # its shipped graph needs none
        card = read_card(data_folder("models") / f"{model}{CHECKPOINT_SUFFIX}")
        model = network_name(model, card.variants[-1])
        rest = "; its other variants need torch"
    log(f"{ENGINES} has nothing that can be measured here: the shipped {model} is measured{rest}")
    return (model,)


def _say_where(rows: List[Any], output: Optional[Path], folder: Optional[Path]) -> None:
    """Tell where the rows are, and what comes next; write a challenge's files beside them."""
    from sr_deploy.results.protocols import protocol_of

    if folder is not None and rows:
        file = folder / "rows.jsonl"
        log(f"added {len(rows)} rows to {file}")
        _write_challenge_files(rows, folder)
        if output is None and not all(row.error for row in rows):
            log(f"next: srdeploy report {file} -o report.html")
    elif any(protocol_of(row).of_images and not row.error for row in rows):
        log("-o DIR writes the rows, and the challenge's results.txt and results.json")


def _run_sweep(
    ctx: click.Context, plan: Path, output: Optional[Path], table_format: Optional[str]
) -> None:
    from sr_deploy.bench.sweep import read_plan, rows_from_plan

    own = {"sweep", "data", "lr_data", "device", "output", "as_json", "table_format"}
    for name in ctx.params.keys() - own:
        source = ctx.get_parameter_source(name)
        if ctx.params[name] and source is not None and source.name == "COMMANDLINE":
            raise click.UsageError(
                "--sweep can be combined with --data, --lr-data, --device, --json, --format and -o "
                "only: the plan sets the rest"
            )
    if output is None:
        raise click.UsageError("--sweep needs -o: it resumes from the rows.jsonl there")
    given = {key: ctx.params[key] for key in ("data", "lr_data", "device")}
    rows = rows_from_plan(read_plan(plan), output, **given, progress=log)
    _print_rows(rows, ctx.params["as_json"], table_format, output)
    _write_challenge_files(rows, output)
    if all(row.error for row in rows):
        raise InputError(
            f"none of the {len(rows)} cells could be measured; the first: {rows[0].error}",
            hint=f"fix the cause, remove their lines from {output / 'rows.jsonl'} (failed cells "
            "count as done), and start again",
        )


def _print_rows(
    rows: List[Any], as_json: bool, table_format: Optional[str], folder: Optional[Path]
) -> None:
    if as_json:
        emit_json([dataclasses.asdict(row) for row in rows])
    else:
        emit_rows(rows, table_format, kept=folder and folder / "rows.jsonl")


def _write_challenge_files(rows: List[Any], output: Path) -> None:
    """Rewrite NTIRE's two files for each year and set of `rows`, from all rows of the folder."""
    from sr_deploy.core.files import write_text
    from sr_deploy.results.harness import results_files
    from sr_deploy.results.protocols import protocol_of
    from sr_deploy.results.rows import filter_rows, read_rows

    measured = (row for row in rows if not row.error and protocol_of(row).of_images)
    for year, images in dict.fromkeys((row.protocol, row.set) for row in measured):
        entries = [
            row
            for row in filter_rows(read_rows(output / "rows.jsonl"), [])
            if (row.protocol, row.set, row.error) == (year, images, "")
        ]
        for file, text in results_files(entries).items():
            write_text(output / year / file, text)
        log(f"wrote results.txt and results.json of {len(entries)} rows to {output / year}")
