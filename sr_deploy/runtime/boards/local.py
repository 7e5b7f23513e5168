"""A job built on this machine by its own trtexec."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable, List

from sr_deploy.core.errors import BuildError
from sr_deploy.core.target import TargetProfile
from sr_deploy.runtime.boards.trtexec import version_from_banner

_PLACES = ("/usr/src/tensorrt/bin", "/opt/tensorrt/bin")
"""Where JetPack and NVIDIA's packages put it: not on PATH."""


def why_no_trtexec(profile: TargetProfile) -> str:
    """Say why this machine's trtexec cannot build for `profile`; empty when it can. One that is there but does not run is none."""
    name = "tensorrt_rtx" if profile.runtime == "tensorrt-rtx" else "trtexec"
    if shutil.which("sh") is None:
        return "there is no sh to run build.sh with"
    said: List[str] = []
    for candidate in _candidates(name):
        try:
            done = subprocess.run(
                [candidate, "--help"], capture_output=True, text=True, timeout=60, errors="replace"
            )
            version = version_from_banner(done.stdout + done.stderr)
        except (OSError, subprocess.SubprocessError, BuildError) as e:
            said.append(f"{candidate} does not run ({str(e).splitlines()[0]})")
            continue
        if profile.supports_version(version):
            return ""
        said.append(
            f"{candidate} is of TensorRT {version}, the profile is for {profile.runtime_versions}"
        )
    return "; ".join(said) or f"no {name} on PATH or in {_PLACES[0]}"


def result_from_trtexec(job: Path, result: Path, *, say: Callable[[str], None]) -> None:
    """Run the job folder `job` here, passing its log to `say`, and move its `result.tar` to `result`. Raises BuildError."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(["sh", "./build.sh"], cwd=str(job), **streams) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                last = line.decode(errors="replace").rstrip()
                say(last)
        except BaseException:  # Ctrl-C: build.sh ends its trtexec
            process.terminate()
            raise
    made = job / "result.tar"
    if not made.is_file():
        raise BuildError(
            f"trtexec's build stopped: {last.partition('error: ')[2] or last or f'exit code {process.returncode}'}"
        )
    shutil.move(str(made), str(result))


def _candidates(name: str) -> List[str]:
    asked = os.environ.get("TRTEXEC")
    if asked:
        return [asked]
    places = [shutil.which(name)] + [str(Path(place) / name) for place in _PLACES]
    return [place for place in places if place and os.access(place, os.X_OK)]
