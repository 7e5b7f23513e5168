"""srdeploy prepare."""

from __future__ import annotations

from pathlib import Path

import click

from sr_deploy.cli.output import emit, log
from sr_deploy.cli.progress import terminal_progress


@click.command()
@click.argument(
    "set_name", metavar="test2k|test4k|test8k", type=click.Choice(["test2k", "test4k", "test8k"])
)
@click.option(
    "--from",
    "source",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of DIV8K's images, named by their numbers: 1201.png to 1500.png.",
)
@click.option(
    "--any-images",
    is_flag=True,
    help="Take all images of the folder, reduced to a longer side of 1920, 3840 or 7680 pixels, "
    "for a set that is named after the folder.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for the folder of the set, such as DIR/Test2K.",
)
def prepare(set_name: str, source: Path, any_images: bool, output: Path) -> None:
    """Make the sets of large images that ClassSR and CDNSR are measured on, from DIV8K.

    Test2K, Test4K and Test8K are 100 images each, numbers 1201 to 1300, 1301 to 1400 and 1401 to
    1500, reduced by 4, by 2 and not at all. Writes the folders HR and LR_x4, which eval and bench
    take. A stopped run is continued by the same command.
    """
    from sr_deploy.bench.paper_sets import notes_of, prepare_set

    folder = prepare_set(
        set_name, source, output, any_images=any_images, progress=terminal_progress
    )
    for note in notes_of(folder):
        log(note)
    emit(str(folder))
