"""Make the virtual environment that the tests and the main job run in, on a machine with nothing but Python.

Used by `tests/run.py` and `benchmarks/main_job.py`; standard library only. An environment is kept between runs and made
again when what it is made from (setup.cfg, constraints.txt, the interpreter) changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent


def made(
    folder: str,
    requirements: Sequence[str],
    python: str = sys.executable,
    *,
    without_dependencies: Sequence[str] = (),
) -> Path:
    """Return the interpreter of the environment `folder` (in the checkout) with `requirements` installed.

    Stops the program with pip's or venv's own message when that fails.
    """
    home = ROOT / folder
    inner = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = home / "made-from.txt"
    wanted = _fingerprint([*requirements, *without_dependencies], python)
    if stamp.is_file() and stamp.read_text() == wanted and runs(str(inner)):
        return inner
    print(f"making the environment {folder} ...", file=sys.stderr)
    shutil.rmtree(home, ignore_errors=True)
    _run(
        [python, "-m", "venv", str(home)],
        "on Debian and Ubuntu the standard venv comes with: apt install python3-venv",
    )
    pip = [str(inner), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if any(r.startswith(("-e", ".")) for r in requirements):
        _run([*pip, "setuptools>=64", "wheel"], "is the package index reachable?")
    _run([*pip, *requirements], "is the package index reachable?")
    if without_dependencies:
        _run([*pip, "--no-deps", *without_dependencies], "is the package index reachable?")
    stamp.write_text(wanted)
    return inner


def runs(python: str) -> bool:
    """Tell whether this interpreter really runs: a command that exists may be a shim for one that is not installed."""
    try:
        return (
            subprocess.run(
                [python, "-c", "import venv"], capture_output=True, timeout=60
            ).returncode
            == 0
        )
    except (OSError, subprocess.SubprocessError):
        return False


def find_python(version: str) -> Optional[str]:
    """Return a running interpreter of that version (`3.8`) from PATH or pyenv, None when there is none."""
    candidates = [shutil.which(f"python{version}")]
    versions = Path(os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))) / "versions"
    candidates += [str(p / "bin" / "python") for p in sorted(versions.glob(version + ".*"))]
    return next((c for c in candidates if c and runs(c)), None)


def _fingerprint(requirements: Sequence[str], python: str) -> str:
    sources = [
        (ROOT / name).read_text() for name in ("setup.cfg", "pyproject.toml", "constraints.txt")
    ]
    return hashlib.sha256(
        "\n".join([*requirements, python, str(ROOT), *sources]).encode()
    ).hexdigest()


def _run(command: Sequence[str], hint: str) -> None:
    if subprocess.run(command, cwd=str(ROOT)).returncode != 0:
        sys.exit(f"error: this command failed: {' '.join(command)}\n\nhint: {hint}")
