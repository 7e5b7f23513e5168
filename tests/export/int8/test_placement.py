"""Where Q/DQ pairs stand in a graph, by the rules of a target, and which scales they have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from sr_deploy.core import device
from sr_deploy.core.errors import ExportError
from sr_deploy.core.target import Int8Rules, load_target
from sr_deploy.export.half import halved, precision_of
from sr_deploy.export.int8.placement import (
    check_scales,
    placed,
    quantisable,
    ready_to_quantise,
)
from sr_deploy.export.int8.ranges import collect_ranges
from sr_deploy.runtime.graph_nodes import opset_of
from tests.doubles.onnx_text import graph, run

ORT = Int8Rules("operators", "uint8", False, quantised_bias=True)
OPENVINO = Int8Rules("convolutions", "uint8", False)
TENSORRT = Int8Rules(
    "convolutions",
    "int8",
    True,
    weights="float",
    residuals=True,
    group_multiple=4,
    channel_multiple=8,
)
RULES = {"onnxruntime": ORT, "openvino": OPENVINO, "tensorrt": TENSORRT}
X = np.random.default_rng(3).random((1, 3, 8, 8), np.float32)


def weights(**shapes):
    """Random constants by name, as initializers of a graph."""
    rng = np.random.default_rng(0)
    return [
        numpy_helper.from_array((rng.standard_normal(shape) / 4).astype(np.float32), name)
        for name, shape in shapes.items()
    ]


def network(body, *, opset=13, **shapes):
    model = graph(body, opset=opset)
    model.graph.initializer.extend(weights(**shapes))
    return ready_to_quantise(model)


def residual(**extra):
    """Two convolutions, the second with a residual addition, that a third one reads."""
    return network(
        """
        x = Conv <pads=[1,1,1,1]> (lr, w1, b1)
        a = LeakyRelu <alpha=0.1> (x)
        y = Conv <pads=[1,1,1,1]> (a, w2, b2)
        s = Add (y, x)
        r = Relu (s)
        f = Conv <pads=[1,1,1,1]> (r, w3, b3)
        sr = DepthToSpace <blocksize=2, mode="CRD"> (f)
        """,
        **{**dict(w1=(8, 3, 3, 3), w2=(8, 8, 3, 3), w3=(12, 8, 3, 3), b1=8, b2=8, b3=12), **extra},
    )


def quantised(model, rules, *, kept=(), method="min-max", images=(X,)):
    ranges = collect_ranges(model, list(images), rules)[method]
    return placed(model, ranges, rules, kept=kept)


def assert_close(int8, fp32):
    """The outputs differ, by some of the 255 steps at most."""
    half = int8.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    # Of 8-bit weights, which are not for such a CPU, integer kernels overflow there.
    as_written = device.products_saturate()
    y = run(int8, X.astype(np.float16) if half else X, as_written=as_written)
    reference = run(fp32, X)
    assert 0 < np.abs(y - reference).max() < 0.06 * np.abs(reference).max()


def read(model):
    """Return what each node reads: values behind Q/DQ pairs are written in brackets."""
    makers = {name: node for node in model.graph.node for name in node.output}

    def source(name):
        maker = makers.get(name)
        if maker is None or "quantizeLinear" not in maker.op_type.replace("Q", "q", 1):
            return name
        inner = makers.get(maker.input[0])
        return f"[{inner.input[0] if inner is not None else maker.input[0]}]"

    skipped = ("QuantizeLinear", "DequantizeLinear")
    return {
        node.output[0]: [source(name) for name in node.input[:2] if name]
        for node in model.graph.node
        if node.op_type not in skipped
    }


def constants(model, ending):
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name.endswith(ending)
    }


@pytest.mark.smoke
@pytest.mark.parametrize("name", RULES)
def test_the_graph_is_valid_and_computes_nearly_the_same(name):
    model = residual()
    int8 = quantised(model, RULES[name])
    onnx.checker.check_model(int8, full_check=True)
    assert precision_of(int8) == "int8"
    assert_close(int8, model)


def test_tensorrt_has_pairs_at_the_inputs_of_convolutions_and_the_skip_of_an_addition():
    found = read(quantised(residual(), TENSORRT))
    assert found["x"] == ["[lr]", "[w1]"]
    assert found["a"] == ["x"], "none before an activation"
    assert found["y"] == ["[a]", "[w2]"]
    assert found["s"] == ["y", "[x]"]
    assert found["r"] == ["s"]
    assert found["f"] == ["[r]", "[w3]"]
    assert found["sr"] == ["f"], "none at the result"


def test_without_residuals_the_skip_stays_in_floating_point():
    assert read(quantised(residual(), replace(TENSORRT, residuals=False)))["s"] == ["y", "x"]


def test_a_skip_whose_sum_no_convolution_reads_stays_in_floating_point():
    model = network(
        """
        x = Conv <pads=[1,1,1,1]> (lr, w1)
        y = Conv <pads=[1,1,1,1]> (x, w2)
        s = Add (x, y)
        sr = DepthToSpace <blocksize=2> (s)
        """,
        w1=(12, 3, 3, 3),
        w2=(12, 12, 3, 3),
    )
    assert read(quantised(model, TENSORRT))["s"] == ["x", "y"]


def test_onnxruntime_has_pairs_between_all_operators_but_none_before_relu():
    int8 = quantised(residual(), ORT)
    found = read(int8)
    assert found["a"] == ["[x]"]
    assert found["s"] == ["[y]", "[x]"]
    assert found["r"] == ["s"], "quantisation from zero up computes a Relu"
    assert found["f"][0] == "[r]"
    assert found["sr"] == ["[f]"]
    biases = [t for t in int8.graph.initializer if t.data_type == TensorProto.INT32 and t.dims[0]]
    assert len(biases) == 3 * 2, "integers and zero points"


def test_onnxruntime_computes_it_with_integer_kernels(tmp_path):
    from sr_deploy.runtime.ort import raw_session

    path = tmp_path / "optimised.onnx"
    raw_session(quantised(residual(), ORT).SerializeToString(), save_to=path)
    found = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert found.count("QLinearConv") == 3
    assert "Conv" not in found
    assert "Relu" not in found
    assert {"QLinearAdd", "QLinearLeakyRelu"} <= set(found)


def test_kept_layers_stay_in_floating_point_and_unknown_ones_are_refused():
    model = residual()
    layers = quantisable(model, TENSORRT)
    assert layers == ["x", "y", "f"]
    int8 = quantised(model, TENSORRT, kept=["x", "f"])
    found = read(int8)
    assert found["x"] == ["lr", "w1"]
    assert found["y"] == ["[a]", "[w2]"]
    assert found["f"] == ["r", "w3"]
    assert precision_of(int8) == "mixed: 2 fp32, 1 int8"
    with pytest.raises(ExportError, match="'s' is none that the target can compute in INT8"):
        quantised(model, TENSORRT, kept=["s"])


def test_activations_are_unsigned_or_about_zero_and_weights_have_a_scale_per_channel():
    for rules, dtype in ((ORT, np.uint8), (TENSORRT, np.int8)):
        int8 = quantised(residual(), rules)
        assert constants(int8, "x_zero_point")["x_zero_point"].dtype == dtype
        assert constants(int8, "w1_scale")["w1_scale"].shape == (8,)
    assert all(not zero.any() for zero in constants(int8, "_zero_point").values())
    assert "w1" in constants(int8, "w1"), "weights that the builder quantises"
    assert constants(quantised(residual(), OPENVINO), "w1_int")["w1_int"].dtype == np.int8


@pytest.mark.parametrize("name", RULES)
def test_rows_of_zeros_have_a_scale_above_zero(name):
    model = residual()
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor).copy()
        if tensor.name in ("w1", "b1"):
            value[:4] = 0
        if tensor.name in ("w2", "b2"):
            value[:] = 0
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    int8 = quantised(model, RULES[name])
    check_scales(int8)
    scale = constants(int8, "w1_scale")["w1_scale"]
    assert (scale[:4] == scale[4:].max()).all()
    assert_close(int8, model)


def test_a_value_that_is_always_zero_has_a_scale_above_zero():
    model = residual(w1=(8, 3, 3, 3))
    int8 = quantised(model, TENSORRT, images=[np.zeros_like(X)])
    assert (constants(int8, "lr_scale")["lr_scale"] > 0).all()


def test_a_scale_of_zero_is_refused():
    int8 = quantised(residual(), TENSORRT)
    for tensor in int8.graph.initializer:
        if tensor.name == "x_scale":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((), np.float32), "x_scale"))
    with pytest.raises(ExportError, match="scale of node 'x_.*' .QuantizeLinear. is 0; .*above"):
        check_scales(int8)


def test_tiny_weights_have_scales_that_fp16_can_hold():
    model = residual()
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            tiny = numpy_helper.to_array(tensor) * np.float32(1e-5)
            tensor.CopyFrom(numpy_helper.from_array(tiny, "w2"))
    ranges = collect_ranges(model, [X], TENSORRT)["min-max"]
    int8 = placed(halved(model, io_dtype="fp16").model, ranges, TENSORRT)
    scale = constants(int8, "w2_scale")["w2_scale"]
    assert scale.dtype == np.float16
    assert (scale > 0).all()


def test_a_graph_of_fp16_tensors_gets_pairs_of_fp16_in_opset_19():
    model = residual()
    ranges = collect_ranges(model, [X], TENSORRT)["min-max"]
    for io_dtype in ("fp16", "fp32"):
        int8 = placed(halved(model, io_dtype=io_dtype).model, ranges, TENSORRT, kept=["x"])
        onnx.checker.check_model(int8, full_check=True)
        assert opset_of(int8) == 19
        assert precision_of(int8) == "mixed: 1 fp16, 2 int8"
        assert_close(int8, model)


def test_concat_has_one_scale_for_inputs_and_output():
    model = network(
        """
        x = Conv <pads=[1,1,1,1]> (lr, w1)
        y = Conv <pads=[1,1,1,1]> (x, w2)
        z = Conv <pads=[1,1,1,1]> (y, w3)
        c = Concat <axis=1> (x, y)
        f = Conv (c, w4)
        g = Conv (z, w5)
        s = Add (f, g)
        sr = DepthToSpace <blocksize=2> (s)
        """,
        w1=(8, 3, 3, 3),
        w2=(8, 8, 3, 3),
        w3=(8, 8, 3, 3),
        w4=(12, 16, 1, 1),
        w5=(12, 8, 1, 1),
    )
    for rules in (TENSORRT, ORT):
        scales = constants(quantised(model, rules), "_scale")
        assert scales["x_scale"] == scales["y_scale"] == scales["c_scale"]
        assert scales["z_scale"] != scales["c_scale"]
    ranges = collect_ranges(model, [X], TENSORRT)["min-max"]
    widest = [max(map(abs, ranges[name])) for name in "xyc"]
    assert len(set(widest)) > 1
    scale = constants(placed(model, ranges, TENSORRT), "_scale")["c_scale"]
    assert scale == pytest.approx(max(widest) / 127, rel=1e-6)


def test_grouped_convolutions_are_quantised_where_their_channels_fit():
    def layers(rules, *, group, channels):
        model = network(
            f"""
            x = Conv <pads=[1,1,1,1]> (lr, w1)
            y = Conv <group={group}> (x, w2)
            f = Conv (y, w3)
            sr = DepthToSpace <blocksize=2> (f)
            """,
            w1=(channels, 3, 3, 3),
            w2=(channels, channels // group, 1, 1),
            w3=(12, channels, 1, 1),
        )
        return quantisable(model, rules)

    assert layers(TENSORRT, group=4, channels=32) == ["x", "y", "f"]
    assert layers(TENSORRT, group=4, channels=16) == ["x", "f"], "4 channels in each group"
    assert layers(TENSORRT, group=2, channels=16) == ["x", "f"], "2 groups"
    assert layers(TENSORRT, group=16, channels=16) == ["x", "f"], "depthwise"
    assert layers(OPENVINO, group=2, channels=16) == ["x", "y", "f"]


def test_transposed_convolutions_have_a_scale_per_output_channel():
    model = network(
        """
        x = Conv <pads=[1,1,1,1]> (lr, w1)
        y = ConvTranspose <strides=[2,2], kernel_shape=[2,2]> (x, w2, b2)
        sr = ConvTranspose <strides=[2,2], kernel_shape=[2,2]> (y, w3)
        """,
        w1=(8, 3, 3, 3),
        w2=(8, 4, 2, 2),
        b2=4,
        w3=(4, 3, 2, 2),
    )
    assert quantisable(model, TENSORRT) == ["x", "y"], "3 output channels have no kernel"
    int8 = quantised(model, TENSORRT)
    assert constants(int8, "w2_scale")["w2_scale"].shape == (4,)
    axes = [
        node.attribute[0].i
        for node in int8.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == "w2"
    ]
    assert axes == [1]
    assert_close(int8, model)
    assert quantisable(model, ORT) == ["x"], "its CPU provider has no such kernel"


def test_matrix_products_are_quantised_where_the_runtime_has_a_kernel():
    model = network(
        """
        t = Transpose <perm=[0,2,3,1]> (lr)
        m = MatMul (t, w1)
        n = Transpose <perm=[0,3,1,2]> (m)
        f = Conv (n, w2)
        sr = DepthToSpace <blocksize=2> (f)
        """,
        w1=(3, 8),
        w2=(12, 8, 1, 1),
    )
    assert quantisable(model, ORT) == ["m", "f"]
    int8 = quantised(model, ORT)
    assert constants(int8, "w1_scale")["w1_scale"].shape == (8,)
    assert_close(int8, model)
    assert quantisable(model, OPENVINO) == ["f"]


def test_weights_that_several_layers_share_are_stored_once():
    model = network(
        """
        x = Conv <pads=[1,1,1,1]> (lr, w1)
        y = Conv <pads=[1,1,1,1]> (x, w1)
        z = Conv <pads=[1,1,1,1]> (y, w1)
        f = Conv (z, w2)
        sr = DepthToSpace <blocksize=2> (f)
        """,
        w1=(3, 3, 3, 3),
        w2=(12, 3, 1, 1),
    )
    int8 = quantised(model, OPENVINO, kept=["y"])
    assert list(constants(int8, "_int")) == ["w1_int", "w2_int"]
    assert read(int8)["y"] == ["x", "w1"]
    assert_close(int8, model)


def test_operators_with_constants_read_them_as_integers():
    model = network(
        """
        x = Conv <pads=[1,1,1,1]> (lr, w1)
        k = Constant <value = float {0.5}> ()
        h = Mul (x, k)
        y = Add (h, shift)
        f = Conv (y, w2)
        sr = DepthToSpace <blocksize=2> (f)
        """,
        w1=(8, 3, 3, 3),
        shift=(1, 8, 1, 1),
        w2=(12, 8, 1, 1),
    )
    int8 = quantised(model, ORT)
    found = read(int8)
    assert found["h"][0] == "[x]"
    assert found["y"][0] == "[h]"
    assert constants(int8, "shift_int")["shift_int"].dtype == np.uint8
    assert_close(int8, model)


@pytest.mark.parametrize(
    "features, most", [("avx2 avx512f", 64), ("avx2 avx_vnni", 127), ("", 127)]
)
def test_weights_have_7_bits_where_sums_of_products_saturate(features, most, monkeypatch):
    monkeypatch.setattr(device, "cpu_features", lambda: ["x86_64", *features.split()])
    rules = replace(ORT, reduce_range=True)
    ints = constants(quantised(residual(), rules), "w2_int")["w2_int"]
    assert np.abs(ints.astype(int)).max() == most


def test_older_opsets_are_raised_to_the_first_with_scales_per_channel():
    model = network(
        'x = Conv <pads=[1,1,1,1]> (lr, w1) sr = DepthToSpace <blocksize=2, mode="CRD"> (x)',
        opset=11,
        w1=(12, 3, 3, 3),
    )
    assert opset_of(model) == 13
    assert precision_of(quantised(model, TENSORRT)) == "int8"


def test_graphs_that_are_quantised_or_have_damaged_weights_are_refused():
    with pytest.raises(ExportError, match="quantised already .node '.*' is QuantizeLinear") as e:
        ready_to_quantise(quantised(residual(), OPENVINO))
    assert "FP32 graph" in e.value.hint
    model = residual()
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            broken = numpy_helper.to_array(tensor).copy()
            broken[0, 0, 0, 0] = np.nan
            tensor.CopyFrom(numpy_helper.from_array(broken, "w2"))
    with pytest.raises(ExportError, match="weights 'w2' of node 'y' .Conv. contain values"):
        ready_to_quantise(model)


def test_a_value_without_a_range_is_refused():
    model = residual()
    ranges = dict(collect_ranges(model, [X], TENSORRT)["min-max"])
    del ranges["r"]
    with pytest.raises(ExportError, match="range of the value 'r' was not measured"):
        placed(model, ranges, TENSORRT)


def test_a_graph_without_layers_of_the_rules_has_none():
    model = ready_to_quantise(graph("sr = Resize <mode=\"nearest\"> (lr, roi, scales)",
        constants="float[0] roi = {}, float[4] scales = {1,1,2,2}"))  # fmt: skip
    assert [quantisable(model, rules) for rules in RULES.values()] == [[], [], []]


@pytest.mark.parametrize("name", ["cpu", "cpu-openvino", "xavier", "rtx"])
def test_the_rules_of_targets(name):
    rules = load_target(name).int8
    assert rules is not None
    model = residual()
    assert quantisable(model, rules) == ["x", "y", "f"]
    check_scales(quantised(model, rules))
