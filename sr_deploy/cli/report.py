"""srdeploy report."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import click

from sr_deploy.cli.output import log
from sr_deploy.core.errors import InputError
from sr_deploy.core.workspace import ROWS


@click.command()
@click.argument("files", nargs=-1, metavar="[ROWS]...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="report.html",
    show_default=True,
    metavar="FILE",
    help="The HTML page to write.",
)
@click.option(
    "--crops",
    multiple=True,
    metavar="MODEL|ARTIFACT",
    help="Also run this model here and show crops of its images; repeatable.",
)
@click.option(
    "--data",
    default="",
    metavar="HR_DIR",
    help="Folder of HR images for the crops.  [default: scikit-image's photographs]",
)
@click.option(
    "--box",
    default="",
    metavar="Y,X,H,W",
    help="The part of each image for the crops, in HR pixels.  [default: where bicubic is worst]",
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write the charts as PNG and SVG files for a paper.",
)
def report(
    files: Tuple[Path, ...],
    output: Path,
    crops: Tuple[str, ...],
    data: str,
    box: str,
    figures: Optional[Path],
) -> None:
    """Write a self-contained HTML page about measured rows.

    ROWS are JSONL files as written by bench -o; without any, the rows that bench keeps. Rows with
    different protocols, devices, input sizes or image sets are shown separately and never ranked
    together.
    """
    from sr_deploy.bench.crop_images import crops_of, parse_box
    from sr_deploy.core.files import remove_empty_folders, write_bytes, write_text
    from sr_deploy.results.report.figures import draw_figures, figure_files
    from sr_deploy.results.report.groups import group_rows
    from sr_deploy.results.report.html import check_can_render, report_html
    from sr_deploy.results.rows import read_rows

    for option, value in (("data", data), ("box", box)):
        if value and not crops:
            raise InputError(
                f"--{option} is set, but there is nothing to run on the images",
                hint=f"add --crops MODEL, or remove --{option}",
            )
    part = parse_box(box) if box else None
    if not files and (ROWS / "rows.jsonl").is_file():
        files = (ROWS,)
    _check_output(output)
    check_can_render()
    rows = [row for path in files for row in read_rows(path)]
    crop_sets = crops_of(crops, data=data, box=part, progress=log) if crops else []
    drawings = draw_figures(group_rows(rows))
    page = report_html(rows, crop_sets, drawings=drawings)
    with remove_empty_folders(output.parent, *([figures] if figures is not None else [])):
        if figures is not None:
            for name, content in figure_files(drawings).items():
                write_bytes(figures / name, content)
        write_text(output, page)
    log(f"wrote {output} ({len(page) / 1e6:.2f} MB)")
    if figures is not None and drawings:
        log(f"wrote {', '.join(drawings)} as PNG and SVG to {figures}")


def _check_output(output: Path) -> None:
    """Raise InputError for a folder, and for a file that is not an HTML page."""
    if output.is_dir():
        raise InputError(
            f"{output} is a folder; expected the file name of the page",
            hint=f"use {output / 'report.html'}",
        )
    if output.is_file():
        with open(output, "rb") as f:
            if f.read(14).lower() != b"<!doctype html":
                raise InputError(
                    f"{output} already exists, and is not an HTML page",
                    hint="give another output",
                )
