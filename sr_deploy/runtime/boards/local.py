"""Builds a job on this machine with its own trtexec."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import List

from sr_deploy.core.errors import BuildError, first_line
from sr_deploy.core.target import TargetProfile
from sr_deploy.runtime.boards.job import BoardJob, Progress
from sr_deploy.runtime.boards.trtexec import version_from_banner

_FOLDERS = ("/usr/src/tensorrt/bin", "/opt/tensorrt/bin")
"""Where JetPack and NVIDIA's packages install it; neither is on PATH."""


def why_no_trtexec(profile: TargetProfile) -> str:
    """Return why this machine's trtexec cannot build for `profile`; empty if one runs and can."""
    name = "tensorrt_rtx" if profile.runtime == "tensorrt-rtx" else "trtexec"
    if shutil.which("sh") is None:
        return "there is no sh to run build.sh with"
    reasons: List[str] = []
    for candidate in trtexec_paths(name):
        try:
            done = subprocess.run(
                [candidate, "--help"], capture_output=True, text=True, timeout=60, errors="replace"
            )
            version = version_from_banner(done.stdout + done.stderr)
        except (OSError, subprocess.SubprocessError, BuildError) as e:
            reasons.append(f"{candidate} does not run ({first_line(e)})")
            continue
        if profile.supports_version(version):
            return ""
        versions = profile.runtime_versions
        reasons.append(f"{candidate} is from TensorRT {version}, but the profile is for {versions}")
    return "; ".join(reasons) or f"no {name} on PATH or in {_FOLDERS[0]}"


def result_from_trtexec(job: BoardJob, result: Path, progress: Progress) -> None:
    """Run a job on this machine and move its `result.tar` to `result`. Raises BuildError.

    progress: receives each line of the log.
    """
    with subprocess.Popen(
        ["sh", "./build.sh"],
        cwd=str(job.folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                last = line.decode(errors="replace").rstrip()
                progress(last)
        except BaseException:  # Ctrl-C: build.sh ends its trtexec
            process.terminate()
            raise
    tar = job.folder / "result.tar"
    if not tar.is_file():
        reason = last.partition("error: ")[2] or last or f"exit code {process.returncode}"
        raise BuildError(f"trtexec's build stopped: {reason}")
    shutil.move(str(tar), str(result))


def trtexec_paths(name: str = "trtexec") -> List[str]:
    """Return the paths of a builder that this machine may run; empty if there is none."""
    override = os.environ.get("TRTEXEC")
    if override:
        return [override]
    paths = [shutil.which(name), *(str(Path(folder) / name) for folder in _FOLDERS)]
    return [path for path in paths if path and os.access(path, os.X_OK)]
