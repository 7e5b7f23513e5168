"""The power a board draws while it works, read all the time."""

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


@contextlib.contextmanager
def live_watts(every_s: float = 0.5, *, wait_s: float = _WAIT_S) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the power drawn, in W: the last reading, which `every_s` seconds make a new one.

    By the board's sensors, as everywhere in srdeploy (see `board_watts` for what they cover). Raises InputError where this
    machine reports no power, or none whose total is known.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "power.txt"
        log.touch()
        quiet = subprocess.DEVNULL
        try:
            process = subprocess.Popen(
                ["sh", str(SCRIPT), "watch", str(log), f"{every_s:g}"],
                stdin=quiet,
                stdout=quiet,
                stderr=quiet,
            )
        except OSError as e:
            raise InputError(
                f"this machine's power cannot be read: there is no sh ({e.strerror or e})",
                hint=_HINT,
            ) from e
        try:
            with open(str(log), encoding="utf-8", errors="replace") as lines:
                readings = _Readings()
                until = time.monotonic() + wait_s
                while readings.add(lines.read()) is None:
                    if time.monotonic() > until or process.poll() is not None:
                        raise InputError(
                            f"this machine's power cannot be read: {readings.why_none()}",
                            hint=_HINT,
                        )
                    time.sleep(0.05)

                def watts() -> float:
                    drawn = readings.add(lines.read())
                    assert drawn is not None
                    return drawn

                yield watts
        finally:
            process.terminate()
            process.wait()


_HINT = "leave --max-watts out"


class _Readings:
    def __init__(self) -> None:
        self._rest = ""
        self._rails: Dict[str, Set[str]] = {}
        self._last: Optional[float] = None

    def add(self, text: str) -> Optional[float]:
        """Take in what was written since; return the last power known in W."""
        whole, newline, self._rest = (self._rest + text).rpartition("\n")
        for sample in samples_from_text(whole + newline):
            # One line may name one rail of several: two GPUs take turns.
            rails = self._rails.setdefault(sample.source, set())
            rails.update(sample.rails_mw)
            drawn, _ = board_watts(sample.rails_mw)
            if drawn is not None and board_watts(dict.fromkeys(rails, 1.0))[0] is not None:
                self._last = drawn
        return self._last

    def why_none(self) -> str:
        return (
            "; ".join(
                board_watts(dict.fromkeys(sorted(r), 1.0))[1] for r in self._rails.values() if r
            )
            or "it reports none"
        )
