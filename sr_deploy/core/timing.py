"""Latency as published: a first run, a warm-up until times are steady, then every timed run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Dict, Hashable, List, Mapping, Optional, Sequence, Tuple, TypeVar

import numpy as np

from sr_deploy.core.session import TimedOutput

K = TypeVar("K", bound=Hashable)
PAUSE_S = 0.1
"""Pause between runs of different graphs. The threads of the previous run spin for a while: without
the pause, a graph took 1.3 times as long after another graph's run."""
WINDOW, TOLERANCE, WARMUP_S = 3, 0.05, 5.0
"""The warm-up ends when the medians of two windows of three runs agree to 5 %, or after 5 s."""
MIN_RUNS, MAX_RUNS, ENOUGH_S = 10, 100, 3.0


@dataclass(frozen=True)
class LatencySamples:
    """Milliseconds of every timed run, after the first run and `warmup` further untimed ones."""

    first_ms: float
    """Wall-clock time, including copies and memory allocation."""
    times_ms: Tuple[float, ...]
    warmup: int
    settled: bool
    """Whether the warm-up ended because its windows agreed."""
    copies_ms: Optional[float] = None
    """Median of the copies between host and device, if they are timed separately."""
    timer: str = ""
    late: int = 0
    """Runs that took longer than the time until the next frame."""
    span_s: Tuple[float, float] = (0.0, 0.0)
    """When the timed runs began and ended, in seconds since 1970."""


def measure_latency(
    run: Callable[[], TimedOutput],
    *,
    runs: Optional[int] = None,
    cadence_hz: Optional[float] = None,
    between: Callable[[], None] = lambda: None,
) -> LatencySamples:
    """Call `run` repeatedly and return the times.

    runs: number of timed runs; None: at least 10, and until 3 s or 100 runs are reached.
    cadence_hz: start runs at most at this rate, as frames of a video arrive; None: back to back.
    Runs at a cadence can be slower, because a device may lower its clocks between them.
    between: called after each window of the warm-up and at the end.
    """
    start = time.perf_counter()
    run()
    first_ms = (time.perf_counter() - start) * 1000
    warmup, settled = _warm_up(run, _FrameClock(cadence_hz), between)
    frames = _FrameClock(cadence_hz)
    times_ms: List[float] = []
    copies_ms: List[float] = []
    timer = ""
    start, began_s = time.perf_counter(), time.time()
    while len(times_ms) < (MIN_RUNS if runs is None else runs) or (
        runs is None and len(times_ms) < MAX_RUNS and time.perf_counter() - start < ENOUGH_S
    ):
        frames.wait()
        output = run()
        times_ms.append(output.ms)
        if output.copies_ms is not None:
            copies_ms.append(output.copies_ms)
        timer = output.timer
        del output  # every later one would need new memory, which takes time to be mapped
    frames.wait()
    ended_s = time.time()
    between()
    return LatencySamples(
        first_ms=first_ms,
        times_ms=tuple(times_ms),
        warmup=warmup,
        settled=settled,
        copies_ms=float(np.median(copies_ms)) if copies_ms else None,
        timer=timer,
        late=frames.late,
        span_s=(began_s, ended_s),
    )


def latency_statistics(times_ms: Sequence[float]) -> Dict[str, float]:
    """Return median, percentiles, mean and coefficient of variation by the keys of result rows."""
    median, p90, p95, p99 = (float(v) for v in np.percentile(times_ms, [50, 90, 95, 99]))
    mean = float(np.mean(times_ms))
    return {
        "latency_ms_median": median,
        "latency_ms_p90": p90,
        "latency_ms_p95": p95,
        "latency_ms_p99": p99,
        "latency_ms_mean": mean,
        "latency_cv": float(np.std(times_ms)) / mean if mean else 0.0,
    }


def time_in_turns(runs: Mapping[K, Callable[[], float]], rounds: int) -> Dict[K, List[float]]:
    """Call `runs`, which return milliseconds, in turns (A B A B) after one uncounted round."""
    times: Dict[K, List[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            time.sleep(PAUSE_S)
            ms = run()
            if number > 0:
                times[name].append(ms)
    return times


class _FrameClock:
    """Waits for the next frame. Frames that arrive while another one is processed are dropped."""

    def __init__(self, cadence_hz: Optional[float]) -> None:
        self._period_s = None if cadence_hz is None else 1 / cadence_hz
        self._due: Optional[float] = None
        self.late = 0

    def wait(self) -> None:
        if self._period_s is None:
            return
        now = time.perf_counter()
        if self._due is None:
            self._due = now
        elif now > self._due:
            self.late += 1
            self._due += self._period_s * np.ceil((now - self._due) / self._period_s)
        time.sleep(max(self._due - now, 0))
        self._due += self._period_s


def _warm_up(
    run: Callable[[], TimedOutput], frames: _FrameClock, between: Callable[[], None]
) -> Tuple[int, bool]:
    """Return the number of runs, and whether the last two windows agreed."""
    start = time.perf_counter()
    medians: List[float] = []
    while True:
        window = []
        for _ in range(WINDOW):
            frames.wait()
            window.append(run().ms)
        between()
        medians.append(float(np.median(window)))
        settled = len(medians) > 1 and abs(medians[-1] - medians[-2]) <= TOLERANCE * medians[-2]
        if settled or (len(medians) > 1 and time.perf_counter() - start > WARMUP_S):
            return WINDOW * len(medians), settled
