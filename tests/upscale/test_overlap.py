from __future__ import annotations

import threading
import time

import pytest

from sr_deploy.upscale.overlap import WriteBehind, read_ahead


def test_items_come_in_order_and_no_further_ahead_than_asked():
    made = []

    def items():
        for n in range(20):
            made.append(n)
            yield n

    got = []
    for n in read_ahead(items(), depth=2):
        time.sleep(0.002)
        got.append(n)
        assert len(made) <= n + 1 + 2 + 1  # the one in hand, two waiting, one being handed over
    assert got == list(range(20))


def test_an_exception_of_the_thread_comes_after_its_items():
    def items():
        yield 1
        raise ValueError("broken off")

    got = []
    with pytest.raises(ValueError, match="broken off"):
        for n in read_ahead(items()):
            got.append(n)
    assert got == [1]


def test_a_reader_left_in_the_middle_is_closed_and_its_thread_ends():
    closed = []

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    before = threading.active_count()
    reading = read_ahead(items())
    next(reading)
    reading.close()
    assert closed and threading.active_count() == before


def test_everything_put_is_done_in_order():
    done = []
    behind = WriteBehind(done.append)
    for n in range(20):
        behind.put(n)
    behind.close()
    assert done == list(range(20))


def test_an_error_behind_stops_the_one_who_puts():
    def fail(n):
        raise OSError("disk full")

    behind = WriteBehind(fail)
    with pytest.raises(OSError, match="disk full"):
        for n in range(100):
            behind.put(n)
    with pytest.raises(OSError, match="disk full"):
        behind.close()


def test_items_after_one_that_failed_are_dropped_and_the_thread_ends():
    done = []

    def work(n):
        if n == 2:
            raise OSError("disk full")
        done.append(n)

    before = threading.active_count()
    behind = WriteBehind(work, depth=8)
    with pytest.raises(OSError, match="disk full"):
        for n in range(6):
            behind.put(n)
        behind.drain()
    with pytest.raises(OSError, match="disk full"):
        behind.close()
    assert done == [0, 1] and threading.active_count() == before
