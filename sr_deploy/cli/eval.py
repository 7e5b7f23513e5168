"""srdeploy eval."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Optional, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.core.errors import InputError


@click.command("eval")
@click.argument("given", nargs=-1, required=True, metavar="MODEL|ARTIFACT...")
@click.option(
    "--variants",
    default="all",
    show_default=True,
    help="Of checkpoints: all (those of the paper's table), or a list: d1,d3.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="HR_DIR",
    help="Folder of HR images; may be given several times; default: scikit-image's.",
)
@click.option(
    "--metric",
    type=click.Choice(["y", "rgb"]),
    default="y",
    show_default=True,
    help="y: float luma, border = scale, as papers. rgb: uint8, border 4, as NTIRE.",
)
@click.option(
    "--degradation",
    type=click.Choice(["bi", "bd", "dn"]),
    default="bi",
    show_default=True,
    help="How LR is made: bi, bicubic; x3 only: bd, blurred; dn, bicubic with noise.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON list, an object per set and variant, instead of the table.",
)
@click.option(
    "-o", "--output", metavar="DIR", help="Folder for eval.json, eval.md, psnr.png and psnr.svg."
)
def evaluate(
    given: Tuple[str, ...],
    variants: str,
    data: Tuple[str, ...],
    metric: str,
    degradation: str,
    as_json: bool,
    output: Optional[str],
) -> None:
    """Score checkpoints (by torch), ONNX graphs and engines on sets of images: PSNR and SSIM, no speed.

    Prints a table as the papers do, a column per set and bicubic as its first row. What cannot run on this machine is listed
    with the reason.
    """
    from sr_deploy.bench.quality import scored
    from sr_deploy.core.files import (
        make_output_folder,
        remove_empty_folders,
        write_bytes,
        write_text,
    )
    from sr_deploy.results.report.drawing import check_can_draw
    from sr_deploy.results.report.quality_figure import quality_figure
    from sr_deploy.results.rows import BICUBIC
    from sr_deploy.results.tables import quality_table

    if output is not None:
        if not output:
            raise InputError("--output is empty; expected a folder")
        check_can_draw()
    waiting = scored(
        given, variants=variants, data=data, metric=metric, degradation=degradation, progress=log
    )
    # The input is good by now: what is wrong with it leaves no folder.
    with remove_empty_folders(*([Path(output)] if output else [])):
        if output is not None:
            make_output_folder(Path(output))
        rows = list(waiting)
        scores = [dataclasses.asdict(row) for row in rows if row.backend != BICUBIC]
        table = quality_table(rows)
        if output is not None:
            figures = quality_figure(rows)
            write_text(
                Path(output) / "eval.json", json.dumps(scores, indent=2, ensure_ascii=False) + "\n"
            )
            write_text(Path(output) / "eval.md", table + "\n")
            for name, content in figures.items():
                write_bytes(Path(output) / name, content)
            log(f"wrote eval.json, eval.md, {', '.join(figures)} to {output}")
    if as_json:
        emit_json(scores)
    else:
        emit(table)
