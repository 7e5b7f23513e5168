"""Graphs with operators that opset 18 changed are lowered exactly, or refused."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.core.errors import ExportError
from sr_deploy.export import opset as opsets

X = np.random.default_rng(0).normal(size=(1, 4, 6, 8)).astype(np.float32)


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def floats(name, *values):
    return numpy_helper.from_array(np.array(values, dtype=np.float32), name)


def graph(nodes, constants=(), *, opset=18, outputs=("y",), dtype=TensorProto.FLOAT, imports=()):
    body = helper.make_graph(
        nodes if isinstance(nodes, list) else [nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 8])],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        list(constants),
    )
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", opset), *imports], ir_version=8
    )
    inferred = onnx.shape_inference.infer_shapes(model).graph.output
    for output, known in zip(model.graph.output, inferred):
        dims = [d.dim_value or None for d in known.type.tensor_type.shape.dim]
        whole = known.type.tensor_type.HasField("shape")
        output.CopyFrom(
            helper.make_tensor_value_info(output.name, dtype, dims if whole else [None] * 4)
        )
    return model


def run(model, x=X):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})


def node(op, *inputs, outputs=("y",), **attributes):
    return helper.make_node(op, ["x", *inputs], list(outputs), name=f"the_{op}", **attributes)


REDUCTIONS = sorted(opsets._REDUCTIONS)
EXACT = [
    *[(f"{op} axes", graph(node(op, "a", keepdims=1), [ints("a", 2, 3)])) for op in REDUCTIONS],
    ("negative axis", graph(node("ReduceMean", "a", keepdims=0), [ints("a", -1)])),
    ("all axes", graph(node("ReduceMean", keepdims=0))),
    ("noop with axes", graph(node("ReduceMax", "a", noop_with_empty_axes=1), [ints("a", 1)])),
    ("noop without axes", graph(node("ReduceMean", noop_with_empty_axes=1))),
    ("empty axes", graph(node("ReduceMean", "a", keepdims=0), [ints("a")])),
    ("noop with empty axes", graph(node("ReduceMean", "a", noop_with_empty_axes=1), [ints("a")])),
    ("ReduceSum", graph(node("ReduceSum", "a", keepdims=1), [ints("a", 2)])),
    (
        "Split sizes",
        graph(
            node("Split", "s", outputs=("y", "z"), axis=1), [ints("s", 1, 3)], outputs=("y", "z")
        ),
    ),
    (
        "equal parts of a size that is unknown",
        graph(node("Split", outputs=("y", "z"), axis=1, num_outputs=2), outputs=("y", "z")),
    ),
    (
        "Resize scales",
        graph(node("Resize", "", "s", mode="nearest", antialias=0), [floats("s", 1, 1, 2, 2)]),
    ),
    (
        "Resize sizes",
        graph(
            node("Resize", "", "", "s", mode="linear", keep_aspect_ratio_policy="stretch"),
            [ints("s", 1, 4, 9, 12)],
        ),
    ),
    (
        "Pad",
        graph(
            node("Pad", "p", "v"),
            [ints("p", 0, 0, 1, 2, 0, 0, 3, 4), numpy_helper.from_array(np.float32(7), "v")],
        ),
    ),
    ("Shape", graph(node("Shape"), dtype=TensorProto.INT64)),
    ("Shape start", graph(node("Shape", start=2), dtype=TensorProto.INT64)),
    ("Shape start end", graph(node("Shape", start=1, end=3), dtype=TensorProto.INT64)),
    ("Shape negative", graph(node("Shape", start=-2, end=-1), dtype=TensorProto.INT64)),
    ("Shape end", graph(node("Shape", end=2), dtype=TensorProto.INT64)),
    ("Reshape", graph(node("Reshape", "s", allowzero=0), [ints("s", 0, -1)])),
    ("Reshape allowzero unused", graph(node("Reshape", "s", allowzero=1), [ints("s", 4, -1)])),
]


@pytest.mark.parametrize("opset", [17, 13])
@pytest.mark.parametrize("model", [m for _, m in EXACT], ids=[n for n, _ in EXACT])
def test_a_lowered_graph_is_the_same_function(model, opset):
    lowered = opsets.lower(model, opset)
    opsets.check(lowered, opset)
    assert [e.version for e in lowered.opset_import] == [opset]
    for a, b in zip(run(lowered), run(model)):
        np.testing.assert_array_equal(a, b)
    assert model.opset_import[0].version == 18, "the original was changed"


REFUSED = [
    (
        "antialias",
        graph(node("Resize", "", "s", mode="linear", antialias=1), [floats("s", 1, 1, 0.5, 0.5)]),
        "antialias",
    ),
    (
        "Resize axes",
        graph(node("Resize", "", "s", mode="linear", axes=[2, 3]), [floats("s", 2, 2)]),
        "axes",
    ),
    (
        "aspect ratio",
        graph(
            node("Resize", "", "", "s", keep_aspect_ratio_policy="not_larger"),
            [ints("s", 1, 4, 12, 12)],
        ),
        "keep_aspect_ratio_policy|aspect",
    ),
    (
        "Pad axes",
        graph(node("Pad", "p", "", "a"), [ints("p", 1, 1), ints("a", 3)]),
        "axes do not exist",
    ),
    (
        "computed axes",
        graph(
            [
                helper.make_node("Shape", ["x"], ["a"], start=3, end=4),
                helper.make_node("Cast", ["a"], ["b"], to=TensorProto.INT64),
                node("ReduceMean", "b"),
            ]
        ),
        "b is not a constant",
    ),
    (
        "no such operator",
        graph(node("CenterCropPad", "s", axes=[2]), [ints("s", 3)]),
        "No Op registered for CenterCropPad",
    ),
]


@pytest.mark.parametrize("opset", [17, 13])
@pytest.mark.parametrize("model, words", [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_operators_without_an_older_equivalent_are_refused(model, words, opset):
    opsets.check(model, 18)
    with pytest.raises(ExportError, match=words):
        opsets.check(opsets.lower(model, opset), opset)


@pytest.mark.parametrize("opset", [17, 13])
def test_mish_is_written_in_older_operators(opset):
    model = graph(node("Mish"))
    lowered = opsets.lower(model, opset)
    opsets.check(lowered, opset)
    assert [n.op_type for n in lowered.graph.node] == ["Softplus", "Tanh", "Mul"]
    np.testing.assert_allclose(run(lowered, 30 * X)[0], run(model, 30 * X)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis, parts", [(1, 2), (3, 3), (-1, 3), (2, 1)])
@pytest.mark.parametrize("opset", [17, 13])
def test_split_into_a_number_of_parts_is_split_by_sizes_where_the_size_is_known(axis, parts, opset):
    names = [f"y{i}" for i in range(parts)]
    split = helper.make_node("Split", ["r"], names, axis=axis, num_outputs=parts)
    model = onnx.shape_inference.infer_shapes(
        graph([helper.make_node("Relu", ["x"], ["r"]), split], outputs=names)
    )
    lowered = opsets.lower(model, opset)
    opsets.check(lowered, opset)
    for a, b in zip(run(lowered), run(model)):
        np.testing.assert_array_equal(a, b)


def test_a_zero_dimension_is_refused_below_14():
    empty = graph(node("Reshape", "s", allowzero=1), [ints("s", 0, 3)])
    with pytest.raises(ExportError, match="no dimensions of size zero"):
        opsets.lower(empty, 13)


@pytest.mark.parametrize("opset", [12, 19])
def test_opsets_that_cannot_be_written(opset):
    with pytest.raises(ExportError, match=f"cannot write opset {opset}; expected 13 to 18"):
        opsets.lower(graph(node("Relu")), opset)


def in_a_branch(inner, constants=()):
    """Return the node inside an If, which a check of the outer nodes alone would miss."""
    out = [helper.make_tensor_value_info("y_in", TensorProto.FLOAT, None)]
    inner.output[0] = "y_in"
    then = helper.make_graph([inner], "then", [], out, list(constants))
    other = helper.make_graph([helper.make_node("Relu", ["x"], ["y_in"])], "else", [], out)
    condition = numpy_helper.from_array(np.array(True), "c")
    return [
        helper.make_node("If", ["c"], ["y"], name="the_If", then_branch=then, else_branch=other)
    ], [condition]


HIDDEN = [
    *[(17, f"{op} axes input", node(op, "a"), [ints("a", 2)]) for op in REDUCTIONS],
    (17, "noop_with_empty_axes", node("ReduceMean", noop_with_empty_axes=1), []),
    (17, "Split num_outputs", node("Split", axis=1, num_outputs=1), []),
    (
        17,
        "Resize antialias",
        node("Resize", "", "s", antialias=1, mode="linear"),
        [floats("s", 1, 1, 0.5, 0.5)],
    ),
    (17, "Resize axes", node("Resize", "", "s", axes=[2, 3]), [floats("s", 2, 2)]),
    (
        17,
        "Resize policy",
        node("Resize", "", "", "s", keep_aspect_ratio_policy="not_larger"),
        [ints("s", 1, 4, 9, 9)],
    ),
    (17, "Pad axes", node("Pad", "p", "", "a"), [ints("p", 1, 1), ints("a", 3)]),
    (17, "Mish", node("Mish"), []),
    (17, "CenterCropPad", node("CenterCropPad", "s", axes=[2, 3]), [ints("s", 4, 4)]),
    (17, "in a branch", *in_a_branch(node("ReduceMean", "a"), [ints("a", 2)])),
    (
        13,
        "Shape start",
        [
            node("Shape", outputs=("s",), start=1),
            helper.make_node("Cast", ["s"], ["y"], to=TensorProto.FLOAT),
        ],
        [],
    ),
    (13, "Reshape allowzero", node("Reshape", "s", allowzero=1), [ints("s", 4, -1)]),
    (13, "LayerNormalization", node("LayerNormalization", "w"), [floats("w", *range(8))]),
]


@pytest.mark.parametrize(
    "opset, nodes, constants",
    [(h[0], *h[2:]) for h in HIDDEN],
    ids=[f"{h[0]} {h[1]}" for h in HIDDEN],
)
def test_newer_operators_under_an_older_number_are_found(opset, nodes, constants):
    name = (nodes[0] if isinstance(nodes, list) else nodes).name
    with pytest.raises(ExportError, match=f"not valid ONNX of opset {opset}: .*{name}"):
        opsets.check(graph(nodes, constants, opset=opset), opset)


def test_foreign_domains_are_refused():
    model = graph(
        helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"),
        imports=[helper.make_opsetid("com.microsoft", 1)],
    )
    with pytest.raises(ExportError, match="domain 'com.microsoft'"):
        opsets.check(model, 18)


def test_an_opset_above_the_ceiling_is_refused():
    with pytest.raises(ExportError, match="has opset 18, but the target reads 17 at most"):
        opsets.check(graph(node("Relu")), 17)


def test_an_invalid_graph_is_refused():
    with pytest.raises(ExportError, match="not valid ONNX"):
        opsets.check(graph(helper.make_node("Relu", ["nowhere"], ["y"])), 18)


def test_lowering_leaves_no_unused_constants():
    lowered = opsets.lower(graph(node("ReduceMean", "a"), [ints("a", 2)]), 17)
    assert not lowered.graph.initializer
    assert list(lowered.graph.node[0].input) == ["x"]
    assert onnx.helper.get_attribute_value(lowered.graph.node[0].attribute[-1]) == [2]
