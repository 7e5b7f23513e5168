"""Latency the way it is published: a first run, a warm-up until it is steady, then every run kept. Never a bare mean."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Dict, Hashable, List, Mapping, Optional, Sequence, Tuple, TypeVar

import numpy as np

from sr_deploy.core.session import Timed

K = TypeVar("K", bound=Hashable)
PAUSE_S = 0.1
"""The threads of the run before spin for a while: without a pause the same graph took 1.3 times as long after another's."""
WINDOW, TOLERANCE, WARMUP_S = 3, 0.05, 5.0
"""The warm-up ends when the medians of two windows of three runs, one after the other, agree to 5 %, or after 5 s."""
MIN_RUNS, MAX_RUNS, ENOUGH_S = 10, 100, 3.0


@dataclass(frozen=True)
class LatencySamples:
    """Milliseconds of every timed run, after the first and `warmup` further untimed ones."""

    first_ms: float
    """By the wall clock, copies and the preparation of memory included."""
    times_ms: Tuple[float, ...]
    warmup: int
    settled: bool
    """Whether the warm-up ended because its windows agreed."""
    copies_ms: Optional[float] = None
    """Median of the copies between host and device, where they are timed apart."""
    timer: str = ""
    late: int = 0
    """Runs that took longer than the time until the next frame."""


def measure_latency(
    run: Callable[[], Timed],
    *,
    runs: Optional[int] = None,
    cadence_hz: Optional[float] = None,
    between: Callable[[], None] = lambda: None,
) -> LatencySamples:
    """Repeat `run`. With `runs` None: at least 10 times, and until 3 s or 100 runs are reached.

    cadence_hz: start a run at this rate at most, as frames of a video come; None: back to back. Between two of them a device
    may lower its clocks, so they can be slower. `between` is called after each window of the warm-up and in the end.
    """
    start = time.perf_counter()
    run()
    first = (time.perf_counter() - start) * 1000
    warm, settled = _warmed_up(run, _Frames(cadence_hz), between)
    frames = _Frames(cadence_hz)
    times: List[float] = []
    copies: List[float] = []
    start = time.perf_counter()
    while len(times) < (MIN_RUNS if runs is None else runs) or (
        runs is None and len(times) < MAX_RUNS and time.perf_counter() - start < ENOUGH_S
    ):
        frames.wait()
        done = run()
        times.append(done.ms)
        if done.copies_ms is not None:
            copies.append(done.copies_ms)
    frames.wait()
    between()
    return LatencySamples(
        first,
        tuple(times),
        warm,
        settled,
        float(np.median(copies)) if copies else None,
        done.timer,
        frames.late,
    )


def latency_statistics(times_ms: Sequence[float]) -> Dict[str, float]:
    """Return what a row holds of its latencies: median, p90, p95, p99, mean and coefficient of variation, by the row's keys."""
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
    """Call each of `runs`, which return milliseconds, in turns (A B A B), after a round that does not count."""
    times: Dict[K, List[float]] = {name: [] for name in runs}
    for n in range(rounds + 1):
        for name, run in runs.items():
            time.sleep(PAUSE_S)
            taken = run()
            if n > 0:
                times[name].append(taken)
    return times


class _Frames:
    """When the next frame comes. One that comes while another is still worked on is dropped."""

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


def _warmed_up(
    run: Callable[[], Timed], frames: _Frames, between: Callable[[], None]
) -> Tuple[int, bool]:
    start = time.perf_counter()
    medians: List[float] = []
    while True:
        window = []
        for _ in range(WINDOW):
            frames.wait()
            window.append(run().ms)
        between()
        medians.append(float(np.median(window)))
        if len(medians) < 2:
            continue
        settled = abs(medians[-1] - medians[-2]) <= TOLERANCE * medians[-2]
        if settled or time.perf_counter() - start > WARMUP_S:
            return WINDOW * len(medians), settled
