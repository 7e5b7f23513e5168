"""Choose a network variant per frame, to hold a frame rate.

    governor = Governor(upscalers, fps=24, names=("d1", "d2", "d3"))
    for frame in camera:
        show(governor(frame))

Each variant is timed on the first frame of a size. After that a single number describes the state
of the machine: the *load*, the current variant's time relative to its calibration. The times of all
other variants are predicted with it. On a GPU the load is that of the device's time, by its events;
the rest of a frame's time, on the host, is the same for all variants and added to it. Whether a
frame is late is always decided by its whole time: from the image to the result on the host. So
frames do not overlap on the GPU, unlike without a governor.

- Down: after a frame that takes longer than its share (1/fps), the next one is made by the largest
  variant whose predicted time under the same load fits into HEADROOM of the share.
- Up: only if the larger variant's predicted time fits under the worst load of the last `hold`
  frames. `hold` is half a second. It doubles for a variant each time it was too slow soon after it
  was chosen, up to a factor of MAX_PATIENCE: a variant that does not quite fit is tried ever more
  rarely, on ever longer evidence. It is reset when the variant has lasted.
- Quality: the variants are given from the lowest quality to the highest, such as d1 in INT8, d1 in
  FP32, d2 in INT8. Of those, the ones are used that were faster on the first frame of a size than
  all better ones.
- Power: above `max_watts` it goes down by one, at most once per second, since sensors report the
  past. A variant that drew too much is retried like a slow one.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import deque
from pathlib import Path
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import write_hint
from sr_deploy.core.sizes import HW
from sr_deploy.upscale.upscaler import Upscaler

HEADROOM = 0.9
"""Of a frame's share of time. The rest lets a backlog shrink."""
HOLD_S = 0.5
MAX_PATIENCE = 32
_SOON = 4
"""A variant that is too slow within this many holds was chosen too early."""
_CALIBRATION_RUNS = 3


def log_to(path: Path) -> Callable[[Dict[str, Any]], None]:
    """Return a log for a Governor: it appends each entry to a file as a line of JSON.

    The log raises InputError if it cannot write.
    """

    def log(entry: Dict[str, Any]) -> None:
        try:
            with open(path, "a", encoding="utf-8") as f:
                f.write(json.dumps(entry) + "\n")
        except OSError as e:
            raise InputError(f"cannot write {path}: {e.strerror or e}", hint=write_hint(e)) from e

    return log


class _Load(NamedTuple):
    """The state of the machine during a frame."""

    factor: float
    rest_s: float
    """The time of the host besides the GPU's; 0 without a GPU."""


class Governor:
    """Upscales every frame, like an Upscaler, with a variant of its choice. Not thread-safe."""

    def __init__(
        self,
        upscalers: Sequence[Upscaler],
        *,
        fps: float,
        names: Sequence[str],
        max_watts: Optional[float] = None,
        watts: Optional[Callable[[], Optional[float]]] = None,
        log: Callable[[Dict[str, Any]], None] = lambda entry: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Govern `upscalers`, called `names`, ordered from the lowest quality to the highest.

        fps: frames per second to hold. watts: returns the power drawn now (see `power.live_watts`),
        None while unknown. max_watts: its bound. log: receives an entry per frame, as plain data.
        clock: in seconds. Raises InputError on values that do not fit together.
        """
        _check(upscalers, names, fps)
        if max_watts is not None and not max_watts > 0:
            raise InputError(f"cannot hold a power bound of {max_watts} W; expected a positive one")
        if max_watts is not None and watts is None:
            raise InputError("a power bound needs a function that reads the power, `watts`")
        self.scale: int = upscalers[0].scale
        self.names = tuple(names)
        self.share_s = 1 / fps
        self._upscalers = upscalers
        self._watts, self._max_watts = watts, max_watts
        self._log = log
        self._clock = clock
        self._hold = max(round(HOLD_S * fps), 4)
        self._idle_s: Dict[Tuple[int, ...], List[float]] = {}  # by size, of each variant
        self._rest_s: Dict[Tuple[int, ...], float] = {}  # by size
        self._rungs: Tuple[int, ...] = ()  # the variants used for the current size
        self._size: Tuple[int, ...] = ()
        self._current = 0
        self._loads: Deque[_Load] = deque(maxlen=self._hold * MAX_PATIENCE)
        self._patience = [1] * len(names)
        self._since_switch = 0  # frames made by the current variant
        self._backlog_s = self._total_s = 0.0
        self.frame_counts = [0] * len(names)
        """The number of frames made by each variant."""
        self.late = self.switches = 0
        """The number of frames that took longer than their share, and of changes of the variant."""

    @property
    def identity(self) -> str:
        """The governed networks and the rate."""
        return f"{1 / self.share_s:g} fps of " + "; ".join(u.identity for u in self._upscalers)

    def describe(self) -> str:
        """Return a line on the governed variants, the rate and the bound."""
        bound = f", at most {self._max_watts:g} W" if self._max_watts is not None else ""
        return f"governor: {', '.join(self.names)} at {1 / self.share_s:g} frames/s{bound}"

    def plan(self, hw: HW) -> None:
        """Raise InputError if a variant cannot take frames of (h, w)."""
        for upscaler in self._upscalers:
            upscaler.plan(hw)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Upscale a frame, (H, W, 3) RGB. The first frame of a size calibrates all variants."""
        size = image.shape[:2]
        if size not in self._idle_s:
            self._calibrate(image)
        if size != self._size:
            self._size, self._backlog_s = size, 0.0
            self._rungs = _undominated(self._idle_s[size])
            self._loads.clear()
            idle = _Load(1.0, self._rest_s[size])
            self._switch_to(self._largest_fitting(idle, below=len(self.names)))
        variant = self._current
        y, seconds, device_s = self._timed(variant, image)
        self._account(seconds, device_s)
        watts = self._watts() if self._watts is not None and self._max_watts is not None else None
        reason = self._choose_next(seconds, watts)
        self._log(self._entry(variant, seconds, watts, reason))
        return y

    def frames(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the result of each frame."""
        return map(self, images)

    def summary(self) -> str:
        """Return a line on how the rate was held, and by which variants."""
        total = max(sum(self.frame_counts), 1)
        shares = zip(self.names, self.frame_counts)
        used = ", ".join(f"{name} {n / total:.0%}" for name, n in shares if n)
        in_time = f"{total - self.late} of {total} frames within {self.share_s * 1000:.1f} ms"
        mean_ms = self._total_s / total * 1000
        return f"{in_time}, {mean_ms:.1f} ms on average; by {used}; {self.switches} switches"

    def _calibrate(self, image: np.ndarray) -> None:
        times, rest_s = [], math.inf
        for upscaler in self._upscalers:
            upscaler(image)  # the first run at a size also allocates
            times.append(math.inf)
        # Interleaved, and the minimum of each: other work on the machine slows single runs.
        for _ in range(_CALIBRATION_RUNS):
            for v in range(len(self._upscalers)):
                if 2 * self.share_s < times[v] < math.inf:  # far too slow: no need for precision
                    continue
                _, seconds, device_s = self._timed(v, image)
                times[v] = min(times[v], device_s)
                rest_s = min(rest_s, seconds - device_s)
        self._idle_s[image.shape[:2]] = times
        self._rest_s[image.shape[:2]] = rest_s
        self._log(
            {
                "calibrated": list(image.shape[:2]),
                "ms": {name: _ms(t + rest_s) for name, t in zip(self.names, times)},
                "share_ms": _ms(self.share_s),
                "left_out": [
                    name for v, name in enumerate(self.names) if v not in _undominated(times)
                ],
            }
        )

    def _timed(self, variant: int, image: np.ndarray) -> Tuple[np.ndarray, float, float]:
        """Upscale by a variant; return the result, its time, and the GPU's part of it, in s.

        Without a GPU all of it is such a part.
        """
        upscaler = self._upscalers[variant]
        start = self._clock()
        y = upscaler(image)
        seconds = max(self._clock() - start, 1e-9)
        if upscaler.device_ms is None:
            return y, seconds, seconds
        return y, seconds, min(max(upscaler.device_ms / 1000, 1e-9), seconds)

    def _account(self, seconds: float, device_s: float) -> None:
        idle_s = self._idle_s[self._size][self._current]
        self._loads.append(_Load(device_s / idle_s, seconds - device_s))
        # Limited to the hold: a live source has dropped the frames before that.
        self._backlog_s = min(max(self._backlog_s + seconds - self.share_s, 0.0), HOLD_S)
        self._total_s += seconds
        self.frame_counts[self._current] += 1
        self.late += seconds > self.share_s
        self._since_switch += 1
        if self._since_switch == self._hold * MAX_PATIENCE:
            self._patience[self._current] = 1

    def _choose_next(self, seconds: float, watts: Optional[float]) -> str:
        """Choose the next frame's variant, and return the reason if it changes."""
        current = self._current
        if seconds > self.share_s:
            smaller = self._largest_fitting(self._loads[-1], below=current)
            if smaller == current:
                return f"even {self.names[current]} is too slow now"
            share_ms = self.share_s * 1000
            return self._step_down(smaller, f"took {seconds * 1000:.1f} ms of {share_ms:.1f}")
        if watts is not None and self._max_watts is not None and watts > self._max_watts:
            smaller = max((v for v in self._rungs if v < current), default=current)
            if smaller == current or self._since_switch < 2 * self._hold:
                return ""
            return self._step_down(smaller, f"draws {watts:.1f} W of {self._max_watts:g}")
        larger = min((v for v in self._rungs if v > current), default=current)
        if larger == current or self._backlog_s:
            return ""
        hold = self._hold * self._patience[larger]
        recent = itertools.islice(reversed(self._loads), hold)
        worst = max(recent, key=lambda load: self._predict(larger, load))
        fits = self._predict(larger, worst) <= HEADROOM * self.share_s
        return self._step_up(larger, worst) if fits and self._since_switch >= hold else ""

    def _largest_fitting(self, load: _Load, *, below: int) -> int:
        budget = HEADROOM * self.share_s
        fitting = (v for v in self._rungs if v < below and self._predict(v, load) <= budget)
        return max(fitting, default=self._rungs[0])

    def _predict(self, variant: int, load: _Load) -> float:
        return self._idle_s[self._size][variant] * load.factor + load.rest_s

    def _step_down(self, variant: int, cause: str) -> str:
        if self._since_switch <= _SOON * self._hold * self._patience[self._current]:
            doubled = 2 * self._patience[self._current]
            self._patience[self._current] = min(doubled, MAX_PATIENCE)
        prediction = self._prediction_text(variant, self._loads[-1])
        reason = f"{self.names[self._current]} {cause}; {prediction}"
        self._switch_to(variant)
        return reason

    def _step_up(self, variant: int, load: _Load) -> str:
        reason = f"{self._since_switch} frames in time; {self._prediction_text(variant, load)}"
        self._switch_to(variant)
        return reason

    def _prediction_text(self, variant: int, load: _Load) -> str:
        ms = self._predict(variant, load) * 1000
        return f"{self.names[variant]} should take {ms:.1f} ms (load {load.factor:.2f})"

    def _switch_to(self, variant: int) -> None:
        self.switches += variant != self._current and sum(self.frame_counts) > 0
        self._current, self._since_switch = variant, 0

    def _entry(
        self, variant: int, seconds: float, watts: Optional[float], reason: str
    ) -> Dict[str, Any]:
        entry = {
            "frame": sum(self.frame_counts),
            "variant": self.names[variant],
            "ms": _ms(seconds),
            "share_ms": _ms(self.share_s),
            "late": seconds > self.share_s,
            "backlog_ms": _ms(self._backlog_s),
            "next": self.names[self._current],
            "why": reason,
        }
        return entry if watts is None else {**entry, "watts": round(watts, 2)}


def _undominated(seconds: Sequence[float]) -> Tuple[int, ...]:
    """Return the variants that are faster than all better ones, from their times in order."""
    better = (seconds[v + 1 :] for v in range(len(seconds)))
    return tuple(v for v, slower in enumerate(better) if all(seconds[v] < s for s in slower))


def _check(upscalers: Sequence[Upscaler], names: Sequence[str], fps: float) -> None:
    if not upscalers or len(upscalers) != len(names):
        counts = f"{len(upscalers)} variants, but {len(names)} names"
        raise InputError(f"{counts}; expected one or more, each with a name")
    if len({u.scale for u in upscalers}) > 1:
        scales = ", ".join(f"{name} by {u.scale}" for name, u in zip(names, upscalers))
        raise InputError(f"the variants upscale by different factors: {scales}")
    if not (fps > 0 and math.isfinite(fps)):
        raise InputError(f"cannot hold a rate of {fps} frames/s; expected a positive number")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
