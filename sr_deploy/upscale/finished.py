"""Which pictures of a folder are finished: the log `.srdeploy.jsonl` in the output folder, a line per result."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Tuple

from sr_deploy.core.errors import InputError

LOG = ".srdeploy.jsonl"


@dataclass(frozen=True)
class Job:
    """One picture and where its result goes."""

    source: Path
    output: Path


class Finished:
    """What the processes that share a folder have written down. A picture is done again when it, the network or the result changed."""

    def __init__(self, folder: Path, identity: str) -> None:
        """identity: what decides a network's output."""
        self._folder, self._identity = folder, identity
        self._entries: Dict[str, Dict[str, Any]] = {}
        self._read = 0
        self.refresh()

    def refresh(self) -> None:
        """Read what was written since the last time."""
        with contextlib.suppress(OSError):
            with open(self._folder / LOG, "rb") as f:
                f.seek(self._read)
                lines = f.read().split(b"\n")
            self._read += sum(
                len(line) + 1 for line in lines[:-1]
            )  # a line without an end is still being written
            for line in lines[:-1]:
                with contextlib.suppress(
                    ValueError, KeyError, TypeError
                ):  # cut short by a crash: that picture is done again
                    entry = json.loads(line)
                    self._entries[entry["output"]] = entry

    def has(self, job: Job) -> bool:
        """Tell whether the result is there, made of this picture by this network."""
        entry = self._entries.get(self._name(job))
        try:
            return (
                entry is not None
                and entry.get("by") == self._identity
                and tuple(entry.get("facts", ())) == _facts(job)
            )
        except OSError:
            return False

    def knows(self, job: Job) -> bool:
        """Tell whether the result's file is one of ours, of whatever picture and network."""
        return self._name(job) in self._entries

    def add(self, job: Job) -> None:
        """Write down that a result is finished. Raises InputError when that cannot be written."""
        entry = {"output": self._name(job), "by": self._identity, "facts": _facts(job)}
        try:
            with open(
                self._folder / LOG, "a", encoding="utf-8"
            ) as f:  # one write at the file's end: others may add theirs
                f.write(json.dumps(entry) + "\n")
        except OSError as e:
            raise InputError(
                f"cannot write {self._folder / LOG}: {e.strerror or e}", hint="free some space"
            ) from e

    def _name(self, job: Job) -> str:
        return job.output.relative_to(self._folder).as_posix()


def _facts(job: Job) -> Tuple[int, int, int]:
    source = job.source.stat()
    return source.st_size, source.st_mtime_ns, job.output.stat().st_size
