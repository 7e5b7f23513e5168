from __future__ import annotations

import json

import pytest

from sr_deploy.results.rows import read_rows


def test_a_checkpoint_and_an_engine_that_cannot_run_here(run_cli, asrn, rtx_engine, data, tmp_path):
    args = [
        "bench",
        asrn,
        rtx_engine,
        "--variants",
        "d1",
        "--data",
        data,
        "--size",
        "16x16",
        "--runs",
        "2",
    ]
    result = run_cli(*args, "--json", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    measured, failed = json.loads(result.stdout)
    assert (measured["model"], measured["variant"], measured["set"], measured["runs"]) == (
        "tiny-asrn_x2",
        "d1",
        "Tiny",
        2,
    )
    assert (
        measured["psnr_db"] > 0
        and measured["latency_ms_median"] > 0
        and measured["input_hw"] == [16, 16]
    )
    assert (
        failed["backend"] == "tensorrt-rtx" and "needs the GPU of target 'rtx'" in failed["error"]
    )
    assert all(failed[k] is None for k in ("psnr_db", "latency_ms_median", "mem_peak_mib", "runs"))
    assert [row.model for row in read_rows(tmp_path / "out" / "rows.jsonl")] == [
        "tiny-asrn_x2",
        "m_x2",
    ]
    table = run_cli(*args)
    assert table.stdout.startswith("| Model") and "not run: m_x2.d1.8x8.fp16.engine" in table.stdout
    assert "#Params" not in table.stderr and "tiny-asrn_x2.d1" in table.stderr


def test_nothing_could_be_measured(run_cli, rtx_engine, tmp_path):
    result = run_cli("bench", rtx_engine, "-o", tmp_path / "out")
    assert result.exit_code == 1 and "no network could be measured" in result.stderr
    assert "not run: m_x2.d1" in result.stdout
    assert len(read_rows(tmp_path / "out" / "rows.jsonl")) == 1


@pytest.mark.parametrize(
    "name, words",
    [
        ("absent.onnx", "there is no file"),
        ("absent.engine", "there is no file"),
        ("absent.safetensors", "there is no"),
    ],
)
def test_a_missing_file(fails, tmp_path, name, words):
    if name.endswith("safetensors"):
        pytest.importorskip("torch", reason="torch is not installed; it runs checkpoints")
    assert words in fails("bench", tmp_path / name)


def test_an_engine_edited_after_its_manifest_was_written(fails, rtx_engine):
    rtx_engine.write_bytes(b"vtrT")
    assert "was changed after its manifest was written" in fails("bench", rtx_engine)


def test_an_empty_folder_a_variant_that_is_not_held_and_bad_data(fails, asrn, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "contains no .onnx or .engine file" in fails("bench", tmp_path / "empty")
    assert "has no variant 'd9'; it has d1, d2" in fails("bench", asrn, "--variants", "d9")
    assert "contains no images" in fails(
        "bench", asrn, "--variants", "d1", "--data", tmp_path / "empty"
    )
    assert "there is no folder" in fails(
        "bench", asrn, "--variants", "d1", "--data", tmp_path / "absent"
    )


def test_a_text_file_named_onnx(run_cli, tmp_path, data):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    (tmp_path / "text.onnx").write_text("just text\n")
    result = run_cli("bench", tmp_path / "text.onnx", "--data", data)
    assert "text.onnx is not an ONNX model" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr and not isinstance(result.exception, Exception)
    assert result.exit_code == 1


def test_an_output_folder_that_cannot_be_written_is_found_before_measuring(
    fails, tmp_path, rtx_engine
):
    error = fails("bench", rtx_engine, "-o", rtx_engine / "below")
    assert "cannot write to the folder" in error and error.startswith("error: ")


def test_a_perfect_score_is_shown_not_a_crash(run_cli, perfect):
    """Infinite PSNR has no number in JSON; it must not end the whole run either."""
    graph, images = perfect
    result = run_cli("bench", graph, "--data", images, "--runs", "2", "--json")
    assert result.exit_code == 0, (result.stderr, result.exception)
    (row,) = json.loads(result.stdout)
    assert row["ssim"] == 1 and row["psnr_db"] is None and row["latency_ms_median"] > 0


def test_a_challenge_s_files_are_written_beside_the_rows(run_cli, perfect, data, tmp_path):
    graph, _ = perfect
    args = [
        "bench",
        graph,
        "--data",
        data,
        "--protocol",
        "steady",
        "--protocol",
        "ntire2024",
        "--runs",
        "1",
        "-o",
        tmp_path / "out",
    ]
    result = run_cli(*args)
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert result.stdout.count("| Model") == 3 and "| rank" in result.stdout, (
        "a table each, and the ranks"
    )
    assert [row.protocol for row in read_rows(tmp_path / "out" / "rows.jsonl")] == [
        "ntire2024",
        "steady",
    ]
    entry = json.loads((tmp_path / "out" / "ntire2024" / "results.json").read_text())["nearest"]
    assert len(entry["valid_runtime"]) == len(entry["valid_psnr"]) == 1 and entry["flops"] is None
    assert (tmp_path / "out" / "ntire2024" / "results.txt").read_text().startswith("Model ")


def test_a_sweep_takes_its_options_from_the_plan(run_cli, fails, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"models": ["none_x4"], "shapes": ["8x8"], "backends": ["torch"]}))
    for args in (["--size", "8x8", "-o", tmp_path], ["asrn_x4", "-o", tmp_path], []):
        result = run_cli("bench", "--sweep", plan, *args)
        assert result.exit_code == 2, result.stderr
    assert "cannot read" in fails("bench", "--sweep", tmp_path / "absent.json", "-o", tmp_path)
    plan.write_text("{")
    assert "plan.json, line 1: not valid JSON" in fails("bench", "--sweep", plan, "-o", tmp_path)


def test_a_file_that_rows_cannot_be_added_to_is_found_before_measuring(fails, tmp_path, asrn, data):
    old = tmp_path / "old" / "rows.jsonl"
    old.parent.mkdir()
    old.write_text('{"schema": 1}\n')
    assert "rows.jsonl, line 1: not a row of schema 3; its schema is 1" in fails(
        "bench", asrn, "--data", data, "-o", old.parent
    )
    assert old.read_text() == '{"schema": 1}\n'
    (tmp_path / "folder" / "rows.jsonl").mkdir(parents=True)
    assert "rows.jsonl: Is a directory" in fails(
        "bench", asrn, "--data", data, "-o", tmp_path / "folder"
    )


def test_a_sweep_of_which_every_cell_failed_has_failed(run_cli, tmp_path, asrn, data):
    plan = {
        "models": [str(asrn)],
        "variants": ["d1"],
        "shapes": ["16x16"],
        "batch": [2, 3],
        "backends": ["torch"],
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    result = run_cli(
        "bench", "--sweep", tmp_path / "plan.json", "--data", data, "-o", tmp_path / "out"
    )
    assert result.exit_code == 1 and "not run" in result.stdout
    assert (
        "none of the 2 cells could be measured; "
        "the first: batch 2: sessions take one image at a time" in result.stderr
    )
    assert (
        "failed cells count as done" in result.stderr
        and len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 2
    )


NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))

    def forward(self, x):
        return self.body(x)
"""


def test_an_entrant_s_own_code_gives_the_challenge_s_files(run_cli, data, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed; it runs the network")
    monkeypatch.setattr("sr_deploy.bench.measure.peak_mib", lambda *given: None)
    file, weights = tmp_path / "mynet.py", tmp_path / "w.pth"
    file.write_text(NETWORK)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 48, 3)
    torch.save({"body.0.weight": conv.weight.data, "body.0.bias": conv.bias.data}, weights)
    args = ["bench", f"{file}:Net", "--weights", weights, "--protocol", "ntire2026"]
    result = run_cli(*args, "--data", data, "--test", data, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    (row,) = read_rows(tmp_path / "out" / "rows.jsonl")
    assert (row.variant, row.convs, row.counter) == ("", 1, "fvcore")
    assert row.psnr_db and row.counted_hw == (256, 256) and row.params == 1344
    folder = tmp_path / "out" / "ntire2026"
    assert list(json.loads((folder / "results.json").read_text())) == [row.model]
    assert row.model in (folder / "results.txt").read_text()
    assert "| Score |" in " ".join(result.stdout.split()) and "bench --score" in result.stdout
    told = run_cli(*args, "--data", data, "--json")
    assert "-o DIR writes the rows, and the challenge's results.txt" in told.stderr
