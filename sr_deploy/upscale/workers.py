"""Upscaling a folder as a task that one process does, or several that share it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, List, Optional

from sr_deploy.core.errors import InputError, SrDeployError
from sr_deploy.runtime.opener import NetworkDescription, describe_one
from sr_deploy.runtime.opener.adaptive import AdaptiveOptions, describe_adaptive
from sr_deploy.upscale.folder import BESIDE, Summary, jobs_of, upscale_folder
from sr_deploy.upscale.memory import available_bytes
from sr_deploy.upscale.tiles import Upscaler


@dataclass(frozen=True)
class FolderTask:
    """What decides the upscaling of a folder."""

    source: Path
    output: Path
    model: Optional[str]
    """None: the shipped default of `adaptive`."""
    variant: Optional[str] = None
    tile: Optional[int] = None
    max_memory: Optional[int] = None
    """Bytes, of all its processes together."""
    suffix: Optional[str] = None
    """Of the results; None: the pictures' own."""
    adaptive: Optional[AdaptiveOptions] = None

    def network(self) -> NetworkDescription:
        """Return what it is upscaled with. Raises an SrDeployError on bad input."""
        if self.adaptive is not None:
            return describe_adaptive(self.adaptive, self.model)
        assert self.model is not None
        return describe_one(self.model, self.variant)


def run_task(
    task: FolderTask, *, say: Callable[[str], None], wrote: Callable[[Path], None]
) -> Summary:
    """Do a task in this process. Raises an SrDeployError on bad input; a bad picture is said and counted."""
    jobs = jobs_of(task.source, task.output, suffix=task.suffix)
    chosen = task.network()
    upscaler = Upscaler(
        chosen.open(),
        tile=task.tile,
        max_memory=task.max_memory,
        identity=chosen.identity,
        beside=BESIDE,
    )
    summary = upscale_folder(jobs, task.output, upscaler, say=say, wrote=wrote)
    if summary.done:
        say(upscaler.receipt())
    return summary


def run_shared(
    task: FolderTask, workers: int, *, say: Callable[[str], None], wrote: Callable[[Path], None]
) -> Summary:
    """Do a task in `workers` processes, each with its share of the cores and the memory. Raises an SrDeployError as `run_task` does."""
    if workers == 1:
        return run_task(task, say=say, wrote=wrote)
    jobs = jobs_of(task.source, task.output, suffix=task.suffix)
    memory = (
        task.max_memory if task.max_memory is not None else (available_bytes() or 0) // 4 or None
    )
    share = replace(task, max_memory=None if memory is None else memory // workers)
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    processes = [
        context.Process(target=_work, args=(share, i, workers, told), daemon=True)
        for i in range(min(workers, len(jobs)))
    ]
    for process in processes:
        process.start()
    try:
        return _gathered(processes, told, say, wrote)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _gathered(
    processes: List[Any], told: Any, say: Callable[[str], None], wrote: Callable[[Path], None]
) -> Summary:
    """Pass on what the workers tell; return what became of the pictures."""
    total, waiting, said = Summary(), len(processes), set()
    while waiting:
        try:
            kind, value = told.get(timeout=0.5)
        except queue.Empty:
            died = [p.exitcode for p in processes if p.exitcode not in (None, 0)]
            if died:
                raise InputError(
                    f"a worker ended with {died[0]}",
                    hint="give the command again: it goes on where it was",
                ) from None
            continue
        if kind == "error":
            raise InputError(value[0], hint=value[1])
        if kind == "say" and value not in said:  # every worker meets a bad picture
            said.add(value)
            say(value)
        elif kind == "wrote":
            wrote(Path(value))
        elif kind == "done":
            waiting -= 1
            total.add(value)
    return total


def _work(task: FolderTask, number: int, workers: int, told: Any) -> None:
    """The life of a worker: what it has to say goes through the queue."""

    def stop(signum: int, frame: Any) -> None:
        told.cancel_join_thread()  # nobody reads what is left of it: waiting for that would be for ever
        sys.exit(128 + signum)

    signal.signal(signal.SIGTERM, stop)
    _take_cores(number, workers)
    try:
        summary = run_task(
            task,
            say=lambda line: told.put(("say", line)),
            wrote=lambda path: told.put(("wrote", str(path))),
        )
        told.put(("done", summary))
    except SrDeployError as e:
        told.put(("error", (e.message, e.hint)))
    except KeyboardInterrupt:
        pass


def _take_cores(number: int, workers: int) -> None:
    """Keep to this worker's share of the cores, where the system lets a process choose: threads are as many as cores."""
    with contextlib.suppress(AttributeError, OSError):
        mine = sorted(os.sched_getaffinity(0))[number::workers]
        if mine:
            os.sched_setaffinity(0, mine)
