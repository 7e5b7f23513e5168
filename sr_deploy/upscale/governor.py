"""Choose a variant for each frame, so that a rate is held: as large as it can be, smaller at once when a frame was late.

    governor = Governor(upscalers, fps=24, names=("d1", "d2", "d3"))
    for frame in camera:
        show(governor(frame))

Each variant is timed on the first frame of a size. From then on one number stands for the state of the machine: the *load*, by
how much the variant in use takes longer than it did then. All other variants' times are predicted by it.

- Down: a frame that takes longer than its share (1/fps) is the last one of its variant: the next is made by the largest
  whose prediction under this load fits into HEADROOM of the share.
- Up: only when the larger one's prediction under the worst load of the last `hold` frames fits. `hold` is half a second, and
  doubles for a variant each time it was too slow soon after it was taken (up to MOST_PATIENCE times): a variant that just does
  not fit, or not for long under the machine's noise, is tried ever more rarely, and on ever longer evidence. It falls back to
  half a second when the variant has lasted.
- Power: over `max_watts` it goes down by one, at most once a second, as sensors tell the past; a variant that drew too much
  is tried again like a slow one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Sequence, TextIO, Tuple

import numpy as np

from sr_deploy.core.errors import InputError

HEADROOM = 0.9
"""Of a frame's share of time; what is left lets a backlog shrink."""
HOLD_S = 0.5
MOST_PATIENCE = 32
_SOON = 4
"""Holds, within which a variant that is too slow was taken too early."""
_CALIBRATION_RUNS = 3


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[Callable[[Dict[str, Any]], None]]:
    """Yield a log for a Governor that appends each entry, a line of JSON, to the file, which the first one makes.

    The log raises InputError where it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        lines: List[TextIO] = []

        def note(entry: Dict[str, Any]) -> None:
            try:
                if not lines:
                    lines.append(
                        stack.enter_context(open(path, "a", encoding="utf-8", buffering=1))
                    )
                lines[0].write(json.dumps(entry) + "\n")
            except OSError as e:
                raise InputError(
                    f"cannot write {path}: {e.strerror or e}",
                    hint="free some space, or give another output",
                ) from e

        yield note


class Governor:
    """Upscales frames as an Upscaler does, by a variant of its choice. Every frame is upscaled, late or not. One thread at a time."""

    def __init__(
        self,
        upscalers: Sequence[Any],
        *,
        fps: float,
        names: Sequence[str],
        max_watts: Optional[float] = None,
        watts: Optional[Callable[[], Optional[float]]] = None,
        log: Callable[[Dict[str, Any]], None] = lambda entry: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Govern `upscalers`, called `names`, in the order from the smallest to the largest.

        fps: frames a second to hold. watts: returns the power drawn now (see `power.live_watts`), None while it is not known;
        max_watts: its bound. log: is given what happened to each frame, as plain data. clock: seconds.
        Raises InputError when these do not fit together.
        """
        if not upscalers or len(upscalers) != len(names):
            raise InputError(
                f"a governor of {len(upscalers)} variants with {len(names)} names; expected one name for each, at least one"
            )
        if len({u.scale for u in upscalers}) > 1:
            raise InputError(
                f"the variants upscale by different factors: {', '.join(f'{n} by {u.scale}' for n, u in zip(names, upscalers))}"
            )
        if not (fps > 0 and math.isfinite(fps)):
            raise InputError(
                f"a rate of {fps} frames a second cannot be held; expected a positive number"
            )
        if max_watts is not None and not max_watts > 0:
            raise InputError(f"a bound of {max_watts} W cannot be held; expected a positive number")
        if max_watts is not None and watts is None:
            raise InputError("a bound on the power needs a way to read it, `watts`")
        self.scale: int = upscalers[0].scale
        self.names = tuple(names)
        self.share_s = 1 / fps
        self._upscalers = upscalers
        self._watts, self._max_watts = watts, max_watts
        self._log = log
        self._clock = clock
        self._hold = max(round(HOLD_S * fps), 4)
        self._idle_s: Dict[Tuple[int, ...], List[float]] = {}  # by size, of each variant
        self._size: Tuple[int, ...] = ()
        self._now = 0
        self._loads: Deque[float] = deque(maxlen=self._hold * MOST_PATIENCE)
        self._patience = [1] * len(names)
        self._since = 0  # frames by the variant in use
        self._backlog_s = self._spent_s = 0.0
        self.frames = [0] * len(names)
        """By each variant."""
        self.late = self.switches = 0
        """Frames that took longer than their share, and changes of the variant."""

    @property
    def identity(self) -> str:
        """Name the variants governed and the rate."""
        return f"{1 / self.share_s:g} fps of " + "; ".join(
            getattr(u, "identity", "") for u in self._upscalers
        )

    def describe(self) -> str:
        """Say in a line what is governed."""
        bound = f", at most {self._max_watts:g} W" if self._max_watts is not None else ""
        return f"governor: {', '.join(self.names)} at {1 / self.share_s:g} frames a second{bound}"

    def plan(self, hw: Sequence[int]) -> None:
        """Raise InputError when a variant cannot take frames of (h, w)."""
        for upscaler in self._upscalers:
            if hasattr(upscaler, "plan"):
                upscaler.plan(hw)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Upscale a frame, (H, W, 3) RGB of any type an Upscaler takes. The first of a size times every variant on it."""
        size = rgb.shape[:2]
        if size not in self._idle_s:
            self._calibrate(rgb)
        if size != self._size:
            self._size, self._backlog_s = size, 0.0
            self._loads.clear()
            self._take(self._largest(1.0, below=len(self.names)))
        chosen = self._now
        start = self._clock()
        y = self._upscalers[chosen](rgb)
        took = self._clock() - start
        self._account(took)
        self._log(self._entry(chosen, took, *self._choose(took)))
        return y

    def summary(self) -> str:
        """Say in a line how the rate was held and by what."""
        total = max(sum(self.frames), 1)
        used = ", ".join(f"{name} {n / total:.0%}" for name, n in zip(self.names, self.frames) if n)
        held = f"{total - self.late} of {total} frames in {self.share_s * 1000:.1f} ms each"
        return f"{held}, {self._spent_s / total * 1000:.1f} ms on average; by {used}; {self.switches} switches"

    def _calibrate(self, rgb: np.ndarray) -> None:
        times = []
        for upscaler in self._upscalers:
            upscaler(rgb)  # the first run at a size also allocates
            times.append(math.inf)
        # In turns, and the least of each: what else the machine does meanwhile makes single runs longer, not the variants.
        for _ in range(_CALIBRATION_RUNS):
            for v, upscaler in enumerate(self._upscalers):
                if (
                    2 * self.share_s < times[v] < math.inf
                ):  # it will not be taken, however exactly its time is known
                    continue
                start = self._clock()
                upscaler(rgb)
                times[v] = min(times[v], max(self._clock() - start, 1e-9))
        self._idle_s[rgb.shape[:2]] = times
        spent = {name: round(t * 1000, 2) for name, t in zip(self.names, times)}
        self._log(
            {
                "calibrated": list(rgb.shape[:2]),
                "ms": spent,
                "share_ms": round(self.share_s * 1000, 2),
            }
        )

    def _account(self, took: float) -> None:
        self._loads.append(took / self._idle_s[self._size][self._now])
        # What is longer ago than the hold is not made up for: a live source has dropped those frames.
        self._backlog_s = min(max(self._backlog_s + took - self.share_s, 0.0), HOLD_S)
        self._spent_s += took
        self.frames[self._now] += 1
        self.late += took > self.share_s
        self._since += 1
        if self._since == self._hold * MOST_PATIENCE:
            self._patience[self._now] = 1

    def _choose(self, took: float) -> Tuple[Optional[float], str]:
        """Decide on the next frame's variant; return the power drawn, where it is read, and why it changes, if it does."""
        watts = self._watts() if self._watts is not None and self._max_watts is not None else None
        if took > self.share_s:
            smaller = self._largest(self._loads[-1], below=self._now)
            if smaller < self._now:
                return watts, self._down(
                    smaller, f"took {took * 1000:.1f} ms of {self.share_s * 1000:.1f}"
                )
            return watts, f"even {self.names[0]} is too slow now"
        if watts is not None and self._max_watts is not None and watts > self._max_watts:
            if self._now > 0 and self._since >= 2 * self._hold:
                return watts, self._down(
                    self._now - 1, f"draws {watts:.1f} W of {self._max_watts:g}"
                )
            return watts, ""
        larger = self._now + 1
        if larger < len(self.names) and not self._backlog_s:
            hold = self._hold * self._patience[larger]
            worst = max(itertools.islice(reversed(self._loads), hold))
            if self._since >= hold and self._predicted(larger, worst) <= HEADROOM * self.share_s:
                return watts, self._up(larger, worst)
        return watts, ""

    def _largest(self, load: float, *, below: int) -> int:
        fitting = [v for v in range(below) if self._predicted(v, load) <= HEADROOM * self.share_s]
        return max(fitting, default=0)

    def _predicted(self, variant: int, load: float) -> float:
        return self._idle_s[self._size][variant] * load

    def _down(self, to: int, why: str) -> str:
        if self._since <= _SOON * self._hold * self._patience[self._now]:
            self._patience[self._now] = min(2 * self._patience[self._now], MOST_PATIENCE)
        predicted = self._predicted(to, self._loads[-1])
        reason = f"{self.names[self._now]} {why}; {self.names[to]} should take {predicted * 1000:.1f} ms (load {self._loads[-1]:.2f})"
        self._take(to)
        return reason

    def _up(self, to: int, load: float) -> str:
        reason = f"{self._since} frames in time; {self.names[to]} should take {self._predicted(to, load) * 1000:.1f} ms (load {load:.2f})"
        self._take(to)
        return reason

    def _take(self, variant: int) -> None:
        self.switches += variant != self._now and sum(self.frames) > 0
        self._now, self._since = variant, 0

    def _entry(self, variant: int, took: float, watts: Optional[float], why: str) -> Dict[str, Any]:
        entry = {
            "frame": sum(self.frames),
            "variant": self.names[variant],
            "ms": round(took * 1000, 2),
            "share_ms": round(self.share_s * 1000, 2),
            "late": took > self.share_s,
            "backlog_ms": round(self._backlog_s * 1000, 2),
            "next": self.names[self._now],
            "why": why,
        }
        return entry if watts is None else {**entry, "watts": round(watts, 2)}
