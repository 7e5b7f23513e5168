from __future__ import annotations

import dataclasses
import shutil
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="the checks run checkpoints by torch")

from doubles.graphs import tiny_manifest, tiny_model  # noqa: E402
from doubles.int8_graphs import int8_manifest, int8_model  # noqa: E402
from doubles.torch_cuda import StandInTorchCuda  # noqa: E402

from sr_deploy.bench.measure import MeasureOptions  # noqa: E402
from sr_deploy.core.errors import BuildError  # noqa: E402
from sr_deploy.core.manifest import write_artifact  # noqa: E402
from sr_deploy.core.samples import CROP_SET  # noqa: E402
from sr_deploy.core.shipped import shipped_graphs  # noqa: E402
from sr_deploy.results.rows import BenchmarkRow, read_rows  # noqa: E402
from sr_deploy.selftest import networks  # noqa: E402
from sr_deploy.selftest.checks import Check, SkippedError, Way  # noqa: E402
from sr_deploy.selftest.networks import check_adaptive, check_networks, sources  # noqa: E402
from sr_deploy.selftest.ways import _TORCH_ON_GPU  # noqa: E402

CPU = Way("torch cpu", {"device": "cpu", "precision": "fp32"})


def check(kind, model, way=CPU):
    return Check(f"{way.name}: {model}", kind, dataclasses.asdict(way), model)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(networks, "CPU_LR", "16x16")
    monkeypatch.setattr(networks, "CPU_RUNS", 1)


def test_all_slices_are_measured_and_compared(tmp_path):
    found = check_networks(check("networks", "asrn_x4"), tmp_path)
    assert found["found"].startswith("5 slices, ") and "at 16x16, 120 dB" in found["found"]
    assert set(found["accuracy"]) == {f"asrn_x4.d{n}" for n in range(1, 6)}
    rows = read_rows(tmp_path)
    assert [row.cell for row in rows][0] == "torch cpu: asrn_x4: asrn_x4.d1, steady"
    assert {row.set for row in rows} == {CROP_SET} and not any(row.error for row in rows)


def test_bf16_is_really_computed_and_less_accurate(tmp_path):
    way = Way("torch cpu bf16", {"device": "cpu", "precision": "bf16"})
    found = check_networks(check("networks", "srn-ntire_x4", way), tmp_path)
    (accuracy,) = found["accuracy"].values()
    assert accuracy["precision"] == "bf16" and 40 < accuracy["psnr_db_vs_fp32"] < 70


def test_an_adaptive_network_is_measured(tmp_path):
    found = check_adaptive(check("adaptive", "cdnsr-fsrcnn-gains_x4"), tmp_path)
    assert "% of the plain network's work" in found["found"]


def test_a_way_of_engines_builds_an_adaptive_network_and_measures_it(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs the engines")
    from sr_deploy.export import plans

    exported = []

    def export(model, output, **options):  # what an export is, tests of the room export see
        exported.append(model)
        output.mkdir(parents=True, exist_ok=True)
        for path in shipped_graphs().glob(f"{model}.*"):
            shutil.copy(path, output)
        return [output / f"{model}.branches.json"]

    monkeypatch.setattr(plans, "plans_from_model", export)
    monkeypatch.setattr(networks, "CPU_LR", "48x48")
    way = Way("onnxruntime", target="cpu")
    found = check_adaptive(check("adaptive", "cdnsr-fsrcnn-gains_x4", way), tmp_path)
    assert "% of the plain network's work" in found["found"] and exported == [
        "cdnsr-fsrcnn-gains_x4"
    ]
    assert found["precision"] == "fp32" and found["accuracy"]["psnr_db_vs_fp32"] > 40
    assert found["receipts"] and (tmp_path / "artifacts" / "cpu" / "cdnsr-fsrcnn-gains_x4").is_dir()


def accuracy(**changes):
    return {"net": {"psnr_db_vs_fp32": 99.0, "finite": True, "precision": "fp16", **changes}}


@pytest.mark.parametrize(
    "row, found, words",
    [
        ({"error": "no kernel"}, {}, "m_x4.c4: no kernel"),
        (
            {"warnings": ("1 of 3 images came out with pixels that are no finite numbers",)},
            {},
            "no f",
        ),
        ({}, accuracy(precision="fp32"), "net computed in fp32, asked for fp16"),
        ({}, accuracy(finite=False), "net: the output is not finite"),
        ({}, accuracy(psnr_db_vs_fp32=41.0), "net: 41.0 dB against FP32, expected 50"),
        ({}, accuracy(precision="mixed: 2 fp32, 9 int8"), "net computed in mixed: 2 fp32, 9 int8"),
    ],
)
def test_what_is_wrong_fails(row, found, words):
    way = Way("torch", {"precision": "fp16"})
    with pytest.raises(BuildError, match=words):
        networks._refuse([BenchmarkRow("m_x4", "c4", "torch", **row)], found, way)
    networks._refuse([BenchmarkRow("m_x4", "c4", "torch")], accuracy(), way)


@pytest.mark.parametrize("precision, least", [("mixed: 2 fp32, 9 int8", 30), ("fp32", 90)])
def test_the_least_accuracy_is_that_of_the_lowest_precision(precision, least):
    way = Way("onnxruntime", target="cpu")
    networks._refuse([], accuracy(precision=precision, psnr_db_vs_fp32=least + 0.1), way)
    with pytest.raises(BuildError, match=f"expected {least}"):
        networks._refuse([], accuracy(precision=precision, psnr_db_vs_fp32=least - 0.1), way)


@pytest.fixture
def graphs(tmp_path, monkeypatch):
    """Write graphs of one network with other precisions obtained; the check takes them."""
    pytest.importorskip("onnxruntime", reason="it runs the graphs")

    def write(**obtained):
        models = {"fp32": (tiny_model, tiny_manifest()), "int8": (int8_model, int8_manifest())}
        paths = [tmp_path / "artifacts" / "graphs" / f"tiny_x2.d1.{p}.onnx" for p in models]
        for path, (precision, (model, manifest)) in zip(paths, models.items()):
            kind = obtained.get(precision, manifest.precision_obtained)
            manifest = dataclasses.replace(manifest, precision_obtained=kind)
            content = model((16, 24)).SerializeToString()
            write_artifact(path, lambda p, c=content, m=manifest: p.write_bytes(c) and m)
        monkeypatch.setattr(networks, "_exported", lambda check, folder: paths)

    return write


def test_a_network_in_several_precisions_has_a_receipt_and_a_row_for_each(tmp_path, graphs):
    graphs()
    both = check("build", "tiny_x2", Way("onnxruntime"))
    found = networks.check_build(both, tmp_path)
    assert found["found"] == "2 in fp32, mixed: 20 fp32, 8 int8"
    assert set(found["receipts"]) == {"tiny_x2.d1", "tiny_x2.d1 int8"}
    networks.measured(both, sources(both, tmp_path), MeasureOptions(runs=1), tmp_path)
    assert {row.cell for row in read_rows(tmp_path)} == {
        "onnxruntime: tiny_x2: tiny_x2.d1, steady",
        "onnxruntime: tiny_x2: tiny_x2.d1 int8, steady",
    }


def test_an_artifact_of_another_precision_than_was_asked_for_fails(tmp_path, graphs):
    graphs(int8="fp32")
    with pytest.raises(BuildError, match="d1 int8 was asked for in int8 and is in fp32"):
        networks.check_build(check("build", "tiny_x2", Way("onnxruntime")), tmp_path)


def test_networks_that_were_not_built_are_named(tmp_path):
    way = Way("tensorrt", target="rtx-tensorrt", device=True)
    with pytest.raises(SkippedError, match="nothing of asrn_x4 was built for tensorrt"):
        sources(check("networks", "asrn_x4", way), tmp_path)


@pytest.mark.parametrize("name, run", _TORCH_ON_GPU)
def test_the_settings_of_a_gpu_run_on_a_stand_in_for_it(tmp_path, monkeypatch, name, run):
    StandInTorchCuda(monkeypatch)
    for key in ("GPU_LR", "CPU_LR"):
        monkeypatch.setattr(networks, key, "16x16")
    monkeypatch.setattr(networks, "GPU_RUNS", 1)
    way = Way(f"torch cuda:0 {name}", {"device": "cuda:0", **run}, device=True)
    found = check_networks(check("networks", "fsrcnn-w16_x4", way), tmp_path)
    assert found["found"].startswith("1 slice, ")
    (row,) = read_rows(tmp_path)
    assert (row.device, row.timer, row.precision) == (
        "a stand-in GPU", "device events", run["precision"],
    )  # fmt: skip
    assert ("one CUDA graph" in row.settings) == run.get("cuda_graph", False)


def test_protocols_adaptive_networks_and_energy_on_a_stand_in_for_a_gpu(tmp_path, monkeypatch):
    StandInTorchCuda(monkeypatch)
    monkeypatch.setattr(networks, "GPU_LR", "32x32")
    monkeypatch.setattr(networks, "VALID_HW", {True: (64, 80)})
    monkeypatch.setattr(networks, "PROTOCOL_MODELS", ("srn-ntire_x4",))
    way = Way("torch cuda:0 fp32", {"device": "cuda:0", "precision": "fp32"}, device=True)
    found = networks.check_protocols(check("protocols", "", way), tmp_path)
    assert "srn-ntire_x4 ntire2026 " in found["found"] and "not the" not in found["found"]
    assert (
        "% of" in check_adaptive(check("adaptive", "cdnsr-fsrcnn-gains_x4", way), tmp_path)["found"]
    )
    monkeypatch.setattr(networks, "ENERGY_S", 0.01)
    with pytest.raises(SkippedError, match="neither nvidia-smi nor tegrastats tells the power"):
        networks.check_energy(check("energy", "srn-ntire_x4", way), tmp_path)
    assert [row.protocol for row in read_rows(tmp_path)] == [
        "ntire2022",
        "ntire2026",
        *["steady"] * 2,
    ]


def test_without_the_exporter_the_graphs_of_another_machine_are_used(tmp_path, monkeypatch):
    way = Way("tensorrt", target="rtx-tensorrt", device=True)
    build = check("build", "srn-ntire_x4", way)
    monkeypatch.setitem(sys.modules, "sr_deploy.export.pipeline", None)
    folder = tmp_path / "artifacts" / "rtx-tensorrt-graphs"
    with pytest.raises(SkippedError, match="exporting graphs needs the package") as e:
        networks.check_build(build, tmp_path)
    assert str(folder) in e.value.hint
    folder.mkdir(parents=True)
    (folder / "srn-ntire_x4.b4.onnx").write_bytes(b"x")
    assert networks._exported(build, folder) == [folder / "srn-ntire_x4.b4.onnx"]


@pytest.mark.slow
def test_engines_are_built_measured_and_compared(tmp_path):
    pytest.importorskip("onnxruntime", reason="it builds and runs the engines")
    pytest.importorskip("onnxscript", reason="exporting needs it")
    way = Way("onnxruntime", target="cpu")
    built = networks.check_build(check("build", "srn-ntire_x4", way), tmp_path)
    assert built["found"] == "1 in fp32"
    found = check_networks(check("networks", "srn-ntire_x4", way), tmp_path)
    assert "dB against FP32" in found["found"]
    assert all(np.isfinite(a["psnr_db_vs_fp32"]) for a in found["accuracy"].values())


def test_a_family_without_graphs_is_skipped_where_none_can_be_exported(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "_exported", lambda check, folder: [tmp_path / "asrn_x4.d1.onnx"])
    with pytest.raises(SkippedError, match="there is no graph of imdeception_x4 in") as e:
        networks.check_build(check("build", "imdeception_x4", Way("x", target="cpu")), tmp_path)
    assert "export imdeception_x4 into it" in e.value.hint
