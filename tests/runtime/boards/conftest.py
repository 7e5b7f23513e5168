"""Fixtures for jobs built by hand."""

from __future__ import annotations

import shutil
import subprocess
import tarfile

import pytest

from sr_deploy.runtime.build import bundle_from_onnx


@pytest.fixture()
def bundle(repeating, stand_in, tmp_path):
    """Return the unpacked bundle of two graphs, one with a space and a quote in its name."""
    stand_in()
    graphs = [repeating("it's a graph"), repeating("dynamic", hw=(8, 8), high=(32, 40))]
    tar = bundle_from_onnx(graphs, tmp_path / "job.tar", target="xavier")
    with tarfile.open(str(tar)) as archive:
        archive.extractall(str(tmp_path / "board"))
    (folder,) = (tmp_path / "board").iterdir()
    return folder


@pytest.fixture()
def board_result(bundle):
    """Return the result.tar that build.sh writes in the bundle's folder."""
    shell = shutil.which("dash") or "sh"
    done = subprocess.run(
        [shell, "build.sh"],
        cwd=str(bundle),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout
    return bundle / "result.tar"
