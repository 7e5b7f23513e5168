"""A tiny handmade super-resolution graph, one convolution and a pixel shuffle, and its manifest."""

from __future__ import annotations

import numpy as np

from sr_deploy.core.manifest import Manifest


def tiny_model(hw, *, precision="fp32", extra=None, repeats=False, opset=17):
    """Return the ONNX model. hw: LR (h, w), None for a dynamic one; extra: an operator between the
    two; repeats: each pixel is repeated 2x2, as the stand-in for trtexec does."""
    from onnx import TensorProto, helper, numpy_helper

    dtype, element = (
        (np.float16, TensorProto.FLOAT16)
        if precision == "fp16"
        else (np.float32, TensorProto.FLOAT)
    )
    weight = (np.random.default_rng(0).standard_normal((12, 3, 3, 3)) / 5).astype(dtype)
    if repeats:
        weight[:] = 0
        weight[range(12), [c // 4 for c in range(12)], 1, 1] = 1
    nodes = [
        helper.make_node("Conv", ["lr", "weight"], ["features"], name="conv", pads=[1, 1, 1, 1])
    ]
    last = "features"
    if extra == "NonZero":
        nodes.append(helper.make_node("NonZero", ["features"], ["where"], name="find_them"))
        nodes.append(helper.make_node("Cast", ["where"], ["sr"], name="cast", to=element))
    else:
        if extra is not None:
            nodes.append(helper.make_node(extra, [last], ["more"], name="more"))
            last = "more"
        nodes.append(
            helper.make_node(
                "DepthToSpace", [last], ["sr"], name="shuffle", blocksize=2, mode="CRD"
            )
        )
    h, w = hw or ("h", "w")
    sizes = [2 * h, 2 * w] if hw else ["sr_h", "sr_w"]
    output = [None, None] if extra == "NonZero" else [1, 3, *sizes]
    graph = helper.make_graph(
        nodes,
        "sr",
        [helper.make_tensor_value_info("lr", element, [1, 3, h, w])],
        [helper.make_tensor_value_info("sr", element, output)],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def tiny_manifest(low=(16, 24), high=None, *, precision="fp32", asked=None, opset=17):
    return Manifest(
        kind="onnx",
        model="tiny_x2",
        variant="d1",
        arch="asrn",
        scale=2,
        min_shape=low,
        opt_shape=low,
        max_shape=high or low,
        input_dtype=precision,
        output_dtype=precision,
        precision_asked=asked or precision,
        precision_obtained=precision,
        target="",
        parent_sha256="ab" * 32,
        command="srdeploy export tiny_x2",
        versions={"onnx": "1"},
        opset=opset,
    )


def quantised_model(hw, *, result=True):
    """Return the model with Q/DQ pairs at its input and weights, and at the convolution's result.

    result: False leaves that out. ONNX Runtime computes the convolution in FP32 then.
    """
    from onnx import helper, numpy_helper

    model = tiny_model(hw)
    graph = model.graph
    convolution, *others = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    weight = numpy_helper.to_array(graph.initializer[0])
    weight_scale = np.abs(weight).max() / 127
    constants = {
        "scale": np.float32(1 / 255),
        "zero": np.uint8(0),
        "result_scale": np.float32(4 / 255),
        "result_zero": np.uint8(128),
        "weight_scale": np.float32(weight_scale),
        "weight_zero": np.int8(0),
        "weight_8bit": np.round(weight / weight_scale).astype("int8"),
    }
    convolution.input[0] = "lr_float"
    quantise, dequantise = "QuantizeLinear", "DequantizeLinear"
    nodes = [
        helper.make_node(quantise, ["lr", "scale", "zero"], ["lr_8bit"]),
        helper.make_node(dequantise, ["lr_8bit", "scale", "zero"], ["lr_float"]),
        helper.make_node(dequantise, ["weight_8bit", "weight_scale", "weight_zero"], ["weight"]),
        convolution,
    ]
    if result:
        ends = ["result_scale", "result_zero"]
        convolution.output[0] = "result"
        nodes.append(helper.make_node(quantise, ["result", *ends], ["result_8bit"]))
        nodes.append(helper.make_node(dequantise, ["result_8bit", *ends], ["features"]))
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend([*nodes, *others])
    return model
