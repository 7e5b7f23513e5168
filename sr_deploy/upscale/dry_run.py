"""What a run would make, by what, and the memory and time that it needs. Nothing is written."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import List, Optional, Sequence

import numpy as np

from sr_deploy.core.errors import InputError, SrDeployError
from sr_deploy.core.pictures.formats import format_for
from sr_deploy.core.sizes import HW
from sr_deploy.fast.opener import not_prepared_for
from sr_deploy.upscale.folder import check_picture
from sr_deploy.upscale.folder_log import LOG, PictureTask
from sr_deploy.upscale.inputs import Job, PicturesJob, VideoJob, results_of, tell_left_out
from sr_deploy.upscale.memory import bytes_text, peak_bytes
from sr_deploy.upscale.options import UpscaleOptions
from sr_deploy.upscale.output_size import wh_text
from sr_deploy.upscale.pictures import more_per_px, read_picture, result_hw
from sr_deploy.upscale.reporter import Reporter
from sr_deploy.upscale.run import plan_run, scale_of
from sr_deploy.upscale.upscaler import Upscaler
from sr_deploy.upscale.video import check_paths
from sr_deploy.upscale.video_source import probe_video

_TRIAL_PX = 128
"""Side of the image that is run once to estimate the time."""


class _PlanTeller:
    """The plan of a run, told line by line."""

    def __init__(
        self, upscaler: Optional[Upscaler], options: UpscaleOptions, reporter: Reporter
    ) -> None:
        """upscaler: None where the network is not opened. Tiles and time are not known then."""
        self._upscaler, self._options, self._reporter = upscaler, options, reporter
        self._scale = upscaler.scale if upscaler is not None else scale_of(options)
        self._s_per_px: Optional[float] = None
        self.seconds = 0.0
        self.problems: List[str] = []

    def picture(self, task: PictureTask, *, may_exist: bool) -> None:
        """Tell what becomes of a picture. Raises SrDeployErrors as its run would."""
        picture = read_picture(task.source)
        hw = (picture.rgb.shape[0], picture.rgb.shape[1])
        made = result_hw(picture, self._scale, format_for(task.output), self._options.size)
        if may_exist and task.output.exists():
            self._tell(f"{task.output}: exists; skipped if it is finished, else refused")
            return
        check_picture(task, self._options.result)
        per_px = 3 * picture.rgb.itemsize + more_per_px(picture, made, self._scale)
        self._tell_result(task.source, task.output, hw, made, bytes_per_px=per_px)

    def video(self, job: VideoJob) -> None:
        """Tell what becomes of a video. Raises SrDeployErrors."""
        check_paths(job.source, job.output, self._options.force)
        facts = probe_video(job.source)
        made = self._options.size.of(facts.hw, self._scale, turned=facts.turned, even=True)
        self._tell_result(job.source, job.output, facts.hw, made, images=facts.frames)

    def fail(self, source: Path, error: SrDeployError) -> None:
        hint = f"; {error.hint}" if error.hint else ""
        self._tell(f"would fail: {source}: {error.message}{hint}")
        self.problems.append(error.message)

    def _tell_result(
        self,
        source: Path,
        output: Path,
        hw: HW,
        made: HW,
        *,
        images: int = 1,
        bytes_per_px: int = 3,
    ) -> None:
        parts = [f"{source}: {wh_text(hw)} -> {wh_text(made)} (width x height)"]
        if images != 1:
            parts.append(f"{images or 'an unknown number of'} frames")
        if self._upscaler is not None:
            plan = self._upscaler.plan(hw, bytes_per_px=bytes_per_px)
            seconds = self._seconds_per_px(self._upscaler) * plan.fed_px * max(images, 1)
            self.seconds += seconds
            parts += [str(plan), f"about {_time_text(seconds)}"]
        self._tell(", ".join(parts))
        self._reporter.written(output)

    def _seconds_per_px(self, upscaler: Upscaler) -> float:
        """Return the time for an LR pixel by a trial on a small image."""
        if self._s_per_px is None:
            h, w = upscaler.session.nearest_hw((_TRIAL_PX, _TRIAL_PX))
            image = np.full((h, w, 3), 128, np.uint8)
            upscaler.upscale_rgb(image)  # the first run at a size also allocates
            start = time.perf_counter()
            upscaler.upscale_rgb(image)
            self._s_per_px = (time.perf_counter() - start) / (h * w)
        return self._s_per_px

    def _tell(self, line: str) -> None:
        self._reporter.log(line)


def tell_plan(
    inputs: Sequence[str], output: Optional[str], options: UpscaleOptions, reporter: Reporter
) -> None:
    """Report what `upscale_paths` would do; `reporter.written` gets the results' paths.

    The network is opened and run on a small image, if it needs not be prepared first. Raises an
    SrDeployError where a run would fail.
    """
    jobs, options = plan_run(inputs, output, options)
    results = len(results_of(jobs))
    reporter.log(f"dry run, nothing is written: {results} result{'s' if results != 1 else ''}")
    way = ""
    if options.adaptive is None:
        way = not_prepared_for(str(options.model), options.variant, options.run)
    if way:
        plan = _PlanTeller(None, options, reporter)
        _tell_jobs(plan, jobs, reporter)
        reporter.log(
            "tiles, memory and time: known once the network is prepared. "
            f"The first run prepares {options.model} for {way}, once"
        )
    else:
        network = options.network(reporter.log)
        with contextlib.closing(options.upscaler(network, log=reporter.log)) as upscaler:
            reporter.log(f"{network.name}, x{upscaler.scale}, by {upscaler.where}")
            plan = _PlanTeller(upscaler, options, reporter)
            _tell_jobs(plan, jobs, reporter)
            _tell_needs(plan, upscaler, reporter)
    if plan.problems:
        raise InputError(
            f"{len(plan.problems)} of the inputs would fail: {plan.problems[0]}",
            hint="see the lines above",
        )
    reporter.log("to do it, give the same command without --dry-run")


def _tell_jobs(plan: _PlanTeller, jobs: Sequence[Job], reporter: Reporter) -> None:
    with reporter.progress.track("reading", len(results_of(jobs)), unit="files") as advance:
        for job in jobs:
            if isinstance(job, PicturesJob):
                for path, reason in job.passed_over.items():
                    plan.fail(path, InputError(reason))
                tell_left_out(job, reporter)
            logged = isinstance(job, PicturesJob) and _has_log(job)
            for task in job.tasks if isinstance(job, PicturesJob) else [job]:
                try:
                    if isinstance(task, VideoJob):
                        plan.video(task)
                    else:
                        plan.picture(task, may_exist=logged)
                except SrDeployError as e:
                    plan.fail(task.source, e)
                advance(str(task.source))


def _has_log(job: PicturesJob) -> bool:
    return job.folder is not None and (job.folder / LOG).exists()


def _tell_needs(plan: _PlanTeller, upscaler: Upscaler, reporter: Reporter) -> None:
    # After the trial, the peak is that of its small image at least.
    memory, bound = max(upscaler.estimated_bytes, peak_bytes() or 0), upscaler.max_memory
    most = "" if bound is None else f", at most {bytes_text(bound)}"
    reporter.log(
        f"memory: about {bytes_text(memory)}{most}" if memory else "memory: not known here"
    )
    if plan.seconds:
        reporter.log(
            f"time: about {_time_text(plan.seconds)}, by a trial on {_TRIAL_PX}x{_TRIAL_PX} "
            "pixels, without reading and writing"
        )


def _time_text(seconds: float) -> str:
    if seconds < 0.1:
        return "0.1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
