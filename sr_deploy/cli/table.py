"""srdeploy table, compare and select."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import click

from sr_deploy.cli.code_options import code_options
from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.cli.run_options import run_options
from sr_deploy.core.errors import InputError
from sr_deploy.results.protocols import CHALLENGES
from sr_deploy.results.published import TABLE_LAYOUTS
from sr_deploy.results.render import TABLE_FORMATS

_WHERE = click.option(
    "--where",
    multiple=True,
    metavar="KEY=VALUE",
    help="Use only the rows with this value; repeatable.",
)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="ROWS.jsonl|results.json...")
@click.option(
    "--layout",
    type=click.Choice(list(TABLE_LAYOUTS)),
    default="bench",
    show_default=True,
    help="bench: all columns. ntire: the challenge's table, with ranks. srn5, imdeception2, "
    "imdeception4: tables of those papers. ranks: of each protocol.",
)
@click.option(
    "--format",
    "table_format",
    type=click.Choice(list(TABLE_FORMATS)),
    default="markdown",
    show_default=True,
    help="Format of the table.",
)
@_WHERE
@click.option(
    "--protocol",
    type=click.Choice(CHALLENGES),
    help="The challenge of a results.json.  [default: that whose baseline is among its entries]",
)
def table(
    files: Tuple[str, ...],
    layout: str,
    table_format: str,
    where: Tuple[str, ...],
    protocol: Optional[str],
) -> None:
    """Print measured rows as a table with their conditions.

    A results.json that an NTIRE challenge published is read too. Its entries are marked, and their
    times are not ranked with measured ones. Rows of different protocols, sets or metrics are
    rejected.
    """
    from sr_deploy.results.challenge_file import is_challenge_file, published_rows
    from sr_deploy.results.published import build_table
    from sr_deploy.results.render import render_table
    from sr_deploy.results.rows import filter_rows
    from sr_deploy.results.tables import failures

    theirs = [file for file in files if is_challenge_file(Path(file))]
    if protocol is not None and not theirs:
        raise InputError(
            "--protocol names the challenge of a results.json, but none is given",
            hint=f"select rows by --where protocol={protocol}",
        )
    published = [row for file in theirs for row in published_rows(Path(file), protocol)]
    rows = filter_rows([*_read([f for f in files if f not in theirs]), *published], where)
    emit(render_table(build_table(rows, layout), table_format))
    for line in failures(rows):
        log(line)


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--lr", metavar="HxW", help="LR size.  [default: that of a static artifact, else 256x256]"
)
@click.option(
    "--rounds",
    type=click.IntRange(3, 10000),
    default=21,
    show_default=True,
    help="Number of rounds; each times A and B once.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="Number of CPU cores to use.  [default: all]"
)
@code_options("a", "b")
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with every round.")
def compare(a: str, b: str, as_json: bool, **options: Any) -> None:
    """Time A and B alternately, and print the ratio of B to A with its spread.

    Each is a variant of a checkpoint (asrn_x4.d3), a PyTorch module (mynet.py:Net), a graph or an
    engine.
    """
    from sr_deploy.bench.compare import compare_networks

    c = compare_networks(a, b, **options)
    if as_json:
        emit_json({**dataclasses.asdict(c), "verdict": c.verdict})
        return
    for letter, name, times in zip("AB", c.names, (c.times_a_ms, c.times_b_ms)):
        ordered = sorted(times)
        median, span = ordered[len(ordered) // 2], f"{ordered[0]:.2f} to {ordered[-1]:.2f}"
        emit(f"{letter}    {name}: median {median:.2f} ms, {span}")
    quartiles = f"{c.ratio_p25:.3f} to {c.ratio_p75:.3f}"
    extremes = f"{c.ratio_min:.3f} to {c.ratio_max:.3f}"
    emit(f"B/A  {c.ratio_median:.3f}, half of the rounds {quartiles}, all {extremes}")
    emit(f"     {c.verdict}")
    rounds = len(c.times_a_ms)
    log(f"{rounds} alternating rounds at {c.hw[0]}x{c.hw[1]} on {c.device}, by {c.timer}")
    for letter, settings in zip("AB", c.settings):
        if settings:
            log(f"{letter}: {settings}")
    for warning in c.warnings:
        log(f"note: {warning}")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="ROWS.jsonl...")
@click.option(
    "--target",
    required=True,
    help="Target to select for (see srdeploy targets). Uses rows of its engines and graphs.",
)
@click.option("--max-ms", type=float, help="Maximum time of a frame, including copies.")
@click.option("--fps", type=float, help="Minimum frames per second, in place of --max-ms.")
@click.option("--max-gflops", type=float, help="Maximum multiply-accumulates, in G at 256x256.")
@click.option(
    "--max-params",
    "max_params_k",
    type=float,
    metavar="K",
    help="Maximum parameters, in thousands.",
)
@click.option(
    "--max-mem", "max_mem_mib", type=float, metavar="MIB", help="Maximum peak memory, in MiB."
)
@click.option(
    "--min-psnr",
    "min_psnr_db",
    type=float,
    metavar="DB",
    help="Minimum PSNR. As the only limit it selects the fastest network.",
)
@_WHERE
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def select(
    files: Tuple[str, ...],
    target: str,
    fps: Optional[float],
    where: Tuple[str, ...],
    as_json: bool,
    **limits: Optional[float],
) -> None:
    """Select the variant with the highest PSNR within limits for a target, from measured rows.

    Prints its name to stdout, and the reasons and the runner-up to stderr.
    """
    from sr_deploy.core.target import load_target
    from sr_deploy.results.selection import Limits, select_network

    if fps is not None:
        if limits["max_ms"] is not None or fps <= 0:
            raise click.UsageError("--fps must be above 0, and cannot be used with --max-ms")
        limits["max_ms"] = 1000 / fps
    selection = select_network(
        _rows(files, where), target=load_target(target).name, limits=Limits(**limits)
    )
    if as_json:
        emit_json(dataclasses.asdict(selection))
        return
    emit(selection.best)
    log(f"{selection.best}: {selection.why}")
    for line in (*selection.remarks, *selection.rejected):
        log(line)


def _rows(files: Sequence[str], where: Sequence[str]) -> List[Any]:
    from sr_deploy.results.rows import filter_rows

    return filter_rows(_read(files), where)


def _read(files: Sequence[str]) -> List[Any]:
    from sr_deploy.results.rows import read_rows

    return [row for file in files for row in read_rows(Path(file))]
