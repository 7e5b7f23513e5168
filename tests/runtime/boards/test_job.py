"""Jobs built by a stand-in for trtexec (a test double: no engine is real), here and by hand."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.core.errors import BuildError, InputError, MissingPackageError
from sr_deploy.core.manifest import read_manifest
from sr_deploy.core.session import BuildOptions
from sr_deploy.core.target import load_target
from sr_deploy.runtime.boards import job as jobs
from sr_deploy.runtime.build import bundle_from_onnx, engine_from_onnx

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="build.sh runs on boards; Windows has no POSIX shell"
)

BY_VERSION = [
    ("xavier-jp4", "8.0.1"),
    ("xavier-jp4", "8.2.1"),
    ("xavier", "8.5.2"),
    ("orin", "10.3.0"),
    ("rtx-tensorrt", "11.1.0"),
]


@pytest.mark.parametrize("target, version", BY_VERSION)
def test_an_engine_built_by_the_local_trtexec_has_its_receipts(
    target, version, repeating, stand_in, tmp_path
):
    stand_in(version, sm="8.7" if target == "orin" else "7.2")
    strong = target == "rtx-tensorrt"
    lines = []
    graph = repeating(
        precision="fp16" if strong else "fp32",
        opset=load_target(target).opset if "jp4" in target else 17,
    )
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target=target, progress=lines.append)
    manifest = read_manifest(engine)
    assert manifest.precision_obtained == "fp16" and manifest.versions["tensorrt"] == version
    receipt = manifest.checks["precision_receipt"]
    assert receipt.startswith("size: " if version == "8.0.1" else "layer information: ")
    assert manifest.checks["accuracy"]["psnr_db_vs_fp32"] > 60
    assert manifest.build["latency_ms"]["runs"] > 50 and manifest.build["latency_ms"]["median"] > 0
    assert manifest.build["compute_capability"] == (87 if target == "orin" else 72)
    assert ("--fp16" in manifest.build["command"]) == (not strong)
    assert (tmp_path / "out" / f"{engine.name}.build.log").is_file()
    assert (
        tmp_path / "out" / f".timing-{target}-{version}-sm{87 if target == 'orin' else 72}.cache"
    ).is_file()
    assert any("srdeploy: [1/1]" in line for line in lines) and "dB against FP32" in lines[-1]


def test_fp32_on_8_0_which_reports_no_layer_types(repeating, stand_in, tmp_path):
    stand_in("8.0.1")
    graph = repeating(precision="fp32", asked="fp32", opset=13)
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="xavier-jp4")
    manifest = read_manifest(engine)
    assert manifest.precision_obtained == "fp32" and "--fp16" not in manifest.build["command"]
    receipt = manifest.checks["precision_receipt"]
    assert receipt == "a weakly typed build, without a flag for a lower precision"


def test_dla_on_8_0_which_turns_fp16_on_by_itself(repeating, stand_in, tmp_path):
    stand_in("8.0.1")
    graph, options = repeating(opset=13), BuildOptions(dla=0)
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="xavier-jp4", options=options)
    manifest = read_manifest(engine)
    assert manifest.precision_obtained == "fp16"
    assert manifest.checks["precision_receipt"].startswith("a build for the DLA, which computes")
    assert "the precision of its layers on the GPU" in manifest.not_checked


def test_rows_of_the_output_are_compared_and_travel_small(repeating, stand_in, tmp_path):
    stand_in()
    graph = repeating(hw=(64, 96))
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="xavier")
    accuracy = read_manifest(engine).checks["accuracy"]
    assert accuracy["rows"] == "0 to 15, 56 to 71, 112 to 127"
    assert accuracy["psnr_db_vs_fp32"] > 60 and accuracy["not_finite"] == 0
    tar = bundle_from_onnx(graph, tmp_path / "job.tar", target="xavier")
    with tarfile.open(str(tar)) as archive:
        sizes = {Path(m.name).name: m.size for m in archive.getmembers()}
    assert sizes[f"{engine.name}.npy"] < 3 * 48 * 192 * 2 + 200
    assert "README.txt" in sizes


def test_a_bundle_explains_itself(bundle):
    text = (bundle / "README.txt").read_text()
    assert "sh build.sh" in text and "srdeploy adopt result.tar" in text
    assert "Jetson AGX Xavier" in text and "tiny_x2.d1" in text
    assert "its power, are told at the desk by adopt" in text


def test_logs_that_name_no_gpu_do_not_end_the_build(repeating, stand_in, tmp_path):
    stand_in("11.1.0", misbehave="no-device")
    graph = repeating(precision="fp16", opset=17)
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="rtx-tensorrt")
    manifest = read_manifest(engine)
    assert manifest.build["gpu"] == "" and manifest.precision_obtained == "fp16"
    assert "the GPU that it was timed on: no log names it" in manifest.not_checked
    stand_in(misbehave="no-device")
    with pytest.raises(BuildError, match="built on an unknown GPU, but the target is SM 72"):
        engine_from_onnx(repeating(), tmp_path / "xavier", target="xavier")


def test_fp32_and_a_dla_exclude_each_other_also_without_onnx(repeating, tmp_path, monkeypatch):
    graph = repeating(precision="fp32", asked="fp32", opset=13)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="FP32 engine, but a DLA core computes in FP16 and INT8"):
        bundle_from_onnx(
            graph, tmp_path / "job.tar", target="xavier-jp4", options=BuildOptions(dla=0)
        )


def test_dla_names_the_layers_that_fell_back(repeating, stand_in, tmp_path):
    stand_in()
    (engine,) = engine_from_onnx(
        repeating(), tmp_path / "out", target="xavier", options=BuildOptions(dla=1)
    )
    manifest = read_manifest(engine)
    assert manifest.build["dla"] == {
        "core": 1,
        "layers_on_gpu": ["shuffle"],
    } and engine.name.endswith(".fp16.dla1.engine")
    assert "--useDLACore=1 --allowGPUFallback" in manifest.build["command"]


def test_the_times_of_the_board_become_a_row(repeating, stand_in, tmp_path):
    from sr_deploy.bench.measure import rows_from_artifacts

    stand_in()
    (engine,) = engine_from_onnx(repeating(), tmp_path / "out", target="xavier")
    (row,) = rows_from_artifacts(engine)
    latency = read_manifest(engine).build["latency_ms"]
    assert (row.error, row.psnr_db, row.latency_ms_median, row.input_hw) == (
        "",
        None,
        latency["median"],
        (16, 24),
    )
    assert (
        row.protocol == "trtexec"
        and row.timer == "GPU compute time, by the board's trtexec"
        and row.backend_version == "8.5.2"
    )


def test_an_up_to_date_engine_is_not_rebuilt(repeating, stand_in, tmp_path):
    stand_in()
    graph, lines = repeating(), []
    engine_from_onnx(graph, tmp_path / "out", target="xavier")
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="xavier", progress=lines.append)
    assert lines == [f"{engine.name}: up to date"]


@pytest.mark.parametrize(
    "misbehave, words",
    [
        ("ignores-fp16", "FP16 was requested, but the engine computes in FP32"),
        ("nan", "values are not finite"),
        ("black", "its output is one colour"),
        ("crash", "tiny_x2.d1.16x24.fp16.engine was not built: "),
        ("no-space", "was not built: .*for another reason than space"),
    ],
)
def test_an_engine_that_is_not_as_requested_is_not_written(
    misbehave, words, repeating, stand_in, tmp_path
):
    stand_in(misbehave=misbehave)
    with pytest.raises(BuildError, match=words):
        engine_from_onnx(repeating(), tmp_path / "out", target="xavier")
    assert [
        p.name for p in (tmp_path / "out").iterdir() if p.name.endswith((".engine", ".engine.json"))
    ] == []


def test_fp32_instead_of_fp16_is_seen_by_the_size_where_there_are_no_layer_types(
    repeating, stand_in, tmp_path
):
    stand_in("8.0.1", misbehave="ignores-fp16")
    with pytest.raises(BuildError, match="computes in FP32: size: .* bytes; .* as an FP32 engine"):
        engine_from_onnx(repeating(opset=13), tmp_path / "out", target="xavier-jp4")


def test_another_gpu_or_version_than_the_target_s_is_refused(repeating, stand_in, tmp_path):
    stand_in(sm="8.6")
    with pytest.raises(BuildError, match="compute capability 86, but the job is for 72"):
        engine_from_onnx(repeating(), tmp_path / "out", target="xavier")
    stand_in("10.3.0")
    with pytest.raises(
        BuildError, match="is from TensorRT 10.3.0, but the profile is for >=8.5,<8.6"
    ):
        engine_from_onnx(repeating(), tmp_path / "other", target="xavier")
    assert not (tmp_path / "other").exists()


def test_fallback_is_passed_on_and_recorded(repeating, stand_in, tmp_path):
    stand_in()
    (engine,) = engine_from_onnx(
        repeating(), tmp_path / "out", target="xavier", options=BuildOptions(fallback="head-tail")
    )
    manifest = read_manifest(engine)
    assert (
        "--layerPrecisions=conv:fp32" in manifest.build["command"]
        and "--precisionConstraints=obey" in manifest.build["command"]
    )
    assert manifest.build["fp32_layers"] == ["conv"]


def test_fallback_where_typing_is_strong_is_in_the_graph(repeating, stand_in, tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; it reads the graph")
    stand_in("11.1.0")
    graph = repeating(precision="fp16")
    (engine,) = engine_from_onnx(
        graph, tmp_path / "out", target="rtx-tensorrt", options=BuildOptions(fallback="conv")
    )
    manifest = read_manifest(engine)
    assert "layerPrecisions" not in manifest.build["command"] and manifest.build["fp32_layers"] == [
        "conv"
    ]
    bundle_from_onnx(
        graph, tmp_path / "job.tar", target="rtx-tensorrt", options=BuildOptions(fallback="conv")
    )
    with tarfile.open(str(tmp_path / "job.tar")) as archive:
        (member,) = [m for m in archive.getmembers() if m.name.endswith(".onnx")]
        model = onnx.load_model_from_string(archive.extractfile(member).read())
    assert [n.op_type for n in model.graph.node] == ["Cast", "Conv", "Cast", "DepthToSpace"]


def test_a_timing_cache_of_another_target_is_not_taken(repeating, stand_in, tmp_path):
    stand_in()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".timing-xavier-jp4-8.2.1-sm72.cache").write_bytes(b"another's")
    engine_from_onnx(repeating(), tmp_path / "out", target="xavier")
    assert b"another's" not in (tmp_path / "out" / ".timing-xavier-8.5.2-sm72.cache").read_bytes()


def test_without_onnxruntime_the_output_is_recorded_as_not_checked(
    tiny, stand_in, tmp_path, monkeypatch
):
    def missing(*args, **kwargs):
        raise MissingPackageError("onnxruntime", needed_for="running ONNX graphs")

    monkeypatch.setattr(jobs, "sample_lr", missing)
    stand_in()
    (engine,) = engine_from_onnx(tiny(asked="fp16"), tmp_path / "out", target="xavier")
    manifest = read_manifest(engine)
    assert "accuracy" not in manifest.checks and any(
        "its output: the job has no reference" in n for n in manifest.not_checked
    )


def test_a_bundle_is_not_written_over_its_graph(any_graph):
    graph = any_graph()
    with pytest.raises(InputError, match="give it a name that ends in .tar"):
        bundle_from_onnx(graph, graph, target="xavier")


def test_the_preflight_is_recorded(repeating, stand_in, tmp_path):
    stand_in()
    (engine,) = engine_from_onnx(repeating(), tmp_path / "out", target="xavier")
    assert read_manifest(engine).checks["preflight"] == {"target": "xavier", "warnings": []}


def test_a_target_that_no_trtexec_builds_for_has_no_bundle(any_graph, tmp_path):
    with pytest.raises(BuildError, match="engines of 'cpu' are not built by trtexec"):
        bundle_from_onnx(any_graph(), tmp_path / "x.tar", target="cpu")
    assert not (tmp_path / "x.tar").exists()


def test_the_reference_is_what_the_graph_computes(bundle):
    reference = np.load(str(bundle / "desk" / "tiny_x2.d1.16x24.fp16.engine.npy"))
    x = np.fromfile(str(bundle / "it's a graph.onnx.0.bin"), np.float32).reshape(1, 3, 16, 24)
    np.testing.assert_allclose(reference, x.repeat(2, 2).repeat(2, 3), atol=1e-3)
    assert json.loads((bundle / "desk" / "manifests.json").read_text()).keys() == {
        "tiny_x2.d1.16x24.fp16.engine",
        "tiny_x2.d1.dyn8x8-32x40.fp16.engine",
    }


# INT8.


@pytest.mark.parametrize("target, version", [BY_VERSION[0], *BY_VERSION[2::2]])
def test_an_int8_engine_has_its_receipts(target, version, repeating_int8, stand_in, tmp_path):
    stand_in(version, sm="8.7" if target == "orin" else "7.2")
    strong = target == "rtx-tensorrt"
    lines = []
    (engine,) = engine_from_onnx(
        repeating_int8(half=strong), tmp_path / "out", target=target, progress=lines.append
    )
    manifest = read_manifest(engine)
    assert engine.name == "tiny_x2.d1.16x24.int8.engine"
    assert (manifest.precision_asked, manifest.precision_obtained) == ("int8", "int8")
    receipt = manifest.checks["precision_receipt"]
    assert receipt == "layer information: layers by type: {'int8': 1}"
    accuracy = manifest.checks["accuracy"]  # the stand-in's network has no steps
    assert accuracy["psnr_db_vs_fp32"] > 60 > accuracy["psnr_db_vs_graph"] > 45
    assert accuracy["against"].startswith("onnxruntime: the graph, and the graph without its Q/DQ")
    assert ("--int8 --fp16" in manifest.build["command"]) == (not strong)
    assert "int8, output: " in lines[-1] and "dB against FP32" in lines[-1]


@pytest.mark.parametrize(
    "misbehave, words",
    [
        ("ignores-int8", "INT8 was requested, but the engine computes in FP16"),
        ("no-kernel", "was not built: .*Could not find any implementation for node conv2"),
    ],
)
def test_an_int8_engine_that_is_not_as_requested_is_not_written(
    misbehave, words, repeating_int8, stand_in, tmp_path
):
    stand_in("8.5.2", misbehave=misbehave)
    with pytest.raises(BuildError, match=words) as e:
        engine_from_onnx(repeating_int8(), tmp_path / "out", target="xavier")
    assert ("--keep NODE" in e.value.hint) == (misbehave == "no-kernel")
    assert not list((tmp_path / "out").glob("*.engine"))


def test_a_dla_gets_floats_and_the_scales_of_the_graph(repeating_int8, stand_in, tmp_path):
    onnx = pytest.importorskip("onnx")
    stand_in("8.5.2")
    graph, options = repeating_int8(), BuildOptions(dla=0)
    bundle_from_onnx(graph, tmp_path / "job.tar", target="xavier", options=options)
    with tarfile.open(str(tmp_path / "job.tar")) as archive:
        archive.extractall(str(tmp_path))
    (folder,) = tmp_path.glob("srdeploy-*")
    floats = onnx.load(str(folder / graph.name))
    operators = [node.op_type for node in floats.graph.node]
    assert operators == ["Conv", "Relu", "Conv", "DepthToSpace"]
    rows = (folder / f"{graph.name}.scales").read_text().splitlines()
    scales = {name: np.array(bytes.fromhex(n), "S4") for name, n in (r.split(": ") for r in rows)}
    values = {name: float(np.frombuffer(s.tobytes(), ">f4")[0]) for name, s in scales.items()}
    assert set(values) == {"lr", "conv1", "activation", "conv2", "sr"}
    # The graph's own scales, and what is largest in photographs: at most 1, it repeats them.
    assert values["lr"] == values["activation"] == pytest.approx(1 / 127)
    assert all(0.5 / 127 < values[name] <= 1.01 / 127 for name in ("conv1", "conv2", "sr"))
    graph = repeating_int8(kept=("conv2",))
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="xavier", options=options)
    manifest = read_manifest(engine)
    assert engine.name == "tiny_x2.d1.16x24.int8.dla0.engine"
    assert "--calib=work/calibration.cache" in manifest.build["command"]
    assert "--layerPrecisions=conv2:fp16" in manifest.build["command"]
    assert manifest.precision_obtained == "int8"
    assert "which layers on the DLA compute in INT8" in manifest.not_checked


def test_where_a_dla_cannot_compute_in_int8(repeating_int8, stand_in, tmp_path):
    from dataclasses import replace

    from sr_deploy.core.jsonio import to_json

    stand_in("10.16.0")
    mine = replace(load_target("orin-jp7"), name="mine", dla_cores=2)
    (tmp_path / "mine.json").write_text(to_json(mine))
    with pytest.raises(InputError, match="a strongly typed TensorRT takes no calibration cache"):
        engine_from_onnx(
            repeating_int8(half=True), tmp_path / "out", target=str(tmp_path / "mine.json"),
            options=BuildOptions(dla=0),
        )  # fmt: skip


def test_fallback_is_not_for_int8(repeating_int8, stand_in, tmp_path):
    stand_in("8.5.2")
    with pytest.raises(InputError, match="--fallback keeps nodes of FP16 engines in FP32") as e:
        engine_from_onnx(
            repeating_int8(), tmp_path / "out", target="xavier",
            options=BuildOptions(fallback="head-tail"),
        )  # fmt: skip
    assert "--keep of export" in e.value.hint
