"""A command of srdeploy that ends when the process that started it does, killed or not: python -m sr_deploy.cli.child ARGUMENTS.

Standard input is a pipe of which the other end is the parent's alone: the system closes it whichever way the parent ends.
"""

from __future__ import annotations

import os
import signal
import threading
import time

GRACE_S = 5.0
"""How long a command may take to remove its temporary files once its parent is gone."""


def main() -> None:
    """Run the command of sys.argv while standard input stays open."""
    from sr_deploy.cli.main import main as command

    leash = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # what the command starts itself must not read from the pipe
    os.close(nothing)
    threading.Thread(target=_end_with_parent, args=(leash,), daemon=True).start()
    command()


def _end_with_parent(leash: int) -> None:
    while os.read(leash, 1):
        pass
    if hasattr(
        signal, "pthread_kill"
    ):  # to the main thread, which may be waiting; Windows has none, and ends at once
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    main()
