"""A tiny super-resolution graph made by hand: one convolution and a pixel shuffle, x2."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.manifest import Manifest, write_artifact


def tiny_model(hw, *, precision="fp32", extra=None):
    """Return the ONNX model. hw: LR (h, w), or None for a dynamic one; extra: an operator put between the two."""
    from onnx import TensorProto, helper, numpy_helper

    dtype, element = (np.float16, TensorProto.FLOAT16) if precision == "fp16" else (np.float32, TensorProto.FLOAT)
    weight = (np.random.default_rng(0).standard_normal((12, 3, 3, 3)) / 5).astype(dtype)
    nodes = [helper.make_node("Conv", ["lr", "weight"], ["features"], name="conv", pads=[1, 1, 1, 1])]
    last = "features"
    if extra == "NonZero":
        nodes.append(helper.make_node("NonZero", ["features"], ["where"], name="find_them"))
        nodes.append(helper.make_node("Cast", ["where"], ["sr"], name="cast", to=element))
    else:
        if extra is not None:
            nodes.append(helper.make_node(extra, [last], ["more"], name="more"))
            last = "more"
        nodes.append(helper.make_node("DepthToSpace", [last], ["sr"], name="shuffle", blocksize=2, mode="CRD"))
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
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


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


@pytest.fixture()
def tiny(tmp_path):
    """Write a tiny graph with its manifest and return its path."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graph")

    def make(name="tiny_x2.d1", *, hw=(16, 24), high=None, precision="fp32", asked=None, extra=None):
        model = tiny_model(None if high else hw, precision=precision, extra=extra)

        def write(temporary):
            onnx.save(model, str(temporary))
            return tiny_manifest(hw, high, precision=precision, asked=asked)

        path = tmp_path / "onnx" / f"{name}.onnx"
        write_artifact(path, write)
        return path

    return make


@pytest.fixture()
def any_graph(tmp_path):
    """A file that passes for a graph where none is parsed: works without onnx."""

    def make(name="tiny_x2.d1", **kwargs):
        def write(temporary):
            temporary.write_bytes(b"\x08\x08")  # ModelProto.ir_version = 8
            return tiny_manifest(**kwargs)

        path = tmp_path / "onnx" / f"{name}.onnx"
        write_artifact(path, write)
        return path

    return make
