"""Upscale what paths and patterns name: pictures, folders of pictures and videos."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError, SrDeployError
from sr_deploy.core.files import (
    atomic_path,
    check_new,
    is_disk_full,
    make_output_folder,
    remove_empty_folders,
    side_path,
)
from sr_deploy.core.images import write_png
from sr_deploy.core.pictures.formats import format_for
from sr_deploy.core.precisions import lowest_precision
from sr_deploy.core.shipped import DEFAULT_MODELS, find_checkpoint, read_card
from sr_deploy.fast.opener import describe_family
from sr_deploy.runtime.adaptive.decisions import LEGEND, decisions_picture
from sr_deploy.runtime.opener import NetworkDescription, describe_one, split_variant
from sr_deploy.upscale.folder import check_picture, upscale_picture
from sr_deploy.upscale.folder_log import PictureTask
from sr_deploy.upscale.governor import Governor, log_to
from sr_deploy.upscale.inputs import (
    Job,
    PicturesJob,
    VideoJob,
    find_inputs,
    input_kind,
    names_of,
    plan_jobs,
    results_of,
)
from sr_deploy.upscale.memory import MemorySharing
from sr_deploy.upscale.options import UpscaleOptions
from sr_deploy.upscale.pictures import read_picture, result_hw
from sr_deploy.upscale.power import live_watts
from sr_deploy.upscale.reporter import Reporter
from sr_deploy.upscale.upscaler import Upscaler
from sr_deploy.upscale.video import VideoUpscaler, check_paths, upscale_video
from sr_deploy.upscale.video_encode import encoder_results
from sr_deploy.upscale.video_source import probe_video
from sr_deploy.upscale.workers import upscale_pictures

_VIDEO_RESULTS = 9
"""The upscaled frames that wait on both sides of the network, and one more that is in it."""


def upscale_paths(
    inputs: Sequence[str], output: Optional[str], options: UpscaleOptions, reporter: Reporter
) -> None:
    """Upscale pictures, folders of pictures and videos (see `inputs` for where the results go).

    inputs: paths, and patterns such as `photos/*.jpg`. output: a file or a folder; None: beside
    the inputs. Raises an SrDeployError on bad input, after the rest is done.
    """
    jobs, options = plan_run(inputs, output, options)
    pairs = results_of(jobs)
    if pairs:
        more = f", and {len(pairs) - 1} more" if len(pairs) > 1 else ""
        reporter.log(f"{pairs[0][0]} -> {pairs[0][1]}{more}")
    if len(jobs) == 1:
        _run_job(jobs[0], options, reporter)
        return
    failed: List[str] = []
    for job in jobs:
        try:
            _run_job(job, options, reporter)
        except SrDeployError as e:
            if is_disk_full(e.__cause__):
                raise
            reporter.log(f"failed: {e.message}" + (f"; {e.hint}" if e.hint else ""))
            failed.append(e.message)
    if failed:
        raise InputError(
            f"not everything was upscaled: {failed[0]}",
            hint="see the lines above; the rest is done",
        )


def plan_run(
    inputs: Sequence[str], output: Optional[str], options: UpscaleOptions
) -> Tuple[List[Job], UpscaleOptions]:
    """Return what `upscale_paths` does, and the options with a network. Reads the folders only.

    Raises an SrDeployError on bad input.
    """
    sources = find_inputs(inputs)
    options = options.with_model(_factor(sources, options))
    suffix = None if options.format is None else f".{options.format}"
    label = "" if output is not None else options.size.label(scale_of(options))
    names = names_of(output, label=label, suffix=suffix)
    jobs = plan_jobs(sources, names)
    named = len(sources) == 1 and output is not None and not names.is_folder
    options.check_inputs(
        [_kind(job) for job in jobs], named=named and not isinstance(jobs[0], PicturesJob)
    )
    return jobs, options


def _kind(job: Job) -> str:
    if isinstance(job, VideoJob):
        return "video"
    return "pictures" if isinstance(job, PicturesJob) else "picture"


def _factor(sources: Sequence[Path], options: UpscaleOptions) -> Optional[float]:
    """Return by what factor the inputs become larger; None: by the network's scale, or unknown."""
    size = options.size
    if size.box is None or len(sources) != 1 or options.model is not None or sources[0].is_dir():
        return size.factor
    if input_kind(sources[0], None) == "video":
        facts = probe_video(sources[0])
        return size.factor_for(facts.hw, turned=facts.turned)
    picture = read_picture(sources[0])
    hw = (picture.rgb.shape[0], picture.rgb.shape[1])
    return size.factor_for(hw, turned=picture.turned)


def scale_of(options: UpscaleOptions) -> int:
    """Return the scale of the network. Raises an SrDeployError if there is none."""
    defaults = {name: scale for scale, name in DEFAULT_MODELS.items()}
    if options.model in defaults:  # at once, without a look at it
        return defaults[options.model]
    if options.adaptive is None:
        weights = find_checkpoint(split_variant(str(options.model))[0])
        if weights is not None:
            return read_card(weights).scale
        network = describe_one(str(options.model), options.variant)
    else:
        network = options.network()
    scale = network.find_scale()
    if scale is None:
        raise InputError(f"the scale of {network.name} is not known", hint="give -o")
    return scale


def _run_job(job: Job, options: UpscaleOptions, reporter: Reporter) -> None:
    if isinstance(job, PicturesJob):
        _upscale_pictures(job, options, reporter)
        return
    picture = None
    # What cannot be used is refused before a network is made.
    if isinstance(job, VideoJob):
        check_paths(job.source, job.output, options.force)
        probe_video(job.source)
    if isinstance(job, PictureTask):
        check_picture(job, options.result)
        picture = read_picture(job.source)
        result_hw(picture, 1, format_for(job.output), options.size)
    elif options.governor:
        _upscale_governed(job, options, reporter)
        return
    network = options.network(reporter.log)
    reserved = _reserved_results(options) if isinstance(job, VideoJob) else 0
    sharing = MemorySharing(reserved_results=reserved)
    with contextlib.closing(
        options.upscaler(network, sharing=sharing, log=reporter.log)
    ) as upscaler:
        reporter.log(f"{network.name} on {job.source}, by {upscaler.where}")
        if isinstance(job, VideoJob):
            _upscale_video(job, upscaler, options, reporter)
            if upscaler.work is not None:
                reporter.log(f"all frames of this run: {upscaler.work}")
        elif options.decisions is None:
            upscale_picture(job, upscaler, reporter, options.result, picture)
        else:
            _upscale_with_decisions(job, upscaler, options, reporter)
        reporter.log(upscaler.memory_report())


def _upscale_pictures(job: PicturesJob, options: UpscaleOptions, reporter: Reporter) -> None:
    folders = [] if job.folder is None else [job.folder]
    with remove_empty_folders(*folders):
        summary = upscale_pictures(job, options, reporter)
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
        upscale_picture(task, upscaler, reporter, options.result)
        decisions = upscaler.assemble(session.decisions)
        with atomic_path(drawing) as temporary:
            write_png(temporary, decisions_picture(decisions, scale=upscaler.scale))
    reporter.log(LEGEND)
    reporter.written(drawing)


def _reserved_results(options: UpscaleOptions) -> int:
    return _VIDEO_RESULTS + encoder_results(options.codec)


def _upscale_video(
    job: VideoJob, upscaler: VideoUpscaler, options: UpscaleOptions, reporter: Reporter
) -> None:
    summary = upscale_video(
        job.source,
        job.output,
        upscaler,
        codec=options.codec,
        crf=options.crf,
        drop=options.drop,
        result=options.result,
        reporter=reporter,
    )
    reporter.log(str(summary))
    reporter.written(job.output)


def rung_names(networks: Sequence[NetworkDescription]) -> List[str]:
    """Return the variant of each network, with its precision where they differ: `d3 int8`."""
    precisions = [lowest_precision(network.precision) for network in networks]
    if len(set(precisions)) == 1:
        return [network.variant for network in networks]
    return [f"{network.variant} {p}".strip() for network, p in zip(networks, precisions)]


def _upscale_governed(job: VideoJob, options: UpscaleOptions, reporter: Reporter) -> None:
    networks = describe_family(str(options.model), options.run, progress=reporter.log)
    sharing = MemorySharing(reserved_results=_reserved_results(options))
    log_path = side_path(job.output.with_suffix(""), ".governor.jsonl")
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
            names=rung_names(networks),
            max_watts=options.max_watts,
            watts=watts,
            log=log_to(log_path),
        )
        by = upscalers[-1].where  # the highest precision
        reporter.log(f"{networks[0].model} on {job.source}, by {by}; {governor.describe()}")
        _upscale_video(job, governor, options, reporter)
        reporter.log(f"{governor.summary()}; frame by frame: {log_path}")
        reporter.log(max(upscalers, key=lambda u: u.estimated_bytes).memory_report())
