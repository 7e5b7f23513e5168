"""A command of srdeploy that ends with its parent process, even if that is killed: python -m
sr_deploy.cli.child ARGUMENTS.

Standard input must be a pipe whose other end only the parent holds. The system closes it however
the parent ends.
"""

from __future__ import annotations

import os
import signal
import threading
import time

GRACE_S = 5.0
"""How long a command may take to remove its temporary files after its parent has ended."""


def main() -> None:
    """Run the command in sys.argv until it ends or standard input is closed."""
    from sr_deploy.cli.main import main as command

    lifeline_fd = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # so that processes the command starts do not read from the pipe
    os.close(null)
    threading.Thread(target=_end_with_parent, args=(lifeline_fd,), daemon=True).start()
    command()


def _end_with_parent(lifeline_fd: int) -> None:
    while os.read(lifeline_fd, 1):
        pass
    if hasattr(signal, "pthread_kill"):  # to wake up the main thread; Windows just exits
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    main()
