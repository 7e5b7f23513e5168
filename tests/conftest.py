"""Fixtures for all tests. This file is also loaded under Python 3.8 with numpy and click only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from click.testing import CliRunner, Result
from tiny_sessions import noise, sessions  # noqa: F401 - fixtures

from sr_deploy.core.claims import claim_file

ROOT = Path(__file__).resolve().parents[1]

# In the background of a script or under nohup, these signals are ignored, also in child processes
# that tests interrupt. Restore them.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cache of this run, shared by its worker processes: never the user's."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRDEPLOY_CACHE", str(root / "srdeploy-cache"))
        yield


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared` beside the checkout, with Set5 and official weights."""
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip(
            "the folder 'shared' with Set5 and official weights is not beside this checkout"
        )
    return path


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Fill a folder once for all worker processes of this run: `made_once(name, fill)`."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def made(name: str, fill: Callable[[Path], Any]) -> Path:
        folder = root / name
        while not folder.exists():
            with claim_file(root / f"{name}.lock") as mine:
                if mine and not folder.exists():
                    partial = Path(tempfile.mkdtemp(dir=str(root)))
                    fill(partial)
                    partial.rename(folder)
            time.sleep(0 if mine else 0.1)  # another worker fills it
        return folder

    return made


@pytest.fixture(scope="session", autouse=True)
def memory_measured_in_this_process() -> Iterator[None]:
    """`bench` starts a process for each row's memory: seconds. `test_own_memory.py` does, too."""
    from sr_deploy.bench import measure
    from sr_deploy.core.device import track_peak_memory

    def here(network: Any, run: Any, x: Any, max_memory: Any = None) -> Any:
        rises_mib = []
        with track_peak_memory(rises_mib):
            pass
        return rises_mib[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "peak_mib", here)
        yield


@pytest.fixture(scope="session", autouse=True)
def parts_timed_briefly() -> Iterator[None]:
    """The parts of plans are timed for many seconds, for the best choice of tiles."""
    from sr_deploy.runtime.adaptive import elastic

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elastic, "TIMED_PX", 128)
        patch.setattr(elastic, "TIMED_RUNS", 1)
        patch.setattr(elastic, "TIMED_PASSES", 1)
        yield


@pytest.fixture()
def run_cli() -> Callable[..., Result]:
    """Run `srdeploy ARGS` in this process. The result has exit_code, stdout and stderr."""
    # click < 8.2 mixes stderr into stdout unless told not to; later versions dropped the option.
    try:
        runner = CliRunner(mix_stderr=False)  # type: ignore[call-arg]
    except TypeError:
        runner = CliRunner()

    def run(*args: Any) -> Result:
        from sr_deploy.cli.main import main

        handler = signal.getsignal(signal.SIGTERM)
        try:
            return runner.invoke(main, [str(a) for a in args])
        finally:
            signal.signal(signal.SIGTERM, handler)  # the command line sets its own

    return run


@pytest.fixture()
def run_python() -> Callable[..., Any]:
    """Run `python ARGS` with the checkout on its path; return the completed process, as text."""

    def run(*args: Any) -> Any:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(
            [sys.executable, *map(str, args)],
            capture_output=True,
            encoding="utf-8",
            env=env,
            timeout=300,
        )

    return run
