"""The log of a folder's finished pictures: `.srdeploy.jsonl`, with a line per result."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import write_hint

LOG = ".srdeploy.jsonl"


@dataclass(frozen=True)
class PictureTask:
    """One picture, and the file its result goes to."""

    source: Path
    output: Path


class FolderLog:
    """The results that all processes sharing a folder have finished."""

    def __init__(self, folder: Path, identity: str) -> None:
        """identity: identifies the network and the settings that decide its output."""
        self._folder, self._identity = folder, identity
        self._entries: Dict[str, Dict[str, Any]] = {}
        self._position = 0
        self.refresh()

    def refresh(self) -> None:
        """Read the entries written since the last call."""
        with contextlib.suppress(OSError), open(self._folder / LOG, "rb") as f:
            f.seek(self._position)
            *lines, _ = f.read().split(b"\n")  # a line without an end is still being written
            self._position += sum(len(line) + 1 for line in lines)
            for line in lines:
                # A line cut short by a crash is skipped, and its picture is upscaled again.
                with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                    entry = json.loads(line)
                    self._entries[entry["output"]] = entry

    def is_finished(self, task: PictureTask) -> bool:
        """Return whether the result exists and was made from this picture by this network."""
        entry = self._entries.get(self._name(task))
        if entry is None or entry.get("by") != self._identity:
            return False
        try:
            return bool(entry.get("facts") == list(_facts(task)))
        except OSError:
            return False

    def is_ours(self, task: PictureTask) -> bool:
        """Return whether the result's file was written by any run of ours."""
        return self._name(task) in self._entries

    def add(self, task: PictureTask) -> None:
        """Append a finished result. Raises InputError if the log cannot be written."""
        entry = {"output": self._name(task), "by": self._identity, "facts": _facts(task)}
        try:
            # A single write at the end of the file: other processes may append too.
            with open(self._folder / LOG, "a", encoding="utf-8") as f:
                f.write(json.dumps(entry) + "\n")
        except OSError as e:
            raise InputError(
                f"cannot write {self._folder / LOG}: {e.strerror or e}", hint=write_hint(e)
            ) from e

    def _name(self, task: PictureTask) -> str:
        return task.output.relative_to(self._folder).as_posix()


def _facts(task: PictureTask) -> Tuple[int, int, int]:
    source = task.source.stat()
    return source.st_size, source.st_mtime_ns, task.output.stat().st_size
