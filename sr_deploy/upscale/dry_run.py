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
from sr_deploy.upscale.folder import check_picture
from sr_deploy.upscale.folder_log import LOG, PictureTask
from sr_deploy.upscale.inputs import PicturesJob, VideoJob, results_of
from sr_deploy.upscale.memory import bytes_text
from sr_deploy.upscale.options import UpscaleOptions
from sr_deploy.upscale.output_size import wh_text
from sr_deploy.upscale.pictures import read_picture, result_hw
from sr_deploy.upscale.reporter import Reporter
from sr_deploy.upscale.run import plan_run
from sr_deploy.upscale.upscaler import Upscaler
from sr_deploy.upscale.video import check_paths
from sr_deploy.upscale.video_source import probe_video

_TRIAL_PX = 128
"""Side of the image that is run once to estimate the time."""


class _PlanTeller:
    """The plan of a run, told line by line."""

    def __init__(self, upscaler: Upscaler, options: UpscaleOptions, reporter: Reporter) -> None:
        self._upscaler, self._options, self._reporter = upscaler, options, reporter
        self._s_per_px: Optional[float] = None
        self.seconds = 0.0
        self.problems: List[str] = []

    def picture(self, task: PictureTask, *, may_exist: bool) -> None:
        """Tell what becomes of a picture. Raises SrDeployErrors as its run would."""
        picture = read_picture(task.source)
        hw = (picture.rgb.shape[0], picture.rgb.shape[1])
        made = result_hw(picture, self._upscaler.scale, format_for(task.output), self._options.size)
        if may_exist and task.output.exists():
            self._tell(f"{task.output}: exists; skipped if it is finished, else refused")
            return
        check_picture(task, self._options.result)
        self._tell_result(task.source, task.output, hw, made, images=1)

    def video(self, job: VideoJob) -> None:
        """Tell what becomes of a video. Raises SrDeployErrors."""
        check_paths(job.source, job.output, self._options.force)
        facts = probe_video(job.source)
        made = self._options.size.of(facts.hw, self._upscaler.scale, turned=facts.turned, even=True)
        self._tell_result(job.source, job.output, facts.hw, made, images=facts.frames)

    def fail(self, source: Path, error: SrDeployError) -> None:
        hint = f"; {error.hint}" if error.hint else ""
        self._tell(f"would fail: {source}: {error.message}{hint}")
        self.problems.append(error.message)

    def _tell_result(self, source: Path, output: Path, hw: HW, made: HW, *, images: int) -> None:
        plan = self._upscaler.plan(hw)
        seconds = self._seconds_per_px() * plan.fed_px * max(images, 1)
        self.seconds += seconds
        frames = "" if images == 1 else f"; {images or 'an unknown number of'} frames"
        self._tell(
            f"{source}: {wh_text(hw)} -> {wh_text(made)} (width x height), {plan}{frames}, "
            f"about {_time_text(seconds)}"
        )
        self._reporter.written(output)

    def _seconds_per_px(self) -> float:
        """Return the time for an LR pixel by a trial on a small image."""
        if self._s_per_px is None:
            h, w = self._upscaler.session.nearest_hw((_TRIAL_PX, _TRIAL_PX))
            image = np.full((h, w, 3), 128, np.uint8)
            self._upscaler.upscale_rgb(image)  # the first run at a size also allocates
            start = time.perf_counter()
            self._upscaler.upscale_rgb(image)
            self._s_per_px = (time.perf_counter() - start) / (h * w)
        return self._s_per_px

    def _tell(self, line: str) -> None:
        self._reporter.log(line)


def tell_plan(
    inputs: Sequence[str], output: Optional[str], options: UpscaleOptions, reporter: Reporter
) -> None:
    """Report what `upscale_paths` would do; `reporter.written` gets the results' paths.

    The network is opened and run once on a small image. Raises an SrDeployError where a run would
    fail.
    """
    jobs, options = plan_run(inputs, output, options)
    results = len(results_of(jobs))
    reporter.log(f"dry run, nothing is written: {results} result{'s' if results != 1 else ''}")
    network = options.network(reporter.log)
    with contextlib.closing(options.upscaler(network, log=reporter.log)) as upscaler:
        reporter.log(f"{network.name}, x{upscaler.scale}, by {upscaler.where}")
        plan = _PlanTeller(upscaler, options, reporter)
        with reporter.progress.track("reading", results, unit="files") as advance:
            for job in jobs:
                passed_over = job.passed_over if isinstance(job, PicturesJob) else {}
                for path, reason in passed_over.items():
                    plan.fail(path, InputError(reason))
                tasks = job.tasks if isinstance(job, PicturesJob) else [job]
                logged = isinstance(job, PicturesJob) and _has_log(job)
                for task in tasks:
                    try:
                        if isinstance(task, VideoJob):
                            plan.video(task)
                        else:
                            plan.picture(task, may_exist=logged)
                    except SrDeployError as e:
                        plan.fail(task.source, e)
                    advance(str(task.source))
        _tell_needs(plan, upscaler, reporter)
    if plan.problems:
        raise InputError(
            f"{len(plan.problems)} of the inputs would fail: {plan.problems[0]}",
            hint="see the lines above",
        )
    reporter.log("to do it, give the same command without --dry-run")


def _has_log(job: PicturesJob) -> bool:
    return job.folder is not None and (job.folder / LOG).exists()


def _tell_needs(plan: _PlanTeller, upscaler: Upscaler, reporter: Reporter) -> None:
    memory = "memory: not known here"
    if upscaler.estimated_bytes and upscaler.max_memory is not None:
        memory = (
            f"memory: about {bytes_text(upscaler.estimated_bytes)}, "
            f"at most {bytes_text(upscaler.max_memory)}"
        )
    reporter.log(memory)
    if plan.seconds:
        reporter.log(
            f"time: about {_time_text(plan.seconds)}, by a trial on {_TRIAL_PX}x{_TRIAL_PX} "
            "pixels, without reading and writing"
        )


def _time_text(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
