"""The commands of the examples' first lines, after a training of a few steps, and the notebook."""

import json
import runpy
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
        ("bench", *code, "--data", "hr", "--size", "32x24", "--runs", 2, "--json"),
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


def run(example, *args):
    """Run a script in this process, where torch is loaded already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [example, *map(str, args)])
        runpy.run_path(str(EXAMPLES / example), run_name="__main__")


def test_a_folder_is_upscaled_once(folder, capsys):
    Path("hr/no-picture.png").write_text("text")
    for _ in range(2):
        run("upscale_folder.py", "hr", "hr_x4", "--model", "fsrcnn-w16_x4")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        str(Path("hr_x4/a.png")),
        *[str(Path("hr/no-picture.png"))] * 2,
    ]
    assert "384x512" in lines[0] and Path("hr_x4/a.png").is_file()


def test_a_checkpoint_is_sliced_exported_built_and_measured(folder, capsys):
    args = ("--size", "32x32", "--data", "hr", "--runs", 2)
    run("deploy_checkpoint.py", "asrn_x4.d1", *args, "-o", "out")
    out = capsys.readouterr().out
    assert "| asrn_x4.d1 |" in out and "32x32" in out
    assert [p.name for p in Path("out/engines").glob("*.engine")] == [
        "asrn_x4.d1.32x32.fp32.engine"
    ]


def test_a_variant_is_picked_for_a_frame_rate_or_what_is_too_slow_is_said(folder, capsys):
    args = ("fsrcnn-w16_x4", "--size", "32x40", "--data", "hr", "--runs", 2)
    run("pick_variant.py", *args, "--fps", 1)
    out = capsys.readouterr().out
    assert "fsrcnn-w16_x4.w16: the highest PSNR" in out
    assert out.count("a frame of 160x128") == 3
    with pytest.raises(SystemExit, match="none of 1 rows meets the limits"):
        run("pick_variant.py", *args, "--fps", 1e6)


@pytest.mark.slow
def test_the_notebook_runs_and_its_outputs_are_small(folder, monkeypatch):
    for package in ("nbclient", "ipykernel", "PIL"):
        pytest.importorskip(package, reason=f"{package} is not installed; it runs the notebook")
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    file = EXAMPLES / "notebook.ipynb"
    assert file.stat().st_size < 100_000
    notebook = nbformat.read(file, as_version=4)
    outputs = [cell.get("outputs") for cell in notebook.cells if cell.cell_type == "code"]
    assert all(outputs), "a cell has no output: run the notebook before it is committed"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    results = [cell.get("outputs") for cell in notebook.cells if cell.cell_type == "code"]
    assert list(map(kinds, results)) == list(map(kinds, outputs))


def kinds(outputs):
    """The kinds of a cell's outputs; a picture may be shown in several formats."""
    return {output.output_type for output in outputs}
