"""For each rule of quantised graphs a graph that breaks it on one target, and targets that do not
mind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")
from doubles.int8_graphs import int8_model  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from sr_deploy.core.target import load_target, target_names  # noqa: E402
from sr_deploy.runtime.preflight import preflight_model  # noqa: E402

STRONG = ("rtx", "rtx-tensorrt", "orin-jp7")
TARGETS = [name for name in target_names() if load_target(name).runtime.startswith("tensorrt")]


def graph_for(target, **form):
    half = load_target(target).fp16_graph == "fp16"
    return int8_model(half=half, weights=form.pop("weights", "float"), **form)


def findings(model, target, **options):
    profile = load_target(target) if isinstance(target, str) else target
    return [
        f"{f.severity}: {f.node}: {f.what}"
        for f in preflight_model(model, profile, precision="int8", **options)
    ]


def change(model, name, values=None, dtype=None):
    """Replace a constant."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            old = numpy_helper.to_array(tensor)
            new = old if values is None else np.full_like(old, values)
            tensor.CopyFrom(numpy_helper.from_array(new.astype(dtype or old.dtype), name))
            return model
    raise AssertionError(name)


@pytest.mark.parametrize("target", TARGETS)
def test_a_graph_by_the_rules_has_no_findings(target):
    assert findings(graph_for(target), target) == []


@pytest.mark.parametrize(
    "edit, target, words",
    [
        (lambda m: change(m, "conv2_x_zero", 3), "xavier", "conv2_x_q: its zero point is 3"),
        (lambda m: change(m, "conv2_x_zero", dtype=np.uint8), "rtx", "conv2_x_q: it is of UINT8"),
        (lambda m: change(m, "conv1_weight_scale", 0), "xavier", "8 of its 8 scales are not above"),
        (lambda m: change(m, "conv1_x_scale", np.nan), "rtx", "1 of its 1 scales are not above"),
    ],
)
def test_values_that_tensorrt_refuses(edit, target, words):
    assert any(words in line for line in findings(edit(graph_for(target)), target))


def node_named(model, name):
    return next(node for node in model.graph.node if node.name == name)


def test_a_scale_per_channel_of_a_computed_value():
    model = graph_for("rtx")
    for name, dtype in (("conv2_x_scale", np.float16), ("conv2_x_zero", np.int8)):
        constant = next(t for t in model.graph.initializer if t.name == name)
        value = np.repeat(numpy_helper.to_array(constant), 8).astype(dtype)
        constant.CopyFrom(numpy_helper.from_array(value, name))
    lines = findings(model, "rtx")
    assert any("conv2_x_q: a value that is computed has one scale per channel" in x for x in lines)


def test_scales_of_another_axis_of_the_weights():
    model = graph_for("xavier")
    for name in ("conv1_weight_q", "conv1_weight_dq"):
        node_named(model, name).attribute[0].i = 1
    (line,) = [x for x in findings(model, "xavier") if "axis" in x]
    assert "scales are of axis 1 of the weights of 'conv1'; expected axis 0" in line


@pytest.mark.parametrize("target", TARGETS)
def test_int8_weights_are_read_from_tensorrt_10_on(target):
    lines = findings(graph_for(target, weights="int8"), target)
    words = "error: conv1_weight_dq: weights of INT8 are not read before TensorRT 10.0"
    assert [words in line for line in lines[:1]] == ([] if target in STRONG else [True])


def test_a_quantised_bias():
    model = graph_for("rtx")
    conv = node_named(model, "conv2")
    constants = {"b": np.zeros(12, np.int32), "s": np.ones(12, np.float16)}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    bias = helper.make_node("DequantizeLinear", ["b", "s"], ["b_dq"], name="b_dq", axis=0)
    model.graph.node.insert(0, bias)
    conv.input[2] = "b_dq"
    assert "error: b_dq: it is of INT32: the bias of a convolution must stay a float" in findings(
        model, "rtx"
    )


@pytest.mark.parametrize("target", ["xavier", "rtx"])
def test_a_missing_zero_point(target):
    model = graph_for(target)
    del node_named(model, "conv1_x_dq").input[2:]
    words = "error: conv1_x_dq: it has no zero point, which is not read before TensorRT 9.0"
    assert (words in findings(model, target)) == (target == "xavier")


@pytest.mark.parametrize("target", TARGETS)
def test_leaky_relu_on_jetpack_4(target):
    lines = findings(graph_for(target, after="LeakyRelu"), target)
    words = "warning: : 1 LeakyRelu, the first is 'activation', cannot join the INT8 kernel"
    assert [words in line for line in lines] == ([True] if target == "xavier-jp4" else [])
    assert findings(graph_for(target, after="LeakyRelu", kept=("conv1",)), target) == []


@pytest.mark.parametrize("target", ["xavier", "orin"])
def test_a_depthwise_convolution_and_a_sigmoid(target):
    model = graph_for(target)
    shape, conv = [8, 1, 3, 3], node_named(model, "conv2")
    weight = next(t for t in model.graph.initializer if t.name == "conv2_weight")
    weight.CopyFrom(numpy_helper.from_array(np.ones(shape, np.float32), "conv2_weight"))
    for name in ("conv2_weight_scale", "conv2_weight_zero", "conv2_bias"):
        constant = next(t for t in model.graph.initializer if t.name == name)
        constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant)[:8], name))
    conv.attribute.append(helper.make_attribute("group", 8))
    sigmoid = helper.make_node("Sigmoid", ["conv2"], ["s"], name="s")
    model.graph.node.append(sigmoid)
    node_named(model, "sr").input[0] = "s"
    words = "s: TensorRT 8.5 has no INT8 kernel for it and the depthwise 'conv2'"
    assert any(words in line for line in findings(model, target)) == (target == "xavier")


@pytest.mark.parametrize("scale, warned", [(1 / 127, False), (2 / 127, True)])
def test_the_inputs_of_a_concatenation_share_a_scale(scale, warned):
    model = graph_for("xavier", kept=("conv2",))
    zero = numpy_helper.from_array(np.zeros((), np.int8), "z2")
    one = numpy_helper.from_array(np.array(scale, np.float32), "s2")
    model.graph.initializer.extend([zero, one])
    nodes = [
        helper.make_node("QuantizeLinear", ["activation", "s2", "z2"], ["q2"], name="q2"),
        helper.make_node("DequantizeLinear", ["q2", "s2", "z2"], ["dq2"], name="dq2"),
        helper.make_node("Concat", ["conv1_x_dq", "dq2"], ["both"], name="both", axis=1),
    ]
    model.graph.node.extend(nodes)
    model.graph.output.append(helper.make_tensor_value_info("both", 1, None))
    words = "warning: both: its inputs are quantised with 2 different scales: each is converted"
    assert (words in findings(model, "xavier")) == warned


@pytest.mark.parametrize("target", ["xavier", "rtx"])
def test_a_graph_without_quantised_convolutions(target):
    (line,) = findings(graph_for(target, kept=("conv1", "conv2")), target)
    assert line.startswith("error: : no convolution in it has quantised inputs")


@pytest.mark.parametrize("target", ["rtx", "rtx-tensorrt"])
def test_a_quantised_transposed_convolution(target):
    model = graph_for(target)
    conv, shuffle = node_named(model, "conv2"), node_named(model, "sr")
    conv.op_type = "ConvTranspose"
    weight = next(t for t in model.graph.initializer if t.name == "conv2_weight")
    values = np.ones([8, 12, 3, 3], np.float16)
    weight.CopyFrom(numpy_helper.from_array(values, "conv2_weight"))
    for name in ("conv2_weight_q", "conv2_weight_dq"):
        node_named(model, name).attribute[0].i = 1
    assert shuffle.input[0] == "conv2"
    lines = findings(model, target)
    words = "warning: conv2: a quantised transposed convolution is computed in the type of its out"
    assert [words in line for line in lines] == ([True] if target == "rtx" else [])


def test_turing_computes_quantised_convolutions_in_fp32():
    model, rtx = graph_for("rtx"), load_target("rtx")
    turing = replace(rtx, compute_capabilities=(75,))
    assert findings(model, turing) == [
        "error: : on Turing (SM 7.5) quantised convolutions are computed in FP32"
    ]


@pytest.mark.parametrize(
    "target, half, words",
    [
        ("rtx", False, "its tensors are FP32, and the network is strongly typed"),
        ("xavier", True, "of its tensors are FP16, but the network is weakly typed"),
    ],
)
def test_the_rest_has_the_type_that_the_builder_takes(target, half, words):
    model = int8_model(half=half)
    assert any(words in line for line in findings(model, target))
