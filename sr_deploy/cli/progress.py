"""Progress of long work on stderr: a bar with the time left, or lines where it is no terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Callable, Iterator, List, Optional

import click

from sr_deploy.core.progress import Advance, Progress, time_text

_TICK_S = 0.5
"""Between two drawings of the bar."""
_DRAW_S = 0.1
"""Least time between two drawings for steps that follow fast."""
_FIRST_LINE_S = 1.0
"""Of silence before the first line, where stderr is no terminal. Shorter work prints none."""
_LINE_S = 10.0
"""Of silence between two lines."""
_BAR = 24


@dataclass
class _Work:
    """A piece of work. Times are in seconds of the clock."""

    what: str
    total: int  # 0: unknown
    unit: str
    before: int  # steps that earlier runs have done
    started: float
    stepped: float
    steps: int = 0
    detail: str = ""

    def text(self, now: float) -> str:
        """Return how far it is, such as `3 of 6, 12 s left, asrn_x4.d3`."""
        done = self.before + self.steps
        parts = [f"{done} of {self.total}" if self.total else str(done) if done else ""]
        spent = max(self.stepped - self.started, 1e-9)
        if self.steps and self.unit:
            parts.append(f"{self.steps / spent:.3g} {self.unit}/s")
        if self.steps and self.total:
            left = spent / self.steps * (self.total - done) - (now - self.stepped)
            parts.append(f"{time_text(max(left, 0))} left" if done < self.total else "")
        elif now - self.started >= 1:
            parts.append(f"{time_text(now - self.started)} so far")
        return ", ".join(filter(None, [*parts, self.detail]))

    def bar(self, now: float, full: str, empty: str) -> str:
        done = min(self.before + self.steps, self.total) * _BAR // max(self.total, 1)
        bar = full * done + empty * (_BAR - done) + "  " if self.total else ""
        return f"{self.what}  {bar}{self.text(now)}".rstrip()


class TerminalProgress(Progress):
    """Prints lines to stderr, and shows the innermost piece of work that is under way.

    On a terminal: a bar, redrawn twice a second and removed at the end. Elsewhere: a line after one
    second without any, and then after every ten. tick_s: 0 redraws at steps only.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, tick_s: float = _TICK_S
    ) -> None:
        self._clock, self._tick_s = clock, tick_s
        self._shown = self._said = clock()  # times of the last bar and line
        self._lines = 0  # of progress since the outermost work began
        self.forget()

    def forget(self) -> None:
        """Show nothing, as in a process that was forked: its parent's bar is not its own."""
        self._works: List[_Work] = []
        self._starting: Optional[_Work] = None
        self._drawn = 0  # characters of the bar on the screen
        self._ticks = False
        self._lock = threading.RLock()

    def __call__(self, line: str) -> None:
        """Print a line, above the bar."""
        with self.hidden():
            click.echo(line, file=sys.stderr)
            self._said = self._clock()

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bar away while something else is printed."""
        with self._lock:
            self._starting = None
            self._erase()
            try:
                yield
            finally:
                if self._works and _is_terminal():
                    self._draw(self._works[-1])

    @contextlib.contextmanager
    def starting(self, what: str) -> Iterator[None]:
        """Show on a terminal for how long the work inside has said nothing yet."""
        now = self._clock()
        if _is_terminal():
            self._starting = _Work(what, 0, "", 0, now, now)
        try:
            with self._ticking() if self._starting else contextlib.nullcontext():
                yield
        finally:
            with self.hidden():
                pass

    @contextlib.contextmanager
    def track(
        self, what: str, total: int = 0, *, unit: str = "", done: int = 0
    ) -> Iterator[Advance]:
        """Show a piece of work. Inside another one, it is shown in the other's place."""
        now = self._clock()
        work = _Work(what, total, unit, done, now, now)
        with self._lock:
            if not self._works:
                self._said, self._lines = now, 0
            self._starting = None
            self._works.append(work)
            self._erase()
            self._show(work)
        try:
            with self._ticking():
                yield _Step(self, work)
        finally:
            with self._lock:
                self._works.remove(work)
                self._erase()
                if self._works:
                    self._show(self._works[-1])

    def step(self, work: _Work, detail: str, steps: int) -> None:
        """Count steps of a piece of work."""
        with self._lock:
            work.detail = detail or work.detail
            if steps:
                work.steps += steps
                work.stepped = self._clock()
            self._show(self._works[-1])

    @contextlib.contextmanager
    def _ticking(self) -> Iterator[None]:
        """Show the time during long steps, from a thread."""
        if self._ticks or not self._tick_s:
            yield
            return
        ended = threading.Event()

        def run() -> None:
            with contextlib.suppress(OSError, ValueError):  # stderr was closed
                while not ended.wait(self._tick_s):
                    with self._lock:
                        work = self._works[-1] if self._works else self._starting
                        if work is not None and not ended.is_set():
                            self._show(work)

        threading.Thread(target=run, daemon=True).start()
        self._ticks = True
        try:
            yield
        finally:
            self._ticks = False
            ended.set()

    def _show(self, work: _Work) -> None:
        now = self._clock()
        if _is_terminal():
            if not self._drawn or now - self._shown >= _DRAW_S:
                self._draw(work)
        elif now - self._said >= (_LINE_S if self._lines else _FIRST_LINE_S):
            self._lines += 1
            self(f"{work.what}: {work.text(now)}")

    def _draw(self, work: _Work) -> None:
        self._shown = self._clock()
        columns = _columns() - 1  # in the last column, some terminals begin a new line
        full, empty = "█░" if _can_print("█░") else "#-"
        text = work.bar(self._shown, full, empty)
        text = text if len(text) <= columns else text[: columns - 3] + "..."
        padding = " " * max(self._drawn - len(text), 0)
        click.echo(f"\r{text}{padding}", nl=False, file=sys.stderr)
        self._drawn = len(text)

    def _erase(self) -> None:
        if self._drawn:
            blank = " " * self._drawn
            click.echo(f"\r{blank}\r", nl=False, file=sys.stderr)
            self._drawn = 0


class _Step(Advance):
    def __init__(self, progress: TerminalProgress, work: _Work) -> None:
        self._progress, self._work = progress, work

    def __call__(self, detail: str = "", *, steps: int = 1) -> None:
        self._progress.step(self._work, detail, steps)


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _can_print(text: str) -> bool:
    try:
        text.encode(getattr(sys.stderr, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


terminal_progress = TerminalProgress()
"""Of this process. To be passed to functions that take `progress`."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=terminal_progress.forget)
