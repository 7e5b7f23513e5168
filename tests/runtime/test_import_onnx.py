"""Graphs of anyone: what is found of them, and what the commands do with them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from doubles.foreign_graphs import FOREIGN, save_foreign

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs them")

from sr_deploy.core.manifest import read_manifest  # noqa: E402
from sr_deploy.runtime.import_onnx import ImportOptions, graph_from_file  # noqa: E402
from sr_deploy.runtime.opener import open_session  # noqa: E402
from sr_deploy.runtime.ort import raw_session  # noqa: E402


def image(hw):
    return np.random.default_rng(1).random((1, 3, *hw), dtype=np.float32)


def by_hand(name, path, x):
    """Feed the file as its users would; return RGB, 0..1, or luma."""
    session = raw_session(str(path))
    y = session.run(
        None if name != "several_outputs_opset24" else ["image"],
        {session.get_inputs()[0].name: FEED.get(name, lambda x: x)(x)},
    )[0]
    return READ.get(name, lambda y: y.astype(np.float32))(y)


def _luma(x):
    r, g, b = (x.astype(np.float64) * 255)[0]
    y = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    return (y[None, None] / 255).astype(np.float32)


FEED = {
    "tensorflow_nhwc": lambda x: x.transpose(0, 2, 3, 1) * np.float32(255),
    "luma_opset10": _luma,
    "bytes_nhwc": lambda x: np.rint(x.transpose(0, 2, 3, 1) * np.float32(255)).astype(np.uint8),
    "half_opset17": lambda x: x.astype(np.float16),
    "unshuffling_opset18": lambda x: x * 2 - 1,
    "blue_first_chw": lambda x: x[0, ::-1] * np.float32(255),
}
READ = {
    "tensorflow_nhwc": lambda y: y.transpose(0, 3, 1, 2) / 255,
    "luma_opset10": lambda y: (y * 255 - 16) / 219,
    "bytes_nhwc": lambda y: y.transpose(0, 3, 1, 2).astype(np.float32) / 255,
    "unshuffling_opset18": lambda y: (y + 1) / 2,
    "blue_first_chw": lambda y: y[None, ::-1] / 255,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_graph_of_another_exporter(name, tmp_path):
    expected = FOREIGN[name]
    (tmp_path / "in").mkdir()
    file = save_foreign(name, tmp_path / "in")
    imported = graph_from_file(file, tmp_path / "out", ImportOptions(**dict(expected.options)))
    manifest = read_manifest(imported.path)
    interface = manifest.interface
    assert manifest == imported.manifest and imported.path.read_bytes() == file.read_bytes()
    assert (manifest.model, manifest.scale, manifest.multiple) == (
        name,
        expected.scale,
        expected.multiple,
    )
    assert (interface.input.layout, interface.colours) == (expected.layout, expected.colours)
    assert interface.input.values == pytest.approx(expected.values)
    assert interface.output.values == pytest.approx(expected.values_out or expected.values)
    assert manifest.precision_obtained == expected.precision
    x = image(expected.hw)
    with open_session(imported.path) as session:
        y = session.run(x)
    reference = by_hand(name, file, x)
    if expected.colours == "y":
        y = (y * np.array([0.299, 0.587, 0.114], np.float32).reshape(1, 3, 1, 1)).sum(1)[:, None]
    np.testing.assert_allclose(y, reference, atol=2e-3 if "half" in name else 1e-5)
    shutil.rmtree(str(tmp_path / "in"))
    assert open_session(imported.path).scale == expected.scale  # external weights were copied
