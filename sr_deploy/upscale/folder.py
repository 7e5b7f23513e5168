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
from typing import ContextManager, Dict, Iterator, Optional, Sequence, Set

from sr_deploy.core.claims import claim_file
from sr_deploy.core.errors import InputError, SrDeployError
from sr_deploy.core.files import (
    atomic_path,
    check_new,
    is_disk_full,
    make_output_folder,
    remove_empty_folders,
    side_path,
    write_text,
)
from sr_deploy.core.pictures.formats import format_for
from sr_deploy.core.progress import Advance
from sr_deploy.upscale.comparison import BeforeAfter, page_of
from sr_deploy.upscale.folder_log import FolderLog, PictureTask
from sr_deploy.upscale.output_size import NETWORK_SIZE, OutputSize
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


@dataclass(frozen=True)
class ResultOptions:
    """What is made of a picture."""

    size: OutputSize = NETWORK_SIZE
    compare: bool = False
    """Whether a page that shows the picture before and after is written beside the result."""
    force: bool = False
    """Replace existing files, in folders those that their log does not list."""

    def check_new(self, output: Path) -> None:
        """Raise InputError if a file of a result exists and may not be replaced."""
        check_new(output, force=self.force)
        if self.compare:
            check_new(page_of(output), force=self.force)


DEFAULT_RESULT = ResultOptions()


@dataclass
class _Item:
    """A picture between reading and writing."""

    task: PictureTask
    picture: Picture
    started: float
    before: Optional[Picture] = None  # for the page that compares
    by: str = ""
    description: str = ""

    @classmethod
    def read(cls, task: PictureTask) -> _Item:
        started = time.perf_counter()
        return cls(task, read_picture(task.source), started)

    def upscale(self, upscaler: Upscaler, options: ResultOptions) -> None:
        if options.compare:
            self.before, self.by = self.picture, upscaler.session.name
        self.picture = upscale_pixels(
            self.picture, upscaler, format_for(self.task.output), options.size
        )
        self.description = upscaler.describe()

    def write(self) -> None:
        output = self.task.output
        page = None
        if self.before is not None:  # first: writing changes the pixels' order in place
            page = BeforeAfter(self.task.source, output, self.before, self.picture, self.by).html()
        with atomic_path(output) as temporary:
            self.picture = write_picture(temporary, self.picture, format_for(output))
        if page is not None:
            write_text(page_of(output), page)

    def __str__(self) -> str:
        h, w = self.picture.rgb.shape[:2]
        if self.picture.turned:
            h, w = w, h
        notes = "".join(f"; {note}" for note in self.picture.notes)
        seconds = time.perf_counter() - self.started
        how = f"{w} wide, {h} high, from {self.description}, {seconds:.1f} s"
        return f"{self.task.output}: {how}{notes}"


def upscale_picture(
    task: PictureTask,
    upscaler: Upscaler,
    reporter: Reporter,
    options: ResultOptions = DEFAULT_RESULT,
    picture: Optional[Picture] = None,
) -> None:
    """Upscale one picture. Raises InputError if that is impossible, or if the output exists.

    picture: that of the task, if it is read already.
    """
    check_picture(task, options)
    upscaler.tile_progress = reporter.progress
    item = _Item.read(task) if picture is None else _Item(task, picture, time.perf_counter())
    with remove_empty_folders(task.output.parent):
        make_output_folder(task.output.parent)  # fails before the work if it cannot be written
        item.upscale(upscaler, options)
        item.write()
    reporter.log(str(item))
    reporter.written(task.output)
    if options.compare:
        reporter.written(page_of(task.output))


def check_picture(task: PictureTask, options: ResultOptions = DEFAULT_RESULT) -> None:
    """Raise InputError if the result of a single picture cannot be written, by its name."""
    format_for(task.output)
    output = str(task.output)
    if os.path.exists(output) and os.path.samefile(output, str(task.source)):
        raise InputError(f"{task.source} would replace itself", hint="give another name with -o")
    options.check_new(task.output)


def upscale_folder(
    tasks: Sequence[PictureTask],
    folder: Optional[Path],
    upscaler: Upscaler,
    reporter: Reporter,
    options: ResultOptions = DEFAULT_RESULT,
) -> FolderSummary:
    """Upscale pictures, reading ahead and writing behind, and return their outcomes.

    folder: all results are in it, and its log lists them; None: they are beside their pictures, and
    no log is kept. Pictures that fail are reported and the others are done. A full disk ends the
    run with an InputError.
    """
    if folder is not None:
        make_output_folder(folder)
    return _FolderRun(tasks, folder, upscaler, reporter, options).run()


class _FolderRun:
    def __init__(
        self,
        tasks: Sequence[PictureTask],
        folder: Optional[Path],
        upscaler: Upscaler,
        reporter: Reporter,
        options: ResultOptions,
    ) -> None:
        self._tasks, self._upscaler, self._reporter = tasks, upscaler, reporter
        self._options = options
        identity = upscaler.identity
        if options.size.given:
            identity += f" to {options.size.label(upscaler.scale)}"
        self._log = None if folder is None else FolderLog(folder, identity)
        self._advance = Advance()
        self._summary = FolderSummary()
        self._claims: Dict[Path, ContextManager[bool]] = {}

    def run(self) -> FolderSummary:
        with self._reporter.progress.track("upscaling", len(self._tasks), unit="pictures") as step:
            self._advance = step
            return self._run()

    def _run(self) -> FolderSummary:
        writer = WriteBehind(self._finish, depth=1)
        try:
            for item in read_ahead(self._read(), depth=1):
                h, w, channels = item.picture.rgb.shape
                pixel_bytes = channels * item.picture.rgb.itemsize
                alone = self._upscaler.must_run_alone((h, w), bytes_per_px=pixel_bytes)
                if alone:
                    writer.drain()
                try:
                    item.upscale(self._upscaler, self._options)
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
            if self._is_finished(task):
                self._skip(task)
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
        if self._log is not None:
            self._log.refresh()
        if self._is_finished(task):  # another process has done it meanwhile
            self._skip(task)
            self._release(task.output)
            return False
        if self._log is None or not self._log.is_ours(task):
            self._options.check_new(task.output)
        return True

    def _is_finished(self, task: PictureTask) -> bool:
        if self._options.compare and not page_of(task.output).exists():
            return False
        return self._log is not None and self._log.is_finished(task)

    def _skip(self, task: PictureTask) -> None:
        self._summary.skipped.add(task.source)
        self._advance(str(task.source))

    def _finish(self, item: _Item) -> None:
        try:
            item.write()
            if self._log is not None:
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
        if self._options.compare:
            self._reporter.written(page_of(item.task.output))
        self._advance(str(item.task.source))

    def _fail(self, task: PictureTask, error: SrDeployError) -> None:
        self._release(task.output)
        self._summary.failed.add(task.source)
        self._advance(str(task.source))
        hint = f"; {error.hint}" if error.hint else ""
        self._reporter.log(f"failed: {task.source}: {error.message}{hint}")

    def _release(self, output: Path) -> None:
        claim = self._claims.pop(output, None)
        if claim is not None:
            claim.__exit__(None, None, None)
