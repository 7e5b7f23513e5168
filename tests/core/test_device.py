from __future__ import annotations

import os

import numpy as np
import pytest

from sr_deploy.core import device


def test_the_names_say_something():
    assert device.cores() >= 1
    assert device.cpu_name().endswith(f", {device.cores()} cores")
    assert device.python_and_os().startswith("Python 3.")


def measured(work):
    result = []
    with device.peak_memory_mib(result):
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
    with device.peak_memory_mib(result):
        pass
    assert result == [None]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_cores_are_those_the_process_may_use():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert device.cores() == 1
    finally:
        os.sched_setaffinity(0, before)
