from __future__ import annotations

import json
import sys

import numpy as np
import pytest

KEYS = {
    "model",
    "variant",
    "set",
    "metric",
    "border_px",
    "psnr_db",
    "ssim",
    "degradation",
    "scale",
    "params",
    "macs_g",
    "counter",
    "tiling",
    "images",
    "backend",
    "artifact",
}


@pytest.fixture()
def data(tmp_path):
    """Two sets of one small image each."""
    pytest.importorskip("cv2", reason="opencv is not installed; it reads and writes the images")
    from sr_deploy.core.images import imresize, write_png

    for i, name in enumerate(("Set5", "Other")):
        (tmp_path / name / "HR").mkdir(parents=True)
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        write_png(tmp_path / name / "HR" / "one.png", imresize(noise, scale=6))
    return ["--data", tmp_path / "Set5" / "HR", "--data", tmp_path / "Other" / "HR"]


def test_json_has_an_object_per_set_and_variant(run_cli, asrn, data):
    result = run_cli("eval", asrn, *data, "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [(r["variant"], r["set"]) for r in rows] == [
        ("d1", "Set5"),
        ("d1", "Other"),
        ("d2", "Set5"),
        ("d2", "Other"),
    ]
    for row in rows:
        assert set(row) >= KEYS and row["model"] == "tiny-asrn_x2"
        assert [set(image) for image in row["images"]] == [{"image", "psnr_db", "ssim"}]
        assert row["psnr_db"] == row["images"][0]["psnr_db"] and row["params"] > 0
    assert "bicubic, x2, Set5" in result.stderr


def test_the_table_is_data_and_the_rest_is_not(run_cli, asrn, data):
    result = run_cli("eval", asrn, "--variants", "d1", "--metric", "rgb", *data)
    lines = result.stdout.splitlines()
    assert (
        result.exit_code == 0
        and lines[0].startswith("| x2, rgb, bi ")
        and "Set5 PSNR/SSIM | Other PSNR/SSIM |" in lines[0]
    )
    assert lines[2].startswith("| bicubic") and lines[3].startswith("| tiny-asrn_x2.d1")
    assert "PSNR, SSIM: rgb, border 4" in lines and not any("dB" in line for line in lines)


def test_an_output_folder_holds_the_same_and_a_figure(run_cli, asrn, data, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the figure")
    out = tmp_path / "out"
    result = run_cli("eval", asrn, *data, "--json", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in out.iterdir()) == ["eval.json", "eval.md", "psnr.png", "psnr.svg"]
    assert json.loads((out / "eval.json").read_text(encoding="utf-8")) == json.loads(result.stdout)
    table, _, notes = (
        (out / "eval.md").read_text(encoding="utf-8").partition("\n\n- printed numbers")
    )
    assert table + "\n" == run_cli("eval", asrn, *data).stdout
    assert "SRN, Table 1: " in notes and "printed numbers: SRN, Table 1: " in result.stderr
    assert (out / "psnr.png").read_bytes()[:4] == b"\x89PNG"


def test_bad_input_leaves_nothing(fails, asrn, data, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the figure")
    out = tmp_path / "out"
    assert "is defined at x3, not at x2" in fails(
        "eval", asrn, *data, "--degradation", "bd", "-o", out
    )
    assert "has no variant 'd9'" in fails("eval", asrn, *data, "--variants", "d9", "-o", out)
    assert "there is no folder" in fails("eval", asrn, "--data", tmp_path / "absent", "-o", out)
    assert "two sets are named Set5" in fails("eval", asrn, *data, *data[:2], "-o", out)
    assert "there is no file" in fails("eval", asrn, tmp_path / "absent.onnx", *data, "-o", out)
    (tmp_path / "Other" / "HR" / "two.png").write_bytes(b"no picture")
    assert "two.png is not an image" in fails("eval", asrn, *data, "-o", out)
    assert not out.exists()


def test_without_matplotlib_only_the_figure_is_refused_and_at_once(
    run_cli, fails, asrn, data, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = fails("eval", asrn, *data, "-o", tmp_path / "out")
    assert "needs the package 'matplotlib'" in error and "pip install 'matplotlib>=" in error
    assert "bicubic" not in error and not (tmp_path / "out").exists()
    assert run_cli("eval", asrn, *data, "--variants", "d1").exit_code == 0


def test_a_perfect_score_is_null(run_cli, perfect, tmp_path):
    graph, images = perfect
    args = ["eval", graph, "--data", images]
    result = run_cli(*args, "--json")
    assert result.exit_code == 0, (result.stderr, result.exception)
    (row,) = json.loads(result.stdout)
    assert (row["psnr_db"], row["images"][0]["psnr_db"], row["ssim"]) == (None, None, 1)
    assert (row["artifact"], row["backend"], row["scale"], row["params"]) == (
        "nearest.onnx",
        "onnxruntime",
        2,
        0,
    )
    assert "inf/1.0000" in run_cli(*args).stdout
    refused = run_cli(*args, "--degradation", "dn")
    assert (
        refused.exit_code == 1
        and "'dn' is defined at x3, not at x2" in refused.stderr
        and refused.stdout == ""
    )


def test_an_engine_that_cannot_run_here_is_listed_with_the_reason(run_cli, rtx_engine, data):
    result = run_cli("eval", rtx_engine, *data, "--json")
    assert result.exit_code == 1 and "no network could be measured" in result.stderr
    rows = json.loads(result.stdout)
    assert [(r["set"], r["psnr_db"], r["ssim"], r["images"]) for r in rows] == [
        ("Set5", None, None, []),
        ("Other", None, None, []),
    ]
    assert all("needs the GPU of target 'rtx'" in r["error"] and r["scale"] == 2 for r in rows)
    table = run_cli("eval", rtx_engine, *data).stdout
    assert (
        table.count("not run: m_x2.d1.8x8.fp16.engine (tensorrt-rtx)") == 1 and "| bicubic" in table
    )


def test_an_interrupt_leaves_no_folder(run_cli, fails, asrn, data, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the figure")
    from sr_deploy.results.report import quality_figure

    def interrupted(rows):
        assert (tmp_path / "a" / "out").is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(quality_figure, "quality_figure", interrupted)
    assert (
        run_cli("eval", asrn, *data, "--variants", "d1", "-o", tmp_path / "a" / "out").exit_code
        == 1
    )
    assert not (tmp_path / "a").exists()
    assert "--output is empty" in fails("eval", asrn, *data, "-o", "")
    assert "the name of an image folder is empty" in fails("eval", asrn, "--data", "")
