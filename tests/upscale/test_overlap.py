from __future__ import annotations

import io
import threading
import time

import pytest

from sr_deploy.upscale.overlap import Behind, ahead
from sr_deploy.upscale.status import status_line


def test_items_come_in_order_and_no_further_ahead_than_asked():
    made = []

    def items():
        for n in range(20):
            made.append(n)
            yield n

    got = []
    for n in ahead(items(), depth=2):
        time.sleep(0.002)
        got.append(n)
        assert len(made) <= n + 1 + 2 + 1  # the one in hand, two waiting, one being handed over
    assert got == list(range(20))


def test_what_the_thread_raises_comes_after_what_it_made():
    def items():
        yield 1
        raise ValueError("broken off")

    got = []
    with pytest.raises(ValueError, match="broken off"):
        for n in ahead(items()):
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
    reading = ahead(items())
    next(reading)
    reading.close()
    assert closed and threading.active_count() == before


def test_everything_put_is_done_in_order():
    done = []
    behind = Behind(done.append)
    for n in range(20):
        behind.put(n)
    behind.close()
    assert done == list(range(20))


def test_an_error_behind_stops_the_one_who_puts():
    def fail(n):
        raise OSError("disk full")

    behind = Behind(fail)
    with pytest.raises(OSError, match="disk full"):
        for n in range(100):
            behind.put(n)
    with pytest.raises(OSError, match="disk full"):
        behind.close()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_one_line():
    stream = Terminal()
    show = status_line(stream)
    show("frame 10")
    show("frame 9")
    show("")
    assert stream.getvalue() == "\rframe 10" + "\rframe 9 " + "\r" + " " * 7 + "\r"


def test_a_file_gets_a_line_now_and_then():
    stream, now = io.StringIO(), [0.0]
    show = status_line(stream, clock=lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        show(f"frame {second}")
    show("")
    assert stream.getvalue() == "frame 0\nframe 10\nframe 20\n"
