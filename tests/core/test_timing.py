from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core import timing
from sr_deploy.core.session import Timed


class Clock:
    """A clock that only the timed function moves on."""

    def __init__(self, durations_ms):
        self.now, self.durations, self.calls = 0.0, iter(durations_ms), 0

    def perf_counter(self):
        return self.now

    def run(self):
        self.calls += 1
        duration = next(self.durations)
        self.now += duration / 1000
        return Timed(np.zeros(1), duration, copies_ms=duration / 10, timer="a clock")


@pytest.fixture()
def clock(monkeypatch):
    def make(durations_ms):
        made = Clock(durations_ms)
        monkeypatch.setattr(timing.time, "perf_counter", made.perf_counter)
        return made

    return make


def test_median_and_percentiles_leave_first_and_warm_up_out(clock):
    times = [5, 1, 3, 2, 100]
    c = clock([900, 800, 700, *times])
    latency = timing.measure_latency(c.run, warmup=2, runs=5)
    assert c.calls == 8
    assert latency.first_ms == pytest.approx(900)
    assert latency.median_ms == pytest.approx(3)
    for p in (90, 95, 99):
        assert getattr(latency, f"p{p}_ms") == pytest.approx(np.percentile(times, p))
    assert (latency.warmup, latency.runs) == (2, 5)
    assert (latency.copies_ms, latency.timer) == (pytest.approx(0.3), "a clock")


@pytest.mark.parametrize("each_ms, runs", [(10_000, timing.MIN_RUNS), (1, timing.MAX_RUNS), (100, 30), (250, 12)])
def test_the_number_of_runs_follows_from_their_time(clock, each_ms, runs):
    c = clock([each_ms] * 1000)
    latency = timing.measure_latency(c.run)
    assert abs(latency.runs - runs) <= (1 if each_ms == 100 else 0)  # the clock's own rounding at 3 s
    assert c.calls == 1 + timing.WARMUP + latency.runs
    assert latency.median_ms == pytest.approx(each_ms)
