"""Graphs of anyone: what is found of them, and what the commands do with them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from doubles.foreign_graphs import FOREIGN, model, node, save_foreign, shuffling

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs them")

from sr_deploy.core.errors import (  # noqa: E402
    ArtifactError,
    CannotRunHereError,
    InputError,
    VariantError,
)
from sr_deploy.core.interface import ImageEnd, Interface  # noqa: E402
from sr_deploy.core.manifest import manifest_path, read_manifest  # noqa: E402
from sr_deploy.core.target import load_target  # noqa: E402
from sr_deploy.runtime import import_onnx  # noqa: E402
from sr_deploy.runtime.build import engine_from_onnx  # noqa: E402
from sr_deploy.runtime.graph_check import check_graph  # noqa: E402
from sr_deploy.runtime.graph_interface import ASSUMED, find_values  # noqa: E402
from sr_deploy.runtime.import_onnx import ImportOptions, graph_from_file, parse_values  # noqa: E402
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


def simple(**changes):
    """Return a graph of x2, with other ends or nodes."""
    free, out = [1, 3, "h", "w"], [1, 3, "H", "W"]
    facts = {
        "nodes": [
            node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
            node("DepthToSpace", ["c"], ["y"], blocksize=2, mode="CRD"),
        ],
        "inputs": [("x", "FLOAT", free)],
        "outputs": [("y", "FLOAT", out)],
        "weights": {"w": shuffling(2)},
        "opset": 17,
        **changes,
    }
    parts = [facts[key] for key in ("nodes", "inputs", "outputs", "weights")]
    return model(*parts, opset=facts["opset"])


@pytest.fixture()
def save(tmp_path):
    def write(graph, name="net.onnx", **options):
        onnx.save(graph, str(tmp_path / name), **options)
        return tmp_path / name

    return write


POOL = [node("GlobalAveragePool", ["x"], ["a"]), node("Flatten", ["a"], ["y"])]
SCALED = [node("Resize", ["x", "", "s"], ["y"], mode="nearest")]
GREY = [node("ReduceMean", ["x"], ["y"], axes=[1])]
VIDEO = [node("Identity", ["x"], ["y"])]


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(nodes=POOL, outputs=[("y", "FLOAT", [1, 3])]), "the output has 2 dimensions"),
        (
            dict(inputs=[("x", "FLOAT", [1, 3, "h", "w"]), ("sigma", "FLOAT", [1])]),
            "expected one input, the image, found 2: x, sigma",
        ),
        (
            dict(nodes=SCALED, weights={"s": np.array([1, 1, 1.5, 1.5], np.float32)}),
            "32x32 becomes 48x48.*one whole scale",
        ),
        (
            dict(nodes=SCALED, weights={"s": np.array([1, 1, 17, 17], np.float32)}),
            "enlarges by 17; expected at most 16",
        ),
        (dict(inputs=[("x", "FLOAT", [8, 3, "h", "w"])]), "the batch of the input is 8"),
        (
            dict(
                nodes=VIDEO,
                inputs=[("x", "FLOAT", [1, 5, 3, "h", "w"])],
                outputs=[("y", "FLOAT", [1, 5, 3, "h", "w"])],
            ),
            "5 dimensions, as of video networks",
        ),
        (
            dict(nodes=GREY, outputs=[("y", "FLOAT", [1, 1, "h", "w"])]),
            "the input has 3 channels, but the output 1",
        ),
        (dict(nodes=[node("Warp", ["x"], ["y"])]), "cannot load .*Warp"),
        (dict(nodes=[node("Warp", ["x"], ["y"], domain="org.me")]), "cannot load .*(Warp|org.me)"),
        (
            dict(nodes=[node("Log", ["neg"], ["l"]), node("Add", ["x", "l"], ["y"])],
                 weights={"neg": np.array(-1, np.float32)}),
            "for a photograph is not finite",
        ),
    ],
)  # fmt: skip
def test_what_is_no_network_of_single_images_is_refused(save, tmp_path, changes, words):
    out = tmp_path / "out"
    with pytest.raises(CannotRunHereError if "finite" not in words else ArtifactError, match=words):
        graph_from_file(save(simple(**changes)), out)
    assert not out.exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(scale=4), "enlarges by 2, not by 4 as --scale says"),
        (dict(output="z"), "it has no output 'z'; it has y"),
        (dict(name="a/b"), "'a/b' cannot be the name of a model"),
        (dict(name="x\n"), "cannot be the name of a model"),
        (dict(value_range="7:3"), "'7:3' is not a range of values"),
        (dict(value_range="nan"), "'nan' is not a range of values"),
        (dict(variant="Wide"), "'Wide' is not a variant"),
    ],
)
def test_options_that_do_not_fit_are_refused(save, tmp_path, options, words):
    with pytest.raises((InputError, CannotRunHereError, VariantError), match=words):
        graph_from_file(save(simple()), tmp_path / "out", ImportOptions(**options))
    assert not (tmp_path / "out").exists()


def test_files_that_are_damaged_missing_or_no_graphs_are_refused(save, tmp_path):
    whole = save(simple()).read_bytes()
    cases = [("cut.onnx", whole[:200], "not an ONNX graph"), ("a.pth", b"PK", "not an ONNX graph")]
    for name, content, words in cases:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=words) as caught:
            graph_from_file(tmp_path / name, tmp_path / "out")
        assert "import-checkpoint" in caught.value.hint
    ort_format = b"\x18\x00\x00\x00ORTM"
    for content, words in (
        (b"version https://git-lfs.github.com/spec/v1\n", "graph: it is a pointer of Git LFS"),
        (b"<!DOCTYPE html>", "graph: it is a web page"),
        (ort_format, "graph: it is in ONNX Runtime's own format"),
    ):
        (tmp_path / "a.onnx").write_bytes(content)
        with pytest.raises(ArtifactError, match=words):
            graph_from_file(tmp_path / "a.onnx", tmp_path / "out")
    (tmp_path / "a.ort").write_bytes(whole)
    with pytest.raises(ArtifactError, match="as the name .ort says"):
        graph_from_file(tmp_path / "a.ort", tmp_path / "out")
    with pytest.raises(InputError, match="none.onnx does not exist"):
        graph_from_file(tmp_path / "none.onnx", tmp_path / "out")
    with pytest.raises(InputError, match="is a folder"):
        graph_from_file(tmp_path, tmp_path / "out")
    file = save(simple(), save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ArtifactError, match="weights in the file 'w.bin', which is missing"):
        graph_from_file(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nodes_in_any_order(save, tmp_path):
    """As onnxruntime's converter to FP16 leaves them: appended at the end."""
    made = FOREIGN["half_opset17"].make()
    nodes = list(made.graph.node)[::-1]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    path = graph_from_file(save(made), tmp_path / "out", ImportOptions(name="n")).path
    x = image((9, 8))
    with open_session(path) as session:
        np.testing.assert_allclose(session.run(x), by_hand("half_opset17", path, x), atol=4e-3)


def test_several_outputs_need_a_choice(save, tmp_path):
    file = save(FOREIGN["several_outputs_opset24"].make())
    with pytest.raises(CannotRunHereError, match="found 3: features, image, mask") as caught:
        graph_from_file(file, tmp_path / "out")
    assert "--output-name NAME" in caught.value.hint
    imported = graph_from_file(file, tmp_path / "out", ImportOptions(output="image", name="n"))
    assert imported.manifest.interface.other_outputs == ("features", "mask")
    assert any("not used: features, mask" in note for note in imported.notes)
    assert "--output-name=image" in imported.manifest.command


def test_other_files_are_not_replaced(save, tmp_path):
    extern = dict(save_as_external_data=True, location="w.bin", size_threshold=0)
    file = save(simple(), **extern)
    out = tmp_path / "out"
    out.mkdir()
    (out / "w.bin").write_bytes(b"of another network")
    with pytest.raises(InputError, match="w.bin, the name of the weights .* already exists"):
        graph_from_file(file, out)
    (out / "w.bin").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_onnx, "write_artifact", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            graph_from_file(file, out)
    assert not list(out.iterdir())
    (out / "net.onnx").write_bytes(b"mine")
    with pytest.raises(InputError, match="already exists, and is another file without a manifest"):
        graph_from_file(file, out)
    assert [p.name for p in out.iterdir()] == ["net.onnx"]


def test_a_file_in_the_folder_itself_gets_a_manifest(save, tmp_path):
    file = save(simple())
    before = file.read_bytes()
    imported = graph_from_file(file, tmp_path, ImportOptions(variant="w16", name="net"))
    assert imported.path.name == "net.w16.onnx" and imported.manifest.variant == "w16"
    imported = graph_from_file(file, tmp_path)
    assert imported.path == file and file.read_bytes() == before
    assert read_manifest(file) == imported.manifest
    graph_from_file(file, tmp_path)  # again


def test_simplified_graphs_are_other_files_and_say_so(save, tmp_path):
    pytest.importorskip("onnxslim", reason="onnxslim is not installed")
    nodes = [node("Identity", ["x"], ["i"]), *simple().graph.node]
    nodes[1].input[0] = "i"
    file = save(simple(nodes=nodes))
    imported = graph_from_file(file, tmp_path / "out", ImportOptions(simplify=True))
    assert imported.path.read_bytes() != file.read_bytes() and imported.manifest.nodes == 2
    assert "not the file: by onnxslim, 3 nodes before, 2" in imported.manifest.checks["simplified"]
    assert imported.manifest.parent_sha256 != imported.manifest.sha256
    assert "--simplify" in imported.manifest.command


def test_values_of_black_and_white(save, tmp_path):
    assert parse_values("255") == ((0, 255), (0, 255))
    assert parse_values("0:1,-1:1") == ((0, 1), (-1, 1))
    noise = {"w": np.random.default_rng(0).standard_normal((12, 3, 3, 3)).astype(np.float32)}
    imported = graph_from_file(save(simple(weights=noise)), tmp_path / "out")
    assert "assumed" in imported.manifest.checks["values"]
    assert any("0..1 is assumed" in note for note in imported.notes)

    plain = Interface(ImageEnd("x"), ImageEnd("y"))

    def network(low, high, low_out, high_out):
        """Enlarge; make darker what has other values."""

        def run(x):
            unit = (np.clip(x, low, high) - low) / (high - low)
            fits = x.max() > high / 10 and x.min() < (low + high) / 2
            y = unit if fits else unit * 0.3
            return (y * (high_out - low_out) + low_out).repeat(2, 2).repeat(2, 3)

        return run

    for ranges in ((0, 1, 0, 1), (0, 255, 0, 255), (-1, 1, -1, 1), (0, 1, -1, 1), (0, 255, 0, 1)):
        found, _ = find_values(network(*ranges), plain, 2, (48, 48))
        assert (*found.input.values, *found.output.values) == ranges
    grey = find_values(lambda x: np.full((1, 3, 96, 96), 0.4), plain, 2, (48, 48))
    assert grey == (plain, ASSUMED)
    assert find_values(lambda x: None, plain, 2, (48, 48)) == (plain, ASSUMED)


def test_a_quantised_import_becomes_an_engine_of_the_cpu(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; the export needs it")
    from sr_deploy.export.graph_source import GraphSource
    from sr_deploy.export.pipeline import ExportOptions, onnx_from_source

    imported = graph_from_file(save_foreign("quantised_opset13", tmp_path), tmp_path / "out")
    source = GraphSource.from_text(str(imported.path))
    graphs = onnx_from_source(source, tmp_path, ExportOptions(sizes=["8x8"], target="cpu"))
    (engine,) = engine_from_onnx(graphs, tmp_path, target="cpu")
    assert read_manifest(engine).precision_obtained == "int8"
    assert manifest_path(imported.path).is_file()


@pytest.mark.parametrize("name", ["tensorflow_nhwc", "torch_opset9", "several_outputs_opset24"])
def test_check_takes_what_export_will_change_for_warnings(name, tmp_path):
    options = ImportOptions(**dict(FOREIGN[name].options))
    imported = graph_from_file(save_foreign(name, tmp_path), tmp_path / "out", options)
    findings = check_graph(imported.path, load_target("rtx"))
    assert {f.severity for f in findings} == {"warning"}
    assert any("build-engine exports it" in f.hint for f in findings)


def test_the_command(run_cli, tmp_path):
    file = save_foreign("luma_opset10", tmp_path)
    result = run_cli("import-onnx", file, "-o", tmp_path / "out", "--scale", 3)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'out' / 'luma_opset10.onnx'}\n"
    assert "luma_opset10: x3, LR 20x24, fp32" in result.stderr
    assert "input: NCHW luma fp32, 16/255..235/255" in result.stderr
    result = run_cli("import-onnx", tmp_path / "none.onnx")
    assert result.exit_code == 1 and "error: " in result.stderr and "hint: " in result.stderr
