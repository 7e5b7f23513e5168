"""Pass the tests: python3 tests/run.py [pytest arguments]

Makes `.venv` with everything and runs all tests in it with ruff; then, where a Python 3.8 is found, makes `.venv-py38` with
what a Jetson has (numpy, click) and runs there the tests of what must work on one.
"""

from __future__ import annotations

import os
import subprocess
import sys

from environment import ROOT, find_python, made

EVERYTHING = ["-c", "constraints.txt", "-e", ".[export,rtx,train,report,test]"]
BOARD = ["-e", ".", "pytest>=7"]
BOARD_TESTS = ["tests/core", "tests/runtime", "tests/cli", "tests/test_layers.py"]


def main() -> int:
    if sys.version_info < (3, 10):
        sys.exit("error: the tests need Python 3.10 or newer (and use 3.8 in addition where it is found)")
    chosen = sys.argv[1:]
    python = str(made(".venv", EVERYTHING))
    failed = run(python, "ruff", "check", "--quiet", ".")
    board = find_python("3.8")
    if chosen:
        return failed or run(python, "pytest", *chosen)
    if board is None:
        print("no Python 3.8 here: the tests of what runs on a Jetson run under this Python only", file=sys.stderr)
    else:
        failed |= run(str(made(".venv-py38", BOARD, board)), "pytest", "-q", *BOARD_TESTS)
    return failed or run(python, "pytest", "-q")


def run(python: str, module: str, *arguments: str) -> int:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([python, "-m", module, *arguments], cwd=str(ROOT), env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
