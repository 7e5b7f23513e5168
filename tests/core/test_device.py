from __future__ import annotations

import os

import numpy as np
import pytest

from sr_deploy.core import device
from sr_deploy.core.errors import InputError


def test_the_names_say_something():
    assert device.usable_cores() >= 1
    assert device.cpu_name().endswith(f", {device.usable_cores()} cores")
    assert device.python_and_os().startswith("Python 3.")


def measured(work):
    result = []
    with device.track_peak_memory(result):
        work()
    assert len(result) == 1
    if result[0] is None:
        pytest.skip("this system does not let a process reset its memory high-water mark")
    return result[0]


def test_64_mib_that_are_freed_again_show():
    def work():
        np.ones(64 << 20, dtype=np.uint8).sum()  # written, so that the pages exist

    assert 60 <= measured(work) <= 80


def test_doing_nothing_takes_next_to_nothing_even_after_a_large_peak():
    np.ones(64 << 20, dtype=np.uint8).sum()
    assert measured(lambda: None) < 4


def test_elsewhere_the_memory_is_unknown_not_zero(monkeypatch):
    monkeypatch.setattr(device.sys, "platform", "win32")
    result = []
    with device.track_peak_memory(result):
        pass
    assert result == [None]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_cores_are_those_the_process_may_use():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert device.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_other_processes_cores_are_what_this_one_did_not_use():
    start, stop = device.CpuUsage(10.0, 100.0, 5.0), device.CpuUsage(12.0, 103.0, 6.0)
    assert device.cores_used_by_others(start, stop) == pytest.approx(1.0)
    assert device.cores_used_by_others(start, device.CpuUsage(12.0, 100.5, 6.0)) == 0
    assert device.cores_used_by_others(start, device.CpuUsage(10.1, 103.0, 6.0)) is None, (
        "too short for ticks of 10 ms"
    )
    assert device.cores_used_by_others(None, stop) is None


def test_what_the_machine_tells_of_itself(monkeypatch, tmp_path):
    (tmp_path / "stat").write_text("cpu  100 20 30 4000 50 6 7 8 9 0\ncpu0 1 2 3\n")
    (tmp_path / "cpuinfo").write_text(
        "processor : 0\ncpu MHz\t\t: 1000.0\nprocessor : 1\ncpu MHz\t\t: 3000.0\n"
    )
    for name, text in (
        ("thermal_zone0", "45000"),
        ("thermal_zone1", "-256000"),
        ("thermal_zone2", "61500"),
        ("thermal_zone3", ""),
    ):
        (tmp_path / "thermal" / name).mkdir(parents=True)
        (tmp_path / "thermal" / name / "temp").write_text(text)
    for name, path in (("_STAT", "stat"), ("_CPUINFO", "cpuinfo"), ("_ZONES", "thermal")):
        monkeypatch.setattr(device, name, tmp_path / path)
    monkeypatch.setattr(device.os, "sysconf", lambda name: 100, raising=False)
    assert device.cpu_usage().all_s == pytest.approx((100 + 20 + 30 + 6 + 7 + 8) / 100)
    assert (device.cpu_mhz(), device.temperature_c()) == (2000, 61.5)
    for name in ("_STAT", "_CPUINFO", "_ZONES"):
        monkeypatch.setattr(device, name, tmp_path / "absent")
    assert (device.cpu_usage(), device.cpu_mhz(), device.temperature_c()) == (None, None, None)


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity of processes"
)
def test_a_process_is_limited_to_some_cores_and_freed_again():
    before = device.usable_cores()
    with device.limit_cores(1):
        assert device.usable_cores() == 1
    assert device.usable_cores() == before
    with device.limit_cores(None):
        assert device.usable_cores() == before
    for threads in (0, before + 1):
        with pytest.raises(
            InputError, match=f"{threads} threads; this process may use 1 to {before} cores"
        ), device.limit_cores(threads):
            pass
