from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from sr_deploy.core.lifeline import child_with_lifeline, run_with_lifeline, signal_name

WAITS = "from sr_deploy.core.lifeline import end_with_parent; end_with_parent(); import time; "
WAITS += "print('here', flush=True); time.sleep(60)"


def test_a_child_s_output_and_exit_code_come_back():
    code = "import sys; print('ä'); print('b', file=sys.stderr); sys.exit(3)"
    done = run_with_lifeline([sys.executable, "-X", "utf8", "-c", code])
    assert (done.stdout, done.stderr, done.returncode) == ("ä\n", "b\n", 3)


def test_a_child_ends_when_its_parent_gives_up():
    with pytest.raises(KeyError), child_with_lifeline([sys.executable, "-c", WAITS]) as child:
        assert child.stdout.readline() == "here\n"
        raise KeyError
    assert child.poll() is not None


# Ends when its standard input is closed, like a child that called `end_with_parent`.
CHILD = """
import pathlib, sys
note = pathlib.Path(sys.argv[1])
note.write_text('runs')
sys.stdin.read()
note.write_text('ended')
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no signals")
@pytest.mark.parametrize("number", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_a_parent_that_is_killed_leaves_no_child_behind(tmp_path, number):
    note = tmp_path / "note"
    command = f"[sys.executable, '-c', {CHILD!r}, {str(note)!r}]"
    code = f"import sys; from sr_deploy.core import lifeline; lifeline.run_with_lifeline({command})"
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    for state in ("runs", "ended"):
        deadline = time.monotonic() + 60
        while not note.is_file() or note.read_text() != state:
            assert time.monotonic() < deadline, f"the child never {state}"
            time.sleep(0.05)
        parent.send_signal(getattr(signal, number))
    assert parent.wait(60) != 0


def test_signals_have_names():
    assert (signal_name(signal.SIGTERM), signal_name(250)) == ("SIGTERM", "signal 250")
