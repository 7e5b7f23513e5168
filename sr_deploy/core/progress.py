"""`Progress`: receives what happens in a long piece of work, and how far it is."""

from __future__ import annotations

import contextlib
from typing import Callable, Iterator


class Advance:
    """Called after each step of a piece of work. This one discards it."""

    def __call__(self, detail: str = "", *, steps: int = 1) -> None:
        """Tell that `steps` more are done. detail: what is being done, such as a file's name."""


class Progress:
    """Receives lines of text, and pieces of work that can be measured. This one discards both."""

    def __call__(self, line: str) -> None:
        """Receive a finished line about the work."""

    @contextlib.contextmanager
    def track(
        self, what: str, total: int = 0, *, unit: str = "", done: int = 0
    ) -> Iterator[Advance]:
        """Yield a function to call after each step of a piece of work.

        what: the work, such as `exporting`. total: its steps; 0: unknown. unit: of the rate that is
        shown, such as `frames`; empty: none is. done: of the steps, those that earlier runs did.
        """
        yield Advance()


class _Lines(Progress):
    """Passes the lines to a function, and discards the steps."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log

    def __call__(self, line: str) -> None:
        self._log(line)


def as_progress(log: Callable[[str], None]) -> Progress:
    """Return a function that takes lines as a `Progress`; a `Progress` is returned as it is."""
    return log if isinstance(log, Progress) else _Lines(log)


def time_text(seconds: float) -> str:
    """Return a duration in two units at most.

    >>> [time_text(s) for s in (4.6, 200, 7500)]
    ['5 s', '3 min 20 s', '2 h 5 min']
    """
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60} min {s % 60} s" if s < 3600 else f"{s // 3600} h {s // 60 % 60} min"
