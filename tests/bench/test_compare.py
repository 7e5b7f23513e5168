from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sr_deploy.bench import compare
from sr_deploy.bench.compare import Comparison, compare_networks
from sr_deploy.core.errors import InputError
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import Session, TimedOutput
from sr_deploy.runtime.opener import NetworkDescription


class Steps(Session):
    """Takes as many ms as the next of its list says."""

    backend, backend_version, precision = "steps", "1", "fp32"

    def __init__(self, times, *, scale=2, hw=None, timer="a clock"):
        self.scale, self._times, self._timer = scale, iter(times), timer
        if hw is not None:
            self.min_hw = self.max_hw = hw

    def _run_timed(self, x_nchw):
        return TimedOutput(
            x_nchw.repeat(self.scale, 2).repeat(self.scale, 3), next(self._times), timer=self._timer
        )

    def _run(self, x_nchw):
        raise AssertionError


def described(model, variant, opener):
    return NetworkDescription(
        kind="checkpoint",
        source=model,
        model=model,
        variant=variant,
        identity="",
        sha256="",
        backend="steps",
        opener=lambda run: opener(),
    )


@pytest.fixture()
def sessions(monkeypatch):
    made = {}

    def describe(text, variants, run, untrained):
        model, _, variant = text.partition(".")
        return [described(model, variant, lambda: made[text])]

    monkeypatch.setattr(compare, "describe", describe)
    monkeypatch.setattr("sr_deploy.core.timing.PAUSE_S", 0)
    return made


def test_ratios_are_taken_round_by_round(sessions):
    sessions["a.d1"] = Steps([99, 99, 10, 20, 40])
    sessions["b.d2"] = Steps([99, 99, 5, 12, 30])
    c = compare_networks("a.d1", "b.d2", lr="8x8", rounds=3)
    assert (c.times_a_ms, c.times_b_ms) == ((10, 20, 40), (5, 12, 30))
    assert (c.ratio_median, c.ratio_min, c.ratio_max) == (pytest.approx(0.6), 0.5, 0.75)
    assert (c.ratio_p25, c.ratio_p75) == (pytest.approx(0.55), pytest.approx(0.675))
    assert (
        c.names == ("a.d1 (steps, fp32)", "b.d2 (steps, fp32)")
        and c.verdict == "b.d2 (steps, fp32) is faster"
    )


@pytest.mark.parametrize(
    "p25, p75, verdict",
    [(0.9, 0.99, "B is faster"), (1.01, 1.2, "A is faster"), (0.9, 1.1, "no difference")],
)
def test_a_difference_is_told_only_where_rounds_agree(p25, p75, verdict):
    c = Comparison(("A", "B"), (8, 8), "CPU", "a clock", (1.0,), (1.0,), 1.0, p25, p75, 0.5, 2.0)
    assert c.verdict.startswith(verdict)


def test_the_size_of_a_static_one_is_taken(sessions):
    sessions["a.d1"], sessions["b.d1"] = Steps(np.ones(9)), Steps(np.ones(9), hw=(6, 7))
    assert compare_networks("a.d1", "b.d1", rounds=3).hw == (6, 7)


@pytest.mark.parametrize(
    "b, options, words",
    [
        (Steps([1] * 9, scale=4), {}, "one upscales by 2, the other by 4"),
        (
            Steps([1] * 9, timer="device events"),
            {},
            "one is measured by a clock, the other by device events",
        ),
        (Steps([1] * 9, hw=(6, 7)), {"lr": "8x8"}, "takes 6x7 only, not 8x8"),
        (Steps([1] * 9), {"rounds": 1}, "1 rounds; expected at least 3"),
    ],
)
def test_what_does_not_compare(sessions, b, options, words):
    sessions["a.d1"], sessions["b.d1"] = Steps([1] * 9), b
    with pytest.raises(InputError, match=words):
        compare_networks("a.d1", "b.d1", **{"rounds": 3, **options})


def test_a_checkpoint_of_several_variants_must_be_told_which(monkeypatch):
    networks = [described("a", variant, Steps) for variant in ("d1", "d2")]
    monkeypatch.setattr(compare, "describe", lambda *given, **how: networks)
    with pytest.raises(InputError, match="a names 2 networks; expected one") as e:
        compare_networks("a", "a")
    assert "a.d2" in e.value.hint


class OnDevice(Steps):
    def __init__(self, place, settings="", why_cpu=""):
        super().__init__([1.0] * 9)
        self.place, self.settings, self.why_cpu = place, settings, why_cpu


def test_settings_and_an_unused_gpu_are_recorded_and_the_sessions_are_closed(sessions):
    sessions["a.d1"] = OnDevice("cuda:0", "one CUDA graph")
    sessions["b.d2"] = OnDevice("cuda:0", "eager", "torch cannot use the GPU: no driver")
    c = compare_networks("a.d1", "b.d2", lr="8x8", rounds=3)
    assert c.settings == ("one CUDA graph", "eager")
    assert c.warnings == ("torch cannot use the GPU: no driver",)
    for session in sessions.values():
        with pytest.raises(InputError, match="this session is closed"):
            session.run(np.zeros((1, 3, 8, 8), np.float32))


def test_two_devices_are_refused_before_anything_is_timed(sessions):
    sessions["a.d1"], sessions["b.d2"] = OnDevice("cuda:0"), OnDevice("cpu")
    with pytest.raises(InputError, match="one runs on cuda:0, the other on cpu"):
        compare_networks("a.d1", "b.d2", lr="8x8", rounds=3)
    assert sessions["a.d1"]._closed and sessions["b.d2"]._closed
    assert len(list(sessions["a.d1"]._times)) == 9


def test_an_option_that_only_one_of_them_has_is_said(sessions, monkeypatch):
    sessions["a.d1"], sessions["b.d2"] = OnDevice("cpu"), OnDevice("cpu")
    graph = replace(described("a", "d1", lambda: sessions["a.d1"]), kind="graph")
    checkpoint = replace(described("b", "d2", lambda: sessions["b.d2"]), backend="torch")
    networks = {"a": [graph], "b": [checkpoint]}
    monkeypatch.setattr(compare, "describe", lambda text, *given, **how: networks[text])
    c = compare_networks("a", "b", lr="8x8", rounds=3, run=RunOptions(channels_last=True))
    assert c.warnings == (
        "--channels-last: for the checkpoints only; graphs and engines run as they were made",
    )


class Half(Steps):
    """As `Steps`, but half as bright, in INT8."""

    precision = "mixed: 1 fp32, 9 int8"

    def _run_timed(self, x_nchw):
        output = super()._run_timed(x_nchw)
        return replace(output, y=output.y / 2)


def test_of_one_network_in_two_precisions_the_outputs_are_compared(monkeypatch, sessions):
    def describe(text, variants, run, untrained):
        return [described("a", "d1", lambda: sessions[text])]

    monkeypatch.setattr(compare, "describe", describe)
    times = [9.0] * 6
    sessions["fp32"], sessions["int8"] = Steps(times), Half(times)
    c = compare_networks("fp32", "int8", lr="8x8", rounds=3)
    assert c.psnr_db_between is not None and 3 < c.psnr_db_between < 30
    sessions["fp32"], sessions["again"] = Steps(times), Steps(times)
    assert compare_networks("fp32", "again", lr="8x8", rounds=3).psnr_db_between is None
