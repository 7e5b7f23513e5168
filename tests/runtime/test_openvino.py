"""Engines of OpenVINO on this CPU: built, opened and compared. No GPU of Intel's was at hand."""

from __future__ import annotations

import resource
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it is compared with")
pytest.importorskip("openvino", reason="openvino is not installed; it builds the engines")

from sr_deploy.core.errors import (  # noqa: E402
    ArtifactError,
    BuildError,
    CannotRunHereError,
    DeviceMemoryError,
    InputError,
)
from sr_deploy.core.manifest import read_manifest  # noqa: E402
from sr_deploy.core.run_options import CPU_RUN, RunOptions  # noqa: E402
from sr_deploy.runtime import openvino_session  # noqa: E402
from sr_deploy.runtime.build import engine_from_onnx  # noqa: E402
from sr_deploy.runtime.opener import open_session  # noqa: E402
from sr_deploy.runtime.openvino import OpenVinoBackend, OpenVinoGpuBackend  # noqa: E402
from sr_deploy.runtime.openvino_session import CPU, OpenVinoDevice, short_reason  # noqa: E402
from sr_deploy.runtime.ort_engine import OnnxRuntimeBackend  # noqa: E402

BY_OPENVINO = RunOptions(runtime="openvino")


def needs(precision):
    reason = CPU.why_no_precision(precision)
    return pytest.mark.skipif(bool(reason), reason=reason or "it has it")


def build(graph, tmp_path, target="cpu-openvino"):
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target=target)
    return engine, read_manifest(engine)


@pytest.mark.smoke
def test_an_fp32_engine_computes_as_its_graph_does_although_the_cpu_may_prefer_bf16(tiny, tmp_path):
    graph = tiny(high=(64, 64))
    engine, manifest = build(graph, tmp_path)
    assert engine.name == "tiny_x2.d1.dyn16x24-64x64.fp32.engine"
    assert (manifest.precision_asked, manifest.precision_obtained) == ("fp32", "fp32")
    assert manifest.checks["layers"] == {"fp32": 1}
    assert manifest.checks["accuracy"]["psnr_db_vs_fp32"] > 100 and manifest.psnr_db_vs_fp32 is None
    assert set(manifest.versions) == {"openvino", "cpu_features", "profile"}
    assert "CPUs with other features: there it is refused" in manifest.not_checked
    assert sum(manifest.build["kernels"].values()) == 1
    with open_session(engine) as session, open_session(graph) as reference:
        assert (session.backend, session.precision, session.place) == ("openvino", "fp32", "cpu")
        assert session.threads and (session.min_hw, session.max_hw) == ((16, 24), (64, 64))
        for hw in ((16, 24), (40, 33), (64, 64), (16, 24)):
            x = np.random.default_rng(1).random((1, 3, *hw), dtype=np.float32)
            y = session.run(x)
            assert np.abs(y - reference.run(x)).max() < 1e-5
            assert y.flags.owndata and y.dtype == np.float32
        first = session.run(x)
        kept = first.copy()
        session.run(np.ascontiguousarray(x[:, :, ::-1]))
        assert np.array_equal(first, kept)  # an output is the caller's


@needs("bf16")
def test_a_bf16_engine_says_how_much_it_loses(tiny, tmp_path):
    engine, manifest = build(tiny(asked="bf16"), tmp_path)
    assert engine.name == "tiny_x2.d1.16x24.bf16.engine"
    assert manifest.precision_obtained == "bf16" and manifest.checks["layers"] == {"bf16": 1}
    assert 40 < manifest.psnr_db_vs_fp32 < 80
    with open_session(engine) as session:
        assert session.precision == "bf16"
        with pytest.raises(InputError, match="takes 16x24 only"):
            session.run(np.zeros((1, 3, 24, 24), np.float32))
    with open_session(engine, run=CPU_RUN) as session:
        assert session.run(np.ones((1, 3, 16, 24), np.float32)).shape == (1, 3, 32, 48)


@needs("bf16")
def test_a_graph_that_openvino_runs_in_bf16_is_refused_where_its_loss_is_bounded(tiny):
    graph, bound = tiny(asked="bf16"), {"min_psnr_vs_fp32": 50.0}
    with pytest.raises(ArtifactError, match="PSNR against FP32 was not measured, expected at le"):
        open_session(graph, run=RunOptions(runtime="openvino", **bound))
    with open_session(graph, run=RunOptions(**bound)) as session:
        assert (session.backend, session.precision) == ("onnxruntime", "fp32")


@needs("bf16")
def test_without_onnxruntime_a_bf16_engine_is_compared_with_openvinos_fp32(
    tiny, tmp_path, monkeypatch
):
    graph = tiny(asked="bf16")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    manifest = build(graph, tmp_path)[1]
    assert manifest.checks["accuracy"]["against"] == "OpenVINO, FP32"
    assert 40 < manifest.psnr_db_vs_fp32 < 80


@needs("int8")
def test_an_int8_engine_computes_in_int8_and_is_compared_with_its_graph(quantised, tmp_path):
    engine, manifest = build(quantised(), tmp_path)
    assert engine.name == "tiny_x2.d1.16x24.int8.engine"
    assert manifest.precision_obtained == "int8" and manifest.checks["layers"] == {"int8": 1}
    accuracy = manifest.checks["accuracy"]
    assert accuracy["psnr_db_vs_graph"] > 40 and 30 < accuracy["psnr_db_vs_fp32"] < 60
    with open_session(engine) as session:
        assert session.precision == "int8"


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_that_the_cpu_lacks_is_refused(
    tiny, quantised, tmp_path, monkeypatch, precision
):
    graph = quantised() if precision == "int8" else tiny(asked="bf16")
    monkeypatch.setattr(openvino_session, "cpu_features", lambda: ["x86_64", "avx", "avx2"])
    monkeypatch.setattr(OpenVinoDevice, "_property", lambda self, key: ["FP32", "INT8"])
    with pytest.raises(BuildError, match=f"no {precision.upper()} engine of .* has n") as e:
        build(graph, tmp_path)
    assert "--precision fp32" in e.value.hint
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(CannotRunHereError, match=f"cannot run it in {precision.upper()}"):
        open_session(graph, run=BY_OPENVINO)


def test_an_engine_that_computes_in_another_precision_is_refused(tiny, tmp_path, monkeypatch):
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    monkeypatch.setattr(OpenVinoDevice, "settings", lambda self, precision, streams=1: settings)
    monkeypatch.setattr(OpenVinoDevice, "why_no_precision", lambda self, precision: "")
    with pytest.raises(BuildError, match="BF16 was asked for, but .* in fp32") as e:
        build(tiny(asked="bf16"), tmp_path)
    assert e.value.hint == "export it with --precision fp32"


def test_an_inaccurate_engine_is_refused(tiny, tmp_path, monkeypatch):
    real = openvino_session.OpenVinoSession._run
    monkeypatch.setattr(
        openvino_session.OpenVinoSession, "_run", lambda self, x: real(self, x) + np.float32(0.1)
    )
    with pytest.raises(BuildError, match="dB against FP32, expected at least 80"):
        build(tiny(), tmp_path)


def test_engines_of_other_versions_and_cpus_are_refused(tiny, tmp_path):
    engine, manifest = build(tiny(), tmp_path)
    for key, value in (("openvino", "2025.2.0"), ("cpu_features", "x86_64 avx2")):
        other = replace(manifest, versions={**manifest.versions, key: value})
        with pytest.raises(CannotRunHereError, match=f"was built by OpenVINO .*{value}") as e:
            OpenVinoBackend().open(engine, other)
        assert "srdeploy build-engine GRAPH.onnx --target cpu-openvino" in e.value.hint
    cut = tmp_path / "cut.engine"
    cut.write_bytes(engine.read_bytes()[:-50])
    with pytest.raises(CannotRunHereError, match="OpenVINO cannot open .*cut.engine: Error pars"):
        OpenVinoBackend().open(cut, manifest)


def test_what_openvino_cannot_read_fails_the_build(any_graph, tmp_path):
    with pytest.raises(BuildError, match="OpenVINO cannot read tiny_x2.d1.onnx"):
        build(any_graph(), tmp_path)


@pytest.mark.parametrize("run", [CPU_RUN, BY_OPENVINO])
def test_an_engine_runs_on_its_own_device_only(tiny, tmp_path, run):
    engine, manifest = build(tiny(), tmp_path)
    assert OpenVinoBackend().open(engine, manifest, run).place == "cpu"
    for other in (RunOptions(runtime="onnxruntime"), RunOptions(device="xpu")):
        with pytest.raises(CannotRunHereError, match="OpenVINO runs it on cpu, not by"):
            OpenVinoBackend().open(engine, manifest, other)


def test_graphs_run_by_openvino_where_it_is_asked_for(tiny, tmp_path):
    graph = tiny(high=(64, 64))
    bare = tmp_path / "bare.onnx"
    bare.write_bytes(graph.read_bytes())
    x = np.random.default_rng(1).random((1, 3, 20, 30), dtype=np.float32)
    expected = open_session(graph).run(x)
    for path in (graph, bare):
        with open_session(path, run=BY_OPENVINO) as session:
            assert (session.backend, session.precision, session.scale) == ("openvino", "fp32", 2)
            assert np.abs(session.run(x) - expected).max() < 1e-5
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(graph.read_bytes()[:80])
    with pytest.raises(ArtifactError, match="broken.onnx is not an ONNX model"):
        open_session(broken, run=BY_OPENVINO)


def test_an_engine_of_onnxruntime_is_not_run_by_openvino(tiny, tmp_path):
    engine, manifest = build(tiny(), tmp_path, "cpu")
    with pytest.raises(InputError, match="is not run by openvino, but by onnxruntime"):
        open_session(engine, run=BY_OPENVINO)
    with pytest.raises(CannotRunHereError, match="it runs on cpu by onnxruntime, not by openvino"):
        OnnxRuntimeBackend().open(engine, manifest, BY_OPENVINO)


def test_too_little_memory_is_an_error_after_which_smaller_images_run(tiny, tmp_path):
    graph = tiny(high=(4096, 4096))
    with open_session(graph, run=BY_OPENVINO) as session:
        small, large = (np.zeros((1, 3, side, side), np.float32) for side in (32, 2048))
        session.run(small)
        before = resource.getrlimit(resource.RLIMIT_AS)
        used = 1024 * int(_status("VmSize:"))
        resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, before[1]))
        try:
            with pytest.raises(
                DeviceMemoryError, match="the CPU is out of memory .* 2048x2048"
            ) as e:
                session.run(large)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        assert "use smaller images" in e.value.hint
        assert np.isfinite(session.run(small)).all()


def _status(key):
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith(key))


def test_threads_follow_the_cores_and_are_not_pinned_once_these_have_changed(monkeypatch):
    openvino_session.openvino_core()
    cores = openvino_session.usable_cores()
    assert CPU.settings("fp32")["INFERENCE_NUM_THREADS"] == cores
    assert CPU.settings("fp32")["ENABLE_CPU_PINNING"] is True
    monkeypatch.setattr(openvino_session, "usable_cores", lambda: cores + 1)
    assert CPU.settings("fp32")["INFERENCE_NUM_THREADS"] == cores + 1
    assert CPU.settings("fp32")["ENABLE_CPU_PINNING"] is False


def test_a_gpu_of_intels_is_looked_for(tiny, tmp_path):
    present = [name for name in openvino_session.openvino_core().available_devices if "GPU" in name]
    if present:
        pytest.skip(f"this machine has {present}, for which no test was written")
    graph = tiny()
    with pytest.raises(
        BuildError, match="cannot build for 'intel-gpu' here: OpenVINO finds no GPU"
    ):
        engine_from_onnx(graph, tmp_path / "out", target="intel-gpu")
    with pytest.raises(CannotRunHereError, match="finds no GPU of Intel's as xpu:0"):
        open_session(graph, run=RunOptions(device="xpu"))
    assert OpenVinoGpuBackend().versions().keys() == {"openvino"}
    with pytest.raises(InputError, match="openvino-gpu runs on xpu, not on cpu"):
        RunOptions(runtime="openvino-gpu", device="cpu")


def test_reasons_are_without_the_lines_of_openvino_s_source():
    text = "Exception from src/core.cpp:1:\nCheck 'x' failed at a.cpp:222:\n[CPU] Too bad\n\n"
    assert short_reason(RuntimeError(text)) == "[CPU] Too bad"
    assert short_reason(RuntimeError("")) == "RuntimeError"
