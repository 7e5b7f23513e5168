"""srdeploy table, compare and select."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import click

from sr_deploy.cli.alias import AliasedOption
from sr_deploy.cli.code_options import code_options
from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.cli.run_options import run_options
from sr_deploy.cli.tables import TEXT, chosen_format, emit_table, format_option, terminal_width
from sr_deploy.core.errors import InputError
from sr_deploy.core.workspace import ROWS
from sr_deploy.results.protocols import CHALLENGES
from sr_deploy.results.published import TABLE_LAYOUTS
from sr_deploy.results.render import Table, make_table
from sr_deploy.results.screen import fps_text

_WHERE = click.option(
    "--where",
    multiple=True,
    metavar="KEY=VALUE",
    help="Use only the rows with this value; repeatable.",
)


_rows_files = click.argument("files", nargs=-1, metavar="[ROWS.jsonl|DIR]...")


@click.command()
@click.argument("files", nargs=-1, metavar="[ROWS.jsonl|results.json]...")
@click.option(
    "--layout",
    type=click.Choice(list(TABLE_LAYOUTS)),
    default="bench",
    show_default=True,
    help="bench: all columns. ntire: the challenge's table, with ranks. srn5, imdeception2, "
    "imdeception4, cdnsr1, adadsr2: tables of those papers. ranks: of each protocol.",
)
@format_option
@_WHERE
@click.option(
    "--protocol",
    type=click.Choice(CHALLENGES),
    help="The challenge of a results.json.  [default: that whose baseline is among its entries]",
)
def table(
    files: Tuple[str, ...],
    layout: str,
    table_format: Optional[str],
    where: Tuple[str, ...],
    protocol: Optional[str],
) -> None:
    """Print measured rows as a table with their conditions. Without files: those of bench.

    On a terminal the table has the columns that matter most; --format markdown has all of them. A
    results.json that an NTIRE challenge published is read too. Its entries are marked, and their
    times are not ranked with measured ones. Rows of different protocols, sets or metrics are
    rejected.
    """
    from sr_deploy.results.challenge_file import is_challenge_file, published_rows
    from sr_deploy.results.published import build_table
    from sr_deploy.results.render import render_table
    from sr_deploy.results.rows import filter_rows
    from sr_deploy.results.screen import layout_text
    from sr_deploy.results.tables import failures

    theirs = [file for file in files if is_challenge_file(Path(file))]
    if protocol is not None and not theirs:
        raise InputError(
            "--protocol names the challenge of a results.json, but none is given",
            hint=f"select rows by --where protocol={protocol}",
        )
    published = [row for file in theirs for row in published_rows(Path(file), protocol)]
    ours = [file for file in files if file not in theirs]
    rows = filter_rows([*(_read(ours) if ours or not theirs else []), *published], where)
    form = chosen_format(table_format)
    if form == TEXT:
        emit(layout_text(rows, layout, width=terminal_width(), details="--format markdown"))
    else:
        emit(render_table(build_table(rows, layout), form))
    for line in failures(rows):
        log(line)


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--size",
    cls=AliasedOption,
    aliases=["--lr"],
    metavar="HxW",
    help="LR size.  [default: that of a static artifact, else 256x256]",
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
@format_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with every round.")
def compare(
    a: str,
    b: str,
    size: Optional[str],
    table_format: Optional[str],
    as_json: bool,
    **options: Any,
) -> None:
    """Time A and B alternately, and print the ratio of B to A with its spread.

    Each is a variant of a checkpoint (asrn_x4.d3), a PyTorch module (mynet.py:Net), a graph or an
    engine.
    """
    from sr_deploy.bench.compare import compare_networks

    c = compare_networks(a, b, lr=size, **options)
    if as_json:
        emit_json({**dataclasses.asdict(c), "verdict": c.verdict})
        return
    emit_table(_comparison_table(c), table_format)
    for warning in c.warnings:
        log(f"note: {warning}")


def _comparison_table(c: Any) -> Table:
    """Return a line for each network of a `bench.compare.Comparison`, and the ratios below."""
    cells = []
    for letter, name, times in zip("AB", c.names, (c.times_a_ms, c.times_b_ms)):
        ordered = sorted(times)
        median = ordered[len(ordered) // 2]
        numbers = [f"{ms:.2f}" for ms in (median, ordered[0], ordered[-1])]
        cells.append([f"{letter}: {name}", *numbers, fps_text(1000 / median)])
    conditions = [f"{len(c.times_a_ms)} alternating rounds", f"LR {c.hw[0]}x{c.hw[1]}", c.device]
    notes = [
        f"B takes {c.ratio_median:.3f} times as long as A; half of the rounds {c.ratio_p25:.3f} to "
        f"{c.ratio_p75:.3f}, all {c.ratio_min:.3f} to {c.ratio_max:.3f}: {c.verdict}",
        "; ".join([*conditions, f"timed by {c.timer}"]),
        *(
            [f"on a photograph, the output of one against the other: {c.psnr_db_between:.1f} dB"]
            if c.psnr_db_between is not None
            else []
        ),
        *(f"{letter}: {settings}" for letter, settings in zip("AB", c.settings) if settings),
    ]
    headings = ["network", "median [ms]", "lowest", "highest", "fps"]
    return make_table(headings, cells, notes)


@click.command()
@_rows_files
@click.option(
    "--target",
    required=True,
    help="Target to select for (see srdeploy targets). Uses rows of its engines and graphs.",
)
@click.option("--max-ms", type=float, help="Maximum time of a frame, including copies.")
@click.option("--fps", type=float, help="Minimum frames per second, in place of --max-ms.")
@click.option(
    "--max-flops",
    "max_gflops",
    cls=AliasedOption,
    aliases=["--max-gflops"],
    type=float,
    metavar="G",
    help="Maximum multiply-accumulates, in G at 256x256.",
)
@click.option(
    "--max-params",
    "max_params_k",
    type=float,
    metavar="K",
    help="Maximum parameters, in thousands.",
)
@click.option(
    "--max-memory",
    cls=AliasedOption,
    aliases=["--max-mem"],
    metavar="SIZE",
    help="Maximum peak memory, such as 512MiB.",
)
@click.option(
    "--min-psnr",
    "min_psnr_db",
    type=float,
    metavar="DB",
    help="Minimum PSNR. Where only the quality is limited, the fastest network is selected.",
)
@click.option(
    "--max-loss-db",
    type=float,
    metavar="DB",
    help="Maximum PSNR lost against the FP32 row of the same network on the same images.",
)
@_WHERE
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def select(
    files: Tuple[str, ...],
    target: str,
    fps: Optional[float],
    max_memory: Optional[str],
    where: Tuple[str, ...],
    as_json: bool,
    **limits: Optional[float],
) -> None:
    """Select the variant and precision with the highest PSNR within limits, from measured rows.

    Without files: from the rows of bench. Prints its name to stdout, and the reason and the
    runner-up to stderr; --json has why each of the others was rejected.
    """
    from sr_deploy.core.target import load_target
    from sr_deploy.results.rows import filter_rows
    from sr_deploy.results.screen import in_one_line
    from sr_deploy.results.selection import Limits, select_network

    if fps is not None:
        if limits["max_ms"] is not None or fps <= 0:
            raise click.UsageError("--fps must be above 0, and cannot be used with --max-ms")
        limits["max_ms"] = 1000 / fps
    selection = select_network(
        filter_rows(_read(files), where),
        target=load_target(target).name,
        limits=Limits(**limits, max_mem_mib=_mib(max_memory)),
    )
    if as_json:
        emit_json(dataclasses.asdict(selection))
        return
    emit(selection.best)
    log(f"{selection.best}: {selection.why}")
    for line in selection.remarks:
        log(line)
    for line in in_one_line("rejected", selection.rejected, terminal_width()):
        log(line)


def _mib(text: Optional[str]) -> Optional[float]:
    """Return an amount of memory, such as `2GiB`, in MiB. A bare number is in MiB too."""
    from sr_deploy.upscale.memory import parse_bytes

    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return parse_bytes(text) / 2**20


def _read(files: Sequence[str]) -> List[Any]:
    """Return the rows of files and folders; of none given, those that bench keeps."""
    from sr_deploy.results.rows import read_rows

    if not files and not (ROWS / "rows.jsonl").is_file():
        raise InputError(
            f"no rows are given, and there are none in {ROWS}",
            hint="measure some: srdeploy bench",
        )
    return [row for file in files or [str(ROWS)] for row in read_rows(Path(file))]
