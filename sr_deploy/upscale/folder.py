"""Upscaling of folders: every picture once, into the same tree, by any number of processes.

The log in the output folder tells which pictures are finished (see `folder_log.py`). Claim files
beside the results tell which are being worked on, so that processes of several machines may share a
folder.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ContextManager, Dict, Iterator, Sequence, Set

from sr_deploy.core.claims import claim_file
from sr_deploy.core.errors import InputError, SrDeployError
from sr_deploy.core.files import (
    atomic_path,
    check_new,
    is_disk_full,
    make_output_folder,
    remove_empty_folders,
    side_path,
)
from sr_deploy.core.pictures.formats import format_for
from sr_deploy.core.sizes import hw_text
from sr_deploy.upscale.folder_log import FolderLog, PictureTask
from sr_deploy.upscale.overlap import WriteBehind, read_ahead
from sr_deploy.upscale.pictures import Picture, read_picture, upscale_pixels, write_picture
from sr_deploy.upscale.reporter import Reporter
from sr_deploy.upscale.upscaler import Upscaler

QUEUED_RESULTS = 2
"""The results held while another is computed: one waits to be written, one is being written."""


@dataclass
class FolderSummary:
    """The pictures of a folder, by their outcome."""

    done: Set[Path] = field(default_factory=set)
    skipped: Set[Path] = field(default_factory=set)  # finished by an earlier run
    failed: Set[Path] = field(default_factory=set)
    busy: Set[Path] = field(default_factory=set)  # claimed by other processes
    passed_over: Set[Path] = field(default_factory=set)  # of a kind that is not read
    videos: Set[Path] = field(default_factory=set)

    def add(self, other: FolderSummary) -> None:
        """Add the summary of another process, whose done pictures are skipped or busy here."""
        self.done |= other.done
        self.failed |= other.failed
        self.skipped = (self.skipped | other.skipped) - self.done
        self.busy = (self.busy | other.busy) - self.done - self.skipped - self.failed

    def __str__(self) -> str:
        outcomes = (
            (self.done, "upscaled"),
            (self.skipped, "finished before"),
            (self.busy, "left to other processes"),
            (self.passed_over, "passed over"),
            (self.videos, "left out (video)"),
        )
        counts = [f"{len(paths)} {outcome}" for paths, outcome in outcomes if paths]
        return ", ".join([*counts, f"{len(self.failed)} failed"])


@dataclass
class _Item:
    """A picture between reading and writing."""

    task: PictureTask
    picture: Picture
    started: float
    description: str = ""

    @classmethod
    def read(cls, task: PictureTask) -> _Item:
        started = time.perf_counter()
        return cls(task, read_picture(task.source), started)

    def upscale(self, upscaler: Upscaler) -> None:
        self.picture = upscale_pixels(self.picture, upscaler, format_for(self.task.output))
        self.description = upscaler.describe()

    def write(self) -> None:
        output = self.task.output
        with atomic_path(output) as temporary:
            self.picture = write_picture(temporary, self.picture, format_for(output))

    def __str__(self) -> str:
        h, w = self.picture.rgb.shape[:2]
        notes = "".join(f"; {note}" for note in self.picture.notes)
        seconds = time.perf_counter() - self.started
        how = f"{hw_text((h, w))} from {self.description}, {seconds:.1f} s"
        return f"{self.task.output}: {how}{notes}"


def upscale_picture(
    task: PictureTask, upscaler: Upscaler, reporter: Reporter, *, force: bool = False
) -> None:
    """Upscale one picture. Raises InputError if that is impossible, or if the output exists.

    force: replace an existing output.
    """
    format_for(task.output)
    output = str(task.output)
    if os.path.exists(output) and os.path.samefile(output, str(task.source)):
        raise InputError(f"{task.source} would replace itself", hint="give another name with -o")
    check_new(task.output, force=force)
    item = _Item.read(task)
    with remove_empty_folders(task.output.parent):
        make_output_folder(task.output.parent)  # fails before the work if it cannot be written
        item.upscale(upscaler)
        item.write()
    reporter.log(str(item))
    reporter.written(task.output)


def upscale_folder(
    tasks: Sequence[PictureTask],
    folder: Path,
    upscaler: Upscaler,
    reporter: Reporter,
    *,
    force: bool = False,
) -> FolderSummary:
    """Upscale pictures into `folder`, reading ahead and writing behind, and return their outcomes.

    force: replace existing files that the log of the folder does not list. Pictures that fail are
    reported and the others are done. A full disk ends the run with an InputError.
    """
    return _FolderRun(tasks, make_output_folder(folder), upscaler, reporter, force).run()


class _FolderRun:
    def __init__(
        self,
        tasks: Sequence[PictureTask],
        folder: Path,
        upscaler: Upscaler,
        reporter: Reporter,
        force: bool,
    ) -> None:
        self._tasks, self._upscaler, self._reporter = tasks, upscaler, reporter
        self._force = force
        self._log = FolderLog(folder, upscaler.identity)
        self._summary = FolderSummary()
        self._claims: Dict[Path, ContextManager[bool]] = {}

    def run(self) -> FolderSummary:
        writer = WriteBehind(self._finish, depth=1)
        try:
            for item in read_ahead(self._read(), depth=1):
                h, w, channels = item.picture.rgb.shape
                pixel_bytes = channels * item.picture.rgb.itemsize
                alone = self._upscaler.must_run_alone((h, w), bytes_per_px=pixel_bytes)
                if alone:
                    writer.drain()
                try:
                    item.upscale(self._upscaler)
                except SrDeployError as e:
                    self._fail(item.task, e)
                else:
                    writer.put(item)
                del item  # frees its memory while the next one is awaited
                if alone:
                    writer.drain()
            writer.close()
        except BaseException:
            # Finished results are still written, so that no file is left incomplete.
            with contextlib.suppress(SrDeployError):
                writer.close()
            raise
        finally:
            for output in list(self._claims):
                self._release(output)
        return self._summary

    def _read(self) -> Iterator[_Item]:
        for task in self._tasks:
            if self._log.is_finished(task):
                self._summary.skipped.add(task.source)
                continue
            try:
                if self._claim(task):
                    yield _Item.read(task)
            except SrDeployError as e:
                self._fail(task, e)

    def _claim(self, task: PictureTask) -> bool:
        make_output_folder(task.output.parent)
        claim = claim_file(side_path(task.output.with_name(f".{task.output.name}"), ".claim"))
        if not claim.__enter__():
            self._summary.busy.add(task.source)
            return False
        self._claims[task.output] = claim
        self._log.refresh()
        if self._log.is_finished(task):  # another process has done it meanwhile
            self._summary.skipped.add(task.source)
            self._release(task.output)
            return False
        if not self._log.is_ours(task):
            check_new(task.output, force=self._force)
        return True

    def _finish(self, item: _Item) -> None:
        try:
            item.write()
            self._log.add(item.task)
        except SrDeployError as e:
            if is_disk_full(e.__cause__):
                raise
            self._fail(item.task, e)
            return
        self._release(item.task.output)
        self._summary.done.add(item.task.source)
        self._reporter.log(str(item))
        self._reporter.written(item.task.output)

    def _fail(self, task: PictureTask, error: SrDeployError) -> None:
        self._release(task.output)
        self._summary.failed.add(task.source)
        hint = f"; {error.hint}" if error.hint else ""
        self._reporter.log(f"failed: {task.source}: {error.message}{hint}")

    def _release(self, output: Path) -> None:
        claim = self._claims.pop(output, None)
        if claim is not None:
            claim.__exit__(None, None, None)
