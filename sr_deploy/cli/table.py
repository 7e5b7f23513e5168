"""srdeploy table, compare and select."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.results.published import TABLE_LAYOUTS
from sr_deploy.results.render import TABLE_FORMATS

_WHERE = click.option(
    "--where",
    multiple=True,
    metavar="KEY=VALUE",
    help="Take only rows with this value; may be repeated.",
)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="ROWS.jsonl...")
@click.option(
    "--layout",
    type=click.Choice(list(TABLE_LAYOUTS)),
    default="bench",
    show_default=True,
    help="bench: all columns. ntire: the challenge's, with ranks. srn5, imdeception2, imdeception4: tables of those papers. "
    "ranks: by each protocol.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(TABLE_FORMATS)),
    default="markdown",
    show_default=True,
    help="Format of the table.",
)
@_WHERE
def table(files: Tuple[str, ...], layout: str, form: str, where: Tuple[str, ...]) -> None:
    """Lay measured rows out as a table, with their conditions. Rows of different protocols, sets or metrics are refused."""
    from sr_deploy.results.published import build_table
    from sr_deploy.results.render import render_table
    from sr_deploy.results.tables import failures

    rows = _rows(files, where)
    emit(render_table(build_table(rows, layout), form))
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
    "--threads", type=click.IntRange(1), help="Use so many CPU cores only.  [default: all]"
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with every round.")
def compare(
    a: str, b: str, lr: Optional[str], rounds: int, threads: Optional[int], as_json: bool
) -> None:
    """Time A and B in turns, and print the ratio of B to A with its spread.

    Each is a checkpoint's variant (asrn_x4.d3), a graph or an engine.
    """
    from sr_deploy.bench.compare import compared

    c = compared(a, b, lr=lr, rounds=rounds, threads=threads)
    if as_json:
        emit_json({**dataclasses.asdict(c), "verdict": c.verdict})
        return
    for letter, name, times in zip("AB", c.names, (c.times_a_ms, c.times_b_ms)):
        ordered = sorted(times)
        emit(
            f"{letter}    {name}: median {ordered[len(ordered) // 2]:.2f} ms, {ordered[0]:.2f} to {ordered[-1]:.2f}"
        )
    half, whole = (
        f"{c.ratio_p25:.3f} to {c.ratio_p75:.3f}",
        f"{c.ratio_min:.3f} to {c.ratio_max:.3f}",
    )
    emit(f"B/A  {c.ratio_median:.3f}, half of the rounds {half}, all {whole}")
    emit(f"     {c.verdict}")
    log(f"{len(c.times_a_ms)} rounds in turns at {c.hw[0]}x{c.hw[1]} on {c.device}, by {c.timer}")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="ROWS.jsonl...")
@click.option(
    "--target",
    required=True,
    help="What it is to run on (srdeploy targets): rows of its engines and graphs are looked at.",
)
@click.option("--max-ms", type=float, help="The longest a frame may take, copies included.")
@click.option("--fps", type=float, help="The same, as frames a second.")
@click.option("--max-gflops", type=float, help="Multiply-accumulates, in G at 256x256.")
@click.option("--max-params", type=float, metavar="K", help="Parameters, in thousands.")
@click.option("--max-mem", type=float, metavar="MIB", help="Peak memory, in MiB.")
@click.option(
    "--min-psnr",
    type=float,
    metavar="DB",
    help="The least PSNR; alone: the fastest network that has it.",
)
@_WHERE
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def select(
    files: Tuple[str, ...],
    target: str,
    max_ms: Optional[float],
    fps: Optional[float],
    max_gflops: Optional[float],
    max_params: Optional[float],
    max_mem: Optional[float],
    min_psnr: Optional[float],
    where: Tuple[str, ...],
    as_json: bool,
) -> None:
    """Say which variant to take on a target within limits, by measured rows only: the highest PSNR, and the runner-up."""
    from sr_deploy.core.target import load_target
    from sr_deploy.results.selection import select_network

    if fps is not None:
        if max_ms is not None or fps <= 0:
            raise click.UsageError("--fps is a number above 0, and stands in place of --max-ms")
        max_ms = 1000 / fps
    given = {
        "max_ms": max_ms,
        "max_gflops": max_gflops,
        "max_params_k": max_params,
        "max_mem_mib": max_mem,
        "min_psnr_db": min_psnr,
    }
    limits: Dict[str, float] = {key: value for key, value in given.items() if value is not None}
    choice = select_network(_rows(files, where), target=load_target(target).name, limits=limits)
    if as_json:
        emit_json(dataclasses.asdict(choice))
        return
    emit(choice.best)
    log(f"{choice.best}: {choice.why}")
    for line in (*choice.remarks, *choice.rejected):
        log(line)


def _rows(files: Tuple[str, ...], where: Tuple[str, ...]) -> List[Any]:
    from sr_deploy.results.rows import filter_rows, read_rows

    return filter_rows([row for file in files for row in read_rows(Path(file))], where)
