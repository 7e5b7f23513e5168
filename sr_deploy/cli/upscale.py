"""srdeploy upscale."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Optional, Tuple

import click

from sr_deploy.cli.alias import AliasedOption
from sr_deploy.cli.code_options import code_options
from sr_deploy.cli.output import emit
from sr_deploy.cli.progress import terminal_progress
from sr_deploy.cli.run_options import run_options

_OPTIONS = (
    click.option(
        "-m",
        "--model",
        metavar="MODEL|ARTIFACT|FOLDER",
        help="A checkpoint, code, graph or engine, or a folder of one model's artifacts.  "
        "[default: asrn_x4; asrn_x2 or asrn_x3 where --outscale or --outsize needs no more]",
    ),
    click.option(
        "--outscale",
        type=float,
        metavar="FACTOR",
        help="Resample results to this factor, such as 3.5.  [default: the network's scale]",
    ),
    click.option(
        "--outsize",
        metavar="WIDTHxHEIGHT",
        help="Resample results to the largest size that fits into this one, such as 3840x2160. "
        "The aspect ratio is kept.",
    ),
    click.option(
        "--compare",
        is_flag=True,
        help="Pictures: also write a page that shows before and after, photo_x4.html.",
    ),
    click.option(
        "--adaptive",
        type=click.Choice(["cdnsr", "elastic", "adadsr"]),
        help="Compute more where the image needs it. -m: a router, AdaEDSR, AdaRCAN or plan.  "
        "[default: a shipped one]",
    ),
    click.option(
        "--max-flops",
        metavar="PERCENT",
        help="cdnsr and elastic: budget, such as 60% of the plain network on the whole image, "
        "overlaps and decisions included.  [default: as trained]",
    ),
    click.option(
        "--max-ms",
        type=click.FloatRange(0, min_open=True),
        metavar="MS",
        help="cdnsr and elastic: the time of each picture or frame, from its pixels to those of "
        "the result.",
    ),
    click.option(
        "--depth", type=float, help="adadsr: the desired depth, in blocks.  [default: half of all]"
    ),
    click.option(
        "--decisions",
        type=click.Path(path_type=Path),
        help="One picture: a PNG file to write that shows how much was computed where.",
    ),
    click.option(
        "--variants",
        "variant",
        cls=AliasedOption,
        aliases=["--variant"],
        help="One variant of a checkpoint or a folder.  [default: the largest]",
    ),
    click.option(
        "--tile",
        type=click.IntRange(1),
        metavar="N",
        help="The largest LR side of a tile, overlap included.  [default: as memory allows]",
    ),
    click.option(
        "--max-memory",
        metavar="SIZE",
        help="Bound on resident memory, and on that of each GPU, such as 2GiB.  "
        "[default: a quarter of what is available, three quarters of a GPU's]",
    ),
    click.option(
        "--format",
        type=click.Choice(["png", "jpg", "webp", "tif"]),
        help="Pictures: the format of the results.  "
        "[default: png; in a folder, those of the pictures]",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        help="Several pictures: the number of processes that share the work and take turns at the "
        "GPUs.",
    ),
    click.option(
        "--codec", default="libx264", show_default=True, help="Videos: an encoder of FFmpeg."
    ),
    click.option(
        "--crf",
        type=click.IntRange(0, 63),
        help="Videos: the encoder's quality, smaller is better.  [default: the encoder's]",
    ),
    click.option(
        "--drop",
        metavar="STREAMS",
        help="Videos: numbers of streams to leave out, such as 2,3 for subtitles that the output's "
        "format cannot hold.",
    ),
    click.option(
        "--governor",
        is_flag=True,
        help="Videos: choose among all variants, frame by frame, to hold --fps.",
    ),
    click.option(
        "--fps", type=click.FloatRange(0.1, 1000), help="The frame rate that the governor holds."
    ),
    click.option(
        "--max-watts",
        type=click.FloatRange(0.1),
        help="The power bound of the governor, on boards that report their power.",
    ),
)


def _upscale_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `UpscaleOptions`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="FILE|FOLDER",
    help="A file, or a folder: for a folder, for several inputs, or with a slash at its end.  "
    "[default: beside the input, photo_x4.png]",
)
@_upscale_options
@code_options("model")
@run_options
@click.option(
    "--force", is_flag=True, help="Replace existing files that are no results of the same folder."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Write nothing; tell what would be made, by what, and the memory and time it needs.",
)
def upscale(
    inputs: Tuple[str, ...],
    output: Optional[str],
    max_memory: Optional[str],
    drop: Optional[str],
    dry_run: bool,
    **options: Any,
) -> None:
    """Upscale pictures, folders of pictures and videos, in tiles if memory requires it.

    `srdeploy upscale photo.jpg` writes photo_x4.png beside it. INPUT may be a pattern such as
    "photos/*.jpg". Without -o, pictures become PNG; in a folder, results have the names and formats
    of the pictures, and folders keep their trees. Nothing is replaced without --force. If a folder
    is given again, finished pictures are skipped; an unfinished video is resumed. Prints the paths
    of the files it wrote.

    The tiled result equals that of the whole image wherever this is possible. Where it is not, the
    measured difference is printed.
    """
    from sr_deploy.upscale.memory import parse_bytes
    from sr_deploy.upscale.options import UpscaleOptions, parse_streams
    from sr_deploy.upscale.output_size import OutputSize, parse_wh
    from sr_deploy.upscale.reporter import Reporter

    box = options.pop("outsize")
    options["size"] = OutputSize(options.pop("outscale"), None if box is None else parse_wh(box))
    options["max_memory"] = None if max_memory is None else parse_bytes(max_memory)
    options["drop"] = frozenset() if drop is None else parse_streams(drop)
    reporter = Reporter(terminal_progress, lambda path: emit(str(path)))
    if dry_run:
        from sr_deploy.upscale.dry_run import tell_plan

        tell_plan(inputs, output, UpscaleOptions(**options), reporter)
    else:
        from sr_deploy.upscale.run import upscale_paths

        upscale_paths(inputs, output, UpscaleOptions(**options), reporter)
