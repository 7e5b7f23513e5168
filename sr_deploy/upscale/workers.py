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
from typing import Any, Callable, Dict, Sequence, Tuple

from sr_deploy.core.errors import CannotRunHereError, InputError, SrDeployError
from sr_deploy.core.run_options import RunOptions
from sr_deploy.runtime.graph_probe import CONTRACTS, GraphContract
from sr_deploy.runtime.opener import kind_of
from sr_deploy.runtime.torch_device import gpu_count
from sr_deploy.upscale.folder import QUEUED_RESULTS, FolderSummary, upscale_folder
from sr_deploy.upscale.folder_log import PictureTask
from sr_deploy.upscale.memory import MemorySharing
from sr_deploy.upscale.options import UpscaleOptions
from sr_deploy.upscale.reporter import Reporter
from sr_deploy.upscale.tree import find_pictures
from sr_deploy.upscale.upscaler import Upscaler

_EXIT_S = 30.0
"""A worker that has not ended so long after its last message is ended."""


def upscale_tree(
    source: Path, output: Path, options: UpscaleOptions, reporter: Reporter
) -> FolderSummary:
    """Upscale a folder tree by processes that share the cores and the memory.

    Raises an SrDeployError on bad input. A bad picture is reported and counted.
    """
    suffix = None if options.format is None else f".{options.format}"
    tree = find_pictures(source, output, suffix=suffix)
    for path, reason in tree.passed_over.items():
        reporter.log(f"passed over: {path}: {reason}")
    for path in tree.videos:
        reporter.log(f"left out: {path}: it is a video; give it alone")
    summary = _upscale_by_workers(tree.tasks, output, options, reporter)
    return replace(summary, passed_over=set(tree.passed_over), videos=set(tree.videos))


def _upscale_by_workers(
    tasks: Sequence[PictureTask], output: Path, options: UpscaleOptions, reporter: Reporter
) -> FolderSummary:
    if options.workers == 1:
        sharing = MemorySharing(queued_results=QUEUED_RESULTS)
        upscaler = options.upscaler(options.network(), sharing=sharing, log=reporter.log)
        return _upscale_tasks(tasks, output, upscaler, reporter, force=options.force)
    if options.model is not None and kind_of(options.model) == "artifact":
        options.network().find_scale()  # so that a graph is probed once, not by every worker
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
        summary = _collect(processes, messages, reporter)
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
    output: Path,
    upscaler: Upscaler,
    reporter: Reporter,
    *,
    force: bool,
) -> FolderSummary:
    with contextlib.closing(upscaler):
        reporter.log(f"{upscaler.session.name} by {upscaler.where}")
        summary = upscale_folder(tasks, output, upscaler, reporter, force=force)
        if summary.done:
            reporter.log(upscaler.memory_report())
    return summary


def _collect(processes: Sequence[Any], messages: Any, reporter: Reporter) -> FolderSummary:
    """Forward the workers' messages until all have finished, and return their joint summary."""
    total, running, logged = FolderSummary(), len(processes), set()
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
        elif kind == "done":
            running -= 1
            total.add(value)
    return total


def _work(
    tasks: Sequence[PictureTask],
    output: Path,
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
            log=lambda line: messages.put(("log", line)),
            written=lambda path: messages.put(("written", path)),
        )
        upscaler = upscaler_of_worker(options, number, workers, reporter.log)
        summary = _upscale_tasks(tasks, output, upscaler, reporter, force=options.force)
        messages.put(("done", summary))
    except SrDeployError as e:
        messages.put(("error", (e.message, e.hint)))
    except KeyboardInterrupt:
        pass


def upscaler_of_worker(
    options: UpscaleOptions, number: int, workers: int, log: Callable[[str], None]
) -> Upscaler:
    """Return the Upscaler of worker `number`, on its GPU or, if none is requested, the default."""
    network = options.network()
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
    open_choice = run.device in (None, "cuda") and (provider is None or provider.device == "cuda")
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
