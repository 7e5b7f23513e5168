"""Graphs of other exporters, imported and exported again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from doubles.foreign_graphs import FOREIGN, model, node, save_foreign

pytest.importorskip("torch", reason="torch is not installed")
onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from sr_deploy.core.errors import (  # noqa: E402
    ArtifactError,
    ExportError,
    InputError,
    VariantError,
)
from sr_deploy.core.manifest import manifest_path, read_manifest  # noqa: E402
from sr_deploy.export.graph_opset import in_opset  # noqa: E402
from sr_deploy.export.graph_source import GraphSource  # noqa: E402
from sr_deploy.export.half import plain_graph  # noqa: E402
from sr_deploy.export.pipeline import ExportOptions, onnx_from_source  # noqa: E402
from sr_deploy.runtime.import_onnx import ImportOptions, graph_from_file  # noqa: E402
from sr_deploy.runtime.opener import open_session  # noqa: E402
from sr_deploy.runtime.ort import raw_session  # noqa: E402


@pytest.fixture(scope="session")
def imports(made_once):
    """Return the folder of all foreign graphs, imported."""

    def fill(folder):
        for name, facts in FOREIGN.items():
            (folder / "in").mkdir(exist_ok=True)
            file = save_foreign(name, folder / "in")
            graph_from_file(file, folder / "out", ImportOptions(**dict(facts.options)))

    return made_once("foreign", fill) / "out"


def image(hw):
    return np.random.default_rng(2).random((1, 3, *hw), dtype=np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", FOREIGN)
def test_an_import_is_exported(imports, name, precision, tmp_path):
    facts, file = FOREIGN[name], imports / f"{name}.onnx"
    source = GraphSource.from_text(str(file))
    sizes = [] if facts.colours == "y" else ["x".join(map(str, facts.hw))]
    options = ExportOptions(sizes=sizes, precision=precision)
    if facts.precision == "int8" and precision == "fp16":
        with pytest.raises(ExportError, match="quantised .*QuantizeLinear"):
            onnx_from_source(source, tmp_path, options)
        return
    (path,) = onnx_from_source(source, tmp_path, options)
    manifest = read_manifest(path)
    expected = facts.precision if facts.precision == "int8" else precision
    assert (manifest.precision_obtained, manifest.interface) == (expected, None)
    assert manifest.opset == min(17, source.manifest.opset)
    graph = onnx.load(str(path))
    assert [v.name for v in graph.graph.input] == ["lr"] and len(graph.graph.output) == 1
    assert "Shape" not in {n.op_type for n in graph.graph.node}
    x = image(facts.hw)
    rounded = "fp16" in (precision, facts.precision)
    with open_session(file) as a, open_session(path) as b:
        np.testing.assert_allclose(b.run(x), a.run(x), atol=8e-3 if rounded else 1e-5)


def test_a_range_of_sizes(imports, tmp_path):
    source = GraphSource.from_text(str(imports / "torch_opset11.onnx"))
    options = ExportOptions(sizes=["8x8:16x16:32x32"], precision="fp32")
    (path,) = onnx_from_source(source, tmp_path, options)
    with open_session(path) as session:
        assert session.run(image((9, 31))).shape == (1, 3, 18, 62)


@pytest.mark.parametrize(
    "name, size, words",
    [
        ("luma_opset10", "24x24", "takes a height of 20 only, not 24"),
        ("unshuffling_opset18", "18x16", "multiples of 4 only, not 18x16"),
    ],
)
def test_sizes_that_it_does_not_take(imports, name, size, words, tmp_path):
    source = GraphSource.from_text(str(imports / f"{name}.onnx"))
    with pytest.raises(InputError, match=words):
        onnx_from_source(source, tmp_path, ExportOptions(sizes=[size], precision="fp32"))


def test_what_is_no_import_is_refused(imports, tmp_path):
    bare = tmp_path / "net.onnx"
    shutil.copy(str(imports / "paddle_names.onnx"), str(bare))
    with pytest.raises(ArtifactError, match="has no manifest") as caught:
        GraphSource.from_text(str(bare))
    assert "import-onnx" in caught.value.hint
    record = json.loads(manifest_path(imports / "paddle_names.onnx").read_text(encoding="utf-8"))
    manifest_path(bare).write_text(json.dumps({**record, "interface": None}), encoding="utf-8")
    with pytest.raises(InputError, match="was exported already"):
        GraphSource.from_text(str(bare))
    with pytest.raises(VariantError, match="has no variants, not 'd1'"):
        GraphSource.from_text(str(imports / "paddle_names.onnx")).variants("d1")


def newer(op, opset, *, weights=None, inputs=("x",), **attributes):
    ends = [("x", "FLOAT", [1, 4, 6, 6])], [("y", "FLOAT", None)]
    return model([node(op, inputs, ["y"], **attributes)], *ends, weights or {}, opset=opset, ir=10)


GRID = {"g": np.random.default_rng(0).uniform(-1, 1, (1, 6, 6, 2)).astype(np.float32)}
SCALE = {name: np.full(4, 0.5, np.float32) for name in "sb"}
SIZES = {"sizes": np.array([1, 4, 12, 12])}


@pytest.mark.parametrize(
    "graph",
    [
        newer("Gelu", 20, approximate="tanh"),
        newer("Swish", 24),
        newer("Mish", 18),
        newer("GroupNormalization", 21, weights=SCALE, inputs=("x", "s", "b"), num_groups=2),
        newer("GridSample", 20, weights=GRID, inputs=("x", "g"), mode="linear"),
        newer("Resize", 19, weights=SIZES, inputs=("x", "", "", "sizes"), mode="nearest"),
        newer("ReduceMean", 18, weights={"a": np.array([1])}, inputs=("x", "a")),
        newer("HardSwish", 22),
    ],
    ids=lambda graph: graph.graph.node[0].op_type,
)
def test_newer_operators_are_written_in_an_older_opset(graph):
    older = in_opset(plain_graph(graph), 17)
    assert [entry.version for entry in older.opset_import if not entry.domain] == [17]
    x = np.random.default_rng(1).standard_normal((1, 4, 6, 6), dtype=np.float32)
    a, b = (raw_session(m.SerializeToString()).run(None, {"x": x})[0] for m in (graph, older))
    np.testing.assert_allclose(b, a, atol=1e-5)


def test_an_attribute_that_an_older_opset_lacks_is_refused():
    graph = newer("Cast", 19, to=int(onnx.TensorProto.FLOAT16), saturate=0)
    with pytest.raises(ExportError, match="saturate does not exist in opset 18") as caught:
        in_opset(plain_graph(graph), 18)
    assert "older opset" in caught.value.hint
