"""`export --fallback`: graphs for FP16 engines with nodes in FP32."""

import numpy as np
import onnx
import pytest
from doubles.onnx_text import graph, run

from sr_deploy.core.errors import ExportError, InputError
from sr_deploy.core.manifest import read_manifest
from sr_deploy.core.session import BuildOptions
from sr_deploy.export.half import precision_of
from sr_deploy.export.pipeline import ExportOptions, onnx_from_source
from sr_deploy.export.source import Source, SourceFacts, SourceGraph
from sr_deploy.runtime.build import bundle_from_onnx, engine_from_onnx
from sr_deploy.runtime.graph_nodes import image_inputs


def network(*scales):
    """The nodes of convolutions that multiply by `scales` and an enlargement, and their weights."""
    nodes, constants, last = [], ["float[4] s = {1, 1, 2, 2}"], "lr"
    for i, scale in enumerate(scales):
        weight = ", ".join(str(scale * (k % 4 == 0)) for k in range(9))
        constants.append(f"float[3,3,1,1] w{i} = {{{weight}}}")
        nodes.append(f"[conv{i}] t{i} = Conv({last}, w{i}) [relu{i}] r{i} = Relu(t{i})")
        last = f"r{i}"
    return " ".join([*nodes, f"[enlarge] sr = Resize({last}, , s)"]), ", ".join(constants)


class TextSource(Source):
    name = text = "net_x2"
    scale, min_hw, parent_sha256 = 2, (4, 4), "0" * 64

    def __init__(self, net):
        self.net = net

    @classmethod
    def from_text(cls, text):
        raise AssertionError("not by name")

    def facts(self, variant):
        return SourceFacts("net", "one", halo_px=0)

    def graph(self, variant, sizes, form, opset):
        nodes, constants = self.net
        hw = "h,w" if sizes.dynamic else ",".join(map(str, sizes.opt))
        model = graph(nodes, opset=opset, constants=constants, hw=hw)
        return SourceGraph(model, lambda x: run(model, x), [], {})


OVERFLOWS = (400.0, 400.0, 1e-4, 6.25e-2)
NEEDED = ("conv1", "relu1", "conv2")


def export(folder, *, net=None, size="16x16", **options):
    lines = []
    source = TextSource(net or network(*OVERFLOWS))
    options = ExportOptions(sizes=[size], **options)
    (path,) = onnx_from_source(source, folder, options, progress=lines.append)
    return path, read_manifest(path), lines[-1]


def test_the_fewest_nodes_are_fp32_in_the_graph_and_in_the_manifest(tmp_path):
    path, manifest, line = export(tmp_path, fallback="auto", target="rtx")
    assert path.name == "net_x2.16x16.fp16.fallback.onnx" and "3 nodes in FP32" in line
    assert manifest.fp32_nodes == NEEDED and manifest.graph_dtype == "fp16"
    assert (
        manifest.precision_obtained == precision_of(onnx.load(str(path))) == "mixed: 6 fp16, 3 fp32"
    )
    assert "--fallback auto" in manifest.command
    record = manifest.checks["fp16"]["fallback"]
    assert record["nodes"] == list(NEEDED) and record["fewest"] and record["runs"] == 2
    assert record["psnr_db_without"] is None and record["psnr_db_with"] > 50
    assert "'conv1' (Conv) reaches" in record["overflows_without"][0]
    _, _, line = export(tmp_path, fallback="auto", target="rtx")
    assert "up to date" in line


def test_a_builder_of_weakly_typed_networks_gets_the_names(tmp_path):
    import tarfile

    path, manifest, _ = export(tmp_path, fallback="auto", target="xavier")
    assert path.name == "net_x2.16x16.fp16.fallback.onnx"
    assert (manifest.precision_obtained, manifest.fp32_nodes) == ("fp32", NEEDED)
    assert {n.name for n in onnx.load(str(path)).graph.node} >= set(NEEDED)
    bundle = bundle_from_onnx(path, tmp_path / "job.tar", target="xavier")
    with tarfile.open(str(bundle)) as archive:
        (member,) = [m for m in archive.getmembers() if m.name.endswith("job.txt")]
        job = archive.extractfile(member).read().decode()
    assert f"# fp32_layers {';'.join(NEEDED)}\n" in job
    assert "net_x2.16x16.fp16.fallback.engine" in job


def test_tensorrt_for_rtx_builds_the_mixed_graph(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    path, _, _ = export(tmp_path, fallback="auto", target="rtx")
    one_gpu = BuildOptions(compute_capabilities=(86,))
    (engine,) = engine_from_onnx(path, tmp_path / "out", target="rtx", options=one_gpu)
    manifest = read_manifest(engine)
    assert engine.name == "net_x2.16x16.fp16.sm86.fallback.engine"
    assert manifest.precision_obtained.startswith("mixed: ")
    assert manifest.build["fp32_layers"] == list(NEEDED)
    more = BuildOptions(compute_capabilities=(86,), fallback="conv0")
    (engine,) = engine_from_onnx(path, tmp_path / "more", target="rtx", options=more)
    assert read_manifest(engine).build["fp32_layers"] == [*NEEDED, "conv0"]


def test_head_and_tail_and_names_are_kept(tmp_path):
    fine = network(1.0, 1.0, 1.0)
    _, manifest, _ = export(tmp_path, net=fine, fallback="head-tail")
    assert manifest.fp32_nodes == ("conv0", "conv2")
    _, manifest, _ = export(tmp_path, net=fine, fallback="relu0")
    assert manifest.fp32_nodes == ("relu0",)
    with pytest.raises(ExportError, match="has no node 'relu' to keep in FP32") as e:
        export(tmp_path, net=fine, fallback="relu")
    assert "did you mean 'relu" in e.value.hint


def test_a_graph_that_needs_none_has_none(tmp_path):
    path, manifest, _ = export(tmp_path, net=network(1.0, 1.0), fallback="auto")
    assert (manifest.fp32_nodes, manifest.precision_obtained) == ((), "fp16")


def test_without_it_the_overflow_is_named_and_nothing_is_written(tmp_path):
    words = r"node 'conv1' \(Conv\) reaches .* in 't1'.* the largest activations are"
    with pytest.raises(ExportError, match=words) as e:
        export(tmp_path)
    assert "--fallback auto" in e.value.hint and list(tmp_path.iterdir()) == []
    with pytest.raises(ExportError, match="fails in half precision"):
        export(tmp_path, fallback="head-tail")


@pytest.mark.parametrize("size, at", [("100x100", "100x100"), ("8x8:100x100:128x128", "100x100")])
def test_a_large_graph_is_searched_on_small_photographs(tmp_path, monkeypatch, size, at):
    from sr_deploy.export import fallback

    seen = []
    search = fallback.search_fp32_nodes

    def observed(plain, images, references, **options):
        seen.append((images[0].shape[2:], image_inputs(plain.graph)[0].name, set(options["start"])))
        return search(plain, images, references, **options)

    monkeypatch.setattr(fallback, "search_fp32_nodes", observed)
    _, manifest, _ = export(tmp_path, size=size, fallback="auto")
    assert seen == [((48, 48), "lr", set()), ((100, 100), "lr", set(NEEDED))]
    record = manifest.checks["fp16"]["fallback"]
    assert record["confirmed_at"] == at and record["runs"] == 3


def test_fp32_graphs_take_no_fallback():
    with pytest.raises(InputError, match="--fallback keeps nodes of an FP16 graph in FP32"):
        ExportOptions(fallback="auto", precision="fp32")
    with pytest.raises(InputError, match="graphs for 'cpu' are FP32"):
        onnx_from_source(
            TextSource(network(1.0)), "unused", ExportOptions(fallback="auto", target="cpu")
        )


def test_onnx_runtime_runs_the_mixed_graph(tmp_path):
    from sr_deploy.runtime.opener import open_session

    path, _, _ = export(tmp_path, fallback="auto")
    x = np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32)
    with open_session(str(path)) as session:
        np.testing.assert_allclose(session.run(x)[:, :, ::2, ::2], x, atol=2e-3)
