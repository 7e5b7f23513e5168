"""srdeploy eval."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional, Tuple

import click

from sr_deploy.cli.code_options import code_options
from sr_deploy.cli.output import emit_json, log
from sr_deploy.cli.progress import terminal_progress
from sr_deploy.cli.run_options import budgets_option, run_options
from sr_deploy.cli.tables import emit_quality, format_option
from sr_deploy.core.errors import InputError


@click.command("eval")
@click.argument("networks", nargs=-1, required=True, metavar="MODEL|ARTIFACT...")
@click.option(
    "--variants",
    default="all",
    show_default=True,
    help="Variants of checkpoints and code: all (of ours, those of the paper's table), or a list "
    "such as d1,d3.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="HR_DIR",
    help="Folder of HR images; repeatable.  [default: scikit-image's photographs]",
)
@click.option(
    "--lr-data",
    multiple=True,
    metavar="LR_DIR",
    help="Folder of LR images, one for each --data.  [default: made from HR]",
)
@click.option(
    "--metric",
    type=click.Choice(["y", "rgb"]),
    default="y",
    show_default=True,
    help="y: float luma, border = scale, as in papers. rgb: uint8, border 4, as in NTIRE.",
)
@click.option(
    "--degradation",
    type=click.Choice(["bi", "bd", "dn"]),
    help="How LR is made. bi: bicubic. At x3 only: bd, blurred; dn, bicubic with noise.  "
    "[default: as each network was trained for]",
)
@budgets_option
@click.option(
    "--max-memory",
    metavar="SIZE",
    help="Bound on resident memory, such as 2GiB: larger images are run in tiles, as upscale does. "
    " [default: a quarter of what is available]",
)
@code_options("networks")
@run_options
@format_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON list with an object per set and variant instead of a table.",
)
@click.option(
    "-o", "--output", metavar="DIR", help="Folder for eval.json, eval.md, psnr.png and psnr.svg."
)
def evaluate(
    networks: Tuple[str, ...],
    table_format: Optional[str],
    as_json: bool,
    output: Optional[str],
    **options: Any,
) -> None:
    """Measure PSNR and SSIM of checkpoints, code, ONNX graphs and engines on sets of images.

    Prints a table like those in papers: a column per set, and bicubic as the first row. Networks
    that cannot run on this machine are listed with the reason; the exit code is 1 if none can.
    Models run in the fastest form that is here, code by torch.
    """
    from sr_deploy.bench.quality import quality_from_artifacts
    from sr_deploy.core.files import (
        make_output_folder,
        remove_empty_folders,
        write_bytes,
        write_text,
    )
    from sr_deploy.core.jsonio import to_json
    from sr_deploy.results.report.drawing import check_can_draw
    from sr_deploy.results.report.quality_figure import printed_notes, quality_figure
    from sr_deploy.results.rows import BICUBIC
    from sr_deploy.results.tables import quality_table

    if output is not None:
        if not output:
            raise InputError("--output is empty; expected a folder")
        check_can_draw()
    # Bad input is reported here, before a folder is created.
    pending = quality_from_artifacts(networks, **options, progress=terminal_progress)
    with remove_empty_folders(*([Path(output)] if output else [])):
        if output is not None:
            make_output_folder(Path(output))
        rows = list(pending)
        scores = [dataclasses.asdict(row) for row in rows if row.backend != BICUBIC]
        if output is not None:
            figures = quality_figure(rows)
            write_text(Path(output) / "eval.json", to_json(scores))
            notes = [f"- printed numbers: {note}" for note in printed_notes(rows)]
            write_text(Path(output) / "eval.md", "\n\n".join([quality_table(rows), *notes]) + "\n")
            for note in notes:
                log(note[2:])
            for name, content in figures.items():
                write_bytes(Path(output) / name, content)
            log(f"wrote eval.json, eval.md, {', '.join(figures)} to {output}")
    if as_json:
        emit_json(scores)
    else:
        emit_quality(rows, table_format)
    if all(row.error for row in rows if row.backend != BICUBIC):
        raise InputError("no network could be measured; the reasons are above")
