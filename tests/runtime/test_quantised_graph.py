from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")
from doubles.int8_graphs import CONVOLUTIONS, int8_model  # noqa: E402
from onnx import helper  # noqa: E402

from sr_deploy.runtime.quantised_graph import (  # noqa: E402
    activation_scales,
    nodes_in,
    quantised_nodes,
    without_quantisation,
)

FORMS = [
    {"weights": "float"},
    {"weights": "int8"},
    {"weights": "float", "half": True},
    {"weights": "int8", "half": True},
]


def run(model, x):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    dtype = np.float16 if session.get_inputs()[0].type == "tensor(float16)" else np.float32
    return session.run(None, {"lr": x.astype(dtype)})[0].astype(np.float32)


def operators(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_without_its_pairs_is_the_network_that_was_quantised(form):
    model = int8_model(**form)
    floats = without_quantisation(model)
    onnx.checker.check_model(floats, full_check=True)
    assert operators(floats) == ["Conv", "Relu", "Conv", "DepthToSpace"]
    assert quantised_nodes(model) == list(CONVOLUTIONS) and quantised_nodes(floats) == []
    names = {tensor.name for tensor in floats.graph.initializer}
    assert not any("scale" in name or "zero" in name for name in names)
    x = np.random.default_rng(1).random((1, 3, 16, 24))
    original = int8_model(kept=CONVOLUTIONS, half=form.get("half", False))
    # INT8 weights stand for rounded floats; FP16 computes in another order.
    near = 2e-2 if form["weights"] == "int8" or form.get("half") else 1e-6
    assert np.abs(run(floats, x) - run(original, x)).max() < near
    assert 1e-4 < np.abs(run(model, x) - run(original, x)).max() < 0.1


@pytest.mark.parametrize("form", FORMS)
def test_one_convolution_alone_loses_its_pairs(form):
    model = int8_model(**form)
    before = model.SerializeToString()
    mixed = without_quantisation(model, ["conv2"])
    assert model.SerializeToString() == before
    onnx.checker.check_model(mixed, full_check=True)
    assert quantised_nodes(mixed) == ["conv1"]
    x = np.random.default_rng(1).random((1, 3, 16, 24))
    assert np.abs(run(mixed, x) - run(model, x)).max() < 0.1


def test_casts_around_a_pair_are_left_out():
    # As a graph of FP16 in an opset below 19 has them.
    model = int8_model(weights="float")
    graph = model.graph
    reads = graph.node[[n.name for n in graph.node].index("conv2_x_q")]
    conv = graph.node[[n.name for n in graph.node].index("conv2")]
    to_float = helper.make_node("Cast", [reads.input[0]], ["c1"], name="c1", to=1)
    to_half = helper.make_node("Cast", [conv.input[0]], ["c2"], name="c2", to=1)
    reads.input[0], conv.input[0] = "c1", "c2"
    position = list(graph.node).index(reads)
    graph.node.insert(position, to_float)
    graph.node.insert(list(graph.node).index(conv), to_half)
    assert quantised_nodes(model) == list(CONVOLUTIONS)
    assert activation_scales(model)["activation"] == pytest.approx(2 / 127)
    assert operators(without_quantisation(model)) == ["Conv", "Relu", "Conv", "DepthToSpace"]


def test_a_pair_that_several_nodes_read_stays_for_the_others():
    model = int8_model(kept=("conv1",))
    shared = helper.make_node("Conv", ["conv2_x_dq", "conv2_weight_dq"], ["twin"], name="twin")
    model.graph.node.append(shared)
    model.graph.output.append(helper.make_tensor_value_info("twin", 1, None))
    assert quantised_nodes(without_quantisation(model, ["twin"])) == ["conv2"]


@pytest.mark.parametrize("form", FORMS)
def test_scales_are_of_activations(form):
    scales = activation_scales(int8_model(**form))
    assert {name: round(scale * 127, 2) for name, scale in scales.items()} == {
        "lr": 1.0,
        "activation": 2.0,
    }


@pytest.mark.parametrize(
    "message, found",
    [
        ("Could not find any implementation for node conv_1 + Relu_2.", ["conv_1"]),
        ("node w + w_Q + /body/0/Conv + PWN(/act/Sigmoid, /act/Mul).", ["/body/0/Conv"]),
        ("implementation for node {ForeignNode[conv_1...conv_12]}.", ["conv_1", "conv_12"]),
        ("for node conv_12.)", ["conv_12"]),
        ("for node conv_123", []),
    ],
)
def test_the_nodes_that_a_message_names(message, found):
    assert nodes_in(message, ["conv_1", "conv_12", "/body/0/Conv"]) == found
