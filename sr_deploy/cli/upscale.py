"""srdeploy upscale."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, TextIO

import click

from sr_deploy.cli.code_options import code_options
from sr_deploy.cli.output import emit, log
from sr_deploy.cli.run_options import run_options

_LINE_EVERY_S = 10.0
"""Between lines of progress where stderr is not a terminal."""

_OPTIONS = (
    click.option(
        "-m",
        "--model",
        metavar="MODEL|ARTIFACT|FOLDER",
        help="A checkpoint or code (run by torch), graph or engine, or a folder of one model's "
        "artifacts.",
    ),
    click.option(
        "--adaptive",
        type=click.Choice(["cdnsr", "elastic", "adadsr"]),
        help="Compute more where the image needs it. -m: a router, AdaEDSR or plan.  "
        "[default: a shipped one]",
    ),
    click.option(
        "--max-flops",
        metavar="PERCENT",
        help="cdnsr and elastic: budget, such as 60% of the plain network on the whole image, "
        "overlaps and router included.  [default: as trained]",
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
        "--variant", help="The variant of a checkpoint or a folder.  [default: the largest]"
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
        help="Folders: the format of the results.  [default: those of the pictures]",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        help="Folders: the number of processes that share the work and take turns at the GPUs.",
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
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@_upscale_options
@code_options("model")
@run_options
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="A file, or a folder for a folder.",
)
@click.option(
    "--force", is_flag=True, help="Replace existing files that are no results of the same folder."
)
def upscale(
    source: Path, output: Path, max_memory: Optional[str], drop: Optional[str], **options: Any
) -> None:
    """Upscale a picture, a folder of pictures or a video, in tiles if memory requires it.

    The tiled result equals that of the whole image wherever this is possible. Where it is not, the
    measured difference is printed. A folder keeps its tree. Its hidden files are left out, and the
    pictures that cannot be read are named. If the same command is given again, finished pictures
    are skipped and an unfinished video is resumed. Prints the paths of the files it wrote.
    """
    from sr_deploy.upscale.memory import parse_bytes
    from sr_deploy.upscale.options import UpscaleOptions, parse_streams
    from sr_deploy.upscale.reporter import Reporter
    from sr_deploy.upscale.run import upscale_path

    options["max_memory"] = None if max_memory is None else parse_bytes(max_memory)
    options["drop"] = frozenset() if drop is None else parse_streams(drop)
    progress = functools.partial(frame_progress, sys.stderr)
    reporter = Reporter(log, lambda path: emit(str(path)), progress)
    upscale_path(source, output, UpscaleOptions(**options), reporter)


@contextlib.contextmanager
def frame_progress(
    stream: TextIO, done: int, total: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each frame: a bar on a terminal, else a line at intervals.

    done: the frames that are finished already. total: 0 if unknown.
    """
    started = last_line = clock()
    count = itertools.count(1)

    def fps(n: int) -> str:
        return f"{n / max(clock() - started, 1e-9):.2f} frames/s"

    if stream.isatty():
        left = max(total - done, 1) if total else None
        with click.progressbar(
            itertools.repeat(""), left, file=stream, show_pos=True, item_show_func=lambda rate: rate
        ) as bar:
            yield lambda: bar.update(1, fps(next(count)))
        return

    def advance() -> None:
        nonlocal last_line
        n = next(count)
        if n == 1 or clock() - last_line >= _LINE_EVERY_S:
            last_line = clock()
            of_total = f" of {total}" if total else ""
            seconds_left = round(max(total - done - n, 0) / n * (clock() - started))
            left = f"{seconds_left // 3600}:{seconds_left // 60 % 60:02d}:{seconds_left % 60:02d}"
            left_text = f", {left} left" if total else ""
            click.echo(f"frame {done + n}{of_total}, {fps(n)}{left_text}", file=stream)

    yield advance
