from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sr_deploy.core.manifest import read_manifest

pytestmark = pytest.mark.usefixtures("exporter")
ROOT = Path(__file__).resolve().parents[2]


def files(folder):
    return sorted(os.listdir(str(folder)))


def test_paths_on_stdout_progress_on_stderr_and_nothing_done_twice(run_cli, asrn, tmp_path):
    args = [
        "export",
        asrn,
        "--variants",
        "d1",
        "--size",
        "16x24",
        "--precision",
        "fp32",
        "-o",
        tmp_path / "out",
    ]
    first, second = run_cli(*args), run_cli(*args)
    path = tmp_path / "out" / "tiny-asrn_x2.d1.16x24.fp32.onnx"
    assert first.exit_code == 0, first.stderr
    assert first.stdout == second.stdout == f"{path}\n"
    assert "opset 17, max error" in first.stderr and second.stderr.endswith(
        f"{path.name}: up to date\n"
    )
    manifest = read_manifest(path)
    assert (manifest.variant, manifest.min_shape, manifest.precision_obtained) == (
        "d1",
        (16, 24),
        "fp32",
    )
    assert files(tmp_path / "out") == [path.name, path.name + ".json"]


@pytest.mark.parametrize(
    "args, words",
    [
        (["--variants", "d9"], ["has no variant 'd9'; it has d1, d2", "did you mean 'd"]),
        (["--variants", "d1,d0"], ["'d0' is not a variant"]),
        (["--target", "xavir"], ["unknown target 'xavir'", "did you mean 'xavier'?"]),
        (
            ["--target", "cpu", "--precision", "fp16"],
            ["target 'cpu' builds fp32 and int8 engines, not fp16", "are built for cuda, "],
        ),
        (
            ["--target", "rtx", "--precision", "fp32"],
            ["target 'rtx' builds fp16 and int8 engines, not fp32"],
        ),
        (["--precision", "int8"], ["int8 graphs are made for a target", "--target: cpu, "]),
        (
            ["--precision", "int8", "--target", "cpu"],
            ["INT8 graphs are calibrated with pictures", "hint: give a folder of HR pictures"],
        ),
        (["--keep", "ends"], ["--keep: for INT8 graphs only, and these are fp16"]),
        (["--size", "16"], ["'16' is not a size"]),
        (
            ["--size", "16x16", "--dynamic", "8x8:16x16:32x32"],
            ["--size and --dynamic exclude each other"],
        ),
        (["--dynamic", "16x16"], ["expected MIN:OPT:MAX"]),
        (["--dynamic", "32x32:16x16:64x64"], ["min <= opt <= max"]),
    ],
)
def test_bad_arguments_write_nothing(fails, asrn, tmp_path, args, words):
    error = fails("export", asrn, *args, "-o", tmp_path / "out")
    assert error.startswith("error: ") and all(word in error for word in words), error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "size",
    [
        ["--size", "14x64"],
        ["--size", "64x64", "--size", "15x14"],
        ["--dynamic", "8x8:16x16:32x32"],
    ],
)
def test_a_size_too_small_for_srn_writes_nothing(fails, srn, tmp_path, size):
    error = fails("export", srn, *size, "-o", tmp_path / "out")
    assert (
        "pixels is too small for" in error
        and "the smallest is 15x15" in error
        and "hint: give at least 15x15" in error
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "model, words",
    [
        ("srn_x4", "is an architecture, and no checkpoint of that name"),
        ("nothing", "there is no model"),
        ("x.safetensors", "there is no checkpoint"),
    ],
)
def test_a_model_without_weights(fails, tmp_path, model, words):
    assert words in fails("export", model, "-o", tmp_path / "out")


def test_a_pytorch_file_is_told_how_to_come_in(fails, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"x")
    error = fails("export", tmp_path / "w.pth", "-o", tmp_path / "out")
    assert "is not a checkpoint; expected" in error and "srdeploy import-checkpoint" in error


def test_an_output_folder_that_cannot_be_written(fails, asrn, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        error = fails("export", asrn, "--size", "16x16", "-o", folder)
        assert "cannot write to the folder" in error and "-o" in error


def test_a_graph_out_of_tolerance_is_an_error_and_is_not_written(
    fails, asrn, tmp_path, monkeypatch
):
    from sr_deploy.export import verify

    monkeypatch.setattr(verify, "MAX_ABS_ERR", -1.0)
    error = fails("export", asrn, "--variants", "d1", "--size", "16x16", "-o", tmp_path / "out")
    assert "ONNX Runtime differs from torch by" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    os.name == "nt", reason="Windows delivers no SIGINT or SIGTERM to a child alone"
)
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_an_interrupted_export_leaves_finished_graphs_whole_and_no_part(
    asrn, tmp_path, number, code
):
    out = tmp_path / "out"
    sizes = [
        arg for n in range(24, 64, 2) for arg in ("--size", f"{n}x{n}")
    ]  # more than it can finish before the signal
    command = [
        sys.executable,
        "-m",
        "sr_deploy.cli.main",
        "export",
        str(asrn),
        "--variants",
        "d1,d2",
        *sizes,
        "--precision",
        "fp32",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while (
            process.poll() is None
            and time.monotonic() < deadline
            and not list(out.glob("tiny*.onnx.json"))
        ):
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, stderr.decode()
    assert b"Traceback" not in stderr and stdout == b""
    graphs = [name for name in files(out) if name.endswith(".onnx")]
    assert 1 <= len(graphs) < 40
    assert files(out) == sorted(
        graphs + [name + ".json" for name in graphs]
    )  # neither partial files nor half pairs
    for name in graphs:
        assert (
            json.loads((out / (name + ".json")).read_text())["sha256"]
            == read_manifest(out / name).sha256
        )
