"""Latency the way it is published: a first run, a warm-up, then many, as median and percentiles. Never a bare mean."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Dict, Hashable, List, Mapping, Optional, TypeVar

import numpy as np

from sr_deploy.core.session import Timed

K = TypeVar("K", bound=Hashable)
PAUSE_S = 0.1
"""The threads of the run before spin for a while: without a pause the same graph took 1.3 times as long after another's."""
WARMUP = 3
MIN_RUNS, MAX_RUNS, ENOUGH_S = 5, 100, 3.0


@dataclass(frozen=True)
class Latency:
    """Milliseconds over `runs` timed runs, after the first and `warmup` further untimed ones."""

    first_ms: float
    """By the wall clock, copies and the preparation of memory included."""
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    warmup: int
    runs: int
    copies_ms: Optional[float] = None
    """Median of the copies between host and device, where they are timed apart."""
    timer: str = ""


def measure_latency(run: Callable[[], Timed], *, warmup: int = WARMUP, runs: Optional[int] = None) -> Latency:
    """Repeat `run`. With `runs` None: at least 5 times, and until 3 s or 100 runs are reached."""
    start = time.perf_counter()
    run()
    first = (time.perf_counter() - start) * 1000
    for _ in range(warmup):
        run()
    times: List[float] = []
    copies: List[float] = []
    while len(times) < (MIN_RUNS if runs is None else runs) or (runs is None and len(times) < MAX_RUNS and sum(times) < ENOUGH_S * 1000):
        done = run()
        times.append(done.ms)
        if done.copies_ms is not None:
            copies.append(done.copies_ms)
    median, p90, p95, p99 = (float(v) for v in np.percentile(times, [50, 90, 95, 99]))
    return Latency(
        first, median, p90, p95, p99, warmup, len(times), copies_ms=float(np.median(copies)) if copies else None, timer=done.timer
    )


def in_turns(runs: Mapping[K, Callable[[], float]], rounds: int) -> Dict[K, List[float]]:
    """Call each of `runs`, which return milliseconds, in turns (A B A B), after a round that does not count."""
    times: Dict[K, List[float]] = {name: [] for name in runs}
    for n in range(rounds + 1):
        for name, run in runs.items():
            time.sleep(PAUSE_S)
            taken = run()
            if n > 0:
                times[name].append(taken)
    return times
