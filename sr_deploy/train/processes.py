"""The processes of a run: one that leads, others that follow it, and a lock against a second run of the same name."""

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
"""How long a process waits with its error for the first one to end with the same."""
_LEADER = "SRDEPLOY_TRAIN_LEADER"
"""In the environment of the processes that the first one starts: its number."""


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
    with remove_empty_folders(output, cache):
        lock = make_output_folder(output).resolve() / f".{name}.lock"
        with claim_file(lock) as mine:
            if not mine:
                pid, host = read_holder(lock)
                raise InputError(
                    f"a run of that name is going on: process {pid} on {host} holds {lock}",
                    hint="wait for it, or give another --name or -o; if that process does not train, remove the file",
                )
            os.environ[_LEADER] = str(os.getpid())
            try:
                yield
            finally:
                os.environ.pop(_LEADER, None)


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
        time.sleep(
            GRACE_S
        )  # does not return where the first process failed too: by the watch, or by torchrun's SIGTERM
        raise
