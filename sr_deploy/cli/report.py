"""srdeploy report."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import click

from sr_deploy.cli.output import say
from sr_deploy.core.errors import InputError


@click.command()
@click.argument(
    "files", nargs=-1, required=True, metavar="ROWS...", type=click.Path(path_type=Path)
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The page to write: report.html.",
)
@click.option(
    "--crops",
    multiple=True,
    metavar="MODEL|ARTIFACT",
    help="Also run this here and show cuts of images; may be given several times.",
)
@click.option(
    "--data",
    default="",
    metavar="HR_DIR",
    help="Folder of HR images for the cuts; default: scikit-image's photographs.",
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
    figures: Optional[Path],
) -> None:
    """Write one self-contained HTML page of measured rows.

    ROWS are files of JSON lines, as bench -o writes them. Rows of different protocols, devices, inputs or sets of images
    are shown apart and never ranked together.
    """
    from sr_deploy.bench.crop_images import crops_of
    from sr_deploy.core.files import atomic_path, remove_empty_folders, write_text
    from sr_deploy.results.report.figure import check_can_draw
    from sr_deploy.results.report.html import check_can_render, report_html
    from sr_deploy.results.report.paper import paper_figures
    from sr_deploy.results.rows import read_rows

    if data and not crops:
        raise InputError(
            "images are given for cuts, and nothing to make them with",
            hint="add --crops MODEL, or leave --data out",
        )
    if output.is_dir():
        raise InputError(
            f"{output} is a folder; expected the page's file name",
            hint=f"give {output / 'report.html'}",
        )
    check_can_render()
    if figures is not None:
        check_can_draw()
    rows = [row for path in files for row in read_rows(path)]
    page = report_html(rows, crops_of(crops, data=data, progress=say) if crops else [])
    drawn = paper_figures(rows) if figures is not None else {}
    with remove_empty_folders(output.parent, *([figures] if figures is not None else [])):
        for name, content in drawn.items():
            with atomic_path(Path(figures or "") / name) as temporary:
                temporary.write_bytes(content)
        write_text(output, page)
    say(
        f"wrote {output} ({len(page) / 1e6:.2f} MB)"
        + (f" and {', '.join(drawn)} to {figures}" if drawn else "")
    )
