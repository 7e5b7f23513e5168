from __future__ import annotations

import weakref

import numpy as np
import pytest

from sr_deploy.core import timing
from sr_deploy.core.session import TimedOutput


class Clock:
    """A clock that only the timed function, and sleeping, moves on."""

    def __init__(self, durations_ms):
        self.now, self.durations, self.calls, self.starts = 0.0, iter(durations_ms), 0, []

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def run(self):
        self.calls += 1
        self.starts.append(self.now)
        duration = next(self.durations)
        self.now += duration / 1000
        return TimedOutput(np.zeros(1), duration, copies_ms=duration / 10, timer="a clock")


@pytest.fixture()
def clock(monkeypatch):
    def make(durations_ms):
        made = Clock(durations_ms)
        monkeypatch.setattr(timing.time, "perf_counter", made.perf_counter)
        monkeypatch.setattr(timing.time, "sleep", made.sleep)
        return made

    return make


def test_first_run_and_warm_up_are_left_out_and_every_timed_run_is_kept(clock):
    times = [5, 1, 3, 2, 100]
    looks = []
    c = clock([900, 800, 7, 7, 7, 7, 7, *times])
    latency = timing.measure_latency(c.run, runs=5, between=lambda: looks.append(c.calls))
    assert (latency.first_ms, latency.times_ms) == (pytest.approx(900), tuple(times))
    assert (latency.warmup, latency.settled, c.calls) == (6, True, 1 + 6 + 5)
    assert (latency.copies_ms, latency.timer, latency.late) == (pytest.approx(0.3), "a clock", 0)
    assert looks[-1] == c.calls and len(looks) == latency.warmup // timing.WINDOW + 1


def test_no_output_outlives_its_run(clock):
    """Kept outputs make every run take new memory, which takes time."""
    c, outputs = clock([7] * 40), []

    def run():
        assert not [ref for ref in outputs if ref() is not None]
        output = c.run()
        outputs.append(weakref.ref(output.y))
        return output

    assert len(timing.measure_latency(run, runs=5).times_ms) == 5


def test_the_warm_up_lasts_until_two_windows_agree(clock):
    falling = [50, 50, 50, 40, 40, 40, 30, 30, 30, 29, 29, 29]
    latency = timing.measure_latency(clock([99, *falling, 29]).run, runs=1)
    assert (latency.warmup, latency.settled) == (12, True)


def test_a_warm_up_that_never_settles_ends_and_says_so(clock):
    durations = (2.0**n for n in range(100) for _ in range(3))
    latency = timing.measure_latency(clock([1, *[next(durations) for _ in range(200)]]).run, runs=1)
    assert not latency.settled and latency.warmup < 100


@pytest.mark.parametrize(
    "each_ms, runs", [(10_000, timing.MIN_RUNS), (1, timing.MAX_RUNS), (100, 30), (250, 12)]
)
def test_the_number_of_runs_follows_from_their_time(clock, each_ms, runs):
    c = clock([each_ms] * 1000)
    latency = timing.measure_latency(c.run)
    assert abs(len(latency.times_ms) - runs) <= (
        1 if each_ms == 100 else 0
    )  # the clock's own rounding at 3 s
    assert c.calls == 1 + latency.warmup + len(latency.times_ms)


def test_at_a_cadence_runs_start_when_frames_come(clock):
    c = clock([10] * 100)
    latency = timing.measure_latency(c.run, runs=8, cadence_hz=25)
    assert np.diff(c.starts[-8:]) == pytest.approx(0.040) and latency.late == 0


def test_a_frame_that_comes_while_another_is_worked_on_is_dropped_and_counted(clock):
    c = clock([10] * 7 + [10, 50, 10, 10, 90, 10])
    latency = timing.measure_latency(c.run, runs=6, cadence_hz=25)
    assert latency.late == 2
    assert np.diff(c.starts[-6:]) == pytest.approx([0.040, 0.080, 0.040, 0.040, 0.120])


def test_statistics_are_those_of_the_runs():
    found = timing.latency_statistics([5, 1, 3, 2, 100])
    assert (found["latency_ms_median"], found["latency_ms_mean"]) == (3, pytest.approx(22.2))
    for p in (90, 95, 99):
        assert found[f"latency_ms_p{p}"] == pytest.approx(np.percentile([5, 1, 3, 2, 100], p))
    assert found["latency_cv"] == pytest.approx(np.std([5, 1, 3, 2, 100]) / 22.2)
    assert timing.latency_statistics([4, 4])["latency_cv"] == 0


def test_in_turns_drops_the_first_round(clock):
    values = {"a": iter([9, 1, 2]), "b": iter([9, 3, 4])}
    clock([])
    assert timing.time_in_turns({k: (lambda v=v: next(v)) for k, v in values.items()}, 2) == {
        "a": [1, 2],
        "b": [3, 4],
    }
