"""The worker with stand-ins for checks: they pass, fail, are skipped, crash or hang."""

from __future__ import annotations

import os
import signal
import time

from sr_deploy.core.errors import BuildError, MissingPackageError
from sr_deploy.selftest import worker
from sr_deploy.selftest.checks import KINDS, SkippedError


def environment(check, folder):
    return {"facts": {"cpu": "a CPU"}, "identity": os.environ["IDENTITY"], "ways": []}


def good(check, folder):
    print("a library prints")  # noqa: T201
    with open(folder / "ran.txt", "a") as f:
        f.write(check.name + "\n")
    return {"found": "what was found", "number": 1}


def bad(check, folder):
    raise BuildError("it is wrong", hint="mend it")


def broken(check, folder):
    raise ZeroDivisionError("by zero")


def missing(check, folder):
    raise MissingPackageError("av", needed_for="a video")


def impossible(check, folder):
    raise SkippedError("no sensor")


def crash(check, folder):
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(check, folder):
    os._exit(3)


def hang(check, folder):
    time.sleep(60)


KINDS._entries["environment"] = "__main__:environment"
for name in ("good", "bad", "broken", "missing", "impossible", "crash", "leave", "hang"):
    KINDS.add(name, f"__main__:{name}")
worker.main()
