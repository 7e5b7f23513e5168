"""The processes of a run, and the lock against a second run of the same name."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Iterator

import torch

from sr_deploy.core.claims import claim_file, read_holder
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import make_output_folder, remove_empty_folders

GRACE_S = 10.0
"""How long a following process delays its error, so that the first one can report the same."""
_LEADER = "SRDEPLOY_TRAIN_LEADER"
"""Environment variable with the process id of the first process, for the processes it starts."""


def is_first_process() -> bool:
    """Return whether this process writes and prints, of all that torchrun or Lightning started."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def process_count(devices: int) -> int:
    """Return the number of processes: torchrun's, else `devices`; 0: one per GPU, at least one."""
    if "RANK" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    return devices or max(torch.cuda.device_count(), 1)


@contextlib.contextmanager
def leading(output: Path, cache: Path, name: str) -> Iterator[None]:
    """Create the output folder and hold the lock of `name` in it; remove new empty folders.

    Raises InputError, naming the process, when another one holds the lock.
    """
    with remove_empty_folders(output, cache):
        lock = make_output_folder(output).resolve() / f".{name}.lock"
        with claim_file(lock) as acquired:
            if not acquired:
                pid, host = read_holder(lock)
                raise InputError(
                    f"another process is training under this name: process {pid} on {host} "
                    f"holds {lock}",
                    hint="wait for it, or choose another --name or -o; "
                    "if that process is not training, remove the file",
                )
            os.environ[_LEADER] = str(os.getpid())
            try:
                yield
            finally:
                os.environ.pop(_LEADER, None)


@contextlib.contextmanager
def following() -> Iterator[None]:
    """End this process with the first one, and report an error only if the first one goes on."""
    # The leader may have ended during the imports. Under torchrun the parent is the agent.
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
        time.sleep(
            GRACE_S
        )  # the watch or torchrun's SIGTERM ends this process if the first one failed
        raise
