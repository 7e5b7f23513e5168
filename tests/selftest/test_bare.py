"""A machine with torch and numpy only, and our folder on PYTHONPATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="it runs checkpoints by torch")

ROOT = Path(__file__).resolve().parents[2]
ABSENT = """
import importlib.machinery

find = importlib.machinery.PathFinder.find_spec

def find_others(name, path=None, target=None):
    return None if name.split(".")[0] in {absent!r} else find(name, path, target)

importlib.machinery.PathFinder.find_spec = find_others
"""
_PACKAGES = {
    "click", "onnx", "onnxruntime", "onnxscript", "safetensors", "cv2", "skimage", "av", "tensorrt",
    "tensorrt_rtx", "cuda", "matplotlib", "jinja2", "lightning", "tqdm",
}  # fmt: skip


@pytest.mark.slow
def test_torch_and_numpy_suffice(tmp_path):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(ABSENT.format(absent=_PACKAGES))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "path"), str(ROOT)])}
    command = [sys.executable, "-m", "sr_deploy.selftest", "-o", str(tmp_path / "out"), "--json"]
    run = subprocess.run(
        [*command, "--minutes", "0.1"],
        cwd=str(tmp_path),
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=280,
    )
    shown = json.loads(run.stdout)
    results = {r["name"]: r for r in shown["results"]}
    assert run.returncode == 0, run.stderr
    assert results["torch cpu: srn-ntire_x4"]["state"] in ("pass", "not run")
    assert results["tensorrt-rtx"]["state"] == "skip"
    assert {r["state"] for r in shown["results"]} <= {"pass", "skip", "not run"}
    page = (tmp_path / "out" / "selftest.html").read_text(encoding="utf-8")
    assert "matplotlib" in page or "jinja2" in page
    assert len(list((tmp_path / "out").glob("selftest-*.tar.gz"))) == 1
