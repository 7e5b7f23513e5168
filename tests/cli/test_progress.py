from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from sr_deploy.cli import output, progress
from sr_deploy.cli.progress import TerminalProgress, terminal_progress


class Terminal(io.StringIO):
    encoding = "ascii"

    def isatty(self):
        return True

    def fileno(self):
        raise OSError

    def screen(self):
        """Return the lines that a reader sees, as a terminal draws them."""
        lines = []
        for line in self.getvalue().split("\n"):
            cells = []
            for part in line.split("\r"):
                cells[: len(part)] = part
            lines.append("".join(cells).rstrip())
        return lines


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture()
def clock():
    return Clock()


@pytest.fixture()
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    return stream


@pytest.fixture()
def file(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    return stream


def test_a_bar_shows_what_is_done_and_the_time_left_and_goes_at_the_end(clock, terminal):
    shown = TerminalProgress(clock, tick_s=0)
    with shown.track("exporting", 4) as advance:
        assert terminal.screen() == ["exporting  ------------------------  0 of 4"]
        clock.now += 3
        advance("asrn_x4.d1")
        assert terminal.screen() == [
            "exporting  ######------------------  1 of 4, 9 s left, asrn_x4.d1"
        ]
        clock.now += 300
        advance("asrn_x4.d2")
        assert "2 of 4, 5 min 3 s left" in terminal.screen()[0]
    assert terminal.screen() == [""]


def test_lines_are_printed_above_the_bar(clock, terminal, monkeypatch):
    shown = TerminalProgress(clock, tick_s=0)
    monkeypatch.setattr(output, "terminal_progress", shown)
    monkeypatch.setattr(output, "_data", terminal)
    with shown.track("exporting", 2):
        shown("a line")
        output.emit("data")
        bar = "exporting  ------------------------  0 of 2"
        assert terminal.screen() == ["a line", "data", bar]


def test_the_innermost_work_is_shown(clock, terminal):
    shown = TerminalProgress(clock, tick_s=0)
    with shown.track("deploying", 2) as advance:
        with shown.track("exporting", 5):
            assert terminal.screen()[0].startswith("exporting")
        assert terminal.screen()[0].startswith("deploying")
        clock.now += 1
        advance()
        assert "1 of 2" in terminal.screen()[0]


def test_a_rate_and_steps_of_earlier_runs(clock, terminal):
    shown = TerminalProgress(clock, tick_s=0)
    with shown.track("film.mp4", 100, unit="frames", done=50) as advance:
        clock.now += 2
        advance(steps=10)
        assert "60 of 100, 5 frames/s, 8 s left" in terminal.screen()[0]


def test_unknown_totals_and_first_steps_show_the_time_spent(clock, terminal):
    shown = TerminalProgress(clock, tick_s=0)
    with shown.track("decoding") as advance:
        clock.now += 4
        advance("a.png")
        assert terminal.screen() == ["decoding  1, 4 s so far, a.png"]
    with shown.track("building", 1) as advance:
        clock.now += 70
        advance("a.engine", steps=0)
        assert "0 of 1, 1 min 10 s so far, a.engine" in terminal.screen()[0]


def test_a_bar_fits_the_terminal(clock, terminal, monkeypatch):
    monkeypatch.setattr(progress, "_columns", lambda: 60)
    shown = TerminalProgress(clock, tick_s=0)
    with shown.track("exporting", 4) as advance:
        clock.now += 3
        advance("a-name-that-is-longer-than-all-that-is-left-of-the-line")
        assert len(terminal.screen()[0]) == 59 and terminal.screen()[0].endswith("...")


def test_fast_steps_are_not_all_drawn(clock, terminal):
    shown = TerminalProgress(clock, tick_s=0)
    with shown.track("tiles", 1000) as advance:
        for _ in range(1000):
            clock.now += 0.001
            advance()
        assert terminal.getvalue().count("\r") < 15


def test_where_stderr_is_no_terminal_lines_come_after_silence(clock, file):
    shown = TerminalProgress(clock, tick_s=0)
    with shown.track("exporting", 30) as advance:
        for _ in range(25):
            clock.now += 1
            advance()
    assert file.getvalue().split("\n") == [
        "exporting: 1 of 30, 29 s left",
        "exporting: 11 of 30, 19 s left",
        "exporting: 21 of 30, 9 s left",
        "",
    ]


def test_short_work_prints_nothing_where_stderr_is_no_terminal(clock, file):
    shown = TerminalProgress(clock, tick_s=0)
    with shown.track("exporting", 30) as advance:
        clock.now += 0.9
        advance()
    assert file.getvalue() == ""


def test_a_long_step_shows_its_time(terminal, monkeypatch):
    shown = TerminalProgress(tick_s=0.01)
    monkeypatch.setattr(progress, "_DRAW_S", 0)
    with shown.track("building", 1):
        drawn = len(terminal.getvalue())
        wait_until(lambda: len(terminal.getvalue()) > drawn)
    assert terminal.screen() == [""]


def wait_until(condition):
    for _ in range(500):
        if condition():
            return
        progress.time.sleep(0.01)
    raise AssertionError("nothing was drawn within five seconds")


def test_work_that_says_nothing_shows_its_time_until_its_first_line(terminal):
    shown = TerminalProgress(tick_s=0.01)
    with shown.starting("working"):
        wait_until(lambda: terminal.screen() == ["working"])
        shown("a line")
        assert terminal.screen() == ["a line", ""]
        with shown.track("exporting", 2):
            assert terminal.screen()[1].startswith("exporting")
        assert terminal.screen() == ["a line", ""]


def test_work_that_says_nothing_shows_nothing_in_a_file(file):
    shown = TerminalProgress(tick_s=0.001)
    with shown.starting("working"):
        progress.time.sleep(0.05)
    assert file.getvalue() == ""


def test_an_error_takes_the_bar_away(clock, terminal):
    shown = TerminalProgress(clock, tick_s=0)
    with pytest.raises(ValueError), shown.track("exporting", 2):
        raise ValueError
    assert terminal.screen() == [""]


def test_characters_that_stderr_lacks_are_not_used(clock, terminal, monkeypatch):
    shown = TerminalProgress(clock, tick_s=0)
    monkeypatch.setattr(Terminal, "encoding", "utf-8")
    with shown.track("exporting", 2):
        assert "░" in terminal.screen()[0]


def test_a_terminal_that_cannot_go_back_gets_lines(clock, terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with TerminalProgress(clock, tick_s=0).track("exporting", 2) as advance:
        clock.now += 2
        advance()
    assert terminal.getvalue() == "exporting: 1 of 2, 2 s left\n"


def test_the_commands_messages_are_its_lines(file):
    assert output.log is terminal_progress  # so that functions that get it show bars
    output.log("a message")
    assert file.getvalue() == "a message\n"
