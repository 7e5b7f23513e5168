"""The processes of a run: one that leads, others that follow it, and a lock against a second run of the same name."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path
from typing import Iterator, Set, Tuple

import torch

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import atomic_path, no_empty_folders, output_folder

GRACE_S = 10.0
"""How long a process waits with its error for the first one to end with the same."""
_LEADER = "SRDEPLOY_TRAIN_LEADER"
"""In the environment of the processes that the first one starts: its number."""
_HELD: Set[Path] = set()
"""The locks of this process: one with its number and not in here is what an earlier process of that number left."""


def is_first_process() -> bool:
    """Tell whether this is the process that writes and prints, of all that torchrun or Lightning started."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def process_count(devices: int) -> int:
    """Return how many processes share a batch: torchrun's, else `devices`; 0: one for each GPU, or one."""
    if "RANK" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    return devices or max(torch.cuda.device_count(), 1)


@contextlib.contextmanager
def leading(output: Path, cache: Path, name: str) -> Iterator[None]:
    """Make the output folder and hold the lock of `name` in it; at the end no folder is left empty that was made meanwhile.

    Raises InputError, naming the process, when another one holds the lock.
    """
    with no_empty_folders(output, cache):
        lock = output_folder(output).resolve() / f".{name}.lock"
        mine = f"{os.getpid()} {socket.gethostname()}"
        _take(lock, mine)
        _HELD.add(lock)
        os.environ[_LEADER] = str(os.getpid())
        try:
            yield
        finally:
            os.environ.pop(_LEADER, None)
            _HELD.discard(lock)
            with contextlib.suppress(OSError):
                if lock.read_text() == mine:
                    lock.unlink()


@contextlib.contextmanager
def following() -> Iterator[None]:
    """End this process when the one that started it has; tell of an error only where the first process does not end by one."""
    # It may have ended before this line, while this process was importing; under torchrun the agent is the parent.
    parent = int(os.environ.get(_LEADER, os.getppid())) if os.name != "nt" else os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(1) from None
    except Exception:
        time.sleep(GRACE_S)  # does not return where the first process failed too: by the watch, or by torchrun's SIGTERM
        raise


def _take(lock: Path, mine: str) -> None:
    try:
        with open(lock, "x") as f:
            f.write(mine)
        return
    except FileExistsError:
        pass
    except OSError as e:
        raise InputError(f"cannot write {lock}: {e.strerror or e}") from e
    pid, host = _holder(lock)
    if host == socket.gethostname() and not _runs(pid, lock):
        with atomic_path(lock) as temporary:
            temporary.write_text(mine)
        time.sleep(0.2)  # of two that come upon a dead lock at once the later one has it
        if lock.read_text() == mine:
            return
        pid, host = _holder(lock)
    raise InputError(
        f"a run of that name is going on: process {pid} on {host} holds {lock}",
        hint="wait for it, or give another --name or -o; if that process does not train, remove the file",
    )


def _holder(lock: Path) -> Tuple[int, str]:
    """The process and host of a lock; nobody here, process 0, for one that has gone or was never finished."""
    for _ in range(2):
        with contextlib.suppress(OSError, ValueError):
            pid, host = lock.read_text().split()
            return int(pid), host
        time.sleep(0.1)  # it may be being written
    return 0, socket.gethostname()


def _runs(pid: int, lock: Path) -> bool:
    if pid == os.getpid():
        return lock in _HELD
    if pid < 1 or os.name == "nt":  # os.kill(pid, 0) is no question on Windows
        return pid > 0
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
