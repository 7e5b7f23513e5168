"""Upscale whatever a path names: a picture, a folder of pictures or a video."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import (
    atomic_path,
    check_new,
    make_output_folder,
    remove_empty_folders,
    side_path,
)
from sr_deploy.core.images import write_png
from sr_deploy.core.pictures.formats import PICTURE_SUFFIXES, format_of_name, is_picture
from sr_deploy.runtime.adaptive.decisions import LEGEND, decisions_picture
from sr_deploy.runtime.opener import describe_family
from sr_deploy.upscale.folder import upscale_picture
from sr_deploy.upscale.folder_log import PictureTask
from sr_deploy.upscale.governor import Governor, log_to
from sr_deploy.upscale.memory import MemorySharing
from sr_deploy.upscale.options import UpscaleOptions
from sr_deploy.upscale.power import live_watts
from sr_deploy.upscale.reporter import Reporter
from sr_deploy.upscale.tree import why_not_read
from sr_deploy.upscale.upscaler import Upscaler
from sr_deploy.upscale.video import VideoUpscaler, upscale_video
from sr_deploy.upscale.video_encode import encoder_results
from sr_deploy.upscale.video_file import CONTAINERS
from sr_deploy.upscale.workers import upscale_tree

_VIDEO_RESULTS = 9
"""The upscaled frames that wait on both sides of the network, and one more that is in it."""


def upscale_path(source: Path, output: Path, options: UpscaleOptions, reporter: Reporter) -> None:
    """Upscale a picture, a folder of pictures or a video into `output`, a file or folder.

    Raises an SrDeployError on bad input, after the rest of a folder is done.
    """
    kind = _input_kind(source, output)
    options.check_input(kind)
    if kind == "folder":
        _upscale_folder(source, output, options, reporter)
        return
    if kind == "video" and format_of_name(output) is not None:
        raise InputError(
            f"{source} cannot be read as a picture, and a video cannot become {output.name}",
            hint=f"give an output ending in {', '.join(CONTAINERS)} for a video; "
            f"pictures end in {', '.join(PICTURE_SUFFIXES)}",
        )
    if output.is_dir():
        output = output / source.name
    if options.governor:
        _upscale_governed(source, output, options, reporter)
        return
    network = options.network()
    reserved = _reserved_results(options) if kind == "video" else 0
    sharing = MemorySharing(reserved_results=reserved)
    with contextlib.closing(
        options.upscaler(network, sharing=sharing, log=reporter.log)
    ) as upscaler:
        reporter.log(f"{network.name} on {source}, by {upscaler.where}")
        if kind == "video":
            _upscale_video(source, output, upscaler, options, reporter)
            if upscaler.work is not None:
                reporter.log(f"all frames of this run: {upscaler.work}")
        elif options.decisions is None:
            task = PictureTask(source, output)
            upscale_picture(task, upscaler, reporter, force=options.force)
        else:
            task = PictureTask(source, output)
            _upscale_with_decisions(task, upscaler, options, reporter)
        reporter.log(upscaler.memory_report())


def _input_kind(source: Path, output: Path) -> str:
    if source.is_dir():
        return "folder"
    if not source.exists():
        raise InputError(f"there is no file or folder {source}")
    if not source.is_file():  # opening a pipe would block
        raise InputError(f"{source} is neither a file nor a folder", hint="save it to a file first")
    animation = output.suffix.lower() in CONTAINERS and not output.is_dir()
    if is_picture(source) and not animation:
        return "picture"
    reason = why_not_read(source)
    if reason and not animation:
        raise InputError(f"cannot upscale {source}: {reason}")
    return "video"


def _upscale_folder(
    source: Path, output: Path, options: UpscaleOptions, reporter: Reporter
) -> None:
    with remove_empty_folders(output):
        summary = upscale_tree(source, output, options, reporter)
    for path in sorted(summary.busy):
        reporter.log(
            f"{path} is left to the process that claims it; "
            "if that has ended, remove the .claim file beside the result"
        )
    reporter.log(str(summary))
    not_done = len(summary.failed) + len(summary.passed_over)
    if not_done:
        raise InputError(
            f"{not_done} of the pictures could not be upscaled",
            hint="see the lines above; the other pictures are done",
        )


def _upscale_with_decisions(
    task: PictureTask, upscaler: Upscaler, options: UpscaleOptions, reporter: Reporter
) -> None:
    """Upscale a picture with an adaptive network and draw its decisions as a PNG file."""
    drawing = options.decisions
    assert drawing is not None
    if drawing.resolve() in (task.source.resolve(), task.output.resolve()):
        raise InputError(
            f"--decisions {drawing} would replace the picture or its result",
            hint="give another name",
        )
    check_new(drawing, force=options.force)
    with remove_empty_folders(drawing.parent):
        make_output_folder(drawing.parent)  # fails before the work if it cannot be written
        session: Any = upscaler.session
        session.decisions = []  # a list: the session appends a map per tile
        upscale_picture(task, upscaler, reporter, force=options.force)
        decisions = upscaler.assemble(session.decisions)
        with atomic_path(drawing) as temporary:
            write_png(temporary, decisions_picture(decisions, scale=upscaler.scale))
    reporter.log(LEGEND)
    reporter.written(drawing)


def _reserved_results(options: UpscaleOptions) -> int:
    return _VIDEO_RESULTS + encoder_results(options.codec)


def _upscale_video(
    source: Path, output: Path, upscaler: VideoUpscaler, options: UpscaleOptions, reporter: Reporter
) -> None:
    summary = upscale_video(
        source,
        output,
        upscaler,
        codec=options.codec,
        crf=options.crf,
        drop=options.drop,
        force=options.force,
        reporter=reporter,
    )
    reporter.log(str(summary))
    reporter.written(output)


def _upscale_governed(
    source: Path, output: Path, options: UpscaleOptions, reporter: Reporter
) -> None:
    networks = describe_family(str(options.model))
    sharing = MemorySharing(reserved_results=_reserved_results(options))
    log_path = side_path(output.with_suffix(""), ".governor.jsonl")
    with contextlib.ExitStack() as stack:
        upscalers = [
            stack.enter_context(
                contextlib.closing(options.upscaler(n, sharing=sharing, log=reporter.log))
            )
            for n in networks
        ]
        watts = None if options.max_watts is None else stack.enter_context(live_watts())
        governor = Governor(
            upscalers,
            fps=options.fps or 0.0,
            names=[n.variant for n in networks],
            max_watts=options.max_watts,
            watts=watts,
            log=log_to(log_path),
        )
        by = upscalers[0].where
        reporter.log(f"{networks[0].model} on {source}, by {by}; {governor.describe()}")
        _upscale_video(source, output, governor, options, reporter)
        reporter.log(f"{governor.summary()}; frame by frame: {log_path}")
        reporter.log(max(upscalers, key=lambda u: u.estimated_bytes).memory_report())
