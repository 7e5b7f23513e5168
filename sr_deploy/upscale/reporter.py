"""The reports of a run."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, ContextManager


def _ignore(value: object) -> None:
    pass


def _no_progress(done: int, total: int) -> ContextManager[Callable[[], None]]:
    return contextlib.nullcontext(lambda: None)


@dataclass(frozen=True)
class Reporter:
    """Functions that receive the reports of a run. By default they are discarded."""

    log: Callable[[str], None] = _ignore  # a line of text about the work
    written: Callable[[Path], None] = _ignore  # the path of a finished result
    frames: Callable[[int, int], ContextManager[Callable[[], None]]] = _no_progress
    """(frames done by earlier runs, all frames or 0 if unknown) -> a function to call per frame."""
