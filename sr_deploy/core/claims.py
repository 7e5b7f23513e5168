"""Claim files: processes on one machine or several share the work in a folder without a server."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Iterator, Set, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import write_hint, write_text

_OWN_CLAIMS: Set[Path] = set()
"""A claim with this process's id that is not in this set was left by an earlier process."""


@contextlib.contextmanager
def claim_file(path: Path) -> Iterator[bool]:
    """Yield whether this process holds the claim file `path`; remove it at the end.

    The claim of a dead process of this machine is taken over. A claim of another machine is never
    taken over, because whether its process still runs is unknown. Raises InputError if the file
    cannot be written.
    """
    path = path.resolve()
    owner = f"{os.getpid()} {socket.gethostname()}"
    if path in _OWN_CLAIMS or not _acquire(path, owner):
        yield False
        return
    _OWN_CLAIMS.add(path)
    try:
        yield True
    finally:
        _OWN_CLAIMS.discard(path)
        with contextlib.suppress(OSError):
            if path.read_text() == owner:
                path.unlink()


def read_holder(path: Path) -> Tuple[int, str]:
    """Return process id and host of a claim; (0, this host) if the file is absent or incomplete."""
    for _ in range(2):
        with contextlib.suppress(OSError, ValueError):
            pid, host = path.read_text().split()
            return int(pid), host
        time.sleep(0.1)  # another process may be writing it
    return 0, socket.gethostname()


def _acquire(path: Path, owner: str) -> bool:
    try:
        with open(path, "x") as f:
            f.write(owner)
        return True
    except FileExistsError:
        pass
    except OSError as e:
        raise InputError(f"cannot write {path}: {e.strerror or e}", hint=write_hint(e)) from e
    pid, host = read_holder(path)
    if host != socket.gethostname() or _is_running(pid):
        return False
    write_text(path, owner)
    time.sleep(0.2)  # if two processes take over the same claim, the later write wins
    with contextlib.suppress(OSError):
        return path.read_text() == owner
    return False


def _is_running(pid: int) -> bool:
    if pid == os.getpid():  # the claim is not in _OWN_CLAIMS
        return False
    if pid < 1 or os.name == "nt":  # on Windows, signal 0 is CTRL_C_EVENT
        return pid > 0
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
