"""For each rule a minimal graph that breaks it on one target, and one that does not."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from sr_deploy.core.errors import ArtifactError, BuildError, ExportError, MissingPackageError
from sr_deploy.core.manifest import read_manifest
from sr_deploy.core.target import load_target
from sr_deploy.runtime import graph_check
from sr_deploy.runtime.parser_rules import RULES, Finding, lowest_version
from sr_deploy.runtime.preflight import _ADDED, _NEVER, preflight, preflight_model, refuse

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes and reads the graphs")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

KIND = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}
DTYPE = {"fp32": np.float32, "fp16": np.float16}
BOARDS = ("xavier", "xavier-jp4", "orin")


def const(name, values, dtype=np.int64):
    return numpy_helper.from_array(np.array(values, dtype=dtype), name)


def node(op, *inputs, outputs=("y",), name=None, **attributes):
    return helper.make_node(
        op,
        list(inputs) or ["x"],
        list(outputs),
        name=f"the_{op}" if name is None else name,
        **attributes,
    )


def model(
    nodes,
    constants=(),
    *,
    target="xavier",
    opset=None,
    x=(1, 3, 16, 16),
    x_kind=None,
    y_kind=None,
    imports=(),
    precision="fp16",
):
    """Return a graph in the target's opset and types by default. Its output has no shape."""
    profile = load_target(target)
    kind = KIND[profile.fp16_graph if precision == "fp16" else "fp32"]
    body = helper.make_graph(
        nodes if isinstance(nodes, list) else [nodes],
        "g",
        [helper.make_tensor_value_info("x", x_kind or kind, x)],
        [helper.make_tensor_value_info("y", y_kind or kind, None)],
        list(constants),
    )
    return helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", opset or profile.opset), *imports],
        ir_version=8,
    )


@pytest.fixture()
def check(tmp_path):
    def run(graph, target="xavier", **options):
        path = tmp_path / "graph.onnx"
        onnx.save(graph, str(path))
        return preflight(path, load_target(target), **options)

    return run


def lines(findings):
    return [f"{f.severity}: {f.where}: {f.what}; {f.hint}" for f in findings]


COMPUTED = [
    node("Shape", "x", outputs=("n",), name="shape"),
    node("Gather", "n", "zero", outputs=("k",), name="gather"),
]
ZERO = const("zero", [0])


def conv(weights=(4, 3, 3, 3), **attributes):
    op = attributes.pop("op", "Conv")
    return lambda target: (
        node(op, "x", "w", **attributes),
        [const("w", np.ones(weights), float_of(target))],
    )


def float_of(target):
    return DTYPE[load_target(target).fp16_graph]


def resize(scales=(1, 1, 2, 2), dtype=np.float32, **attributes):
    return node("Resize", "x", "", "s", **attributes), [const("s", scales, dtype)]


def pad(*pads, value=None, **attributes):
    more = [] if value is None else [const("v", value, np.float32)]
    return node("Pad", "x", "p", *("v" for _ in more), **attributes), [const("p", pads), *more]


def branch(kind="fp32"):
    def body(name):
        made = helper.make_node("Relu", ["x"], [f"y_{name}"])
        return helper.make_graph(
            [made], name, [], [helper.make_tensor_value_info(f"y_{name}", KIND[kind], None)]
        )

    made = helper.make_node(
        "If", ["c"], ["y"], name="the_If", then_branch=body("then"), else_branch=body("else")
    )
    return made, [const("c", True, bool)]


def with_axes(op, *axes, **attributes):
    return node(op, "x", "a", **attributes), [const("a", axes)]


def computed(op, *inputs, constants=(), **attributes):
    return [*COMPUTED, node(op, *inputs, **attributes)], [ZERO, *constants]


REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare".split()
GRID = node("GridSample", "x", "grid"), [const("grid", np.zeros((1, 4, 4, 2)), np.float32)]
SCATTER = (
    node("ScatterND", "x", "i", "u"),
    [const("i", [[0]]), const("u", np.zeros((1, 3, 16, 16)), np.float32)],
)
NORM = node("LayerNormalization", "x", "s"), [const("s", np.ones(16), np.float32)]
MOD = node("Mod", "x", "m", fmod=1), [const("m", [2], np.float32)]
SLICE = [const("s", [0]), const("e", [8])]
LARGE = (
    [
        node("Min", "n", "k", outputs=("m",)),
        node("Cast", "m", outputs=("f",), to=1),
        node("Add", "x", "f"),
    ],
    [const("n", [2**40]), const("k", [3])],
)
TOPK = dict(outputs=("y", "i"))

# (target, graph, pattern of a finding; None: there must be none). A graph is (nodes, constants[,
# options of `model`]).
CASES = [
    # missing operators
    ("xavier", NORM, "error.*the_LayerNormalization.*not read before TensorRT 8.6"),
    ("orin", NORM, None),
    ("xavier-jp4", (*GRID, dict(opset=16)), "error.*GridSample.*not read before TensorRT 8.5"),
    ("xavier", GRID, None),
    ("xavier-jp4", SCATTER, "error.*ScatterND.*before TensorRT 8.2"),
    ("xavier", SCATTER, None),
    ("xavier-jp4", MOD, "error.*Mod.*before TensorRT 8.5"),
    ("xavier", MOD, None),
    ("xavier", (node("Unique"), []), "error.*does not read the operator"),
    ("rtx", (node("NonZero", outputs=("y",)), []), "error.*does not read the operator"),
    ("rtx-tensorrt", (node("NonZero"), []), None),
    ("rtx", (node("NonMaxSuppression", "x", "x"), []), "error.*NonMaxSuppression.*does not read"),
    ("rtx", (node("Multinomial"), []), "error.*Multinomial.*does not read"),
    ("xavier", (node("Mish"), []), "error.*opset 17 has no such operator"),
    ("cpu", (node("Mish"), []), None),
    ("cpu", (node("Msih"), []), "error.*no such operator"),
    ("xavier", (node("Gelu", domain="com.microsoft"), []), "error.*domain 'com.microsoft'"),
    ("cpu", (node("Gelu", domain="com.microsoft"), []), None),
    ("cpu", (node("Gelu", domain="my.own"), []), "error.*domain 'my.own'"),
    *[
        (t, (node("Relu"), [], dict(opset=n)), f"error: the graph: it has opset {n}")
        for t, n in (("xavier", 19), ("rtx", 20), ("cpu", 19))
    ],
    ("rtx", (node("Relu"), [], dict(opset=18)), None),
    # silent traps
    *[
        ("xavier", (*with_axes(f"Reduce{r}", 2, 3), dict(opset=18)), "error.*reduces over all axes")
        for r in REDUCTIONS
    ],
    *[("rtx", with_axes(f"Reduce{r}", 2, 3), None) for r in REDUCTIONS],
    ("xavier", with_axes("ReduceMean", 2), "error.*in opset 17 it cannot have 2 inputs"),
    ("xavier", with_axes("ReduceSum", 2), None),
    ("xavier", (node("ReduceMean", axes=[2, 3]), []), None),
    ("rtx", computed("ReduceMean", "x", "k"), "error.*'axes' is computed"),
    (
        "xavier",
        (node("Split", outputs=("y", "z"), axis=1, num_outputs=2), [], dict(opset=18)),
        "error.*3 is split into 2 parts",
    ),
    ("rtx", (node("Split", outputs=("y", "z"), axis=1, num_outputs=2), []), None),
    ("xavier", (node("Split", outputs=("y", "z", "u"), axis=1), []), None),
    (
        "xavier",
        (node("Pad", "x", "p", "", "a"), [const("p", [1, 1]), const("a", [3])], dict(opset=18)),
        "error.*axes are an input",
    ),
    ("rtx", (node("Pad", "x", "p", "", "a"), [const("p", [1, 1]), const("a", [3])]), None),
    (
        "xavier-jp4",
        pad(0, 0, 1, 1, 0, 0, 1, 1, mode="reflect"),
        "error.*mode=reflect is not read before TensorRT 8.2",
    ),
    ("xavier", pad(0, 0, 1, 1, 0, 0, 1, 1, mode="reflect"), None),
    ("xavier-jp4", pad(0, 1, 1, 1, 0, 0, 1, 1), "error.*only zeros, and only height and width"),
    ("xavier-jp4", pad(0, 0, 1, 1, 0, 0, 1, 1, value=7), "error.*only zeros"),
    ("xavier-jp4", pad(0, 0, 1, 1, 0, 0, 1, 1, value=0), None),
    ("xavier-jp4", computed("Pad", "x", "k"), "error.*'pads' is computed.*before TensorRT 8.2"),
    ("xavier", computed("Pad", "x", "k"), None),
    *[
        (t, (*resize(mode="linear", antialias=1), dict(opset=18)), "error.*antialias=1 is not")
        for t in ("orin", "rtx", "rtx-tensorrt")
    ],
    ("xavier-jp4", resize(mode="cubic"), "error.*mode=cubic is not read before TensorRT 8.4"),
    ("xavier", resize(mode="cubic"), None),
    (
        "rtx",
        resize(mode="linear", coordinate_transformation_mode="tf_crop_and_resize"),
        "error.*tf_crop_and_resize is not read",
    ),
    (
        "xavier-jp4",
        resize(mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
        None,
    ),
    ("xavier", resize(dtype=np.float16), "error.*scales are FLOAT16"),
    ("rtx", resize(dtype=np.float16), None),
    (
        "rtx",
        (
            node("Resize", "x", "", "", "s", keep_aspect_ratio_policy="not_larger"),
            [const("s", [1, 3, 8, 9])],
        ),
        "error.*not_larger",
    ),
    (
        "xavier-jp4",
        (
            [
                *COMPUTED,
                node("Cast", "k", outputs=("s",), name="cast", to=1),
                node("Resize", "x", "", "s"),
            ],
            [ZERO],
        ),
        "error.*'scales' is computed.*before TensorRT 8.4",
    ),
    (
        "xavier",
        computed("Slice", "x", "s", "e", "k", constants=SLICE),
        "error.*'axes' is computed.*before TensorRT 10.3",
    ),
    ("rtx", computed("Slice", "x", "s", "e", "k", constants=SLICE), None),
    ("xavier", (node("Slice", "x", "s", "e", "a"), [*SLICE, const("a", [2])]), None),
    (
        "xavier-jp4",
        (node("ConvTranspose", "x", "x"), [], dict(x=(3, 3, 4, 4))),
        "error.*'weights' is computed.*before TensorRT 8.5",
    ),
    ("xavier", (node("ConvTranspose", "x", "x"), [], dict(x=(3, 3, 4, 4))), None),
    (
        "rtx",
        conv((3, 4, 3, 3), op="ConvTranspose", strides=[2, 2], dilations=[2, 2]),
        "error.*stride and dilation together",
    ),
    ("rtx", conv(strides=[2, 2], dilations=[2, 2]), "warning.*stride and dilation together"),
    ("rtx", conv((3, 4, 3, 3), op="ConvTranspose", strides=[2, 2]), None),
    (
        "rtx-tensorrt",
        conv((3, 4, 3, 3), op="ConvTranspose", strides=[2, 2], dilations=[2, 2]),
        None,
    ),
    (
        "xavier",
        (node("MaxPool", kernel_shape=[2, 2], outputs=("y", "where")), []),
        "error.*only its first output.*'where'",
    ),
    ("xavier", (node("MaxPool", kernel_shape=[2, 2]), []), None),
    ("rtx", (node("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]), []), "error.*dilations=2"),
    ("xavier", computed("TopK", "x", "k", **TOPK), "error.*'K' is computed.*before TensorRT 8.6"),
    ("orin", computed("TopK", "x", "k", **TOPK), None),
    ("rtx", (node("TopK", "x", "k", **TOPK), [const("k", [3841])]), "error.*K is 3841"),
    ("rtx", (node("TopK", "x", "k", **TOPK), [const("k", [3])]), None),
    ("xavier-jp4", branch(), "error.*If.*before TensorRT 8.2"),
    ("xavier", branch(), "warning.*CUDA graphs"),
    ("rtx-tensorrt", branch("fp16"), None),
    ("xavier", LARGE, "error.*'n' contains 1099511627776, which is outside INT32"),
    (
        "rtx",
        (LARGE[0][:1] + [node("Cast", "m", outputs=("f",), to=10), LARGE[0][2]], LARGE[1]),
        None,
    ),
    ("xavier", (node("Slice", "x", "s", "e"), [const("s", [0]), const("e", [2**63 - 1])]), None),
    (
        "rtx",
        (
            node("ScatterND", *SCATTER[0].input, reduction="add"),
            [SCATTER[1][0], const("u", np.ones((1, 3, 16, 16)), np.float16)],
        ),
        "error.*reduction=add",
    ),
    # types
    (
        "xavier-jp4",
        (node("Cast", to=1), [], dict(x_kind=TensorProto.UINT8)),
        "error.*'x' is UINT8, a type that is not read before .* 8.5",
    ),
    ("xavier", (node("Cast", to=1), [], dict(x_kind=TensorProto.UINT8)), None),
    (
        "xavier",
        (node("Cast", to=1), [], dict(x_kind=TensorProto.UINT16)),
        "error.*'x' is UINT16, a type that is not read",
    ),
    (
        "xavier",
        (node("Cast", to=1), [], dict(x_kind=TensorProto.DOUBLE)),
        "warning.*'x' is DOUBLE, and becomes FP32",
    ),
    ("xavier", (node("Cast", "d", to=1), [const("d", [1], np.float64)]), "warning.*'d' is DOUBLE"),
    (
        "xavier",
        (node("Relu"), [], dict(y_kind=TensorProto.BFLOAT16)),
        "error.*'y' is BFLOAT16.*before TensorRT 9.0",
    ),
    *[
        (
            t,
            (node("Relu"), [], dict(x_kind=10, y_kind=10)),
            "error: the graph: 2 of its tensors are FP16",
        )
        for t in BOARDS
    ],
    *[(t, (node("Relu"), []), None) for t in (*BOARDS, "rtx", "rtx-tensorrt")],
    *[
        (t, (node("Relu"), [], dict(precision="fp32")), "error: the graph: its tensors are FP32")
        for t in ("rtx", "rtx-tensorrt")
    ],
    (
        "rtx",
        (
            [
                node("Relu", outputs=("r",), name="half"),
                node("Cast", "r", outputs=("f",), to=1),
                node("Neg", "f"),
            ],
            [],
            dict(y_kind=1),
        ),
        "warning: the graph: 1 of 2 nodes compute in FP32, the first is 'the_Neg'",
    ),
    *[
        (
            "rtx",
            (node(op, "x", "w"), [const("w", [[[[1]]]], np.float32)]),
            "error.*FLOAT and FLOAT16",
        )
        for op in ("Add", "Max")
    ],
    (
        "rtx",
        (node("Concat", "x", "w", axis=1), [const("w", np.ones((1, 3, 16, 16)), np.float32)]),
        "error.*FLOAT and FLOAT16",
    ),
    (
        "rtx",
        (node("PRelu", "x", "w"), [const("w", np.ones((3, 1, 1)), np.float32)]),
        "error.*FLOAT and FLOAT16",
    ),
    (
        "rtx-tensorrt",
        (node("Conv", "x", "w"), [const("w", np.ones((4, 3, 1, 1)), np.float32)]),
        "error.*FLOAT and FLOAT16",
    ),
    ("rtx", (node("Pow", "x", "w"), [const("w", [2], np.float32)]), None),
    ("rtx", (node("Clip", "x", "w"), [const("w", 0, np.float32)]), None),
    ("rtx", conv(), None),
    (
        "rtx",
        (
            [
                node("Cast", outputs=("f",), to=1),
                node("MatMul", "f", "f", outputs=("m",)),
                node("Cast", "m", to=10, name="back"),
                node("Relu", outputs=("h",), name="r"),
            ],
            [],
        ),
        "warning.*FP32 matrix products do not exist on Turing",
    ),
    ("rtx", (node("MatMul", "x", "x"), []), None),
    # shapes
    ("xavier", (node("Relu"), [], dict(x=(1, 3, "h", "w"))), None),
    (
        "xavier",
        (node("Relu"), [], dict(x=("n", 3, 16, 16))),
        "warning: the graph: its batch is dynamic",
    ),
    (
        "xavier",
        (node("Relu"), [], dict(x=(3, 16, 16))),
        "error: the graph: expected one input .1, 3, H, W., found x .3, 16, 16.",
    ),
    ("xavier", (node("Relu"), [], dict(x=(1, 4, 16, 16))), "error: the graph: expected one input"),
    ("cpu", (node("Relu"), [], dict(x=("n", 4, 16, 16))), None),
]


def made(case, target, **more):
    graph = case(target) if callable(case) else case
    nodes, constants = graph[:2]
    return model(
        nodes, constants, target=target, **{**(graph[2] if len(graph) > 2 else {}), **more}
    )


def name_of(case):
    target, graph, words = case
    nodes = (graph(target) if callable(graph) else graph)[0]
    return f"{target}-{(nodes[-1] if isinstance(nodes, list) else nodes).op_type}-{words or 'fine'}"


@pytest.mark.parametrize("target, graph, words", CASES, ids=[name_of(c) for c in CASES])
def test_each_rule_applies_to_its_case_only(check, target, graph, words):
    found = lines(check(made(graph, target), target))
    if words is None:
        assert found == []
    else:
        assert any(re.search(words, line) for line in found), found


@pytest.mark.parametrize(
    "target, graph, words",
    [c for c in CASES if c[0] == "rtx"],
    ids=[name_of(c) for c in CASES if c[0] == "rtx"],
)
def test_tensorrt_for_rtx_agrees(target, graph, words):
    """Compare with the one real TensorRT that needs no GPU: it must refuse our errors."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    graph = made(graph, target)
    parsed = trt.OnnxParser(network, logger).parse(graph.SerializeToString())
    built = (
        parsed
        and builder.build_serialized_network(network, builder.create_builder_config()) is not None
    )
    refused = (
        (words or "").startswith("error")
        and "it has opset" not in words
        and "tensors are FP32" not in words
    )
    assert built == (not refused)


DLA_CASES = [
    ("xavier", (node("Relu"), []), None),
    ("xavier", (node("DepthToSpace", blocksize=1), []), "no such operator"),
    ("xavier", conv(pads=[1, 1, 1, 1]), None),
    ("xavier", conv(strides=[9, 9]), "strides is 9, not 1 to 8"),
    ("xavier", conv(pads=[3, 3, 3, 3]), "padding is not smaller than its kernel"),
    ("xavier", conv((4, 3, 33, 33), pads=[16, 16, 16, 16]), "kernel_shape is 33, not 1 to 32"),
    ("xavier", (node("Conv", "x", "x"), []), "'x' is computed"),
    (
        "xavier",
        conv((3, 4, 4, 4), op="ConvTranspose", strides=[2, 2], pads=[1, 1, 1, 1]),
        "pads is 1, not 0",
    ),
    ("xavier", conv((3, 4, 4, 4), op="ConvTranspose", strides=[2, 2]), None),
    ("xavier", conv((3, 1, 4, 4), op="ConvTranspose", group=3), "group is 3, not 1"),
    ("xavier", (node("MaxPool", kernel_shape=[7, 7], strides=[3, 3]), []), None),
    ("xavier", (node("MaxPool", kernel_shape=[9, 9]), []), "kernel_shape is 9, not 1 to 8"),
    ("xavier", (node("Concat", "x", "x", axis=-3), []), None),
    ("xavier", (node("Concat", "x", "x", axis=2), []), "axis is 2, not 1"),
    ("xavier", (node("Concat", "x", axis=1), []), "it has one input"),
    ("xavier", resize((1, 1, 3, 3)), None),
    ("xavier", resize((1, 1, 1.5, 1.5)), "whole scales"),
    ("xavier", resize((1, 1, 5, 5), mode="linear"), "up to 4 in this mode"),
    ("xavier", resize(mode="cubic"), "nearest and linear only"),
    ("xavier", (node("Softmax", axis=1), []), "only Orin's has Softmax"),
    ("orin", (node("Softmax", axis=1), []), None),
    ("xavier", (node("MatMul", "x", "x"), []), "'x' is computed"),
    ("xavier", (node("MatMul", "x", "w"), [const("w", np.ones((16, 4)), np.float32)]), None),
    ("xavier", (node("Reshape", "x", "s"), [const("s", [3, 256])]), "do not have four axes"),
    ("xavier", (node("Transpose", perm=[0, 2, 3, 1]), []), None),
    ("xavier", (node("Relu"), [], dict(x=(1, 3, 8193, 8))), "larger than"),
    ("xavier", pad(0, 0, 1, 1, 0, 0, 1, 1), "no such operator"),
]


@pytest.mark.parametrize("target, graph, words", DLA_CASES, ids=[name_of(c) for c in DLA_CASES])
def test_a_fallback_from_the_dla_is_a_warning(check, target, graph, words):
    graph = made(graph, target)
    assert check(graph, target) == []
    found = check(graph, target, dla=True)
    assert [f.severity for f in found] == ["warning"] * (words is not None)
    assert words is None or (
        "falls back from the DLA to the GPU" in found[0].what and words in found[0].what
    )


@pytest.mark.parametrize("target", ["rtx", "rtx-tensorrt", "cpu", "orin-nano"])
def test_a_target_without_a_dla(check, target):
    found = check(model(node("DepthToSpace", blocksize=1), target=target), target, dla=True)
    assert lines(found) == [f"error: the graph: target '{target}' has no DLA; omit --dla"]


@pytest.mark.parametrize(
    "x, precision, words",
    [((1, 3, "h", 16), "fp16", "static shapes only"), ((1, 3, 16, 16), "fp32", "in FP32")],
)
def test_a_graph_that_the_dla_cannot_run_is_an_error(check, x, precision, words):
    found = check(model(node("Relu"), x=x), "xavier", dla=True, precision=precision)
    assert [f.severity for f in found] == ["error"] and words in found[0].what


def test_an_fp32_engine_from_an_fp16_graph(check):
    found = check(model(node("Relu"), target="rtx-tensorrt"), "rtx-tensorrt", precision="fp32")
    assert [f.severity for f in found] == ["error"] and "the engine would not be FP32" in found[
        0
    ].what
    assert (
        check(
            model(node("Relu"), target="rtx-tensorrt", precision="fp32"),
            "rtx-tensorrt",
            precision="fp32",
        )
        == []
    )


def test_turing_in_the_profile_itself(tmp_path):
    path = tmp_path / "graph.onnx"
    onnx.save(model(node("MatMul", "x", "x"), target="rtx", x_kind=1, y_kind=1), str(path))
    turing = replace(
        load_target("rtx"), compute_capabilities=(75,), compute_capabilities_on_request=()
    )
    assert any(f.severity == "error" and "Turing" in f.what for f in preflight(path, turing))


@pytest.mark.smoke
def test_findings_are_in_graph_order_and_branches_are_checked(check):
    (made_if, constants), hidden = (
        branch(),
        node("LayerNormalization", "x", "s", outputs=("y_then",), name="inside"),
    )
    made_if.attribute[0].g.node[0].CopyFrom(hidden)
    made_if.input[0], made_if.output[0] = "c", "b"
    nodes = [node("Unique", outputs=("u",), name=""), made_if, node("Det", "b")]
    found = check(model(nodes, [*constants, NORM[1][0]], opset=18))
    assert [f.node for f in found] == ["", "Unique:u", "the_If", "inside", "the_Det"]
    assert [f.operator for f in found] == ["", "Unique", "If", "LayerNormalization", "Det"]


def test_the_lowest_version():
    assert {
        name: lowest_version(load_target(name)) for name in ("xavier", "orin", "rtx-tensorrt")
    } == {
        "xavier": (8, 5, 0),
        "orin": (8, 6, 0),
        "rtx-tensorrt": (10, 0, 0),
    }
    assert lowest_version(replace(load_target("xavier"), runtime_versions="<9")) == (0, 0, 0)


def test_the_tables_name_real_operators():
    known = {
        schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""
    }
    new = {"RMSNormalization", "RotaryEmbedding", "TensorScatter"}  # not in every onnx
    assert set(_ADDED) | _NEVER <= known | new and not set(_ADDED) & _NEVER
    assert len(set(RULES)) == len(RULES)


def test_refuse_names_three_and_counts_the_rest():
    target = load_target("xavier")
    errors = [Finding("error", f"n{i}", "Mod", f"what{i}", f"hint{i}") for i in range(5)]
    warning = Finding("warning", "w", "If", "slow", "")
    assert refuse([], "a.onnx", target) is None and refuse([warning], "a.onnx", target) is None
    with pytest.raises(BuildError) as caught:
        refuse([warning, *errors], "a.onnx", target)
    message = (
        "a.onnx cannot be built for 'xavier': node 'n0' (Mod): what0; node 'n1' (Mod): what1; "
        "node 'n2' (Mod): what2; and 2 more"
    )
    assert (caught.value.message, caught.value.hint) == (message, "hint0")
    with pytest.raises(BuildError, match="the graph: old$"):
        refuse([Finding("error", "", "", "old", "")], "a.onnx", target)


@pytest.mark.parametrize("data", [b"", b"just text\n", b"\x08\x08", b"\xff" * 40])
def test_a_file_that_is_not_a_graph(tmp_path, data):
    path = tmp_path / "graph.onnx"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="is not an ONNX graph"):
        preflight(path, load_target("xavier"))


def test_a_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="cannot read"):
        preflight(tmp_path / "graph.onnx", load_target("xavier"))


def test_external_weights(tmp_path):
    path = tmp_path / "graph.onnx"
    graph = made(conv(), "xavier")
    onnx.save(
        graph, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    assert preflight(path, load_target("xavier")) == []
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(ArtifactError):
        preflight(path, load_target("xavier"))
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(
        ArtifactError, match="has its weights in the file 'weights.bin', which is missing"
    ):
        preflight(path, load_target("xavier"))


def test_without_onnx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match="checking a graph needs the package 'onnx'"):
        preflight(tmp_path / "graph.onnx", load_target("xavier"))


VARIANTS = {"asrn": "d1", "imdeception": "c4-nla"}
STATIC, DYNAMIC = "32x48", "32x32:32x48:64x64"
# Its padding to whole windows depends on the size, which is not read before TensorRT 8.5.


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Export a small network for a target. Targets with the same graph share it."""
    for name in ("torch", "onnxscript", "onnxruntime", "safetensors", "cv2", "skimage"):
        pytest.importorskip(name, reason=f"{name} is not installed; exporting needs it")
    import torch

    import sr_deploy
    from sr_deploy.core.spec import Variant
    from sr_deploy.nets import ARCHITECTURES
    from sr_deploy.nets.checkpoint import save_checkpoint

    checkpoints, graphs = {}, {}

    def export(arch, target, precision, size):
        if arch not in checkpoints:
            torch.manual_seed(0)
            variant = Variant.parse(VARIANTS[arch])
            weights = ARCHITECTURES[arch].build(2, variant).state_dict()
            spec = ARCHITECTURES[arch].spec(2, variant, elastic=True)
            checkpoints[arch] = save_checkpoint(
                tmp_path_factory.mktemp(arch), f"tiny-{arch}_x2", spec, weights
            )
        dtype = target.fp16_graph if precision == "fp16" else "fp32"
        key = (
            arch,
            min(target.opset, 18),
            dtype,
            target.io_dtype if dtype == "fp16" else "fp32",
            size,
        )
        if key not in graphs:
            folder = tmp_path_factory.mktemp("graphs")
            options = dict(
                variants=VARIANTS[arch], sizes=[size], target=target.name, precision=precision
            )
            (graphs[key],) = sr_deploy.onnx_from_checkpoint(
                checkpoints[arch], folder, sr_deploy.ExportOptions(**options)
            )
        return graphs[key]

    return export


CASES = [("imdeception", target, STATIC) for target in ("xavier-jp4", "xavier", "rtx", "cpu")]
CASES += [
    ("imdeception", "xavier", DYNAMIC),
    ("imdeception", "cpu", DYNAMIC),
    ("asrn", "xavier-jp4", DYNAMIC),
]


@pytest.mark.slow
@pytest.mark.parametrize("arch, target, size", CASES)
def test_exported_graphs_pass(exported, arch, target, size):
    profile = load_target(target)
    graph = exported(arch, profile, profile.precisions[0], size)
    assert lines(preflight(graph, profile, precision=profile.precisions[0])) == []
    assert read_manifest(graph).checks["preflight"] == {"target": target, "warnings": []}


@pytest.mark.slow
def test_a_graph_that_the_target_would_refuse_is_not_exported(exported):
    with pytest.raises(ExportError, match="cannot be built for 'xavier-jp4'.*Mod"):
        exported("imdeception", load_target("xavier-jp4"), "fp16", DYNAMIC)


@pytest.mark.smoke
def test_the_command(tmp_path, monkeypatch):
    click_testing = pytest.importorskip("click.testing", reason="click is not installed")
    from sr_deploy.cli.check import check

    def run(*args):
        result = click_testing.CliRunner().invoke(check, [str(a) for a in args])
        return result.exit_code, result.stdout, getattr(result, "stderr", "")

    # Whether sessions can serve such graphs is what test_graph_check.py asks.
    monkeypatch.setattr(graph_check, "_contract", lambda path, target: ([], None, 1))
    fine, bad = tmp_path / "fine.onnx", tmp_path / "bad.onnx"
    onnx.save(model(node("Relu")), str(fine))
    onnx.save(model(*NORM), str(bad))
    code, out, err = run(fine, "--target", "xavier")
    assert (code, out, err.strip()) == (0, "", "1 graph for xavier, fp16: 0 errors, 0 warnings")
    code, out, err = run(bad, "--target", "xavier")
    assert (
        code == 1
        and out.startswith("error: node 'the_LayerNormalization' (LayerNormalization): ")
        and out.count("\n") == 1
    )
    code, out, err = run(tmp_path, "--target", "xavier", "--dla")
    assert (
        code == 1
        and "2 graphs for xavier, fp16: 1 error, 1 warning" in err
        and "bad.onnx: warning: " in out
    )
    code, out, err = run(fine, bad, "--target", "xavier", "--json")
    assert code == 1
    assert [(d["graph"], d["severity"], d["operator"]) for d in json.loads(out)] == [
        (str(bad), "error", "LayerNormalization")
    ]
    assert json.loads(run(fine, "--target", "xavier", "--json", "--precision", "fp32")[1]) == []


def test_parts_of_adaptive_networks_take_other_tensors():
    graph = made((node("Relu"), [], dict(x=("n", 4, 16, 16))), "xavier")
    target = load_target("xavier")
    assert preflight_model(graph, target) and not preflight_model(graph, target, part=True)
