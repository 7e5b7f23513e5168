"""Continuous readings of the power that a board draws."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Set

from sr_deploy.core.errors import InputError
from sr_deploy.runtime.boards.board import SCRIPT, board_watts, samples_from_text

_WAIT_S = 5.0
"""For the first reading."""
_HINT = "remove --max-watts"


@contextlib.contextmanager
def live_watts(every_s: float = 0.5, *, wait_s: float = _WAIT_S) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the last power reading in W (see `board_watts`).

    Raises InputError if this machine reports no power, or none with a known total.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "power.txt"
        log.touch()
        with _watch(log, every_s) as process, open(log, encoding="utf-8", errors="replace") as f:
            readings = _Readings()
            deadline = time.monotonic() + wait_s
            while readings.add(f.read()) is None:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise InputError(f"cannot read the power: {readings.why_none()}", hint=_HINT)
                time.sleep(0.05)

            def watts() -> float:
                latest = readings.add(f.read())
                assert latest is not None
                return latest

            yield watts


@contextlib.contextmanager
def _watch(log: Path, every_s: float) -> Iterator[subprocess.Popen]:
    """Run the script that appends the sensors' readings to a file."""
    quiet = subprocess.DEVNULL
    command = ["sh", str(SCRIPT), "watch", str(log), f"{every_s:g}"]
    try:
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    except OSError as e:
        raise InputError(
            f"cannot read the power: cannot run sh ({e.strerror or e})", hint=_HINT
        ) from e
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


class _Readings:
    def __init__(self) -> None:
        self._rest = ""
        self._rails: Dict[str, Set[str]] = {}
        self._last: Optional[float] = None

    def add(self, text: str) -> Optional[float]:
        """Parse new text and return the last known power in W."""
        lines, newline, self._rest = (self._rest + text).rpartition("\n")
        for sample in samples_from_text(lines + newline):
            # A line may contain one of several rails: two GPUs take turns.
            rails = self._rails.setdefault(sample.source, set())
            rails.update(sample.rails_mw)
            watts, _ = board_watts(sample.rails_mw)
            if watts is not None and board_watts(dict.fromkeys(rails, 1.0))[0] is not None:
                self._last = watts
        return self._last

    def why_none(self) -> str:
        sources = (dict.fromkeys(sorted(rails), 1.0) for rails in self._rails.values() if rails)
        return "; ".join(board_watts(rails)[1] for rails in sources) or "it reports none"
