"""The search for the fewest FP32 nodes."""

import numpy as np
import pytest
import torch
from doubles.onnx_text import chain, graph, run
from doubles.spandrel_networks import weights_of

from sr_deploy.core.errors import ExportError
from sr_deploy.core.sizes import Sizes
from sr_deploy.export import fp32_search
from sr_deploy.export.emulation import check_half
from sr_deploy.export.fp32_search import search_fp32_nodes
from sr_deploy.export.graph import graph_from_network
from sr_deploy.export.half import halved, prepared
from sr_deploy.nets.spandrel import model_from_weights

IMAGE = np.random.default_rng(0).random((1, 3, 6, 7), dtype=np.float32)


def search(model, image=IMAGE, *, io_dtype="fp16", **options):
    references = [run(model, image)]
    return search_fp32_nodes(prepared(model), [image], references, io_dtype=io_dtype, **options)


@pytest.mark.parametrize(
    "weights, nodes",
    [
        ((1.0, 1.0), ()),
        ((400.0, 400.0, 1e-4, 6.25e-2), ("conv1", "conv2")),
        ((1.0, 1e6, 1e-6, 1.0), ("conv1", "conv2")),
        ((1e-4, 1e-4, 1e4, 1e4), ("conv1", "conv2")),
        ((*[1.0] * 6, 1e-3, 1e-3, 1e3, 1e3, *[1.0] * 6), ("conv7", "conv8")),
    ],
    ids=["none", "overflow", "weights", "dead", "loss"],
)
def test_the_fewest_nodes_are_found(weights, nodes):
    model = chain(*weights)
    found = search(model)
    assert found.nodes == nodes and found.fewest and found == search(model)
    half = halved(prepared(model), io_dtype="fp16", fp32_nodes=found.nodes)
    report = check_half(half.model, [IMAGE], [run(model, IMAGE)])
    assert report.problems() == [] and round(report.psnr_db, 2) == found.psnr_db_with
    for name in found.nodes:  # each is needed
        fewer = set(nodes) - {name}
        with pytest.raises((AssertionError, ExportError)):
            half = halved(prepared(model), io_dtype="fp16", fp32_nodes=fewer).model
            assert not check_half(half, [IMAGE], [run(model, IMAGE)]).problems()


def test_what_overflows_without_them_is_told():
    found = search(chain(400.0, 400.0, 1e-4, 6.25e-2))
    assert [(o.node, o.tensor) for o in found.overflows] == [("conv1", "t1")]
    assert found.psnr_db_without is None and found.runs == 2
    lossy = search(chain(1e-3, 1e-3, 1e3, 1e3))
    assert lossy.overflows == () and lossy.psnr_db_without < 50 < lossy.psnr_db_with


def test_nodes_that_square_inside_stay_fp32():
    model = graph(
        "[up] a = Mul(lr, k) [norm] n = InstanceNormalization(a, g, b) [down] sr = Mul(n, j)",
        constants="float k = {400}, float j = {0.1}, "
        "float[3] g = {1, 1, 1}, float[3] b = {5, 5, 5}",
        hw="6,7",
    )
    assert search(model).nodes == ("norm",)


def test_scores_of_an_attention_block_that_overflow():
    model = graph(
        "[scale] q = Mul(lr, k) [turn] t = Transpose <perm=[0, 1, 3, 2]>(q) "
        "[score] s = MatMul(q, t) [root] r = Mul(s, d) [soft] p = Softmax(r) "
        "[out] sr = MatMul(p, lr)",
        constants="float k = {300}, float d = {1e-5}",
        hw="6,7",
    )
    found = search(model)
    assert found.nodes == ("score", "root") and "'score' (MatMul)" in str(found.overflows[0])


def test_known_nodes_are_confirmed_in_one_run():
    assert search(chain(1e-3, 1e-3, 1e3, 1e3), start=("conv1", "conv2")).runs == 1


def test_whole_blocks_are_kept_when_the_runs_are_used_up(monkeypatch):
    monkeypatch.setattr(fp32_search, "MAX_RUNS", 5)
    found = search(chain(*[1.0] * 6, 1e-3, 1e-3, 1e3, 1e3, *[1.0] * 6))
    assert not found.fewest and {"conv7", "conv8"} < set(found.nodes)
    assert found.psnr_db_with > 50


def test_a_graph_that_no_choice_helps_is_refused():
    ends = graph("[far] a = Mul(lr, k) sr = Sin(a)", constants="float k = {2e4}", hw="6,7")
    with pytest.raises(
        ExportError, match="even with all nodes in FP32 it fails, by FP16 at its ends"
    ):
        search(ends)
    assert search(ends, io_dtype="fp32").nodes


@pytest.mark.parametrize("name", ["SwinIR", "HAT"])
def test_attention_networks_of_spandrel(name):
    network = model_from_weights(weights_of(name), source=name).network.eval()
    with torch.no_grad():
        first, last = network.model.conv_first, network.model.conv_last
        for parameter in first.parameters():  # the features reach some 1e5
            parameter.mul_(2e5 / float(first(torch.rand(1, 3, 16, 16)).abs().max()))
        last.weight.mul_(0.1 / float(last.weight.abs().max()) / 1e5)
    model = graph_from_network(network, Sizes((16, 16), (16, 16), (16, 16)), opset=17)
    image = np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32)
    found = search(model, image)
    assert found.psnr_db_without is None and found.psnr_db_with > 50 and found.fewest
    assert 2 <= len(found.nodes) < len(model.graph.node) / 3
    assert found.overflows[0].op == "Conv"
