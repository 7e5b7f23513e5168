"""Create virtual environments for the tests and the benchmarks. Uses the standard library only.

An environment is reused until its inputs change: setup.cfg, pyproject.toml, constraints.txt, the
requirements, the interpreter.
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


def create_environment(
    folder: str,
    requirements: Sequence[str],
    python: str = sys.executable,
    *,
    without_dependencies: Sequence[str] = (),
) -> Path:
    """Return the interpreter of the environment `folder`, with `requirements` installed.

    If that fails, the program exits after the message of pip or venv.
    """
    home = ROOT / folder
    inner = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = home / "made-from.txt"
    fingerprint = _fingerprint([*requirements, *without_dependencies], python)
    if stamp.is_file() and stamp.read_text() == fingerprint and is_runnable(str(inner)):
        return inner
    print(f"creating the environment {folder} ...", file=sys.stderr)
    shutil.rmtree(home, ignore_errors=True)
    _run(
        [python, "-m", "venv", str(home)],
        "on Debian and Ubuntu, run: apt install python3-venv",
    )
    pip = [str(inner), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if any(r.startswith(("-e", ".")) for r in requirements):
        _run([*pip, "setuptools>=64", "wheel"], "is the package index reachable?")
    _run([*pip, *requirements], "is the package index reachable?")
    if without_dependencies:
        _run([*pip, "--no-deps", *without_dependencies], "is the package index reachable?")
    stamp.write_text(fingerprint)
    return inner


def is_runnable(python: str) -> bool:
    """Return whether this interpreter starts. A pyenv shim may exist without its version."""
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
    """Return an interpreter of that version (such as `3.8`) from PATH or pyenv, or None."""
    candidates = [shutil.which(f"python{version}")]
    versions = Path(os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))) / "versions"
    candidates += [str(p / "bin" / "python") for p in sorted(versions.glob(version + ".*"))]
    return next((c for c in candidates if c and is_runnable(c)), None)


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
