from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from sr_deploy.core.errors import ArtifactError, BuildError, InputError
from sr_deploy.core.manifest import manifest_path, read_manifest
from sr_deploy.core.session import BuildOptions
from sr_deploy.runtime import ort_engine as ort
from sr_deploy.runtime.build import engine_from_onnx
from sr_deploy.runtime.ort import OnnxRuntimeSession, raw_session
from sr_deploy.runtime.ort_engine import OnnxRuntimeBackend


@pytest.fixture(autouse=True)
def onnxruntime():
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def x(h, w):
    return np.random.default_rng(1).random((1, 3, h, w), dtype=np.float32)


def reference(path, array):
    """Convolution and pixel shuffle in numpy."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    weight = onnx.numpy_helper.to_array(onnx.load(str(path)).graph.initializer[0]).astype(
        np.float64
    )
    h, w = array.shape[2:]
    padded = np.pad(array[0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    y = sum(
        np.einsum("oi,ihw->ohw", weight[:, :, i, j], padded[:, i : i + h, j : j + w])
        for i in range(3)
        for j in range(3)
    )
    return y.reshape(3, 2, 2, h, w).transpose(0, 3, 1, 4, 2).reshape(1, 3, 2 * h, 2 * w)


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_graph_whose_name_is_not_utf_8(tiny, tmp_path):
    path = tmp_path / "sub\udce9" / "net\udce9.onnx"
    path.parent.mkdir()
    path.write_bytes(tiny(hw=(16, 24)).read_bytes())
    saved = tmp_path / "saved\udce9.onnx"
    raw_session(str(path), save_to=saved)
    assert raw_session(str(saved)).get_inputs()[0].shape == [1, 3, 16, 24]


@pytest.mark.smoke
def test_a_static_graph_runs_and_takes_its_size_only(tiny):
    session = OnnxRuntimeSession(tiny(hw=(16, 24)))
    assert (session.scale, session.fixed_hw, session.precision) == (2, (16, 24), "fp32")
    np.testing.assert_allclose(session.run(x(16, 24)), reference(tiny(), x(16, 24)), atol=1e-5)
    with pytest.raises(InputError, match="16x24 only, not 24x16"):
        session.run(x(24, 16))


def test_a_dynamic_graph_takes_what_its_manifest_vouches_for(tiny):
    path = tiny(hw=(8, 8), high=(32, 40))
    free = OnnxRuntimeSession(path)
    assert free.scale == 2 and free.fixed_hw is None
    assert free.run(x(50, 7)).shape == (1, 3, 100, 14)
    session = OnnxRuntimeBackend().open(path, read_manifest(path))
    np.testing.assert_allclose(session.run(x(9, 33)), reference(path, x(9, 33)), atol=1e-5)
    for hw in ((7, 8), (33, 8), (8, 41)):
        with pytest.raises(InputError):
            session.run(x(*hw))


def test_an_fp16_graph_is_run_but_said_to_be_computed_in_fp32(tiny):
    session = OnnxRuntimeSession(tiny(precision="fp16"))
    y = session.run(x(16, 24))
    assert y.dtype == np.float32 and session.precision == "fp32"
    np.testing.assert_allclose(y, reference(tiny(precision="fp16"), x(16, 24)), atol=1e-2)


@pytest.mark.parametrize("content", [b"", b"just text\n", b"\x08\x08not a graph"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(
        ArtifactError, match="x.onnx is not an ONNX model that onnxruntime can load"
    ):
        OnnxRuntimeSession(path)


@pytest.mark.parametrize(
    "shape, dtype, words",
    [
        ([1, 4, 8, 8], "FLOAT", "input has 4 channels; expected 3.*1, 4, 8, 8"),
        ([3, 8], "FLOAT", "2 dimensions; expected an image"),
        ([1, 3, 8, 8], "DOUBLE", "input is double; expected float"),
    ],
)
def test_another_kind_of_network_is_refused(tmp_path, shape, dtype, words):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graph")
    element = getattr(onnx.TensorProto, dtype)
    info = [onnx.helper.make_tensor_value_info(name, element, shape) for name in ("lr", "sr")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["lr"], ["sr"])], "g", info[:1], info[1:]
    )
    onnx.save(
        onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
        ),
        str(tmp_path / "x.onnx"),
    )
    with pytest.raises(ArtifactError, match=words):
        OnnxRuntimeSession(tmp_path / "x.onnx")


@pytest.mark.smoke
@pytest.mark.parametrize("sizes", [{"hw": (16, 24)}, {"hw": (8, 8), "high": (32, 40)}])
def test_the_cpu_engine_computes_what_its_graph_does(tiny, tmp_path, sizes):
    graph = tiny(**sizes)
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="cpu")
    manifest = read_manifest(engine)
    assert (manifest.kind, manifest.target, manifest.precision_obtained) == (
        "engine",
        "cpu",
        "fp32",
    )
    assert manifest.parent_sha256 == read_manifest(graph).sha256
    assert {"onnxruntime", "cpu_features"} <= set(manifest.versions) and manifest.not_checked
    assert manifest.checks["max_abs_err_vs_graph"] < 1e-3
    session = OnnxRuntimeBackend().open(engine, manifest)
    np.testing.assert_allclose(
        session.run(x(*sizes["hw"])), reference(graph, x(*sizes["hw"])), atol=1e-4
    )
    assert (session.fixed_hw is None) == ("high" in sizes)


def test_the_layout_is_part_of_the_engine(tiny, tmp_path):
    (own,) = engine_from_onnx(tiny(), tmp_path / "out", target="cpu")
    (flat,) = engine_from_onnx(
        tiny(), tmp_path / "out", target="cpu", options=BuildOptions(layout="nchw")
    )
    assert flat.name == own.name.replace(".engine", ".nchw.engine")
    np.testing.assert_allclose(
        *(OnnxRuntimeBackend().open(e, read_manifest(e)).run(x(16, 24)) for e in (own, flat)),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "target, words",
    [
        ("cpu", "onnxruntime has no layout 'nhwc'; expected nchw"),
        ("rtx", "it has only its default one"),
    ],
)
def test_an_unknown_layout_is_refused(tiny, tmp_path, target, words):
    with pytest.raises(InputError, match=words):
        engine_from_onnx(
            tiny(), tmp_path / "out", target=target, options=BuildOptions(layout="nhwc")
        )
    assert not (tmp_path / "out").exists()


def test_the_result_is_the_callers_own(tiny):
    """Runs write straight into an array each: a later one does not change an earlier one's."""
    session = OnnxRuntimeSession(tiny())
    first = session.run(x(16, 24))
    kept = first.copy()
    session.run(np.zeros((1, 3, 16, 24), np.float32))
    np.testing.assert_array_equal(first, kept)
    strided = np.asfortranarray(x(16, 24))
    np.testing.assert_array_equal(session.run(strided), kept)


def test_an_fp16_graph_is_refused_for_the_cpu_and_nothing_is_left(tiny, tmp_path):
    with pytest.raises(
        BuildError, match="FP16 engine.*target 'cpu' builds fp32 and int8 engines"
    ) as e:
        engine_from_onnx(tiny(precision="fp16"), tmp_path / "out", target="cpu")
    assert "--target cpu" in e.value.hint
    assert not (tmp_path / "out").exists()


def test_an_engine_never_says_fp16_when_it_computes_in_fp32(tiny, tmp_path):
    """An FP32 graph for an FP16 engine (TensorRT 8) is refused, or the engine is named FP32."""
    try:
        (engine,) = engine_from_onnx(
            tiny(precision="fp32", asked="fp16"), tmp_path / "out", target="cpu"
        )
    except BuildError:
        return
    assert "fp16" not in engine.name


def edited(engine, **change):
    path = manifest_path(engine)
    data = json.loads(path.read_text())
    for key, value in change.items():
        data[key].update(value)
    path.write_text(json.dumps(data))
    return read_manifest(engine)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"onnxruntime": "1.0.0"}, "built by onnxruntime 1.0.0"),
        ({"cpu_features": "z80"}, "for CPUs with z80; this machine has"),
    ],
)
def test_another_version_or_cpu_is_refused_with_how_to_rebuild(tiny, tmp_path, change, words):
    (engine,) = engine_from_onnx(tiny(), tmp_path / "out", target="cpu")
    with pytest.raises(ArtifactError, match=words) as e:
        OnnxRuntimeBackend().open(
            engine, edited(engine, versions={**read_manifest(engine).versions, **change})
        )
    assert "build-engine" in e.value.hint and "--target cpu" in e.value.hint


def test_building_again_on_another_cpu_helps_as_the_hint_says(tiny, tmp_path, monkeypatch):
    graph = tiny()
    with monkeypatch.context() as m:
        m.setattr(ort, "cpu_features", lambda: ["z80"])
        engine_from_onnx(graph, tmp_path / "out", target="cpu")
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="cpu")
    OnnxRuntimeBackend().open(engine, read_manifest(engine))


def test_a_library_that_computes_something_else_is_found_out(tiny, tmp_path, monkeypatch):
    real = OnnxRuntimeSession._run_timed

    def spoilt_run(self, x):
        timed = real(self, x)
        return replace(timed, y=timed.y + (0.1 if self.spoilt else 0))

    monkeypatch.setattr(OnnxRuntimeSession, "_run_timed", spoilt_run)
    opened = []

    made = OnnxRuntimeSession.__init__

    def init(self, *args):
        self.spoilt = not opened
        opened.append(args)
        made(self, *args)

    monkeypatch.setattr(OnnxRuntimeSession, "__init__", init)
    with pytest.raises(BuildError, match="differs from its graph by 0.1"):
        engine_from_onnx(tiny(), tmp_path / "out", target="cpu")
    assert list((tmp_path / "out").iterdir()) == []
