"""A small network quantised by hand, and its manifest: two convolutions and a pixel shuffle, x2."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from doubles.graphs import tiny_manifest

CONVOLUTIONS = ("conv1", "conv2")


def int8_model(
    hw=(16, 24), *, weights="float", half=False, kept=(), opset=None, after="Relu", repeats=False
):
    """Return an ONNX model whose convolutions, but those of `kept`, are quantised.

    weights: `float`, with a QuantizeLinear, or `int8`. half: FP16 between the pairs, in opset 19.
    after: the activation between the convolutions. repeats: each pixel is repeated 2x2, as the
    stand-in for trtexec does.
    """
    from onnx import TensorProto, helper, numpy_helper

    rng, dtype = np.random.default_rng(0), np.float16 if half else np.float32
    element = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    constants, nodes = [], []

    def constant(name, values, kind=dtype):
        constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def pair(name, value, scale, **axis):
        ends = [constant(f"{name}_scale", scale), constant(f"{name}_zero", 0 * scale, np.int8)]
        quantised = node("QuantizeLinear", [value, *ends], f"{name}_q", **axis)
        return node("DequantizeLinear", [quantised, *ends], f"{name}_dq", **axis)

    def conv(name, value, channels, scale):
        shape = (channels[1], channels[0], 3, 3)
        kernel = (rng.standard_normal(shape) / np.sqrt(9 * channels[0])).astype(np.float32)
        if repeats:
            source = range(3) if name == "conv1" else [c // 4 for c in range(12)]
            kernel[:] = 0
            kernel[range(len(source)), source, 1, 1] = 1
        steps = np.maximum(np.abs(kernel).reshape(channels[1], -1).max(1) / 127, 1e-3)
        if name in kept:
            weight = constant(f"{name}_weight", kernel)
        elif weights == "float":
            weight = pair(f"{name}_weight", constant(f"{name}_weight", kernel), steps, axis=0)
        else:
            integers = np.rint(kernel / steps.reshape(-1, 1, 1, 1))
            ends = [constant(f"{name}_s", steps), constant(f"{name}_z", 0 * steps, np.int8)]
            inputs = [constant(f"{name}_int", integers, np.int8), *ends]
            weight = node("DequantizeLinear", inputs, f"{name}_weight_dq", axis=0)
        if name not in kept:
            value = pair(f"{name}_x", value, np.asarray(scale))
        bias = constant(f"{name}_bias", (not repeats) * rng.standard_normal(channels[1]) / 20)
        return node("Conv", [value, weight, bias], name, pads=[1, 1, 1, 1])

    features = conv("conv1", "lr", (3, 8), 1 / 127)
    if after:
        features = node(after, [features], "activation")
    features = conv("conv2", features, (8, 12), (1 if repeats else 2) / 127)
    node("DepthToSpace", [features], "sr", blocksize=2, mode="CRD")
    h, w = hw
    graph = helper.make_graph(
        nodes,
        "int8",
        [helper.make_tensor_value_info("lr", element, [1, 3, h, w])],
        [helper.make_tensor_value_info("sr", element, [1, 3, 2 * h, 2 * w])],
        constants,
    )
    opset = opset or (19 if half else 13)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def int8_manifest(hw=(16, 24), *, half=False, opset=None):
    manifest = tiny_manifest(hw, precision="fp16" if half else "fp32", asked="int8")
    counts = "mixed: 20 fp16, 8 int8" if half else "mixed: 20 fp32, 8 int8"
    return replace(manifest, precision_obtained=counts, opset=opset or (19 if half else 13))
