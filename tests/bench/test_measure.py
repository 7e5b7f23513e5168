from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed; it runs checkpoints")
pytest.importorskip("onnx", reason="onnx is not installed; it writes the graphs")
pytest.importorskip("cv2", reason="opencv is not installed; it reads and writes the images")

import torch  # noqa: E402
from doubles.torch_cuda import StandInTorchCuda  # noqa: E402

from sr_deploy.bench.measure import MeasureOptions, rows_from_artifacts  # noqa: E402
from sr_deploy.bench.network_rows import row_of  # noqa: E402
from sr_deploy.bench.quality import quality_from_artifacts  # noqa: E402
from sr_deploy.core.errors import ArtifactError, InputError, VariantError  # noqa: E402
from sr_deploy.core.files import sha256_of  # noqa: E402
from sr_deploy.core.images import write_png  # noqa: E402
from sr_deploy.core.jsonio import to_json  # noqa: E402
from sr_deploy.core.manifest import manifest_path, read_manifest  # noqa: E402
from sr_deploy.core.run_options import RunOptions  # noqa: E402
from sr_deploy.core.spec import Variant  # noqa: E402
from sr_deploy.export.pipeline import ExportOptions, onnx_from_checkpoint  # noqa: E402
from sr_deploy.nets import ARCHITECTURES  # noqa: E402
from sr_deploy.nets.checkpoint import save_checkpoint  # noqa: E402
from sr_deploy.results.protocols import time_ms  # noqa: E402
from sr_deploy.results.rows import append_rows, read_rows  # noqa: E402
from sr_deploy.results.tables import ntire_table  # noqa: E402
from sr_deploy.runtime.build import engine_from_onnx  # noqa: E402
from sr_deploy.runtime.opener import describe  # noqa: E402
from sr_deploy.upscale import upscaler  # noqa: E402
from sr_deploy.upscale.memory import MemoryNeed  # noqa: E402

BY_TORCH = RunOptions(runtime="torch")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint, its static graphs, a cpu engine, an RTX engine that cannot run, HR images."""
    folder = tmp_path_factory.mktemp("bench")
    torch.manual_seed(0)
    net = ARCHITECTURES["asrn"].build(2, Variant("d", 2))
    with torch.no_grad():
        net.upsampler[-1].bias.fill_(0.5)
    save_checkpoint(
        folder,
        "tiny_x2",
        ARCHITECTURES["asrn"].spec(2, Variant("d", 2), elastic=True),
        net.state_dict(),
    )
    (folder / "Set" / "HR").mkdir(parents=True)
    for i in range(2):
        rgb = np.random.default_rng(i).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        write_png(folder / "Set" / "HR" / f"{i}.png", rgb)
    (folder / "Test" / "HR").mkdir(parents=True)
    write_png(
        folder / "Test" / "HR" / "t.png",
        np.random.default_rng(9).integers(0, 256, (40, 48, 3), dtype=np.uint8),
    )
    graphs = onnx_from_checkpoint(
        folder / "tiny_x2.safetensors",
        folder / "graphs",
        ExportOptions(sizes=["20x24"], precision="fp32"),
    )
    (half,) = onnx_from_checkpoint(
        folder / "tiny_x2.safetensors",
        folder / "half",
        ExportOptions(variants="d1", sizes=["20x24"]),
    )
    engine_from_onnx(graphs[0], folder / "engines", target="cpu")
    rtx = folder / "engines" / "tiny_x2.d1.20x24.fp16.engine"
    rtx.write_bytes(b"vtrt" + bytes(60))  # its manifest names the target; it is never opened
    manifest = replace(read_manifest(half), kind="engine", target="rtx", sha256=sha256_of(rtx))
    manifest_path(rtx).write_text(to_json(manifest))
    return folder


def measure(networks, *, progress=lambda line: None, **options):
    return list(rows_from_artifacts(networks, MeasureOptions(**options), progress=progress))


def bench(place, *given, **options):
    return measure(
        [place / g for g in given], data=str(place / "Set" / "HR"), lr="16x18", runs=2, **options
    )


@pytest.fixture(scope="module")
def checkpoint_rows(place):
    return bench(place, "tiny_x2.safetensors", run=BY_TORCH)


@pytest.mark.smoke
def test_a_checkpoint_gives_a_row_for_each_variant_with_counts(checkpoint_rows, place):
    assert [(r.model, r.variant, r.backend) for r in checkpoint_rows] == [
        ("tiny_x2", "d1", "torch"),
        ("tiny_x2", "d2", "torch"),
    ]
    for row, params in zip(checkpoint_rows, (69_891, 109_347)):
        assert row.params == params
        assert row.counter == "hooks" and row.counted_hw == (256, 256) and row.uncounted
        assert row.macs_g > 0 and row.acts_m > 0 and row.convs > 0
        assert row.artifact_sha256 == sha256_of(place / "tiny_x2.safetensors")


def test_a_row_records_its_conditions(checkpoint_rows):
    row = checkpoint_rows[0]
    assert row.error == "" and (row.scale, row.precision, row.input_hw, row.batch) == (
        2,
        "fp32",
        (16, 18),
        1,
    )
    assert row.runs == 2 and row.warmup >= 1 and row.first_ms > 0
    assert (
        0 < row.latency_ms_median <= row.latency_ms_p90 <= row.latency_ms_p95 <= row.latency_ms_p99
    )
    assert (row.set, len(row.images), row.metric, row.border_px, row.tiling) == (
        "Set",
        2,
        "y",
        2,
        "whole",
    )
    assert 0 < row.psnr_db < 60 and -1 <= row.ssim <= 1 and 0 < row.bicubic_psnr_db < 60
    for key in ("backend_version", "device", "python", "git_rev", "date_utc", "protocol"):
        assert getattr(row, key), key
    assert row.threads >= 1 and row.power_mode is None
    assert (row.mem_peak_mib is None) == (row.mem_definition == "")


def test_every_run_and_image_is_kept(checkpoint_rows):
    row = checkpoint_rows[0]
    assert len(row.latencies_ms) == row.runs and np.median(row.latencies_ms) == pytest.approx(
        row.latency_ms_median, abs=1e-3
    )
    assert row.latency_ms_mean > 0 and row.latency_cv >= 0 and row.warmup % 3 == 0
    assert [(i["image"], i["split"], i["lr_hw"]) for i in row.images] == [
        (f"{n}.png", "valid", [20, 24]) for n in range(2)
    ]
    assert np.mean([i["psnr_db"] for i in row.images]) == pytest.approx(row.psnr_db) and all(
        i["ms"] > 0 for i in row.images
    )
    assert set(row.conditions) == {"before", "during"}


def test_a_challenge_s_protocol_times_each_image_once_and_scores_on_rgb(place):
    options = {
        "data": str(place / "Set" / "HR"),
        "test": str(place / "Test" / "HR"),
        "variants": "d1",
    }
    steady, year = measure(
        place / "tiny_x2.safetensors",
        protocols=["ntire2025", "steady"],
        runs=2,
        lr="16x18",
        **options,
    )[::-1]
    assert (steady.protocol, year.protocol) == ("steady", "ntire2025")
    assert (year.set, year.test_set, year.metric, year.border_px, year.counter) == (
        "Set",
        "Test",
        "rgb",
        4,
        "fvcore",
    )
    assert (steady.metric, steady.counter, steady.test_set) == ("y", "hooks", "")
    assert (year.warmup, year.runs, year.input_hw) == (0, 3, None)
    assert [i["split"] for i in year.images] == [
        "valid",
        "valid",
        "test",
    ] and year.first_ms == pytest.approx(year.images[0]["ms"], abs=1e-3)
    valid, test = ([i["ms"] for i in year.images if i["split"] == s] for s in ("valid", "test"))
    assert time_ms(year) == pytest.approx((np.mean(valid) + np.mean(test)) / 2, abs=1e-3)
    assert year.psnr_db == pytest.approx(np.mean([i["psnr_db"] for i in year.images[:2]]))
    assert 0 < year.macs_g < steady.macs_g and year.params == steady.params, (
        "fvcore counts no activation"
    )
    assert any("timed by wall clock" in w for w in year.warnings) and any(
        "RTX A6000" in w for w in year.warnings
    )


def test_counts_of_the_network_as_trained_and_of_the_graph_as_deployed(place):
    (row,) = bench(place, "graphs/tiny_x2.d1.20x24.fp32.onnx")
    (year,) = measure(
        place / "graphs" / "tiny_x2.d1.20x24.fp32.onnx",
        data=str(place / "Set" / "HR"),
        protocols=["ntire2024"],
    )
    for r in (row, year):
        assert r.deployed["convs"] < r.convs and r.deployed["macs"] / 1e9 < r.macs_g, (
            "ASRN's linear layers are collapsed"
        )
    assert (row.counter, year.counter) == ("hooks", "fvcore") and year.uncounted
    assert bench(place, "engines/tiny_x2.d1.20x24.fp32.engine")[0].deployed == row.deployed


def test_so_many_threads(place):
    (row,) = bench(place, "graphs/tiny_x2.d1.20x24.fp32.onnx", threads=1)
    assert row.threads == 1


def test_frames_at_a_cadence(place):
    (row,) = measure(
        place / "graphs" / "tiny_x2.d1.20x24.fp32.onnx",
        data=str(place / "Set" / "HR"),
        runs=3,
        cadence_hz=1000,
    )
    assert row.cadence_hz == 1000 and "frames: one by one, 1000 a second" in ntire_table([row])


def test_variants_and_metric_can_be_chosen(place):
    (row,) = bench(place, "tiny_x2.safetensors", variants="d2", metric="rgb")
    assert (row.variant, row.metric, row.border_px) == ("d2", "rgb", 4)


@pytest.mark.smoke
def test_graphs_and_engines_score_as_torch_does(place, checkpoint_rows):
    graph, engine = bench(
        place, "graphs/tiny_x2.d1.20x24.fp32.onnx", "engines/tiny_x2.d1.20x24.fp32.engine"
    )
    for row in (graph, engine):
        assert (row.model, row.variant, row.backend, row.precision, row.error) == (
            "tiny_x2",
            "d1",
            "onnxruntime",
            "fp32",
            "",
        )
        assert row.psnr_db == pytest.approx(checkpoint_rows[0].psnr_db, abs=0.01)
        assert row.ssim == pytest.approx(checkpoint_rows[0].ssim, abs=1e-4)
        assert (row.input_hw, row.tiling) == ((20, 24), "whole")
        assert all(
            getattr(row, key) == getattr(checkpoint_rows[0], key)
            for key in ("params", "macs_g", "acts_m", "convs", "counter")
        )
    assert graph.artifact_sha256 == sha256_of(place / "graphs" / graph.artifact)


def test_the_precision_of_a_row_is_what_was_computed_in(place):
    (row,) = bench(place, "half/tiny_x2.d1.20x24.fp16.onnx")
    assert (row.precision_asked, row.precision) == ("fp16", "fp32"), (
        "the CPU provider computes FP16 graphs in FP32"
    )


def test_an_engine_that_cannot_run_here_is_listed_with_the_reason(place):
    progress = []
    rows = bench(place, "engines", progress=progress.append)
    assert [r.artifact for r in rows] == [
        "tiny_x2.d1.20x24.fp16.engine",
        "tiny_x2.d1.20x24.fp32.engine",
    ]
    assert "needs the GPU of target 'rtx'" in rows[0].error and rows[1].error == ""
    assert rows[0].backend == "tensorrt-rtx" and rows[0].params == rows[1].params
    assert (
        rows[0].psnr_db is None
        and rows[0].latency_ms_median is None
        and rows[0].mem_peak_mib is None
    )
    assert any("not run" in line for line in progress)
    table = ntire_table(rows)
    assert "needs the GPU of target 'rtx'" in table


def test_a_folder_is_all_its_artifacts(place):
    assert [r.artifact for r in bench(place, "graphs")] == [
        "tiny_x2.d1.20x24.fp32.onnx",
        "tiny_x2.d2.20x24.fp32.onnx",
    ]


def test_a_bare_graph_without_manifest(place, tmp_path, checkpoint_rows):
    shutil.copy(place / "graphs" / "tiny_x2.d1.20x24.fp32.onnx", tmp_path / "foreign.onnx")
    (row,) = measure([tmp_path / "foreign.onnx"], data=str(place / "Set" / "HR"), runs=1)
    assert (row.model, row.variant, row.error, row.scale) == ("foreign", "", "", 2)
    assert row.psnr_db == pytest.approx(checkpoint_rows[0].psnr_db, abs=0.01)
    assert (row.counter, row.counted_hw, row.deployed) == ("hooks", (20, 24), None)
    manifest = read_manifest(place / "graphs" / "tiny_x2.d1.20x24.fp32.onnx")
    deployed = manifest.counts["deployed"]["hooks"]
    assert (row.params, row.convs) == (deployed["params"], deployed["convs"])
    for value, key, unit in ((row.macs_g, "macs", 1e9), (row.acts_m, "acts", 1e6)):
        assert value * unit == pytest.approx(deployed[key] * 20 * 24 / (256 * 256))
    assert row.artifact_sha256 == sha256_of(tmp_path / "foreign.onnx"), (
        "the file measured is not recorded"
    )


def test_what_int8_lost_is_in_the_row(place, tmp_path):
    graph = place / "graphs" / "tiny_x2.d1.20x24.fp32.onnx"
    shutil.copy(graph, tmp_path / "int8.onnx")
    manifest = json.loads(manifest_path(graph).read_text())
    curve = [{"kept": 0, "loss_db": 0.2, "psnr_db_vs_fp32": 44.0, "layers": []}]
    record = {"loss_db": 0.2, "max_loss_db": 0.3, "kept": 0, "curve": curve, "runs": 7}
    manifest["checks"] = {"int8": record, "accuracy": {"psnr_db_vs_fp32": 44.04}}
    manifest["precision_obtained"] = "int8"
    manifest_path(tmp_path / "int8.onnx").write_text(json.dumps(manifest))
    row = row_of(describe(tmp_path / "int8.onnx")[0])
    assert row.psnr_db_vs_fp32 == 44.04 and row_of(describe(graph)[0]).int8 is None
    assert row.int8 == {
        "loss_db": 0.2,
        "max_loss_db": 0.3,
        "kept": 0,
        "method": None,
        "curve": [{"kept": 0, "loss_db": 0.2}],
    }


def test_images_of_other_sizes_are_tiled_and_the_row_says_so(place, tmp_path):
    write_png(
        tmp_path / "large.png",
        np.random.default_rng(5).integers(0, 256, (70, 61, 3), dtype=np.uint8),
    )
    (row,) = measure([place / "graphs" / "tiny_x2.d1.20x24.fp32.onnx"], data=str(tmp_path), runs=1)
    assert row.tiling == "exact tiles of 20x24" and row.psnr_db > 0


def test_within_a_bound_on_memory_images_are_tiled_and_a_large_size_is_not_timed(
    place, tmp_path, monkeypatch
):
    write_png(
        tmp_path / "large.png", np.random.default_rng(5).integers(0, 256, (120, 140, 3), "u1")
    )
    _a_process_of(monkeypatch, resident_mib=100, bytes_per_px=1000)
    model = [place / "tiny_x2.safetensors"]
    options = {"data": str(tmp_path), "variants": "d1", "run": RunOptions(runtime="torch")}
    whole = list(quality_from_artifacts(model, **options))[-1]
    (tiled,) = measure(model, **options, lr="64x64", max_memory=102 * 2**20)
    assert (whole.tiling, tiled.tiling) == ("whole", "exact tiles")
    assert tiled.psnr_db == pytest.approx(whole.psnr_db, abs=1e-9) and tiled.ssim
    assert tiled.latency_ms_median is tiled.mem_peak_mib is None and tiled.input_hw == (64, 64)
    assert "64x64 is not timed: whole, it does not fit into 102 MiB of memory" in tiled.warnings
    (none,) = measure(model, **options, max_memory="100MiB")
    assert "60x70 cannot be upscaled within 100 MiB" in none.error
    with pytest.raises(InputError, match="'much' is not an amount of memory"):
        MeasureOptions(max_memory="much")


def _a_process_of(monkeypatch, *, resident_mib, bytes_per_px):
    """Pretend that this process has so much memory, and the network needs so much a pixel."""
    monkeypatch.setattr(upscaler, "resident_bytes", lambda: resident_mib * 2**20)
    monkeypatch.setattr(upscaler, "kept_need", lambda key: MemoryNeed(bytes_per_px))


def test_a_bad_image_is_found_before_anything_is_measured(place, tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", np.zeros((48, 48, 3), np.uint8))
    (tmp_path / "b.png").write_text("no image")
    monkeypatch.setattr(
        "sr_deploy.bench.measure.measure_row", lambda *given: pytest.fail("measured")
    )
    for options in (
        {"data": str(tmp_path)},
        {"data": str(place / "Set" / "HR"), "test": str(tmp_path), "protocols": ["ntire2025"]},
    ):
        with pytest.raises(InputError, match="b.png is not an image"):
            measure(place / "tiny_x2.safetensors", **options)
    write_png(tmp_path / "b.png", np.zeros((14, 48, 3), np.uint8))
    # The scale of a graph without a manifest is known once it is opened.
    shutil.copy(place / "graphs" / "tiny_x2.d1.20x24.fp32.onnx", tmp_path / "bare.onnx")
    with pytest.raises(InputError, match="b.png is too small to be scored"):
        measure(tmp_path / "bare.onnx", data=str(tmp_path))


def test_rows_survive_their_file(checkpoint_rows, tmp_path):
    append_rows(tmp_path / "rows.jsonl", checkpoint_rows)
    assert read_rows(tmp_path / "rows.jsonl") == checkpoint_rows


@pytest.mark.parametrize(
    "given, options, error, words",
    [
        ("graphs/none.onnx", {}, InputError, "there is no file"),
        ("Set", {}, InputError, "contains no .onnx or .engine file"),
        ("tiny_x2.safetensors", {"variants": "d9"}, VariantError, "has no variant 'd9'"),
        ("tiny_x2.safetensors", {"metric": "vmaf"}, InputError, "unknown metric 'vmaf'"),
        ("graphs", {"protocols": ["ntire2021"]}, InputError, "unknown protocol 'ntire2021'"),
        ("graphs", {"protocols": ["trtexec"]}, InputError, "unknown protocol 'trtexec'"),
        ("graphs", {"protocols": []}, InputError, "the list of protocols is empty"),
        (
            "graphs",
            {"protocols": ["ntire2025"]},
            InputError,
            "times each image once at its own size",
        ),
        (
            "graphs",
            {"protocols": ["steady", "ntire2025"], "metric": "y"},
            InputError,
            "ntire2025 scores on rgb, not on y",
        ),
        ("graphs", {"test": "Set"}, InputError, "only the protocol of a challenge has a test set"),
        ("graphs", {"cadence_hz": 0}, InputError, "a cadence of 0 frames per second"),
        ("graphs", {"score": True}, InputError, "no protocol has a score: steady"),
        (
            "graphs",
            {"score": True, "protocols": ["steady", "ntire2023"]},
            InputError,
            "no protocol has a score: ntire2023, steady",
        ),
        ("graphs", {"threads": 10**6}, InputError, "1000000 threads; this process may use 1 to"),
    ],
)
def test_bad_requests(place, given, options, error, words):
    with pytest.raises(error, match=words):
        bench(place, given, **options)


def test_a_graph_edited_after_its_manifest_is_refused(place, tmp_path):
    for name in ("tiny_x2.d1.20x24.fp32.onnx", "tiny_x2.d1.20x24.fp32.onnx.json"):
        shutil.copy(place / "graphs" / name, tmp_path)
    graph = tmp_path / "tiny_x2.d1.20x24.fp32.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="was changed after its manifest was written"):
        measure([graph], data=str(place / "Set" / "HR"))


def test_an_engine_without_a_manifest_is_never_opened(place, tmp_path):
    shutil.copy(place / "engines" / "tiny_x2.d1.20x24.fp32.engine", tmp_path)
    with pytest.raises(ArtifactError, match="has no manifest"):
        measure([tmp_path / "tiny_x2.d1.20x24.fp32.engine"], data=str(place / "Set" / "HR"))


def test_an_output_that_is_not_finite_is_the_first_warning(place, monkeypatch):
    from sr_deploy.core.session import TimedOutput
    from sr_deploy.runtime.ort import OnnxRuntimeSession

    def run_timed(self, x):
        return TimedOutput(np.full((1, 3, 2 * x.shape[2], 2 * x.shape[3]), np.nan, np.float32), 1.0)

    monkeypatch.setattr(OnnxRuntimeSession, "_run_timed", run_timed)
    (row,) = measure(
        place / "graphs" / "tiny_x2.d1.20x24.fp32.onnx", data=str(place / "Set" / "HR"), runs=1
    )
    assert (
        row.warnings[0]
        == "2 of 2 images came out with pixels that are no finite numbers: scored as black or white"
    )


def test_a_plan_of_a_network_trained_for_one_depth_is_one_subject(tmp_path):
    from doubles.plans import with_parts

    from sr_deploy.core.depth_plan import DepthPlan
    from sr_deploy.core.jsonio import to_json
    from sr_deploy.runtime.opener import describe

    plan = DepthPlan(
        model="one",
        scale=4,
        blocks=2,
        parent_sha256="",
        macs_px=9,
        conv_macs_px=2,
        map_macs_px=1,
        depths=(1, 2),
        fixed=True,
    )
    path = tmp_path / "one.adadsr.json"
    path.write_text(to_json(with_parts(plan)))
    assert [network.variant for network in describe(str(path), "all")] == [""]
    with pytest.raises(InputError, match="was trained for one depth: it has no variants"):
        describe(str(path), "d1")
    path.write_text(to_json(with_parts(replace(plan, fixed=False))))
    assert [network.variant for network in describe(str(path), "d1,d2")] == ["d1", "d2"]


def test_on_a_gpu_the_device_its_events_and_its_memory_are_recorded(place, monkeypatch):
    gpu = StandInTorchCuda(monkeypatch)
    lines = []
    run = RunOptions(device="cuda", precision="bf16")
    (row,) = bench(place, "tiny_x2.safetensors", variants="d1", run=run, progress=lines.append)
    assert (row.device, row.timer, row.precision) == ("a stand-in GPU", "device events", "bf16")
    assert row.threads is None and row.copies_ms == 2
    assert (row.mem_peak_mib, row.conditions["before"]["gpu_in_use_mib"]) == (3, 2048)
    assert row.mem_definition.startswith("torch.cuda.max_memory_allocated")
    assert "TF32 off" in row.settings and row.precision_asked == "bf16"
    assert "(torch, a stand-in GPU)" in lines[0]
    assert gpu.calls[-1] == "empty cache"  # the session was closed


def test_a_challenge_s_protocol_on_a_gpu_is_the_harness_s_own(place, monkeypatch):
    StandInTorchCuda(monkeypatch)
    data = str(place / "Set" / "HR")
    (row,) = measure(
        [place / "tiny_x2.safetensors"], variants="d1", data=data, protocols=["ntire2024"]
    )
    assert [image["ms"] for image in row.images] == [1, 1] and row.timer == "device events"
    assert "convolutions may round to TF32 (torch's default)" in row.settings
    assert not [w for w in row.warnings if w.startswith(("timed by", "memory", "run as"))]


def test_options_beside_a_challenge_s_protocol_are_measured_with_a_warning(place, monkeypatch):
    StandInTorchCuda(monkeypatch)
    data, run = str(place / "Set" / "HR"), RunOptions(precision="fp16", channels_last=True)
    (row,) = measure(
        [place / "tiny_x2.safetensors"],
        variants="d1",
        data=data,
        protocols=["ntire2024"],
        run=run,
    )
    text = "; ".join(row.warnings)
    assert "run as eager, channels-last" in text and "precision fp16, ntire2024: fp32" in text


def test_a_challenge_s_protocol_on_a_cpu_says_that_it_is_not_the_challenge_s(place):
    data, run = str(place / "Set" / "HR"), RunOptions(device="cpu")
    (row,) = measure(
        [place / "tiny_x2.safetensors"],
        variants="d1",
        data=data,
        protocols=["ntire2024"],
        run=run,
    )
    assert row.warnings[0] == "measured on a CPU: time and memory are not ntire2024's"


@pytest.mark.parametrize("runs", [1, 3, 4], ids=["to open", "on valid", "on test"])
def test_a_network_that_the_device_cannot_hold_is_a_row_and_the_next_one_runs(
    place, monkeypatch, runs
):
    gpu, lines = StandInTorchCuda(monkeypatch), []
    gpu.fail_after("run", runs, RuntimeError("CUDA out of memory"))

    def progress(line):
        gpu.failing.clear()
        lines.append(line)

    first, second = measure(
        [place / "tiny_x2.safetensors"],
        data=str(place / "Set" / "HR"),
        test=str(place / "Test" / "HR"),
        protocols=["ntire2024"],
        progress=progress,
    )
    assert "a stand-in GPU (cuda:0) is out of memory" in first.error and first.psnr_db is None
    assert second.psnr_db is not None and not second.error
    assert "not run: a stand-in GPU" in lines[0]


def test_a_gpu_that_is_not_used_is_told(place, monkeypatch):
    StandInTorchCuda(monkeypatch, failing={"init": RuntimeError("the driver is too old")})
    (row,) = bench(place, "tiny_x2.safetensors", variants="d1", run=BY_TORCH)
    assert row.timer == "wall clock" and row.mem_peak_mib is not None
    assert "torch cannot use the GPU" in row.warnings[0] and "driver is too old" in row.warnings[0]


def test_options_of_torch_without_a_checkpoint_are_refused(place):
    with pytest.raises(InputError, match="--cuda-graph is for checkpoints"):
        bench(place, "graphs", run=RunOptions(cuda_graph=True))
    with pytest.raises(InputError, match="is not run by torch, but by onnxruntime"):
        bench(place, "graphs", run=BY_TORCH)


def test_options_of_torch_beside_a_graph_are_said_to_be_the_checkpoint_s(place):
    lines = []
    graph = next((place / "graphs").glob("*.d1.*.onnx")).relative_to(place)
    rows = bench(
        place,
        "tiny_x2.safetensors",
        str(graph),
        variants="d1",
        run=RunOptions(device="cpu", precision="bf16"),
        progress=lines.append,
    )
    assert [row.precision for row in rows] == ["bf16", "fp32"]
    assert lines[0].startswith("--precision: for the checkpoints only")
