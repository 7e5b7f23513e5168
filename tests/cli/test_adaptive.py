"""`upscale --adaptive`, `export --adaptive` and `bench` of adaptive networks."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from doubles.branches import small_branches

pytest.importorskip("cv2")
pytest.importorskip("torch")

import cv2  # noqa: E402

from sr_deploy.core.shipped import shipped_graphs  # noqa: E402


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Half flat, half noise."""
    path = tmp_path_factory.mktemp("in") / "a.png"
    image = np.full((40, 160, 3), 128, np.uint8)
    image[:, 80:] = np.random.default_rng(0).integers(0, 256, (40, 80, 3))
    cv2.imwrite(str(path), image)
    return path


def test_a_picture_by_the_shipped_default_with_its_decisions(run_cli, picture, tmp_path):
    sr, drawn = tmp_path / "b.png", tmp_path / "d.png"
    result = run_cli("upscale", picture, "--adaptive", "cdnsr", "--decisions", drawn, "-o", sr)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{sr}\n{drawn}\n"
    assert (
        "% of the plain network's multiply-accumulates (w16 " in result.stderr
        and "blue is the least" in result.stderr
    )
    assert cv2.imread(str(sr)).shape == cv2.imread(str(drawn)).shape == (160, 640, 3)
    blue, _, red = cv2.imread(str(drawn)).reshape(-1, 3).mean(axis=0)
    assert blue != red


def test_decisions_of_tiles_are_one_picture(run_cli, picture, tmp_path):
    router = small_branches(tmp_path, blend="average", overlap=4).path
    whole, tiled = tmp_path / "whole.png", tmp_path / "tiled.png"
    command = ("upscale", picture, "--adaptive", "cdnsr", "-m", router)
    run_cli(*command, "--decisions", whole, "-o", tmp_path / "a.png")
    result = run_cli(*command, "--decisions", tiled, "--tile", 112, "-o", tmp_path / "b.png")
    assert (
        "tiles of at most" in result.stderr and "equal to the whole image's result" in result.stderr
    )
    assert whole.read_bytes() == tiled.read_bytes()
    difference = cv2.imread(str(tmp_path / "a.png")).astype(int) - cv2.imread(
        str(tmp_path / "b.png")
    )
    assert np.abs(difference).max() <= 1


def test_a_budget_is_kept_and_a_folder_goes_on_by_it(run_cli, picture, tmp_path):
    command = ("upscale", picture.parent, "--adaptive", "elastic", "-o", tmp_path / "out")
    first = run_cli(*command, "--max-flops", "80%")
    assert first.exit_code == 0, first.stderr
    share = float(first.stderr.partition("% of the plain network")[0].rpartition(" ")[2])
    assert 70 < share <= 80
    assert "1 finished before" in run_cli(*command, "--max-flops", "80%").stderr
    assert (
        "1 upscaled" in run_cli(*command, "--max-flops", "90%").stderr
    )  # another budget is another result


@pytest.mark.parametrize(
    "options, words",
    [
        (
            ("--adaptive", "elastic", "--max-flops", "10%"),
            "'asrn_x4.d1' everywhere and the prediction of gains take 26.6%",
        ),
        (
            ("--adaptive", "elastic", "--max-flops", "1000%"),
            "is not a valid share of the plain network's work",
        ),
        (("--adaptive", "adadsr", "--depth", "17"), "expected 0 to 16, the blocks of the backbone"),
        (("--adaptive", "adadsr", "--max-flops", "60%"), "AdaDSR has a desired depth"),
        (("--adaptive", "cdnsr", "--depth", "8"), "'cdnsr' takes a budget"),
        (("--adaptive", "cdnsr", "-m", "elastic-asrn_x4"), "that is elastic, not cdnsr"),
        (
            ("--adaptive", "cdnsr", "--variant", "d1"),
            "--adaptive chooses a branch for each part of an image",
        ),
        (("--max-flops", "60%", "-m", "asrn_x4"), "need an adaptive network"),
    ],
)
def test_what_does_not_go_together_is_refused_and_nothing_written(
    run_cli, picture, tmp_path, options, words
):
    result = run_cli("upscale", picture, *options, "-o", tmp_path / "out" / "b.png")
    assert result.exit_code == 1 and words in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, words",
    [("a.png", "would replace the picture or its result"), ("d.jpg", "expected a .png file")],
)
def test_decisions_never_replace_a_picture(run_cli, picture, tmp_path, name, words):
    before = picture.read_bytes()
    result = run_cli(
        "upscale",
        picture,
        "--adaptive",
        "cdnsr",
        "--decisions",
        picture.parent / name,
        "-o",
        tmp_path / "b.png",
    )
    assert result.exit_code == 1 and words in result.stderr
    assert picture.read_bytes() == before and not (tmp_path / "b.png").exists()


def test_decisions_go_into_a_folder_that_is_made(run_cli, picture, tmp_path):
    result = run_cli(
        "upscale",
        picture,
        "--adaptive",
        "cdnsr",
        "--decisions",
        tmp_path / "new" / "d.png",
        "-o",
        tmp_path / "b.png",
    )
    assert result.exit_code == 0 and (tmp_path / "new" / "d.png").is_file()


def test_decisions_of_a_folder_are_refused(run_cli, picture, tmp_path):
    result = run_cli(
        "upscale",
        picture.parent,
        "--adaptive",
        "cdnsr",
        "--decisions",
        tmp_path / "d.png",
        "-o",
        tmp_path / "out",
    )
    assert result.exit_code == 1 and "--decisions is for a single picture" in result.stderr


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The default of cdnsr, as `export --adaptive` writes it."""
    folder = tmp_path_factory.mktemp("plans")
    for path in shipped_graphs().glob("cdnsr-fsrcnn-gains_x4.*"):
        shutil.copy(path, folder)
    return folder / "cdnsr-fsrcnn-gains_x4.branches.json"


def test_export_says_what_goes_with_it(run_cli, tmp_path):
    result = run_cli(
        "export", "cdnsr-fsrcnn_x4", "--adaptive", "--size", "8x8", "-o", tmp_path / "out"
    )
    assert (
        result.exit_code == 1
        and "does not take --size" in result.stderr
        and not (tmp_path / "out").exists()
    )
    result = run_cli("export", "asrn_x4", "--adaptive", "-o", tmp_path / "out")
    assert result.exit_code == 1 and "only AdaEDSR and AdaRCAN can skip blocks" in result.stderr


def test_an_exported_router_upscales_as_its_checkpoints_do(run_cli, plan, picture, tmp_path):
    for name, given in (
        ("a.png", ("--runtime", "torch")),
        ("b.png", ("-m", plan)),
        ("c.png", ("-m", plan.parent)),
    ):
        result = run_cli("upscale", picture, "--adaptive", "cdnsr", *given, "-o", tmp_path / name)
        assert result.exit_code == 0, result.stderr
    a, b, c = (cv2.imread(str(tmp_path / name)).astype(int) for name in ("a.png", "b.png", "c.png"))
    assert np.abs(a - b).max() <= 1 and (b == c).all()


def test_bench_says_what_was_executed(run_cli, plan, tmp_path):
    result = run_cli("bench", plan, "--size", "40x70", "--runs", "3", "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "executed, timed / set" in result.stdout
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert (row["model"], row["backend"], row["artifact"]) == (
        "cdnsr-fsrcnn-gains_x4",
        "onnxruntime",
        plan.name,
    )
    assert 0.4 < row["executed"]["share"] < 1.5 and 0.4 < row["executed"]["timed_share"] < 3
    assert sum(row["executed"]["ways"].values()) == pytest.approx(1, abs=1e-3)
    assert 0 < row["executed"]["macs_g"] and row["bicubic_psnr_db"] > 0
    result = run_cli(
        "bench", plan.parent, "--size", "40x70", "--runs", "3", "-o", tmp_path / "folder"
    )
    assert (
        result.exit_code == 0
        and len((tmp_path / "folder" / "rows.jsonl").read_text().splitlines()) == 1
    ), result.stderr
    result = run_cli("bench", plan, "--variants", "d1", "-o", tmp_path)
    assert result.exit_code == 1 and "it has no variants" in result.stderr


def test_engines_of_a_plan_are_built_listed_and_kept(run_cli, plan, picture, tmp_path):
    command = ("build-engine", plan.parent, "--target", "cpu", "-o", tmp_path / "engines")
    result = run_cli(*command, "--dry-run")
    assert result.exit_code == 0 and "1 of 1 engines to build" in result.stderr, result.stderr
    assert not (tmp_path / "engines").exists()
    result = run_cli(*command)
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'engines' / plan.name}\n"
    assert f"{plan.name}: up to date" in run_cli(*command).stderr
    result = run_cli("upscale", picture, "-m", tmp_path / "engines", "-o", tmp_path / "a.png")
    assert result.exit_code == 0 and "by onnxruntime on the CPU" in result.stderr, result.stderr
    result = run_cli("build-engine", plan, "--target", "rtx", "-o", tmp_path / "rtx")
    assert result.exit_code == 1 and not (tmp_path / "rtx").exists()
