"""export --precision int8, and folders of pictures as users give them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from sr_deploy.core.manifest import read_manifest

pytestmark = pytest.mark.usefixtures("exporter")


def waves(side=160, seed=0, channels=3):
    """Return a picture, (side, side, channels) float64, 0..1."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:side, :side] / side
    phases = rng.uniform(5, 40, (channels, 2)) @ np.array([y.ravel(), x.ravel()])
    return (0.5 + 0.5 * np.sin(phases)).T.reshape(side, side, channels)


def pictures(folder, images):
    import cv2

    folder.mkdir()
    for i, image in enumerate(images):
        assert cv2.imwrite(str(folder / f"{i}.png"), image)
    return folder


def bytes_of(image):
    return np.rint(image * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(exporter, tmp_path_factory):
    images = [bytes_of(waves(seed=seed)) for seed in range(3)]
    return pictures(tmp_path_factory.mktemp("int8") / "photos", images)


def int8(model, folder, out, *others):
    options = ["--precision", "int8", "--calibrate", folder, "--target", "cpu"]
    words = ["export", model, "--variants", "d1", "--size", "16x24", *options, "-o", out, *others]
    return [str(word) for word in words]


def test_the_loss_is_told_and_recorded_and_the_graph_is_kept(run_cli, asrn, photos, tmp_path):
    command = int8(asrn, photos, tmp_path / "out")
    first, second = run_cli(*command), run_cli(*command)
    assert first.exit_code == 0, first.stderr
    path = tmp_path / "out" / "tiny-asrn_x2.d1.16x24.int8.onnx"
    assert first.stdout == f"{path}\n" and "dB lost (limit 0.10), " in first.stderr
    assert second.stderr.endswith(f"{path.name}: up to date\n")
    manifest = read_manifest(path)
    record = manifest.checks["int8"]
    assert "int8" in manifest.precision_obtained and manifest.fp32_nodes == ()
    assert record["loss_db"] <= 0.1 and record["curve"][0]["kept"] == 0
    assert manifest.psnr_db_vs_fp32 == record["psnr_db_vs_fp32"] > 30
    assert manifest.command.endswith(f"--calibrate {photos} --max-loss-db 0.1")


def test_ctrl_c_leaves_nothing_half_written(run_cli, asrn, photos, tmp_path, monkeypatch):
    from sr_deploy.export.int8 import quantise

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(quantise, "search_kept", interrupted)
    result = run_cli(*int8(asrn, photos, tmp_path / "out"))
    assert result.exit_code != 0 and not result.stdout
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def test_folders_without_pictures_that_can_be_used(fails, asrn, photos, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in ("a.txt", "b.md"):
        (texts / name).write_text("no picture")
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "a.png").write_text("no picture")
    tiny = pictures(tmp_path / "tiny", [bytes_of(waves(20))])
    for folder, words in (
        (texts, ("no images", "texts")),
        (fake, ("a.png",)),
        (tiny, ("cannot calibrate an x2 network", "HR pictures")),
    ):
        error = fails(*int8(asrn, folder, tmp_path / "out"))
        assert all(word in error for word in words), error
        assert not (tmp_path / "out").exists()
    error = fails(*int8(asrn, photos, tmp_path / "out", "--data", texts))
    assert "no images" in error


@pytest.mark.slow
@pytest.mark.parametrize(
    "images, note",
    [
        (
            [bytes_of(waves(300))],
            "calibrated with one picture: the loss is measured on other crops",
        ),
        (
            [bytes_of(waves(seed=i, channels=1)) for i in range(2)],
            "the pictures are grey: what colours need was not calibrated",
        ),
        ([np.rint(waves(seed=i) * 65535).astype(np.uint16) for i in range(2)], ""),
    ],
    ids=["one", "grey", "16 bit"],
)
def test_pictures_of_other_kinds(run_cli, asrn, tmp_path, images, note):
    folder = pictures(tmp_path / "pictures", images)
    result = run_cli(*int8(asrn, folder, tmp_path / "out", "--keep", "none"))
    assert result.exit_code == 0, result.stderr
    assert note in result.stderr and "INT8, " in result.stderr


def test_without_a_target_those_of_this_machine_that_build_int8_are_taken(
    run_cli, fails, asrn, photos, monkeypatch
):
    from sr_deploy.runtime import build

    monkeypatch.setattr(build, "target_names_here", lambda: ["cpu", "cuda"])
    options = ["--precision", "int8", "--calibrate", str(photos), "--dry-run"]
    result = run_cli("export", asrn, *options)
    assert result.exit_code == 0, result.stderr
    assert "left out, since they build no int8 engines: cuda" in result.stderr
    assert "engines/graphs/cpu/" in result.stdout and "cuda" not in result.stdout
    monkeypatch.setattr(build, "target_names_here", lambda: ["cuda"])
    error = fails("export", asrn, *options)
    assert "no target of this machine (cuda) builds int8 engines" in error
    assert "hint: export for another one with --target: cpu, " in error
