from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed; it runs checkpoints")
pytest.importorskip("cv2", reason="opencv is not installed; it reads and writes the images")

import torch  # noqa: E402
from doubles.torch_cuda import StandInTorchCuda  # noqa: E402

import sr_deploy  # noqa: E402
from sr_deploy.bench.evaluate import Bicubic, evaluate, image_set  # noqa: E402
from sr_deploy.bench.measure import MeasureOptions, rows_from_artifacts  # noqa: E402
from sr_deploy.bench.quality import image_sets, quality_from_artifacts  # noqa: E402
from sr_deploy.core.errors import CheckpointError, InputError  # noqa: E402
from sr_deploy.core.images import imresize, read_rgb, write_png  # noqa: E402
from sr_deploy.core.manifest import read_manifest  # noqa: E402
from sr_deploy.core.run_options import RunOptions  # noqa: E402
from sr_deploy.core.spec import Variant  # noqa: E402
from sr_deploy.export.pipeline import ExportOptions, onnx_from_checkpoint  # noqa: E402
from sr_deploy.nets import ARCHITECTURES  # noqa: E402
from sr_deploy.nets.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from sr_deploy.results.tables import ntire_table, quality_table  # noqa: E402


def measure(networks, **options):
    return list(rows_from_artifacts(networks, MeasureOptions(**options)))


def score(networks, **options):
    return list(quality_from_artifacts(networks, **options))


def hr_folder(path, seed):
    path.mkdir(parents=True)
    for i in range(2):
        noise = np.random.default_rng(seed + i).integers(0, 256, (9, 10, 3), dtype=np.uint8)
        write_png(path / f"{i}.png", imresize(noise, scale=6))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Checkpoints of x2 (two depths) and x3, and two sets."""
    folder = tmp_path_factory.mktemp("quality")
    torch.manual_seed(0)
    for scale, depth in ((2, 2), (3, 1)):
        net = ARCHITECTURES["asrn"].build(scale, Variant("d", depth))
        save_checkpoint(
            folder,
            f"tiny_x{scale}",
            ARCHITECTURES["asrn"].spec(scale, Variant("d", depth), elastic=True),
            net.state_dict(),
        )
    hr_folder(folder / "One" / "HR", 0)
    hr_folder(folder / "Two", 10)
    return folder


def test_a_row_per_set_and_variant_after_bicubic(place):
    rows = score(place / "tiny_x2.safetensors", data=[place / "One" / "HR", place / "Two"])
    assert [(r.model, r.variant, r.set) for r in rows] == [
        ("bicubic", "", "One"),
        ("bicubic", "", "Two"),
        ("tiny_x2", "d1", "One"),
        ("tiny_x2", "d1", "Two"),
        ("tiny_x2", "d2", "One"),
        ("tiny_x2", "d2", "Two"),
    ]
    reference = evaluate(Bicubic(2), image_set(str(place / "Two")), metric="y")
    assert (rows[1].psnr_db, rows[1].ssim, rows[1].params) == (
        reference.psnr_db,
        reference.ssim,
        None,
    )
    assert rows[2].params == 69_891 and rows[2].counter == "hooks" and rows[2].macs_g > 0
    for row in rows:
        assert (row.scale, row.metric, row.border_px, row.degradation, row.tiling) == (
            2,
            "y",
            2,
            "bi",
            "whole",
        )
        assert np.mean([image["psnr_db"] for image in row.images]) == pytest.approx(
            row.psnr_db, abs=1e-9
        )


def test_bench_scores_the_same(place):
    (measured,) = measure(
        place / "tiny_x2.safetensors", variants="d1", data=str(place / "Two"), lr="16x16", runs=1
    )
    scored = score(place / "tiny_x2.safetensors", variants="d1", data=place / "Two")[-1]
    assert (measured.psnr_db, measured.ssim, measured.set) == (
        scored.psnr_db,
        scored.ssim,
        scored.set,
    )


def test_each_scale_has_its_table_with_bicubic_first(place):
    models = [place / "tiny_x2.safetensors", place / "tiny_x3.safetensors"]
    table = quality_table(
        score(models, variants="d1", data=[place / "Two", place / "One"])
    ).splitlines()
    starts = [i for i, line in enumerate(table) if line.startswith("| x")]
    assert [table[i].split("|")[1].strip() for i in starts] == ["x2, y, bi", "x3, y, bi"]
    assert all(
        "Two PSNR/SSIM" in table[i] and table[i].index("Two") < table[i].index("One")
        for i in starts
    )
    assert all(
        table[i + 2].startswith("| bicubic") and table[i + 3].startswith("| tiny_x") for i in starts
    )
    assert "PSNR, SSIM: y, border 2; y, border 3" in table and "images: Two (2); One (2)" in table


@pytest.mark.parametrize("degradation", ["bd", "dn"])
def test_degradations_at_x3_only_and_refused_before_any_work(place, degradation):
    rows = score(place / "tiny_x3.safetensors", data=place / "One" / "HR", degradation=degradation)
    assert {r.degradation for r in rows} == {degradation} and len(rows) == 2
    seen = []
    both = [place / "tiny_x3.safetensors", place / "tiny_x2.safetensors"]
    with pytest.raises(InputError, match=f"'{degradation}' is defined at x3, not at x2"):
        quality_from_artifacts(
            both, data=place / "One" / "HR", degradation=degradation, progress=seen.append
        )
    assert [line for line in seen if "prepared for" not in line] == []


@pytest.fixture(scope="module")
def blurred(place):
    """The x3 checkpoint, as one that is trained for LR images that are blurred."""
    source = load_checkpoint(place / "tiny_x3.safetensors")
    spec = replace(source.spec, degradation="bd")
    return save_checkpoint(place, "blurred_x3", spec, source.weights)


def test_lr_is_made_as_each_network_was_trained_for(place, blurred, tmp_path):
    data = place / "Two"
    rows = score([place / "tiny_x3.safetensors", blurred], data=data)
    assert [(r.model, r.degradation) for r in rows] == [
        ("bicubic", "bi"),
        ("bicubic", "bd"),
        ("tiny_x3", "bi"),
        ("blurred_x3", "bd"),
    ]
    asked = score(place / "tiny_x3.safetensors", data=data, degradation="bd")
    assert [r.psnr_db for r in asked] == [rows[1].psnr_db, rows[3].psnr_db]
    (graph,) = onnx_from_checkpoint(blurred, tmp_path, ExportOptions(sizes=["18x20"]))
    assert read_manifest(graph).degradation == "bd"
    for network in (blurred, graph):
        (row,) = measure(network, data=str(data), lr="18x20", runs=1)
        assert (row.degradation, row.bicubic_psnr_db) == ("bd", rows[1].psnr_db)
        assert row.psnr_db == pytest.approx(rows[3].psnr_db, abs=0.01)
    assert "LR: bd: Gaussian 7x7" in ntire_table([row])
    (tmp_path / "LR_x3").mkdir()
    for path in data.iterdir():
        write_png(tmp_path / "LR_x3" / f"{path.stem}x3.png", read_rgb(path)[::3, ::3])
    given = score([place / "tiny_x3.safetensors", blurred], data=data, lr_data=tmp_path)
    assert [r.model for r in given] == ["bicubic", "tiny_x3", "blurred_x3"]


def test_a_degradation_that_the_scale_has_not_is_refused_on_a_card(place, tmp_path):
    source = load_checkpoint(place / "tiny_x2.safetensors")
    path = save_checkpoint(tmp_path, "m_x2", replace(source.spec, degradation="bd"), source.weights)
    with pytest.raises(CheckpointError, match="m_x2.json: the degradation 'bd' is defined at x3"):
        load_checkpoint(path)


def test_two_sets_of_one_name_are_refused(place, tmp_path):
    hr_folder(tmp_path / "One" / "HR", 3)
    with pytest.raises(InputError, match="two sets are named One"):
        image_sets([place / "One" / "HR", tmp_path / "One" / "HR"])
    with pytest.raises(InputError, match="two sets are named Two"):
        image_sets([place / "Two", place / "Two"])


def test_it_is_part_of_the_python_api():
    assert (
        sr_deploy.quality_from_artifacts is quality_from_artifacts
        and sr_deploy.quality_table is quality_table
    )


@pytest.mark.parametrize(
    "given, options, message",
    [
        ([], {}, "nothing to measure"),
        (["tiny_x2.safetensors"], {"variants": []}, "the list of variants is empty"),
        (["tiny_x2.safetensors"], {"data": ""}, "the name of an image folder is empty"),
        (["One"], {"variants": "d1"}, "variants are given, but no checkpoint"),
        (
            ["a.onnx", "b.engine"],
            {"variants": ["d1"]},
            "variants are given, but no checkpoint",
        ),
    ],
)
@pytest.mark.parametrize("api", [score, measure])
def test_requests_for_nothing_are_refused(place, api, given, options, message):
    if api is measure and "data" in options:
        pytest.skip("no data are scikit-image's photographs there")
    with pytest.raises(InputError, match=message):
        api([place / name for name in given], **options)


def test_two_models_of_one_name_are_refused(place, tmp_path):
    for end in (".safetensors", ".json"):
        shutil.copy(place / f"tiny_x2{end}", tmp_path)
    paths = [place / "tiny_x2.safetensors", tmp_path / "tiny_x2.safetensors"]
    with pytest.raises(InputError, match="are both named tiny_x2 in the table") as e:
        quality_from_artifacts(paths, data=place / "Two", run=RunOptions(runtime="torch"))
    assert all(str(path) in e.value.message for path in paths)


def test_the_gpu_and_its_settings_are_recorded(place, monkeypatch):
    gpu, lines = StandInTorchCuda(monkeypatch), []
    run = RunOptions(precision="bf16")
    rows = score(
        place / "tiny_x2.safetensors",
        variants="d1",
        data=place / "Two",
        run=run,
        progress=lines.append,
    )
    row = rows[-1]
    assert (row.device, row.precision, row.warnings) == ("a stand-in GPU", "bf16", ())
    assert "TF32 off" in row.settings and "(torch, a stand-in GPU)" in lines[-1]
    assert gpu.calls[-1] == "empty cache"  # the session was closed


def test_a_gpu_that_is_not_used_is_told(place, monkeypatch):
    StandInTorchCuda(monkeypatch, failing={"init": RuntimeError("the driver is too old")})
    lines = []
    row = score(
        place / "tiny_x2.safetensors",
        variants="d1",
        data=place / "Two",
        run=RunOptions(runtime="torch"),
        progress=lines.append,
    )[-1]
    assert "the driver is too old" in row.warnings[0] and row.device == ""
    assert any("the driver is too old" in line for line in lines)


def test_a_network_that_runs_out_of_memory_keeps_its_earlier_rows(place, monkeypatch):
    gpu = StandInTorchCuda(monkeypatch)
    pending = quality_from_artifacts(
        place / "tiny_x2.safetensors",
        variants="d1",
        data=[place / "One" / "HR", place / "Two"],
        run=RunOptions(runtime="torch"),
    )
    rows = []
    for row in pending:
        rows.append(row)
        if row.model != "bicubic":
            gpu.failing["run"] = torch.cuda.OutOfMemoryError("CUDA out of memory")
    assert [row.set for row in rows[2:]] == ["One", "Two"]
    assert rows[2].psnr_db is not None and "is out of memory" in rows[3].error


def test_lr_images_can_be_given(place, tmp_path):
    hr, lr = place / "Two", tmp_path / "LR_x2"
    lr.mkdir()
    for path in hr.iterdir():
        write_png(lr / f"{path.stem}x2.png", imresize(read_rgb(path), scale=1 / 2)[:, ::-1])
    network = place / "tiny_x2.safetensors"
    made = score(network, variants="d1", data=hr)
    lines = []
    given = score(network, variants="d1", data=hr, lr_data=tmp_path, progress=lines.append)
    (row,) = measure(
        network, variants="d1", data=str(hr), lr_data=str(tmp_path), lr="16x16", runs=1
    )
    assert any("x2 LR are the 2 images in LR_x2" in line for line in lines)
    assert [r.degradation for r in (*made, *given, row)] == ["bi", "bi", "given", "given", "given"]
    assert given[1].psnr_db == row.psnr_db != made[1].psnr_db
    assert all(g.psnr_db < m.psnr_db for g, m in zip(given, made))  # mirrored: bicubic too
    assert "LR: given, not made from HR" in quality_table(given) and "given" in ntire_table([row])
    with pytest.raises(InputError, match="the degradation 'bi' does not make them"):
        quality_from_artifacts(network, data=hr, lr_data=tmp_path, degradation="bi")
    with pytest.raises(InputError, match="1 LR folders for 2 HR folders"):
        quality_from_artifacts(network, data=[hr, place / "One"], lr_data=tmp_path)
    with pytest.raises(InputError, match="has LR images of no HR images"):
        MeasureOptions(lr_data=str(lr))
    write_png(lr / "0x2.png", np.zeros((9, 10, 3), np.uint8))
    with pytest.raises(InputError, match="0x2.png has 9x10 pixels; expected 27x30"):
        measure(network, variants="d1", data=str(hr), lr_data=str(lr))


def test_graphs_that_cannot_run_are_rows_with_the_reason(place, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs graphs")
    names = ("cut.onnx", "empty.onnx", "text.onnx")
    for name, content in zip(names, (b"\x08\x08:\x05\n", b"", b"<html>")):
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in names]
    rows = score([*paths, place / "tiny_x3.safetensors"], data=place / "Two")[1:]
    assert ["not an ONNX model" in row.error for row in rows] == [True, True, True, False]
    assert rows[3].psnr_db is not None
    rows = measure(paths, data=str(place / "Two"))
    assert ["not an ONNX model" in row.error for row in rows] == [True, True, True]


def test_an_adaptive_network_is_scored_with_each_budget(tmp_path):
    folder = hr_folder(tmp_path / "HR", 3)
    large = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    write_png(folder / "0.png", imresize(large, scale=8))
    (folder / "1.png").unlink()
    options = {"data": folder, "run": RunOptions(runtime="torch")}
    rows = score(["cdnsr-fsrcnn_x4", "fsrcnn-w16_x4"], **options, max_flops=["100%", "60%"])[1:]
    assert [(r.model, r.variant) for r in rows] == [
        ("cdnsr-fsrcnn_x4", "100%"),
        ("cdnsr-fsrcnn_x4", "60%"),
        ("fsrcnn-w16_x4", "w16"),
    ]
    assert rows[1].executed["share"] <= 0.6 < rows[0].executed["share"]
    assert rows[1].images[0]["macs_g"] > 0 and rows[2].executed is None
    assert f"{rows[0].set} work" in quality_table(rows)
    with pytest.raises(InputError, match="too small for a large image, .*'fsrcnn-w16_x4.w16'"):
        score(["cdnsr-fsrcnn_x4"], **options, max_flops=["30%"])
    with pytest.raises(InputError, match="--max-flops is for networks that route patches"):
        score("fsrcnn-w16_x4", max_flops=["70%"])
    with pytest.raises(InputError, match="'much' is no|expected"):
        score("cdnsr-fsrcnn_x4", max_flops=["much"])
