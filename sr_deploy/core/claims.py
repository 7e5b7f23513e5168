"""Claims: files by which processes, on one machine or several, share a folder without a server."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Iterator, Set, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import atomic_path

_HELD: Set[Path] = set()
"""The claims of this process: one with its number and not in here is what an earlier process of that number left."""


@contextlib.contextmanager
def claim_file(path: Path) -> Iterator[bool]:
    """Yield whether this process now holds the claim file `path`; it is removed at the end.

    A claim of a process of this machine that has died is taken over; another machine's is respected, whatever became of it.
    Raises InputError when the file cannot be written.
    """
    path = path.resolve()
    mine = f"{os.getpid()} {socket.gethostname()}"
    if path in _HELD or not _take(path, mine):
        yield False
        return
    _HELD.add(path)
    try:
        yield True
    finally:
        _HELD.discard(path)
        with contextlib.suppress(OSError):
            if path.read_text() == mine:
                path.unlink()


def read_holder(path: Path) -> Tuple[int, str]:
    """Return the process and host that hold a claim; process 0 of this host where nobody does, or it was never finished."""
    for _ in range(2):
        with contextlib.suppress(OSError, ValueError):
            pid, host = path.read_text().split()
            return int(pid), host
        time.sleep(0.1)  # it may be being written
    return 0, socket.gethostname()


def _take(path: Path, mine: str) -> bool:
    try:
        with open(path, "x") as f:
            f.write(mine)
        return True
    except FileExistsError:
        pass
    except OSError as e:
        raise InputError(
            f"cannot write {path}: {e.strerror or e}",
            hint="free some space, or give a folder you may write to",
        ) from e
    pid, host = read_holder(path)
    if host != socket.gethostname() or _runs(pid):
        return False
    with atomic_path(path) as temporary:
        temporary.write_text(mine)
    time.sleep(0.2)  # of two that come upon a dead claim at once the later one has it
    with contextlib.suppress(OSError):
        return path.read_text() == mine
    return False


def _runs(pid: int) -> bool:
    if pid == os.getpid():  # the claim is not in _HELD
        return False
    if pid < 1 or os.name == "nt":  # os.kill(pid, 0) is no question on Windows
        return pid > 0
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
