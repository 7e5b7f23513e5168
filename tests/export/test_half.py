"""Conversion of graphs of any exporter to FP16."""

import numpy as np
import onnx
import pytest
from doubles.onnx_text import chain, graph, run
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.core.errors import ExportError
from sr_deploy.export import half
from sr_deploy.export.emulation import check_half
from sr_deploy.export.half import WeightRangeError, folded, fp32_graph, precision_of, tensor_types

X = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
W = "float[3,3,1,1] w = {1, 0, 0, 0, 1, 0, 0, 0, 1}"
# Name: (opset, nodes, constants).
ANYONES = {
    "upsample": (
        9,
        'u = Upsample <mode="linear">(lr, s) sr = Relu(u)',
        "float[4] s = {1, 1, 2, 2}",
    ),
    "resize of opset 10": (10, "sr = Resize(lr, s)", "float[4] s = {1, 1, 2, 2}"),
    "resize with roi": (
        11,
        'sr = Resize <mode="cubic">(lr, r, s)',
        "float[8] r = {0, 0, 0, 0, 1, 1, 1, 1}, float[4] s = {1, 1, 2, 2}",
    ),
    "sizes computed in float": (
        13,
        "h = Shape(lr) f = Cast <to=1>(h) t = Constant <value_floats=[1.0, 1.0, 2.0, 2.0]>() "
        "m = Mul(f, t) n = Floor(m) z = Cast <to=7>(n) sr = Resize(lr, , , z)",
        "",
    ),
    "coordinates": (
        13,
        "h = Shape(lr) g = Gather(h, i) f = Cast <to=1>(g) r = Range(o, f, e) q = Mul(r, k) "
        "sr = Add(lr, q)",
        "int64 i = {3}, float o = {0}, float e = {1}, float k = {0.01}",
    ),
    "constant of shape": (13, "h = Shape(lr) z = ConstantOfShape(h) sr = Add(lr, z)", ""),
    "mask by a cast": (
        13,
        "g = Greater(lr, k) m = Cast <to=1>(g) sr = Mul(lr, m)",
        "float k = {0.5}",
    ),
    "padding": (
        13,
        "sr = Pad(lr, p, v)",
        "int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}, float v = {0.5}",
    ),
    "infinite mask": (
        13,
        "g = Greater(lr, k) q = Where(g, lr, m) sr = Softmax <axis=1>(q)",
        "float k = {0}, float m = {-inf}",
    ),
    "branches": (
        13,
        "m = ReduceMax <keepdims=0>(lr) c = Greater(m, k) sr = If <"
        "then_branch = t () => (float[1,3,8,8] a) { a = Mul(lr, k) }, "
        "else_branch = e () => (float[1,3,8,8] b) { b = Identity(lr) }>(c)",
        "float k = {0.5}",
    ),
    "loop": (
        13,
        "sr, u = Loop <body = b (int64 i, bool c, float[1,3,8,8] s) => "
        "(bool d, float[1,3,8,8] t, float v) "
        "{ d = Identity(c) t = Mul(s, k) v = ReduceMean <keepdims=0>(t) }>(n, , lr)",
        "int64 n = {2}, float k = {0.5}",
    ),
    "scan": (
        13,
        "q, p = Scan <num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1], "
        "body = b (float[1,8,8] s, float[1,8,8] x) => (float[1,8,8] t, float[1,8,8] y) "
        "{ t = Add(s, x) y = Identity(t) }>(z, lr) sr = Mul(p, k)",
        "float k = {0.3}",
    ),
    "sequence": (
        13,
        "s = SplitToSequence <axis=1>(lr) a = SequenceAt(s, o) c = ConcatFromSequence <axis=1>(s) "
        "sr = Mul(a, c)",
        "int64 o = {0}",
    ),
    "weights through nodes": (
        13,
        "v = Identity(w) n = ReduceSum(v) q = Div(v, n) sr = Conv(lr, q)",
        W,
    ),
    "layer normalisation": (
        17,
        "sr, m = LayerNormalization(lr, g)",
        "float[8] g = {1, 1, 1, 1, 1, 1, 1, 1}",
    ),
    "instance normalisation": (
        9,
        "sr = InstanceNormalization(lr, g, b)",
        "float[3] g = {1, 1, 1}, float[3] b = {0, 0, 0}",
    ),
    "batch normalisation": (
        15,
        "sr = BatchNormalization(lr, g, b, b, g)",
        "float[3] g = {1, 1, 1}, float[3] b = {0, 0, 0}",
    ),
    "group normalisation": (
        21,
        "sr = GroupNormalization <num_groups=3>(lr, g, b)",
        "float[3] g = {1, 1, 1}, float[3] b = {0, 0, 0}",
    ),
    "gelu": (20, "sr = Gelu(lr)", ""),
    "attention": (23, "sr = Attention(lr, lr, lr)", ""),
    "einsum": (
        13,
        'e = Einsum <equation="bchw,bcwx->bchx">(lr, lr) sr = Mul(e, k)',
        "float k = {0.1}",
    ),
    "top k": (13, "v, i = TopK(lr, k) sr = Neg(v)", "int64[1] k = {4}"),
    "scatter": (
        16,
        "sr = ScatterElements(lr, i, u)",
        "int64[1,1,1,1] i = {0}, float[1,1,1,1] u = {0.5}",
    ),
    "noise": (13, "n = RandomNormalLike <scale=0.0001>(lr) sr = Add(lr, n)", ""),
    "opset 24": (24, "sr = Conv(lr, w)", W),
}


def fp16_graph(model, **options):
    return half.fp16_graph(model, **options).model


@pytest.mark.parametrize("io_dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("name", ANYONES)
def test_graphs_of_any_exporter_become_half(name, io_dtype):
    opset, nodes, constants = ANYONES[name]
    model = graph(nodes, opset=opset, constants=constants)
    if name == "scan":
        zero = numpy_helper.from_array(np.zeros((1, 8, 8), np.float32), "z")
        model.graph.initializer.append(zero)
    expected = run(model, X)
    result = half.fp16_graph(model, io_dtype=io_dtype)
    assert result.fp32_nodes == () and precision_of(result.model) == "fp16"
    assert check_half(result.model, [X], [expected]).problems() == []
    y = run(result.model, X.astype(np.float16 if io_dtype == "fp16" else np.float32))
    np.testing.assert_allclose(y.astype(np.float32), expected, atol=4e-3)
    back = fp32_graph(result.model)
    assert precision_of(back) == "fp32"
    np.testing.assert_allclose(run(back, X), expected, atol=4e-3)


@pytest.mark.parametrize("io_dtype", ["fp32", "fp16"])
def test_every_tensor_becomes_half(io_dtype):
    model = chain(0.5, 2.0)
    half = fp16_graph(model, io_dtype=io_dtype)
    assert (tensor_types(model), precision_of(model)) == ({"fp32": 2}, "fp32")
    assert (tensor_types(half), precision_of(half)) == ({"fp16": 2}, "fp16")
    assert {t.data_type for t in half.graph.initializer} == {TensorProto.FLOAT16}
    expected = TensorProto.FLOAT16 if io_dtype == "fp16" else TensorProto.FLOAT
    for value in (half.graph.input[0], half.graph.output[0]):
        assert value.type.tensor_type.elem_type == expected
    assert sum(n.op_type == "Cast" for n in half.graph.node) == (0 if io_dtype == "fp16" else 2)
    assert model.graph.initializer[0].data_type == TensorProto.FLOAT, "the original was changed"
    onnx.checker.check_model(half, full_check=True)


def test_a_graph_of_both_types_says_so():
    nodes = [
        helper.make_node("Relu", ["lr"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT16),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Neg", ["c"], ["sr"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("lr", TensorProto.FLOAT, [1, 3, 6, 7])],
            [helper.make_tensor_value_info("sr", TensorProto.FLOAT16, [1, 3, 6, 7])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    assert precision_of(model) == "mixed: 2 fp16, 1 fp32"


@pytest.mark.parametrize("weight", [65520.0, -1e6])
def test_weights_half_cannot_hold_are_refused(weight):
    with pytest.raises(
        ExportError, match=r"weight exceeds .* 65504: 'w1' of node 'conv1' \(Conv\)"
    ):
        fp16_graph(chain(1.0, weight), io_dtype="fp16")
    fp16_graph(chain(1.0, 65504.0), io_dtype="fp16")


def test_what_does_not_depend_on_pixels_stays_fp32():
    opset, nodes, constants = ANYONES["sizes computed in float"]
    result = fp16_graph(graph(nodes, opset=opset, hw="h,w"), io_dtype="fp16")
    wide = np.zeros((1, 3, 1, 2051), np.float16)  # FP16 has no odd numbers above 2048
    assert run(result, wide).shape == (1, 3, 2, 4102)


def test_operators_without_fp16_stay_fp32_and_are_named():
    model = graph(
        "[sum] c = CumSum(lr, i) sr = Mul(c, k)",
        constants="int64 i = {3}, float k = {0.1}",
        opset=11,
    )
    result = half.fp16_graph(model, io_dtype="fp16")
    assert result.fp32_nodes == ("sum",) and precision_of(result.model) == "mixed: 1 fp16, 1 fp32"


def test_old_and_short_forms_of_constants_are_read():
    values = numpy_helper.from_array(np.ones(3, np.float32), "w")
    where = numpy_helper.from_array(np.array([0, 4, 8], np.int64), "i")
    model = graph("k = Constant <value_float=0.5>() c = Conv(lr, w) sr = Mul(c, k)", opset=13)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, [3, 3, 1, 1]))
    function = helper.make_function(
        "own",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 13)],
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("Twice", ["sr"], ["unused"], domain="own"))
    result = fp16_graph(model, io_dtype="fp32")
    np.testing.assert_allclose(run(result, X), X / 2, atol=1e-3)
    listed = graph("sr = Conv(lr, w)", opset=9, constants=W)
    weight = listed.graph.initializer[0]
    listed.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, weight.dims))
    listed.ir_version = 3
    result = fp16_graph(listed, io_dtype="fp16")
    assert [v.name for v in result.graph.input] == ["lr"] and result.ir_version >= 4


def test_nodes_get_names_that_are_unique():
    model = graph("a = Relu(lr) [a] b = Relu(a) [b] c = Neg(b) [b] sr = Neg(c)")
    names = [node.name for node in half.plain_graph(model).graph.node]
    assert names == ["a", "a_1", "b", "b_1"]


def test_quantised_graphs_and_operators_of_others_are_refused():
    model = graph(
        "[q] q = QuantizeLinear(lr, s) sr = DequantizeLinear(q, s)", constants="float s = {0.01}"
    )
    with pytest.raises(ExportError, match=r"quantised \(node 'q' is QuantizeLinear\)") as e:
        fp16_graph(model, io_dtype="fp16")
    assert "--precision fp32" in e.value.hint
    model = graph("sr = Relu(lr)")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node[0].domain, model.graph.node[0].op_type = "com.microsoft", "Gelu"
    with pytest.raises(ExportError, match="domain 'com.microsoft'"):
        fp16_graph(model, io_dtype="fp16")


def test_limits_and_masks_beyond_fp16_are_limited_and_noted():
    model = graph("sr = Clip(lr, o, m)", constants="float o = {0}, float m = {3e38}")
    result = half.fp16_graph(model, io_dtype="fp16")
    assert result.notes == {"constants_limited_to_65504": {"m": pytest.approx(3e38)}}
    np.testing.assert_allclose(run(result.model, X.astype(np.float16)), X, atol=1e-3)


def test_weights_beyond_fp16_name_the_nodes_that_would_need_fp32():
    model = graph(
        "[big] a = Mul(lr, k) [back] sr = Mul(a, j)", constants="float k = {1e6}, float j = {1e-6}"
    )
    with pytest.raises(WeightRangeError, match=r"'k' of node 'big' \(Mul\) reaches 1e\+06") as e:
        fp16_graph(model, io_dtype="fp16")
    assert e.value.nodes == ("big",) and "--fallback auto" in e.value.hint
    result = half.fp16_graph(model, io_dtype="fp16", fp32_nodes=("big", "back"))
    np.testing.assert_allclose(run(result.model, X.astype(np.float16)), X, atol=1e-3)


def test_weights_that_become_zero_are_noted():
    model = graph("a = Mul(lr, k) sr = Add(a, lr)", constants="float k = {1e-9}")
    notes = half.fp16_graph(model, io_dtype="fp16").notes
    assert notes == {"constants_rounded_to_zero": {"k": "1 of 1"}}


def test_fp32_neighbours_exchange_fp32():
    model = chain(1.0, 1e6, 1e-6, 1.0)
    mixed = half.fp16_graph(model, io_dtype="fp16", fp32_nodes=("conv1", "conv2"))
    casts = [node for node in mixed.model.graph.node if node.op_type == "Cast"]
    assert len(casts) == 2 and mixed.fp32_nodes == ("conv1", "conv2")
    assert tensor_types(mixed.model) == {"fp16": 2, "fp32": 2}


def test_graphs_of_bf16_and_mixed_types_become_fp32():
    model = graph(
        "a = Cast <to=16>(lr) b = Mul(a, k) c = Cast <to=10>(b) d = Neg(c) sr = Cast <to=1>(d)",
        opset=13,
    )
    model.graph.initializer.append(helper.make_tensor("k", TensorProto.BFLOAT16, [], [0.5]))
    result = fp32_graph(model)
    onnx.checker.check_model(result, full_check=True)
    assert precision_of(result) == "fp32"
    np.testing.assert_allclose(run(result, X), -X / 2)


def test_quantised_weights_stay_quantised_beside_quantised_activations():
    made = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.float32(0.5), "s"),
        numpy_helper.from_array(np.ones(3, np.uint8), "w"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in "xy"]
    body = helper.make_graph(made, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)])
    assert [n.op_type for n in folded(model).graph.node] == [n.op_type for n in made]
