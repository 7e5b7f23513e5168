"""Engines of ONNX Runtime: for CUDA, on a stand-in (no test of ours has run on a GPU), and in INT8
on this CPU."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")

from doubles.onnxruntime_cuda import CUDA, StandInOrtCuda  # noqa: E402

from sr_deploy.core.errors import BuildError, CannotRunHereError, TargetError  # noqa: E402
from sr_deploy.core.manifest import manifest_path, read_manifest  # noqa: E402
from sr_deploy.core.run_options import CPU_RUN, RunOptions  # noqa: E402
from sr_deploy.core.target import load_target  # noqa: E402
from sr_deploy.runtime import ort_device, ort_engine, ort_providers  # noqa: E402
from sr_deploy.runtime.build import bundle_from_onnx, engine_from_onnx  # noqa: E402
from sr_deploy.runtime.ort_engine import OnnxRuntimeBackend, OnnxRuntimeCudaBackend  # noqa: E402


@pytest.fixture(autouse=True)
def no_other_library(monkeypatch):
    monkeypatch.setattr(ort_device, "torch_with_cuda", lambda index: None)
    monkeypatch.setattr(ort_device, "_cuda_binding", lambda index: None)


def build(tiny, tmp_path, precision="fp16"):
    graph = tiny(precision=precision)
    return graph, *engine_from_onnx(graph, tmp_path / "out", target="cuda")


@pytest.mark.smoke
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_an_engine_is_compared_with_the_cpu_and_names_its_gpu(
    tiny, tmp_path, monkeypatch, precision
):
    StandInOrtCuda(monkeypatch, half=precision == "fp16")
    graph, engine = build(tiny, tmp_path, precision)
    manifest = read_manifest(engine)
    assert engine.name == f"tiny_x2.d1.16x24.{precision}.engine"
    assert (manifest.target, manifest.precision_obtained) == ("cuda", precision)
    assert manifest.checks["accuracy"]["psnr_db_vs_fp32"] > 60
    assert manifest.checks["accuracy"]["against"] == "onnxruntime on the CPU, FP32"
    assert manifest.checks["nodes"] == {CUDA: 2}
    assert manifest.checks["types"] == {CUDA: {precision: 2}}
    assert manifest.build["gpu"] == "NVIDIA GPU 0" and manifest.build["provider"] == CUDA
    assert manifest.build["elsewhere"] == {}
    assert "GPUs other than NVIDIA GPU 0" in manifest.not_checked
    session = OnnxRuntimeCudaBackend().open(engine, manifest)
    assert (session.backend, session.precision) == ("onnxruntime-cuda", precision)
    x = np.zeros((1, 3, 16, 24), np.float32)
    assert session.run(x).shape == (1, 3, 32, 48)
    with pytest.raises(CannotRunHereError, match="engine of target 'cuda': it runs on cuda by onn"):
        OnnxRuntimeCudaBackend().open(engine, manifest, CPU_RUN)
    assert OnnxRuntimeCudaBackend().open(engine, manifest, RunOptions(device="cuda")).place


def test_nodes_on_the_cpu_are_listed_in_the_manifest(tiny, tmp_path, monkeypatch):
    StandInOrtCuda(monkeypatch, on_cpu=["shuffle"])
    manifest = read_manifest(build(tiny, tmp_path, "fp32")[1])
    assert manifest.build["elsewhere"] == {"CPUExecutionProvider": ["shuffle"]}
    assert manifest.checks["nodes"] == {CUDA: 1, "CPUExecutionProvider": 1}


def test_an_inaccurate_engine_is_refused(tiny, tmp_path, monkeypatch):
    StandInOrtCuda(monkeypatch)
    real = ort_engine.OnnxRuntimeSession._run

    def run(self, x):
        return real(self, x) + (0 if self.place == "cpu" else 0.1)

    monkeypatch.setattr(
        ort_engine.OnnxRuntimeSession, "run", lambda self, x: run(self, x).astype(np.float32)
    )
    with pytest.raises(BuildError, match="dB against FP32, expected at least 50"):
        build(tiny, tmp_path, "fp32")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_cannot_be_opened_again_is_refused(tiny, tmp_path, monkeypatch):
    """onnxruntime refuses some of its own models with copies between devices."""
    ort = StandInOrtCuda(monkeypatch)
    opened = ort_engine.raw_session

    def save(*args, **options):
        session = opened(*args, **options)
        ort.failing["open"] = "Duplicate definition of name (x_CUDAExecutionProvider)"
        return session

    monkeypatch.setattr(ort_engine, "raw_session", save)
    with pytest.raises(BuildError, match="cannot run the optimised model of.*Duplicate def") as e:
        build(tiny, tmp_path, "fp32")
    assert e.value.hint == "run the graph itself with --device cuda"
    assert list((tmp_path / "out").iterdir()) == []


def test_another_version_is_refused(tiny, tmp_path, monkeypatch):
    StandInOrtCuda(monkeypatch)
    _, engine = build(tiny, tmp_path, "fp32")
    path = manifest_path(engine)
    data = json.loads(path.read_text())
    data["versions"]["onnxruntime"] = "1.0.0"
    path.write_text(json.dumps(data))
    with pytest.raises(CannotRunHereError, match="built by onnxruntime 1.0.0; this machine") as e:
        OnnxRuntimeCudaBackend().open(engine, read_manifest(engine))
    assert "--target cuda" in e.value.hint


def test_without_a_gpu_it_says_what_is_missing(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(ort_providers, "installed_packages", lambda: ["onnxruntime"])
    reason = OnnxRuntimeCudaBackend().why_unavailable(load_target("cuda"))
    assert f"has no {CUDA}" in reason and "install onnxruntime-gpu instead" in reason
    with pytest.raises(BuildError, match=f"cannot build for 'cuda' here: .*has no {CUDA}") as e:
        build(tiny, tmp_path)
    assert "build where the engine runs, with onnxruntime-gpu" in e.value.hint
    assert not (tmp_path / "out").exists()


def test_trtexec_does_not_build_it(tiny, tmp_path):
    with pytest.raises(BuildError, match="engines of 'cuda' are not built by trtexec"):
        engine_from_onnx(tiny(), tmp_path / "out", target="cuda", on="ssh://user@board")
    with pytest.raises(BuildError, match="engines of 'cuda' are not built by trtexec"):
        bundle_from_onnx(tiny(), tmp_path / "job.tar", target="cuda")


def test_the_profile_has_fp16_graphs_with_fp32_ends():
    target = load_target("cuda")
    assert target.precisions == ("fp16", "fp32")
    assert (target.fp16_graph, target.io_dtype) == ("fp16", "fp32")
    with pytest.raises(TargetError, match="target 'cuda' builds fp16 and fp32 engines, not int8"):
        target.check_precision("int8")


def test_an_int8_engine_of_the_cpu_computes_in_int8_and_says_what_it_loses(quantised, tmp_path):
    (engine,) = engine_from_onnx(quantised(), tmp_path / "out", target="cpu")
    manifest = read_manifest(engine)
    assert engine.name == "tiny_x2.d1.16x24.int8.engine"
    assert (manifest.precision_asked, manifest.precision_obtained) == ("int8", "int8")
    assert manifest.checks["layers"] == {"int8": 1}
    assert manifest.build["kernels"] == {"QLinearConv": 1}
    accuracy = manifest.checks["accuracy"]
    assert accuracy["psnr_db_vs_graph"] > 60 and 30 < accuracy["psnr_db_vs_fp32"] < 60
    session = OnnxRuntimeBackend().open(engine, manifest)
    assert session.precision == "int8"
    assert session.run(np.ones((1, 3, 16, 24), np.float32)).shape == (1, 3, 32, 48)


def test_an_int8_engine_of_the_cpu_that_computes_in_fp32_is_refused(quantised, tmp_path):
    graph = quantised(result=False)
    with pytest.raises(BuildError, match="INT8 was asked for, but .* in fp32") as e:
        engine_from_onnx(graph, tmp_path / "out", target="cpu")
    assert e.value.hint == "export it with --precision fp32"
    assert list((tmp_path / "out").iterdir()) == []
