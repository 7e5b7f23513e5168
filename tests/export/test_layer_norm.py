"""LayerNormalization as basic operators."""

import numpy as np
import pytest
from doubles.onnx_text import graph, run
from onnx import helper

from sr_deploy.core.target import load_target, target_names
from sr_deploy.export.layer_norm import reads_layer_norm, split_layer_norms

X = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
SCALE = "float[8] g = {1, 2, 3, 4, 5, 6, 7, 8}, float[8] b = {8, 7, 6, 5, 4, 3, 2, 1}"


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize(
    "node",
    [
        "[n] sr = LayerNormalization(lr, g)",
        "[n] y = LayerNormalization <epsilon=0.1>(lr, g, b) [m] sr = Neg(y)",
        "[n] sr = LayerNormalization <axis=3>(lr, g, b)",
        "[n] sr = LayerNormalization <axis=1>(lr, g)",
    ],
)
def test_it_computes_the_same(node, opset):
    model = graph(node, opset=opset, constants=SCALE)
    split = split_layer_norms(model)
    assert not any(n.op_type == "LayerNormalization" for n in split.graph.node)
    assert split.graph.node[0].name == "n/mean"
    np.testing.assert_allclose(run(split, X), run(model, X), atol=1e-5)


def test_one_whose_statistics_are_read_stays():
    model = graph("y, m = LayerNormalization(lr, g) sr = Add(y, m)", opset=17, constants=SCALE)
    assert [n.op_type for n in split_layer_norms(model).graph.node] == ["LayerNormalization", "Add"]


def test_torch_networks_are_written_in_opsets_without_it():
    torch = pytest.importorskip("torch")
    from sr_deploy.core.sizes import Sizes
    from sr_deploy.export.graph import graph_from_network

    net = torch.nn.LayerNorm(8).eval()
    model = graph_from_network(net, Sizes((8, 8), (8, 8), (8, 8)), opset=13)
    assert model.opset_import == [helper.make_opsetid("", 13)]
    expected = net(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(run(model, X), expected, atol=1e-5)


def test_tensorrt_reads_it_from_8_6_on():
    without = {name for name in target_names() if not reads_layer_norm(load_target(name))}
    assert without >= {"xavier", "xavier-jp4", "rtx-tensorrt8"}
    assert not without & {"cpu", "cuda", "rtx", "orin"}
