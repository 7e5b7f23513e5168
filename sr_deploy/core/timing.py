"""Latency the way it is published: a first run, a warm-up, then many, as median and percentiles. Never a bare mean."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np

WARMUP = 3
MIN_RUNS, MAX_RUNS, ENOUGH_S = 5, 100, 3.0


@dataclass(frozen=True)
class Latency:
    """Milliseconds over `runs` timed runs, after the first and `warmup` further untimed ones."""

    first_ms: float
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    warmup: int
    runs: int


def measure_latency(run: Callable[[], object], *, warmup: int = WARMUP, runs: Optional[int] = None) -> Latency:
    """Time `run`. With `runs` None: at least 5 times, and until 3 s or 100 runs are reached."""
    first = _once_ms(run)
    for _ in range(warmup):
        run()
    times = []
    while len(times) < (MIN_RUNS if runs is None else runs) or (runs is None and len(times) < MAX_RUNS and sum(times) < ENOUGH_S * 1000):
        times.append(_once_ms(run))
    median, p90, p95, p99 = np.percentile(times, [50, 90, 95, 99])
    return Latency(first, float(median), float(p90), float(p95), float(p99), warmup, len(times))


def _once_ms(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1000
