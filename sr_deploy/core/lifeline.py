"""Child processes that end with their parent, even if that is killed.

The child's standard input is a pipe whose other end only the parent holds: its lifeline. The system
closes it however the parent ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from typing import IO, Any, Iterator, Mapping, Optional, Sequence

CHILD_GRACE_S = 5.0
"""How long a child may take to remove its temporary files after its parent has ended."""
PARENT_GRACE_S = 10.0
"""How long an interrupted parent waits for its child."""


def end_with_parent() -> None:
    """End this process when standard input, its lifeline, is closed. Call it once, at the start."""
    lifeline_fd = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # so that processes which this one starts do not read from the pipe
    os.close(null)
    threading.Thread(target=_wait_for_end, args=(lifeline_fd,), daemon=True).start()


@contextlib.contextmanager
def child_with_lifeline(
    command: Sequence[str],
    *,
    stderr: Any = subprocess.PIPE,
    env: Optional[Mapping[str, str]] = None,
) -> Iterator[subprocess.Popen[str]]:
    """Start a child that calls `end_with_parent`, with its stdout as a pipe of UTF-8 text.

    stderr: a file, a pipe, or None for this process's. env: the environment; None: this process's.
    If the block raises, the child is ended before it goes on.
    """
    read_fd, write_fd = os.pipe()
    with os.fdopen(write_fd, "wb") as lifeline:
        try:
            child = subprocess.Popen(
                command,
                stdin=read_fd,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=env,
                encoding="utf-8",
                errors="replace",
            )
        finally:
            os.close(read_fd)
        with child:
            try:
                yield child
            except BaseException:
                _end(child, lifeline)
                raise


def run_with_lifeline(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a child that calls `end_with_parent`; return what it printed."""
    with child_with_lifeline(command) as child:
        out, err = child.communicate()
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def signal_name(number: int) -> str:
    """Return the name of a signal, or `signal N`."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(child: subprocess.Popen[str], lifeline: IO[bytes]) -> None:
    lifeline.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(PARENT_GRACE_S)
    child.kill()


def _wait_for_end(lifeline_fd: int) -> None:
    while os.read(lifeline_fd, 1):
        pass
    if hasattr(signal, "pthread_kill"):  # to wake up the main thread; Windows just exits
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(CHILD_GRACE_S)
    os._exit(1)
