"""Pass the tests: python3 tests/run.py [pytest arguments]

Makes `.venv` with everything and runs all tests in it with ruff; then, where a Python 3.8 is found, makes `.venv-py38` with
what a Jetson has (numpy, click) and runs there the tests of what must work on one, and, on Linux x86_64 with a C compiler,
`.venv-trt85` with TensorRT 8.5.3 (550 MB, once), whose Python API is a Xavier's: the tests look up what we call in it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

from environment import ROOT, find_python, made

EVERYTHING = ["-c", "constraints.txt", "-e", ".[export,rtx,train,upscale,report,test]"]
BOARD = ["-e", ".", "pytest>=7"]
# Its dependencies, cuBLAS and cuDNN, take a gigabyte and are only loaded, never called, on a machine without a GPU.
TENSORRT_85 = ["tensorrt==8.5.3.1", "cuda-python==11.8.0"]
BOARD_TESTS = [
    "tests/core",
    "tests/runtime",
    "tests/results",
    "tests/upscale",
    "tests/cli",
    "tests/test_layers.py",
]


def main() -> int:
    if sys.version_info < (3, 10):
        sys.exit(
            "error: the tests need Python 3.10 or newer (and use 3.8 in addition where it is found)"
        )
    chosen = sys.argv[1:]
    python = str(made(".venv", EVERYTHING))
    failed = run(python, "ruff", "check", "--quiet", ".")
    board = find_python("3.8")
    if chosen:
        return failed or run(python, "pytest", *chosen)
    if board is None:
        print(
            "no Python 3.8 here: the tests of what runs on a Jetson run under this Python only",
            file=sys.stderr,
        )
    else:
        failed |= run(str(made(".venv-py38", BOARD, board)), "pytest", "-q", *BOARD_TESTS)
        failed |= with_tensorrt_85(board)
    return failed or run(python, "pytest", "-q", "-n", "auto", OMP_NUM_THREADS="1")


def with_tensorrt_85(board: str) -> int:
    compiler = shutil.which("cc")
    if compiler is None or (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print(
            "no TensorRT 8.5 for this machine, or no C compiler: its Python API is not looked up",
            file=sys.stderr,
        )
        return 0
    python = made(
        ".venv-trt85",
        ["numpy==1.23.5", "click", "pytest>=7"],
        board,
        without_dependencies=TENSORRT_85,
    )
    libraries = ROOT / ".venv-trt85" / "stand-ins"
    libraries.mkdir(exist_ok=True)
    for name in ("libcublas.so.11", "libcublasLt.so.11", "libcudnn.so.8"):
        if not (libraries / name).is_file():
            subprocess.run(
                [
                    compiler,
                    "-shared",
                    "-x",
                    "c",
                    os.devnull,
                    f"-Wl,-soname,{name}",
                    "-o",
                    str(libraries / name),
                ],
                check=True,
            )
    return run(
        str(python),
        "pytest",
        "-q",
        "-rs",
        "tests/runtime/test_tensorrt_api.py",
        LD_LIBRARY_PATH=str(libraries),
        PYTHONPATH=str(ROOT),
    )


def run(python: str, module: str, *arguments: str, **variables: str) -> int:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **variables}
    return subprocess.run(
        [python, "-m", module, *arguments], cwd=str(ROOT), env=environment
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
