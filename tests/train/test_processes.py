import os
import signal
import socket
import subprocess
import sys

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.train import processes
from sr_deploy.train.processes import following, leading, process_count
from tests.conftest import ROOT


@pytest.fixture()
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_run_of_a_name_is_refused_and_the_first_named(tmp_path):
    with leading(tmp_path, tmp_path, "net"):
        with pytest.raises(
            InputError,
            match=f"another process is training under this name: process {os.getpid()} on ",
        ) as e:
            with leading(tmp_path, tmp_path, "net"):
                pytest.fail("not reached")
        assert "another --name" in e.value.hint
        with leading(tmp_path, tmp_path, "other"):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("holder", ["parent", "another host"])
def test_the_lock_of_a_running_process_is_respected(tmp_path, gone, holder):
    text = (
        f"{os.getppid()} {socket.gethostname()}"
        if holder == "parent"
        else f"{gone} {holder.replace(' ', '-')}"
    )
    (tmp_path / ".net.lock").write_text(text)
    with pytest.raises(
        InputError, match=f"process {text.split()[0]} on {text.split()[1]} holds"
    ), leading(tmp_path, tmp_path, "net"):
        pass
    assert (tmp_path / ".net.lock").read_text() == text


@pytest.mark.skipif(os.name == "nt", reason="whether a process runs cannot be asked on Windows")
@pytest.mark.parametrize("left", ["gone", "mine", ""])
def test_a_stale_lock_is_replaced(tmp_path, gone, left):
    """Of an ended process, of an earlier process with the same id, and an empty lock."""
    (tmp_path / ".net.lock").write_text(
        left and f"{gone if left == 'gone' else os.getpid()} {socket.gethostname()}"
    )
    with leading(tmp_path, tmp_path, "net"):
        assert (tmp_path / ".net.lock").read_text() == f"{os.getpid()} {socket.gethostname()}"
    assert not list(tmp_path.iterdir())


def test_folders_that_remain_empty_are_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), leading(tmp_path / "a" / "b", tmp_path / "c", "net"):
        (tmp_path / "c").mkdir()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with leading(tmp_path / "a", tmp_path / "a" / "cache", "net"):
        (tmp_path / "a" / "file").touch()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["file"]


@pytest.mark.parametrize(
    "error, raised", [(KeyboardInterrupt, SystemExit), (InputError("bad"), InputError)]
)
def test_a_follower_reports_its_error_if_the_first_process_goes_on(monkeypatch, error, raised):
    monkeypatch.setattr(processes, "GRACE_S", 0)
    with pytest.raises(raised), following():
        raise error


@pytest.mark.skipif(os.name == "nt", reason="a process keeps its parent's number on Windows")
def test_a_follower_ends_with_the_first_process(tmp_path):
    child = (
        "from sr_deploy.train.processes import following\nwith following():\n"
        " print('ready', flush=True)\n import time; time.sleep(60)"
    )
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "ready\n"
    os.kill(first.pid, signal.SIGKILL)
    assert (
        first.communicate(timeout=20)[0] == ""
    )  # the pipe closes when the other process has ended, too


@pytest.mark.parametrize(
    "env, devices, expected",
    [({}, 3, 3), ({"RANK": "1", "WORLD_SIZE": "4"}, 0, 4), ({"WORLD_SIZE": "2"}, 5, 5)],
)
def test_how_many_processes_share_a_batch(monkeypatch, env, devices, expected):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert process_count(devices) == expected
