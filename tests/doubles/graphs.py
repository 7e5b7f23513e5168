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


def quantised_model(hw, kind="uint8"):
    """Return the model with its convolution between Q/DQ pairs. kind: the type of activations."""
    from onnx import helper, numpy_helper

    model = tiny_model(hw)
    graph = model.graph
    weight = numpy_helper.to_array(graph.initializer[0])
    scale = np.float32(np.abs(weight).max() / 127)
    constants = {
        "scale": np.float32(1 / 255),
        "zero": np.array(0, kind),
        "weight_scale": scale,
        "weight_zero": np.array(0, "int8"),
        "weight_8bit": np.round(weight / scale).astype("int8"),
    }
    del graph.initializer[:]
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()
    )
    pairs = [
        ("QuantizeLinear", ["lr", "scale", "zero"], "lr_8bit"),
        ("DequantizeLinear", ["lr_8bit", "scale", "zero"], "lr_again"),
        ("DequantizeLinear", ["weight_8bit", "weight_scale", "weight_zero"], "weight"),
    ]
    nodes = [helper.make_node(op, inputs, [output], name=output) for op, inputs, output in pairs]
    nodes += [node for node in graph.node]
    nodes[len(pairs)].input[0] = "lr_again"
    del graph.node[:]
    graph.node.extend(nodes)
    return model
