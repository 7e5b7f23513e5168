"""Exports in INT8, from a source to a graph with its manifest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from doubles.foreign_graphs import FOREIGN, save_foreign
from onnx import numpy_helper

pytest.importorskip("torch", reason="torch is not installed")

from sr_deploy.core.errors import ExportError, InputError  # noqa: E402
from sr_deploy.core.manifest import is_up_to_date, read_manifest  # noqa: E402
from sr_deploy.core.target import load_target  # noqa: E402
from sr_deploy.export.graph_source import GraphSource  # noqa: E402
from sr_deploy.export.pipeline import ExportOptions, onnx_from_source  # noqa: E402
from sr_deploy.runtime.graph_nodes import opset_of  # noqa: E402
from sr_deploy.runtime.import_onnx import ImportOptions, graph_from_file  # noqa: E402
from sr_deploy.runtime.opener import open_session  # noqa: E402

NET = "torch_opset11"


def imported(name, folder, change=lambda model: None):
    """Return the source of a foreign graph, whose file may be changed before the import."""
    (folder / "in").mkdir(parents=True)
    file = save_foreign(name, folder / "in")
    model = onnx.load(str(file))
    change(model)
    onnx.save(model, str(file))
    graph_from_file(file, folder / "out", ImportOptions(**dict(FOREIGN[name].options)))
    return GraphSource.from_text(str(folder / "out" / f"{name}.onnx"))


def pictures(folder, *seeds):
    folder.mkdir()
    for seed in seeds:
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        np.save(str(folder / f"{seed}.npy"), np.kron(noise, np.ones((4, 4, 1), np.uint8)))
    return str(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return imported(NET, tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = pictures(tmp_path_factory.mktemp("pictures") / "hr", 0, 1)
    return ExportOptions(sizes=["24x32"], precision="int8", calibrate=folder, max_loss_db=3.0)


@pytest.mark.parametrize("target", ["cpu", "cpu-openvino", "xavier-jp4", "rtx"])
def test_a_graph_is_made_for_its_target(source, options, target, tmp_path):
    lines = []
    (path,) = onnx_from_source(
        source, tmp_path, replace(options, target=target, keep="none"), progress=lines.append
    )
    assert path.name == f"{NET}.24x32.int8.onnx"
    manifest, profile = read_manifest(path), load_target(target)
    assert manifest.precision_asked == "int8"
    assert manifest.precision_obtained == "int8"
    assert manifest.graph_dtype == profile.int8.rest
    assert manifest.input_dtype == manifest.output_dtype == profile.io_dtype
    assert manifest.opset == opset_of(onnx.load(str(path))) == (19 if target == "rtx" else 13)
    assert manifest.checks["int8"]["psnr_db_vs_fp32"] > 35
    assert manifest.checks["this_file_vs_fp32_graph"]["psnr_db"]["24x32"] > 35
    assert ("rest_in_fp16" in manifest.checks) == (target == "rtx")
    assert "INT8" in lines[-1]
    x = np.random.default_rng(0).random((1, 3, 24, 32), np.float32)
    with open_session(path) as session:
        assert session.run(x).shape == (1, 3, 24 * source.scale, 32 * source.scale)


def test_other_pictures_make_another_graph(source, options, tmp_path):
    options = replace(options, target="cpu", keep="none")
    out = tmp_path / "out"
    (path,) = onnx_from_source(source, out, options)
    manifest, lines = read_manifest(path), []
    onnx_from_source(source, out, options, progress=lines.append)
    assert lines == [f"{path.name}: up to date"]
    other = replace(options, calibrate=pictures(tmp_path / "hr", 2, 3))
    onnx_from_source(source, out, other)
    assert not is_up_to_date(path, manifest)
    assert read_manifest(path).versions["calibration"] != manifest.versions["calibration"]


def test_a_graph_of_one_size_is_calibrated_at_it(options, tmp_path):
    fixed = imported("luma_opset10", tmp_path)
    options = replace(options, sizes=[], target="cpu-openvino", keep="none")
    (path,) = onnx_from_source(fixed, tmp_path / "int8", options)
    assert read_manifest(path).opt_shape == FOREIGN["luma_opset10"].hw
    assert read_manifest(path).precision_obtained == "int8"


def test_a_quantised_graph_is_refused(options, tmp_path):
    quantised = imported("quantised_opset13", tmp_path)
    with pytest.raises(InputError, match="quantised_opset13.onnx is quantised already: int8") as e:
        onnx_from_source(quantised, tmp_path / "int8", replace(options, target="cpu"))
    assert "FP32 network" in e.value.hint


def overflow(model):
    """Let the values after the convolution exceed FP16, and divide them again at the end."""
    (tensor,) = model.graph.initializer
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(value * np.float32(8e4), tensor.name))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(8e4), "k"))
    last = model.graph.node[-1]
    last.op_type = "Div"
    last.input.append("k")


def test_an_overflow_of_what_stays_in_fp16_is_refused(options, tmp_path):
    large = imported("paddle_names", tmp_path, overflow)
    with pytest.raises(ExportError, match="what INT8 leaves in FP16: ") as e:
        onnx_from_source(large, tmp_path / "int8", replace(options, target="rtx"))
    assert "--fallback auto" in e.value.hint
    onnx_from_source(large, tmp_path / "int8", replace(options, target="cpu", keep="none"))
