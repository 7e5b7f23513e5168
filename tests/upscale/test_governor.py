"""The governor against simulated machines: a clock that only the networks move."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.upscale.governor import Governor, log_to

NAMES = ("d1", "d2", "d3", "d4")
MS = (10.0, 18.0, 26.0, 34.0)
"""Of an idle machine. At 24 frames a second the share is 41.7 ms, 37.5 with headroom."""


class Machine:
    """Runs each variant in its time times `load(frame)` times noise."""

    def __init__(
        self,
        load=lambda frame: 1.0,
        *,
        fps=24,
        noise=0.0,
        more_under_load=0.0,
        watts=None,
        max_watts=None,
        ms=MS,
        host_ms=None,
    ):
        """host_ms: frame -> the host's time besides a GPU's; None without a GPU."""
        self.now = self.frame = 0
        self._load, self._random, self._noise, self._more = (
            load,
            random.Random(0),
            noise,
            more_under_load,
        )
        self.log, self._host_ms = [], host_ms
        self.running = 0
        variants = [self._variant(i, t) for i, t in enumerate(ms)]
        read = None if watts is None else (lambda: watts(self))
        self.governor = Governor(
            variants,
            fps=fps,
            names=NAMES[: len(ms)],
            log=self.log.append,
            clock=lambda: self.now,
            watts=read,
            max_watts=max_watts,
        )

    def _variant(self, index, ms):
        class Variant:
            scale, device_ms = 2, None

            def __call__(variant, rgb):  # noqa: N805
                load = self._load(self.frame)
                load += self._more * index * (load - 1)
                self.running = index
                seconds = ms / 1000 * load * max(self._random.gauss(1, self._noise), 0.5)
                self.now += seconds
                if self._host_ms is not None:
                    variant.device_ms = seconds * 1000
                    self.now += self._host_ms(self.frame) / 1000
                return rgb.repeat(2, 0).repeat(2, 1)

        return Variant()

    def run(self, frames, hw=(6, 8)):
        picture = np.zeros((*hw, 3), np.uint8)
        for _ in range(frames):
            assert self.governor(picture).shape == (2 * hw[0], 2 * hw[1], 3)
            self.frame += 1
        return [entry for entry in self.log if "variant" in entry]


def variants(entries):
    return [e["variant"] for e in entries]


def test_an_idle_machine_stays_with_the_largest_that_fits():
    entries = Machine().run(300)
    assert set(variants(entries)) == {"d4"} and not any(e["late"] or e["why"] for e in entries)
    assert set(variants(Machine(fps=30).run(300))) == {"d3"}


@pytest.mark.parametrize("load, expected", [(1.5, "d2"), (2.0, "d2"), (3.5, "d1")])
def test_a_load_is_answered_by_the_next_frame_and_forgotten_after_it(load, expected):
    entries = Machine(lambda f: load if 100 <= f < 400 else 1.0).run(700)
    during = variants(entries)[101:400]
    assert variants(entries)[:101] == ["d4"] * 101
    assert during[0] == expected  # the one late frame, 100, is d4's
    assert [e["frame"] - 1 for e in entries if e["late"]][0] == 100
    assert sum(e["late"] for e in entries) <= 3
    assert (
        entries[100]["late"] and entries[100]["next"] == expected and "took" in entries[100]["why"]
    )
    assert entries[-1]["variant"] == "d4"
    back = next(i for i in range(400, 700) if entries[i]["variant"] == "d4")
    assert back - 400 < 24 * 4  # seconds


def test_a_variant_that_does_not_quite_fit_is_tried_ever_more_rarely():
    """Larger variants suffer more than predicted: each try is a late frame."""
    entries = Machine(lambda f: 1.25, more_under_load=0.25, noise=0.01).run(2400)
    assert sum(e["late"] for e in entries) <= 8
    tries = [e["frame"] for e in entries if e["why"].startswith(tuple("123456789"))]
    assert all(b - a >= 12 for a, b in zip(tries, tries[1:]))
    gaps = [b - a for a, b in zip(tries, tries[1:])]
    assert gaps == [] or gaps[-1] >= gaps[0]


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("load", [1.0, 1.3, 2.0])
def test_noise_makes_no_oscillation(noise, load):
    machine = Machine(lambda f: load, noise=noise)
    entries = machine.run(2400)
    assert machine.governor.switches <= 24  # in 100 seconds
    assert sum(e["late"] for e in entries) <= 24


def test_bursts_of_other_work_are_not_answered_by_a_change_each_time():
    """One frame in 33 takes 1.5 times as long. A variant that fits only between is tried rarely."""
    spikes = random.Random(1)
    machine = Machine(lambda f: 1.5 if spikes.random() < 0.03 else 1.0, noise=0.05)
    entries = machine.run(2400)
    assert machine.governor.switches <= 28  # in 100 seconds
    assert all(e["next"] != e["variant"] for e in entries if e["late"] and e["variant"] != "d1")
    tries = [e["frame"] for e in entries if e["next"] == "d4" != e["variant"]]
    assert max(b - a for a, b in zip(tries, tries[1:])) > 24 * 4


def test_a_burst_while_the_variants_are_timed_does_not_pass_for_one_that_is_slow():
    machine = Machine(lambda f: next(burst))
    burst = iter([1.0] * 4 + [3.0, 3.0, 3.0] + [1.0] * 100)  # the first runs of the first round
    machine.run(1)
    assert machine.log[0]["ms"] == dict(zip(NAMES, MS))


def test_a_ramp_is_followed_down_and_up():
    entries = Machine(lambda f: 1 + 2.5 * math.sin(math.pi * f / 2400), noise=0.02).run(2400)
    order = [v for i, v in enumerate(variants(entries)) if i == 0 or v != variants(entries)[i - 1]]
    assert order[0] == "d4" and order[-1] == "d4" and "d1" in order
    assert len(order) <= 24
    assert sum(e["late"] for e in entries) <= 24
    first, last = (
        variants(entries).index("d1"),
        len(entries) - 1 - variants(entries)[::-1].index("d1"),
    )
    assert 350 < first < last < 2150


def test_spikes_cost_a_few_frames_of_quality_each():
    entries = Machine(lambda f: 2.0 if f % 480 == 479 else 1.0).run(2400)
    assert sum(e["late"] for e in entries) == 4 + 1
    assert variants(entries).count("d4") > 1800


def test_if_the_smallest_is_too_slow_all_frames_are_still_made_and_logged():
    machine = Machine(lambda f: 5.0 if f < 100 else 1.0)
    entries = machine.run(300)
    assert [e["why"] for e in entries[1:100]].count("even d1 is too slow now") >= 98
    assert entries[-1]["variant"] == "d4"
    assert "of 300 frames within 41.7 ms" in machine.governor.summary()


def test_a_new_size_is_timed_anew():
    machine = Machine()
    machine.run(10)
    machine.run(10, hw=(8, 8))
    assert [e["calibrated"] for e in machine.log if "calibrated" in e] == [[6, 8], [8, 8]]
    machine.run(10)
    assert len([e for e in machine.log if "calibrated" in e]) == 2


def test_power_is_kept_under_its_bound():
    draws = (5.0, 8.0, 11.0, 14.0)
    machine = Machine(watts=lambda m: draws[m.running], max_watts=10)
    entries = machine.run(2400)
    over = [e for e in entries if e["watts"] > 10]
    assert len(over) < 0.12 * len(entries)
    assert variants(entries).count("d2") > 0.85 * len(entries)
    assert any("draws 14.0 W of 10" in e["why"] for e in entries)
    assert not [e for e in entries if e["late"]]


def test_on_a_gpu_the_hosts_time_is_added_and_not_multiplied():
    """Under a load of 1.2, d4 would take 40.8 ms and d3 31.2; the host takes 5 ms for each."""
    machine = Machine(lambda f: 1.2 if f >= 50 else 1.0, host_ms=lambda f: 5.0, ms=(10, 18, 26, 32))
    entries = machine.run(400)
    assert machine.log[0]["ms"] == {"d1": 15.0, "d2": 23.0, "d3": 31.0, "d4": 37.0}
    assert set(variants(entries[:51])) == {"d4"}
    late = [e for e in entries if e["late"]]
    assert late[0]["why"] == "d4 took 43.4 ms of 41.7; d3 should take 36.2 ms (load 1.20)"
    assert set(variants(entries[51:])) == {"d3"} and len(late) == 1


def test_on_a_gpu_a_slow_host_is_answered_too_and_forgotten_after_it():
    entries = Machine(host_ms=lambda f: 25.0 if 50 <= f < 150 else 2.0).run(600)
    assert set(variants(entries[:51])) == {"d4"} and variants(entries)[-1] == "d4"
    assert set(variants(entries[51:150])) == {"d1"}  # 26 + 25 and 18 + 25 ms are too slow
    assert sum(e["late"] for e in entries) <= 2


def test_unknown_power_changes_nothing():
    assert set(variants(Machine(watts=lambda m: None, max_watts=10).run(100))) == {"d4"}


def test_one_variant_alone_is_never_changed():
    machine = Machine(lambda f: 9.0, ms=(10.0,))
    machine.run(50)
    assert machine.governor.switches == 0


def test_the_log_is_plain_data_and_the_same_every_time():
    one, two = (Machine(lambda f: 2.0 if f > 50 else 1.0, noise=0.1) for _ in range(2))
    one.run(200), two.run(200)
    assert json.dumps(one.log) == json.dumps(two.log)
    assert set(one.log[0]) == {"calibrated", "ms", "share_ms", "left_out"}
    assert set(one.log[1]) == {
        "frame",
        "variant",
        "ms",
        "share_ms",
        "late",
        "backlog_ms",
        "next",
        "why",
    }


def test_a_log_appends_lines_to_its_file(tmp_path):
    file = tmp_path / "log.jsonl"
    for n in (1, 2):
        log_to(file)({"frame": 1})
        assert file.read_text() == '{"frame": 1}\n' * n  # a killed run has it too


def test_a_log_without_entries_creates_no_file_and_an_unwritable_one_is_an_error(tmp_path):
    log_to(tmp_path / "log.jsonl")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="cannot write"):
        log_to(tmp_path / "none" / "log.jsonl")({"frame": 1})


def test_an_error_of_a_network_passes_through():
    class Failing:
        scale, device_ms = 2, None

        def __call__(self, rgb):
            raise InputError("too large")

    with pytest.raises(InputError, match="too large"):
        Governor([Failing()], fps=24, names=["d1"])(np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"names": ("d1",)}, "2 variants, but 1 names"),
        ({"upscalers": [], "names": ()}, "0 variants"),
        ({"fps": 0.0}, "rate of 0.0"),
        ({"fps": math.inf}, "rate of inf"),
        ({"max_watts": 10.0}, "function that reads the power"),
        ({"max_watts": -1.0, "watts": lambda: 1.0}, "power bound of -1.0 W"),
        ({"scales": (2, 4)}, "d1 by 2, d2 by 4"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(change, reason):
    def variant(scale):
        return type("Variant", (), {"scale": scale})()

    given = {
        "upscalers": [variant(s) for s in change.pop("scales", (2, 2))],
        "fps": 24.0,
        "names": ("d1", "d2"),
        **change,
    }
    with pytest.raises(InputError, match=reason):
        Governor(given.pop("upscalers"), **given)


def test_what_a_better_variant_beats_in_time_is_never_used():
    """As d1 int8, d1 fp32, d2 int8, d2 fp32, of which d2 int8 is faster than d1 fp32."""
    machine = Machine(lambda f: 3.0 if 100 <= f < 200 else 1.0, ms=(6.0, 14.0, 12.0, 30.0))
    entries = machine.run(600)
    assert machine.log[0]["left_out"] == ["d2"]
    assert set(variants(entries)) == {"d4", "d3"} and variants(entries)[150] == "d3"
    power = Machine(ms=(6.0, 14.0, 12.0, 30.0), watts=lambda m: 1 + m.running, max_watts=3.5)
    assert set(variants(power.run(600))) == {"d4", "d3"}
    slow = Machine(lambda f: 9.0 if f >= 100 else 1.0, ms=(6.0, 14.0, 5.0, 30.0)).run(300)
    assert variants(slow)[-1] == "d3" and "even d3 is too slow now" in slow[-1]["why"]
