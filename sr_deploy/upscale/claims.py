"""Claims: processes, on one machine or several, that share a folder's work without a server."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Iterator, Tuple

from sr_deploy.core.errors import InputError


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Yield whether this process now holds the claim file `path`; it is removed at the end.

    A claim of a process of this machine that has died is taken over; another machine's is respected, whatever became of it.
    Two that come upon a dead claim in the same instant may both get it: what they write must be written atomically.
    Raises InputError when the file cannot be written.
    """
    mine = _take(path)
    try:
        yield mine
    finally:
        if mine:
            with contextlib.suppress(OSError):
                path.unlink()


def holder(path: Path) -> Tuple[int, str]:
    """Return the process and host that hold a claim; process 0 of this host where nobody does."""
    for _ in range(2):
        with contextlib.suppress(OSError, ValueError):
            pid, host = path.read_text().split()
            return int(pid), host
        time.sleep(0.05)  # it may be being written
    return 0, socket.gethostname()


def _take(path: Path) -> bool:
    for _ in range(2):
        try:
            with open(path, "x") as f:
                f.write(f"{os.getpid()} {socket.gethostname()}")
            return True
        except FileExistsError:
            pass
        except OSError as e:
            raise InputError(f"cannot write {path}: {e.strerror or e}", hint="free some space, or give a folder you may write to") from e
        pid, host = holder(path)
        if host != socket.gethostname() or _runs(pid):
            return False
        with contextlib.suppress(OSError):
            path.unlink()
    return False


def _runs(pid: int) -> bool:
    if pid < 1 or os.name == "nt":  # os.kill(pid, 0) is no question on Windows
        return pid > 0
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
