"""Upscaling of a folder by one process, or by several that share it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Set, Tuple

from sr_deploy.core.errors import CannotRunHereError, InputError, SrDeployError
from sr_deploy.core.progress import Advance, Progress
from sr_deploy.core.run_options import RunOptions
from sr_deploy.runtime.graph_probe import CONTRACTS, GraphContract
from sr_deploy.runtime.torch_device import gpu_count
from sr_deploy.upscale.folder import (
    QUEUED_RESULTS,
    FolderSummary,
    ResultOptions,
    upscale_folder,
)
from sr_deploy.upscale.folder_log import PictureTask
from sr_deploy.upscale.inputs import PicturesJob, tell_left_out
from sr_deploy.upscale.memory import MemorySharing
from sr_deploy.upscale.options import UpscaleOptions
from sr_deploy.upscale.reporter import Reporter
from sr_deploy.upscale.upscaler import Upscaler

_EXIT_S = 30.0
"""A worker that has not ended so long after its last message is ended."""


def upscale_pictures(
    job: PicturesJob, options: UpscaleOptions, reporter: Reporter
) -> FolderSummary:
    """Upscale pictures by processes that share the cores and the memory.

    Raises an SrDeployError on bad input. A bad picture is reported and counted.
    """
    for path, reason in job.passed_over.items():
        reporter.log(f"passed over: {path}: {reason}")
    tell_left_out(job, reporter)
    summary = FolderSummary()
    if job.tasks:
        summary = _upscale_by_workers(job.tasks, job.folder, options, reporter)
    return replace(summary, passed_over=set(job.passed_over), videos=set(job.videos))


def _upscale_by_workers(
    tasks: Sequence[PictureTask],
    output: Optional[Path],
    options: UpscaleOptions,
    reporter: Reporter,
) -> FolderSummary:
    if options.workers == 1:
        sharing = MemorySharing(queued_results=QUEUED_RESULTS)
        network = options.network(reporter.log)
        upscaler = options.upscaler(network, sharing=sharing, log=reporter.log)
        return _upscale_tasks(tasks, output, upscaler, reporter, options.result)
    network = options.network(reporter.log)  # made, and a graph probed, once, not by every worker
    if network.kind == "graph":
        network.find_scale()
    workers = min(options.workers, len(tasks))
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    processes = [
        context.Process(
            target=_work,
            args=(tasks, output, options, (i, workers), messages, CONTRACTS),
            daemon=True,
        )
        for i in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        with reporter.progress.track("upscaling", len(tasks), unit="pictures") as advance:
            summary = _collect(processes, messages, reporter, advance)
        for process in processes:  # a signal while it ends would print a traceback
            process.join(_EXIT_S)
        return summary
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _upscale_tasks(
    tasks: Sequence[PictureTask],
    output: Optional[Path],
    upscaler: Upscaler,
    reporter: Reporter,
    result: ResultOptions,
) -> FolderSummary:
    with contextlib.closing(upscaler):
        reporter.log(f"{upscaler.session.name} by {upscaler.where}")
        summary = upscale_folder(tasks, output, upscaler, reporter, result)
        if summary.done:
            reporter.log(upscaler.memory_report())
    return summary


def _collect(
    processes: Sequence[Any], messages: Any, reporter: Reporter, advance: Advance
) -> FolderSummary:
    """Forward the workers' messages until all have finished, and return their joint summary."""
    total, running, logged = FolderSummary(), len(processes), set()
    seen: Set[str] = set()  # pictures that a worker has done, skipped or failed at
    while running:
        try:
            kind, value = messages.get(timeout=0.5)
        except queue.Empty:
            died = [p.exitcode for p in processes if p.exitcode not in (None, 0)]
            if died:
                raise InputError(
                    f"a worker process ended with exit code {died[0]}",
                    hint="run the same command again: it continues where it stopped",
                ) from None
            continue
        if kind == "error":
            raise InputError(value[0], hint=value[1])
        if kind == "log" and value not in logged:  # every worker reports the same bad picture
            logged.add(value)
            reporter.log(value)
        elif kind == "written":
            reporter.written(value)
        elif kind == "step" and value not in seen:  # every worker skips the same pictures
            seen.add(value)
            advance(value)
        elif kind == "done":
            running -= 1
            total.add(value)
    return total


def _work(
    tasks: Sequence[PictureTask],
    output: Optional[Path],
    options: UpscaleOptions,
    number_of: Any,
    messages: Any,
    contracts: Dict[str, GraphContract],
) -> None:
    """Run worker i of n. Its reports and its summary go into the queue `messages`."""

    def stop(signum: int, frame: Any) -> None:
        messages.cancel_join_thread()  # nobody reads the queue any more: do not wait for that
        sys.exit(128 + signum)

    signal.signal(signal.SIGTERM, stop)
    sys.stdout = sys.stderr  # what a user's code prints: the data are written by the parent
    CONTRACTS.update(contracts)
    number, workers = number_of
    _take_cores(number, workers)
    try:
        reporter = Reporter(
            log=_Messages(messages),
            written=lambda path: messages.put(("written", path)),
        )
        upscaler = upscaler_of_worker(options, number, workers, reporter.log)
        summary = _upscale_tasks(tasks, output, upscaler, reporter, options.result)
        messages.put(("done", summary))
    except SrDeployError as e:
        messages.put(("error", (e.message, e.hint)))
    except KeyboardInterrupt:
        pass


class _Messages(Progress):
    """Puts a worker's lines and steps into the queue."""

    def __init__(self, messages: Any) -> None:
        self._messages = messages

    def __call__(self, line: str) -> None:
        self._messages.put(("log", line))

    @contextlib.contextmanager
    def track(
        self, what: str, total: int = 0, *, unit: str = "", done: int = 0
    ) -> Iterator[Advance]:
        yield _StepMessages(self._messages)


class _StepMessages(Advance):
    def __init__(self, messages: Any) -> None:
        self._messages = messages

    def __call__(self, detail: str = "", *, steps: int = 1) -> None:
        if steps:
            self._messages.put(("step", detail))


def upscaler_of_worker(
    options: UpscaleOptions, number: int, workers: int, log: Callable[[str], None]
) -> Upscaler:
    """Return the Upscaler of worker `number`, on its GPU or, if none is requested, the default."""
    network = options.network()  # the parent process has told what runs
    run, on_same_gpu = device_of_worker(options.run, number, workers)
    sharing = MemorySharing(
        queued_results=QUEUED_RESULTS, processes=workers, on_same_gpu=on_same_gpu
    )
    try:
        return replace(options, run=run).upscaler(network, sharing=sharing, log=log)
    except CannotRunHereError as e:
        if options.run.device is not None or run == options.run:
            raise
        log(f"{e.message}; worker {number + 1} runs where the first one does")
        sharing = replace(sharing, on_same_gpu=workers)
        return options.upscaler(network, sharing=sharing, log=log)


def device_of_worker(run: RunOptions, number: int, workers: int) -> Tuple[RunOptions, int]:
    """Return the options of worker `number` of `workers`, and how many of them share its GPU.

    Unless a device is given by its number, the workers take turns at the GPUs.
    """
    provider = run.requested_provider
    of_others = run.requested_openvino or provider is not None and provider.device != "cuda"
    open_choice = run.device in (None, "cuda") and not of_others
    gpus = gpu_count() if open_choice else 1
    if gpus < 2:
        return run, workers
    index = number % gpus
    return replace(run, device=f"cuda:{index}"), len(range(index, workers, gpus))


def _take_cores(number: int, workers: int) -> None:
    """Restrict this worker to its share of the cores. Backends start a thread per core."""
    with contextlib.suppress(AttributeError, OSError):
        share = sorted(os.sched_getaffinity(0))[number::workers]
        if share:
            os.sched_setaffinity(0, share)
