"""srdeploy upscale."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, Optional

import click

from sr_deploy.cli.output import emit, say
from sr_deploy.core.errors import InputError


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option(
    "-m",
    "--model",
    metavar="MODEL|ARTIFACT|FAMILY",
    help="A checkpoint (run by torch), a graph, an engine, or a folder of these of one model.",
)
@click.option(
    "--adaptive",
    "kind",
    type=click.Choice(["cdnsr", "elastic", "adadsr"]),
    help="Compute more where the image needs it; -m: a router, an AdaEDSR, or its plan.  [default: a shipped one]",
)
@click.option(
    "--max-flops",
    metavar="PERCENT",
    help="Of cdnsr and elastic: 60% of the largest branch, say.  [default: as trained]",
)
@click.option(
    "--depth", type=float, help="Of adadsr: the desired depth, in blocks.  [default: half of all]"
)
@click.option(
    "--decisions",
    type=click.Path(path_type=Path),
    help="Of one picture: where to draw how much was computed where (PNG).",
)
@click.option("--variant", help="Of a checkpoint or a folder.  [default: the largest]")
@click.option(
    "--tile",
    type=click.IntRange(1),
    metavar="N",
    help="Largest LR side fed, halo included.  [default: what memory allows]",
)
@click.option(
    "--max-memory",
    metavar="SIZE",
    help="Resident memory not to exceed: 2GiB, 800MiB.  [default: a quarter of what is free]",
)
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["png", "jpg", "webp", "tif"]),
    help="Of a folder's results.  [default: as the pictures]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that share a folder.",
)
@click.option(
    "--codec", default="libx264", show_default=True, help="Of a video: an encoder of FFmpeg."
)
@click.option(
    "--crf",
    type=click.IntRange(0, 63),
    help="Of a video: its encoder's quality, smaller is better.  [default: the encoder's]",
)
@click.option(
    "--governor",
    is_flag=True,
    help="Of a video: choose among all variants, frame by frame, to hold --fps.",
)
@click.option(
    "--fps", type=click.FloatRange(0.1, 1000), help="Frames per second that the governor holds."
)
@click.option(
    "--max-watts",
    type=click.FloatRange(0.1),
    help="Power that the governor holds, where the board reports it.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="A file, or a folder for a folder.",
)
def upscale(
    source: Path,
    model: Optional[str],
    kind: Optional[str],
    max_flops: Optional[str],
    depth: Optional[float],
    decisions: Optional[Path],
    variant: Optional[str],
    tile: Optional[int],
    max_memory: Optional[str],
    suffix: Optional[str],
    workers: int,
    codec: str,
    crf: Optional[int],
    governor: bool,
    fps: Optional[float],
    max_watts: Optional[float],
    output: Path,
) -> None:
    """Upscale a picture, a folder of pictures or a video, in tiles where memory asks for it.

    Tiled results are those of the whole image wherever that can be had; where not, the measured difference is printed. A
    folder keeps its tree, and what is finished is skipped when the command is given again; so is a video gone on with.
    Prints the files it wrote.
    """
    from sr_deploy.runtime.opener import describe_one
    from sr_deploy.runtime.opener.adaptive import describe_adaptive
    from sr_deploy.upscale.formats import PICTURE_SUFFIXES, format_of_name, is_picture
    from sr_deploy.upscale.memory import parse_bytes
    from sr_deploy.upscale.tiles import Upscaler

    if not source.exists():
        raise InputError(f"there is no file or folder {source}")
    if not source.is_file() and not source.is_dir():  # a pipe: opening it would wait for ever
        raise InputError(f"{source} is neither a file nor a folder", hint="save it to a file first")
    bound = None if max_memory is None else parse_bytes(max_memory)
    video = not source.is_dir() and not is_picture(source)
    if video and format_of_name(output) is not None:
        kinds = ", ".join(PICTURE_SUFFIXES)
        raise InputError(
            f"{source} is no picture that can be read, and no video becomes {output.name}",
            hint=f"pictures: {kinds}",
        )
    if not video and (crf is not None or codec != "libx264"):
        raise InputError("--codec and --crf are for videos", hint="leave them out")
    if not video and (governor or fps is not None or max_watts is not None):
        raise InputError("--governor, --fps and --max-watts are for videos", hint="leave them out")
    if governor != (fps is not None) or (max_watts is not None and not governor):
        raise InputError(
            "--governor needs --fps, and --fps and --max-watts need --governor",
            hint="--fps 24 --governor, say",
        )
    if governor and variant is not None:
        raise InputError(
            "--governor chooses the variant; --variant names one", hint="leave one of them out"
        )
    asked = _adaptive(model, kind, max_flops, depth, decisions, variant, governor)
    if decisions is not None and (video or source.is_dir()):
        raise InputError(
            "--decisions draws those of one picture", hint="give one picture, or leave it out"
        )
    if decisions is not None and decisions.suffix.lower() != ".png":
        raise InputError(f"--decisions {decisions}: expected a .png")
    if source.is_dir():
        from sr_deploy.upscale.workers import FolderTask

        _folder(
            FolderTask(
                source,
                output,
                model,
                variant,
                tile,
                bound,
                None if suffix is None else "." + suffix,
                asked,
            ),
            workers,
        )
        return
    if suffix is not None or workers != 1:
        raise InputError(
            "--format and --workers are for folders",
            hint="the name after -o decides the format of one file",
        )
    if output.is_dir():
        output = output / source.name
    if governor:
        assert fps is not None and model is not None
        _governed(source, output, model, tile, bound, codec, crf, fps, max_watts)
        return
    chosen = describe_one(str(model), variant) if asked is None else describe_adaptive(asked, model)
    say(f"{chosen.name} on {source}")
    upscaler = Upscaler(
        chosen.open(),
        tile=tile,
        max_memory=bound,
        identity=chosen.identity,
        held=_held(codec) if video else 0,
    )
    if video:
        _video(source, output, upscaler, codec, crf)
        if upscaler.spent is not None:
            say(f"of all frames of this run: {upscaler.spent}")
    else:
        from sr_deploy.core.files import make_output_folder, remove_empty_folders
        from sr_deploy.upscale.folder import Job, upscale_picture

        with remove_empty_folders(*([] if decisions is None else [decisions.parent])):
            if decisions is not None:
                if decisions.resolve() in (source.resolve(), output.resolve()):
                    raise InputError(
                        f"--decisions {decisions} would replace the picture or its result",
                        hint="give another name",
                    )
                make_output_folder(decisions.parent)  # before the work: can it be written?
                upscaler.session.decisions = []  # type: ignore[attr-defined]
            upscale_picture(Job(source, output), upscaler, say=say)
            emit(str(output))
            if decisions is not None:
                _draw(upscaler, decisions)
    say(upscaler.receipt())


def _adaptive(
    model: Optional[str],
    kind: Optional[str],
    max_flops: Optional[str],
    depth: Optional[float],
    decisions: Optional[Path],
    variant: Optional[str],
    governor: bool,
) -> Any:
    """What was asked of an adaptive network, None where none is."""
    if kind is None:
        if max_flops is not None or depth is not None or decisions is not None:
            raise InputError(
                "--max-flops, --depth and --decisions are for adaptive networks",
                hint="give --adaptive too",
            )
        if model is None:
            raise InputError(
                "no network to upscale with",
                hint="give -m asrn_x4, say, or --adaptive for a shipped default",
            )
        return None
    if variant is not None or governor:
        raise InputError(
            "--adaptive chooses for each part of an image; --variant and --governor choose one",
            hint="leave them out",
        )
    from sr_deploy.runtime.opener.adaptive import AdaptiveOptions

    return AdaptiveOptions(kind, max_flops, depth)


def _draw(upscaler: Any, path: Path) -> None:
    from sr_deploy.core.files import atomic_path
    from sr_deploy.core.images import write_png
    from sr_deploy.runtime.adaptive.decisions import LEGEND, decisions_picture

    with atomic_path(path) as temporary:
        write_png(
            temporary,
            decisions_picture(upscaler.assembled(upscaler.session.decisions), scale=upscaler.scale),
        )
    say(LEGEND)
    emit(str(path))


def _folder(task: Any, workers: int) -> None:
    from sr_deploy.core.files import remove_empty_folders
    from sr_deploy.upscale.workers import run_shared

    with remove_empty_folders(task.output):
        summary = run_shared(task, workers, say=say, wrote=lambda path: emit(str(path)))
    for path in sorted(summary.busy):
        say(
            f"{path} is left to the process that claims it (.claim beside its result; remove that if the process is gone)"
        )
    say(str(summary))
    if summary.failed:
        raise InputError(
            f"{len(summary.failed)} of the pictures could not be upscaled; the others were",
            hint="see the lines above",
        )


def _held(codec: Optional[str]) -> int:
    """How many upscaled frames' memory a video takes: what waits on both sides of the network, and the encoder's."""
    from sr_deploy.upscale.video_encode import HOLDS

    return 8 + HOLDS.get(codec or "libx264", 0)


def _video(source: Path, output: Path, upscaler: Any, codec: str, crf: Optional[int]) -> None:
    from sr_deploy.upscale.status import status_line
    from sr_deploy.upscale.video import upscale_video

    summary = upscale_video(
        source, output, upscaler, codec=codec, crf=crf, say=say, progress=status_line(sys.stderr)
    )
    say(str(summary))
    emit(str(output))


def _governed(
    source: Path,
    output: Path,
    model: str,
    tile: Optional[int],
    bound: Optional[int],
    codec: str,
    crf: Optional[int],
    fps: float,
    max_watts: Optional[float],
) -> None:
    from sr_deploy.runtime.opener import describe_family
    from sr_deploy.upscale.governor import Governor, log_to
    from sr_deploy.upscale.power import live_watts
    from sr_deploy.upscale.tiles import Upscaler

    found = describe_family(model)
    upscalers = [
        Upscaler(r.open(), tile=tile, max_memory=bound, identity=r.identity, held=_held(codec))
        for r in found
    ]
    log = output.with_name(output.stem + ".governor.jsonl")
    with live_watts() if max_watts is not None else contextlib.nullcontext() as watts, log_to(
        log
    ) as note:
        governor = Governor(
            upscalers,
            fps=fps,
            names=[r.variant for r in found],
            max_watts=max_watts,
            watts=watts,
            log=note,
        )
        say(f"{found[0].model} on {source}; {governor.describe()}")
        _video(source, output, governor, codec, crf)
        say(f"{governor.summary()}; frame by frame: {log}")
    say(max(upscalers, key=lambda u: u.estimate).receipt())
