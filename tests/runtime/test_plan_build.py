"""Engines of adaptive networks: built, opened, refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sr_deploy.core.errors import ArtifactError, BuildError, CannotRunHereError, InputError
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import BuildOptions
from sr_deploy.runtime.build import engine_from_onnx, planned_engines
from sr_deploy.runtime.opener import describe, open_session
from sr_deploy.runtime.opener.plan import load_plan

NAME = "small_x4.routed.json"


@pytest.fixture(scope="module")
def graphs(small_router, tmp_path_factory):
    """The plan of a small router's graphs."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs the graphs")
    export = pytest.importorskip("sr_deploy.export.plans", reason="needs torch and onnx")
    return export.plan_from_router(small_router, tmp_path_factory.mktemp("plan"))


def image():
    x = np.random.default_rng(1).random((1, 3, 21, 40), dtype=np.float32)
    x[..., :20] *= 0.2
    return x


def changed(plan, folder, **fields):
    """Copy a plan and its parts into a folder, with other fields."""
    folder.mkdir()
    for file in plan.parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    path = folder / plan.name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return path


@pytest.mark.parametrize("target, package", [("cpu", "onnxruntime"), ("cpu-openvino", "openvino")])
def test_engines_compute_what_the_graphs_compute_and_are_kept(graphs, tmp_path, target, package):
    pytest.importorskip(package, reason=f"{package} is not installed")
    lines = []
    given = {"target": target, "progress": lines.append}
    assert [e.state for e in planned_engines(graphs.parent, tmp_path, target=target)] == ["missing"]
    (path,) = engine_from_onnx(graphs.parent, tmp_path, **given)
    assert lines[-1].startswith(f"{NAME}: 3 engines, fp32, ")
    plan = load_plan(path)
    files = {part.file for part in plan.parts.values()}
    assert {p.name for p in tmp_path.iterdir()} == {NAME, *files}
    engine = plan.engine
    assert (engine.runtime, engine.precision_obtained) == (package, "fp32")
    assert all(receipt["layers"]["fp32"] > 0 for receipt in engine.receipts.values())
    assert plan.checks["accuracy"]["psnr_db_vs_fp32"] > 80
    (network,) = describe(tmp_path)  # the folder is one network
    assert (network.target, network.backend, network.precision) == (target, package, "fp32")
    with open_session(tmp_path) as session, open_session(graphs) as reference:
        assert (session.backend, session.precision) == (package, "fp32")
        np.testing.assert_allclose(session.run(image()), reference.run(image()), atol=1e-4)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert engine_from_onnx([graphs], tmp_path, **given) == [path]
    assert lines[-1] == f"{NAME}: up to date"
    assert before == {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    (tmp_path / sorted(files)[0]).write_bytes(b"damaged")
    assert planned_engines(graphs, tmp_path, target=target)[0].state == "out of date"
    with pytest.raises(ArtifactError, match="was changed after its plan was written"):
        open_session(path)
    path.write_text(to_json(replace(plan, engine=replace(engine, versions={package: "1.0"}))))
    engine_from_onnx([graphs], tmp_path, **given)
    assert "3 engines" in lines[-1]


def test_openvino_runs_graphs_and_engines_of_bf16_say_so(graphs, tmp_path):
    openvino = pytest.importorskip("sr_deploy.runtime.openvino_session")
    pytest.importorskip("openvino", reason="openvino is not installed")
    with open_session(graphs, run=RunOptions(runtime="openvino")) as session:
        assert session.backend == "openvino"
        y = session.run(image())
    with open_session(graphs) as reference:
        np.testing.assert_allclose(y, reference.run(image()), atol=1e-4)
    half = changed(graphs, tmp_path / "bf16", precision="bf16")
    if openvino.CPU.why_no_precision("bf16"):
        with pytest.raises(BuildError, match="can be built here: this CPU"):
            engine_from_onnx(half, tmp_path, target="cpu-openvino")
        pytest.skip("this CPU has no bf16")
    (path,) = engine_from_onnx(half, tmp_path, target="cpu-openvino")
    assert path.name == "small_x4.bf16.routed.json"
    engine = load_plan(path).engine
    assert "bf16" in engine.precision_obtained and engine.receipts["router"]["layers"]["bf16"] > 0
    (network,) = describe(path)
    assert network.precision_asked == "bf16" and 30 < network.psnr_db_vs_fp32 < 100
    with open_session(path) as session:
        assert "bf16" in session.precision


@pytest.mark.parametrize(
    "fields, target, words",
    [
        ({"precision": "bf16"}, "cpu", "exported for BF16 engines, but target 'cpu' builds fp32"),
        ({}, "xavier-nx", "xavier"),
        ({}, "rtx", "exported for FP32 engines, but target 'rtx' builds fp16 and int8"),
    ],
)
def test_plans_for_other_targets_are_refused_and_nothing_is_written(
    graphs, tmp_path, fields, target, words
):
    path = changed(graphs, tmp_path / "in", **fields)
    with pytest.raises(BuildError, match=words):
        engine_from_onnx(path, tmp_path / "out", target=target)
    assert not (tmp_path / "out").exists()


def test_what_engines_of_adaptive_networks_have_not_is_refused(graphs, tmp_path):
    with pytest.raises(InputError, match="would replace"):
        engine_from_onnx(graphs, graphs.parent, target="cpu")
    with pytest.raises(InputError, match="--dla does not|has no DLA core|--dla is not available"):
        engine_from_onnx(graphs, tmp_path, target="cpu", options=BuildOptions(dla=0))
    (path,) = engine_from_onnx(graphs, tmp_path / "engines", target="cpu")
    with pytest.raises(ArtifactError, match="is a plan of engines .target 'cpu'., not of graphs"):
        engine_from_onnx(path, tmp_path / "again", target="cpu")
    with pytest.raises(CannotRunHereError, match="is an engine of target 'cpu'"):
        open_session(path, run=RunOptions(device="directml"))
    old = replace(load_plan(path).engine, versions={"onnxruntime": "1.0"})
    path.write_text(to_json(replace(load_plan(path), engine=old)))
    with pytest.raises(CannotRunHereError, match="was built by onnxruntime 1.0"):
        open_session(path)


def test_a_build_that_fails_writes_nothing(graphs, tmp_path, monkeypatch):
    from sr_deploy.runtime.ort_engine import OnnxRuntimeBackend

    whole = OnnxRuntimeBackend.build_part

    def failing(self, onnx, part, *rest):
        if part.file.endswith("d2.onnx"):
            raise BuildError("no memory")
        return whole(self, onnx, part, *rest)

    monkeypatch.setattr(OnnxRuntimeBackend, "build_part", failing)
    with pytest.raises(BuildError, match="no memory"):
        engine_from_onnx(graphs, tmp_path / "out", target="cpu")
    assert list((tmp_path / "out").iterdir()) == []
