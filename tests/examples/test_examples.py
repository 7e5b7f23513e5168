"""The commands of the examples' first lines, after a training of a few steps."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

for package in ("torch", "onnx", "onnxscript", "onnxruntime", "cv2", "skimage"):
    pytest.importorskip(package, reason=f"{package} is not installed; the examples need it")
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    """A working folder with the image `hr/a.png`."""
    import cv2

    monkeypatch.chdir(tmp_path)
    (tmp_path / "hr").mkdir()
    image = np.random.default_rng(0).integers(0, 255, (128, 96, 3), dtype=np.uint8)
    cv2.imwrite("hr/a.png", image)
    return tmp_path


def train(example, *args):
    command = [sys.executable, EXAMPLES / example, "--images", "hr", "--steps", "2", *args]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


@pytest.mark.slow
def test_a_network_of_ones_own_goes_through_all_commands(run_cli, folder):
    train("espcn.py", "-o", "espcn_x4.pth")
    code = (f"{EXAMPLES}/espcn.py:ESPCN", "--weights", "espcn_x4.pth", "--scale", 4)
    for command in (
        ("bench", *code, "--data", "hr", "--lr", "32x24", "--runs", 2, "--json"),
        ("export", *code, "--target", "cpu", "-o", "out"),
        ("build-engine", "out", "--target", "cpu", "-o", "engines"),
        ("upscale", "hr/a.png", "-m", "engines", "-o", "b.png"),
    ):
        result = run_cli(*command)
        assert result.exit_code == 0, result.stderr
    assert Path("b.png").is_file()


@pytest.mark.slow
def test_an_elastic_network_of_ones_own_is_a_row_for_each_depth(run_cli, folder):
    train("elastic.py", "--scale", 2, "-o", "elastic_x2.pth")
    code = (f"{EXAMPLES}/elastic.py:Elastic", "--weights", "elastic_x2.pth", "--scale", 2)
    result = run_cli("eval", *code, "--data", "hr", "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [row["variant"] for row in rows] == ["d1", "d2", "d4"]
    counted = run_cli("complexity", f"{EXAMPLES}/elastic.py:Elastic.d2", "--scale", 2, "--json")
    assert json.loads(counted.stdout)["params"] == rows[1]["params"]
