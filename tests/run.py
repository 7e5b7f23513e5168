"""Run the tests: python3 tests/run.py [pytest arguments]

Creates `.venv` with all extras and runs the static checks and all tests in it. If a Python 3.8 is
found, also creates `.venv-py38` with numpy and click only, as on a Jetson, and runs the tests of
the rooms that a board uses. On Linux x86_64 with a C compiler, also creates `.venv-trt85` with
TensorRT 8.5.3 (550 MB, once), the API of a Xavier, and checks that the calls we make exist in it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

from environment import ROOT, create_environment, find_python

EXTRAS = "export,openvino,rtx,simplify,train,upscale,report,docs,test"
EVERYTHING = ["-c", "constraints.txt", "-e", f".[{EXTRAS}]"]
# spandrel without torchvision, whose builds for CUDA cannot be imported beside torch for the CPU,
# and then break the import of lightning.
EVERYTHING += ["einops", "openmodeldb>=1.3"]
WITHOUT_DEPENDENCIES = ["spandrel==0.4.2"]
BOARD = ["-e", ".", "pytest>=7", "pytest-xdist>=3.2"]
# Each worker starts with its own half of the files, so most fixtures of a module are made once.
PARALLEL = ["-n", "auto", "--dist", "worksteal"]
# cuBLAS and cuDNN take a gigabyte. Without a GPU they are loaded but never called, so empty
# libraries replace them.
TENSORRT_85 = ["tensorrt==8.5.3.1", "cuda-python==11.8.0"]
CUDA_LIBRARIES = ("libcublas.so.11", "libcublasLt.so.11", "libcudnn.so.8")
BOARD_TESTS = [
    "tests/bench",
    "tests/core",
    "tests/runtime",
    "tests/fast",
    "tests/deploy",
    "tests/results",
    "tests/upscale",
    "tests/cli",
    "tests/test_layers.py",
]
STATIC_CHECKS = [
    ("ruff", "check", "--quiet", "."),
    ("ruff", "format", "--quiet", "--check", "."),
    ("codespell_lib",),
    ("mypy", "--no-error-summary"),
    ("mkdocs", "build", "--strict", "--quiet", "-f", "docs/site/mkdocs.yml"),
]


def main() -> int:
    if sys.version_info < (3, 10):
        sys.exit("error: the tests need Python 3.10 or newer; Python 3.8 is used in addition")
    arguments = sys.argv[1:]
    python = str(create_environment(".venv", EVERYTHING, without_dependencies=WITHOUT_DEPENDENCIES))
    failed = 0
    for check in STATIC_CHECKS:
        failed |= run(python, *check)
    if arguments:
        return failed or run(python, "pytest", *arguments)
    board_python = find_python("3.8")
    if board_python is None:
        print("no Python 3.8 found: the board's rooms are tested only by this one", file=sys.stderr)
    else:
        python38 = str(create_environment(".venv-py38", BOARD, board_python))
        failed |= run(python38, "pytest", "-q", *PARALLEL, *BOARD_TESTS)
        failed |= check_tensorrt_85_api(board_python)
    return failed | run(python, "pytest", "-q", *PARALLEL, OMP_NUM_THREADS="1")


def check_tensorrt_85_api(board_python: str) -> int:
    compiler = shutil.which("cc")
    if compiler is None or (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print(
            "no TensorRT 8.5 for this machine, or no C compiler: its API is not checked",
            file=sys.stderr,
        )
        return 0
    python = create_environment(
        ".venv-trt85",
        ["numpy==1.23.5", "click", "pytest>=7"],
        board_python,
        without_dependencies=TENSORRT_85,
    )
    libraries = ROOT / ".venv-trt85" / "stand-ins"
    libraries.mkdir(exist_ok=True)
    for name in CUDA_LIBRARIES:
        library = str(libraries / name)
        if not os.path.isfile(library):
            empty = [compiler, "-shared", "-x", "c", os.devnull, f"-Wl,-soname,{name}"]
            subprocess.run([*empty, "-o", library], check=True)
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
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "NO_MKDOCS_2_WARNING": "1"}
    environment = {**os.environ, **quiet, **variables}
    command = [python, "-m", module, *arguments]
    return subprocess.run(command, cwd=str(ROOT), env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
