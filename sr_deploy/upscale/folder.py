"""Folders of pictures: every one upscaled once, into the same tree, by as many processes as share the work.

What was finished is known by the log in the output folder (see `finished.py`), who works on what by claims beside the results,
so that processes of several machines may share a folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, ContextManager, Dict, Iterator, List, Optional, Sequence, Set

from sr_deploy.core.claims import claim_file
from sr_deploy.core.errors import InputError, SrDeployError
from sr_deploy.core.files import atomic_path, make_output_folder, remove_empty_folders
from sr_deploy.core.sizes import hw_text
from sr_deploy.upscale.finished import Finished, Job
from sr_deploy.upscale.formats import PICTURE_SUFFIXES, format_for, format_of_name
from sr_deploy.upscale.overlap import Behind, ahead
from sr_deploy.upscale.pictures import Picture, read_picture, upscaled, write_picture
from sr_deploy.upscale.tiles import Upscaler

BESIDE = 2
"""Results that exist beside the one being computed: one waiting to be written, one being written."""


@dataclass
class Summary:
    """What became of a folder's pictures."""

    done: Set[Path] = field(default_factory=set)
    skipped: Set[Path] = field(default_factory=set)
    """Finished before."""
    failed: Set[Path] = field(default_factory=set)
    busy: Set[Path] = field(default_factory=set)
    """Left to other processes that are at work on them."""

    def add(self, other: Summary) -> None:
        """Add what another process made of the same pictures: one that it finished is `skipped` or `busy` here."""
        self.done |= other.done
        self.failed |= other.failed
        self.skipped = (self.skipped | other.skipped) - self.done
        self.busy = (self.busy | other.busy) - self.done - self.skipped - self.failed

    def __str__(self) -> str:
        parts = (
            (self.done, "upscaled"),
            (self.skipped, "finished before"),
            (self.busy, "left to other processes"),
        )
        return ", ".join(
            [f"{len(found)} {what}" for found, what in parts if found]
            + [f"{len(self.failed)} failed"]
        )


@dataclass
class _Item:
    """A picture on its way."""

    job: Job
    picture: Picture
    how: str = ""
    started: float = 0.0


def upscale_picture(job: Job, upscaler: Upscaler, *, say: Callable[[str], None]) -> None:
    """Upscale one picture into the file named, replacing it. Raises InputError on what cannot be read, held or written."""
    wanted = format_for(job.output)
    if job.output.exists() and os.path.samefile(str(job.output), str(job.source)):
        raise InputError(
            f"the result would replace the picture it is made from: {job.source}",
            hint="give another name with -o",
        )
    item = _Item(job, read_picture(job.source), started=time.perf_counter())
    with remove_empty_folders(job.output.parent):
        make_output_folder(job.output.parent)  # before the work: can it be written?
        item.picture = upscaled(item.picture, upscaler, wanted)
        item.how = upscaler.describe()
        _write(item)
    say(_line(item))


def jobs_of(source: Path, output: Path, *, suffix: Optional[str] = None) -> List[Job]:
    """Return the pictures of a folder and its subfolders, sorted, with where their results go: the same tree, the same names.

    suffix: of the results; None: the pictures' own, `.png` for those of a format that we do not write. The output folder
    itself and hidden files are left out. Raises InputError when there are none, or two results would have the same name.
    """
    if output.exists() and os.path.samefile(str(source), str(output)):
        raise InputError(
            f"the results would replace the pictures of {source}",
            hint="give another folder with -o",
        )
    jobs: List[Job] = []
    owners: Dict[str, Path] = {}
    for path in _pictures_in(source, output):
        name = path.relative_to(source)
        kept = name.suffix if format_of_name(name) is not None else ".png"
        job = Job(path, output / name.with_suffix(suffix or kept))
        other = owners.setdefault(
            str(job.output).lower(), path
        )  # some disks take Name.png and name.png for one file
        if other != path:
            raise InputError(
                f"{other} and {path} would both become {job.output}",
                hint="rename one, or leave the format out",
            )
        jobs.append(job)
    if not jobs:
        raise InputError(
            f"the folder {source} holds no pictures ({', '.join(PICTURE_SUFFIXES)})",
            hint="give a folder of pictures",
        )
    return jobs


def upscale_folder(
    jobs: Sequence[Job],
    folder: Path,
    upscaler: Upscaler,
    *,
    say: Callable[[str], None],
    wrote: Callable[[Path], None],
) -> Summary:
    """Upscale pictures into `folder`, reading ahead and writing behind; return what became of them.

    What is wrong with a picture is said, and the rest is done; a full disk ends it. `wrote` gets each finished result.
    """
    return _Run(jobs, make_output_folder(folder), upscaler, say, wrote).run()


class _Run:
    def __init__(
        self,
        jobs: Sequence[Job],
        folder: Path,
        upscaler: Upscaler,
        say: Callable[[str], None],
        wrote: Callable[[Path], None],
    ) -> None:
        self._jobs, self._upscaler, self._say, self._wrote = jobs, upscaler, say, wrote
        self._finished = Finished(folder, upscaler.identity)
        self._summary = Summary()
        self._claims: Dict[Path, ContextManager[bool]] = {}

    def run(self) -> Summary:
        writer = Behind(self._finish, depth=1)
        try:
            for item in ahead(self._read(), depth=1):
                rgb = item.picture.rgb
                alone = self._upscaler.alone(
                    (rgb.shape[0], rgb.shape[1]), bytes_per_px=3 * rgb.itemsize
                )
                if alone:
                    writer.close()
                try:
                    item.picture = upscaled(
                        item.picture, self._upscaler, format_for(item.job.output)
                    )
                    item.how = self._upscaler.describe()
                except SrDeployError as e:
                    self._fail(item.job, e)
                else:
                    if not alone:
                        writer.put(item)
                    else:
                        self._finish(item)
                del item, rgb
                if alone:
                    writer = Behind(self._finish, depth=1)
            writer.close()
        except BaseException:
            with contextlib.suppress(
                SrDeployError
            ):  # what is computed is written, so that nothing is left half-written
                writer.close()
            raise
        finally:
            for claim in list(self._claims):
                self._release(claim)
        return self._summary

    def _read(self) -> Iterator[_Item]:
        for job in self._jobs:
            if self._finished.has(job):
                self._summary.skipped.add(job.source)
                continue
            try:
                if not self._claim(job):
                    continue
                started = time.perf_counter()
                yield _Item(job, read_picture(job.source), started=started)
            except SrDeployError as e:
                self._fail(job, e)

    def _claim(self, job: Job) -> bool:
        make_output_folder(job.output.parent)
        path = _claim_path(job)
        claim = claim_file(path)
        if not claim.__enter__():
            self._summary.busy.add(job.source)
            return False
        self._claims[path] = claim
        self._finished.refresh()
        if self._finished.has(job):  # another process did it meanwhile
            self._summary.skipped.add(job.source)
            self._release(path)
            return False
        if job.output.exists() and not self._finished.knows(job):
            raise InputError(
                f"{job.output} exists and is not known to be made from it",
                hint="remove it, or give another folder with -o",
            )
        return True

    def _finish(self, item: _Item) -> None:
        try:
            _write(item)
            self._finished.add(item.job)
        except SrDeployError as e:
            if isinstance(e.__cause__, OSError) and e.__cause__.errno in (
                errno.ENOSPC,
                getattr(errno, "EDQUOT", None),
            ):
                raise
            self._fail(item.job, e)
            return
        self._release(_claim_path(item.job))
        self._summary.done.add(item.job.source)
        self._say(_line(item))
        self._wrote(item.job.output)

    def _fail(self, job: Job, error: SrDeployError) -> None:
        self._release(_claim_path(job))
        self._summary.failed.add(job.source)
        self._say(f"failed: {job.source}: {error.message}")

    def _release(self, path: Path) -> None:
        claim = self._claims.pop(path, None)
        if claim is not None:
            claim.__exit__(None, None, None)


def _pictures_in(source: Path, output: Path) -> Iterator[Path]:
    """Sorted; links are followed, once each."""
    left_out = output.resolve()
    seen: Set[Path] = set()

    def walk(folder: Path) -> Iterator[Path]:
        real = folder.resolve()
        if real in seen or real == left_out:
            return
        seen.add(real)
        try:
            entries = sorted(folder.iterdir())
        except OSError as e:
            raise InputError(f"cannot read the folder {folder}: {e.strerror or e}") from e
        for path in entries:
            if path.name.startswith("."):
                continue
            if path.is_dir():
                yield from walk(path)
            elif path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
                yield path

    return walk(source)


def _write(item: _Item) -> None:
    output = item.job.output
    with atomic_path(output) as temporary:
        named = temporary.with_suffix(
            output.suffix.lower()
        )  # OpenCV goes by the name; still hidden, still `.partial-`
        try:
            item.picture = write_picture(named, item.picture, format_for(output))
            os.replace(str(named), str(temporary))
        finally:
            with contextlib.suppress(OSError):
                named.unlink()


def _line(item: _Item) -> str:
    h, w = item.picture.rgb.shape[:2]
    notes = "".join(f"; {note}" for note in item.picture.notes)
    return f"{item.job.output}: {hw_text((h, w))} from {item.how}, {time.perf_counter() - item.started:.1f} s{notes}"


def _claim_path(job: Job) -> Path:
    return job.output.with_name(f".{job.output.name}.claim")
