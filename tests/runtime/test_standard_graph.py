"""The nodes around a graph, compared with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from doubles.foreign_graphs import FOREIGN, model, node

from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.images import imresize
from sr_deploy.core.interface import STUDIO, ImageEnd, Interface
from sr_deploy.runtime.standard_graph import standard_graph

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs them")

from sr_deploy.runtime.ort import raw_session  # noqa: E402

TYPES = {"fp32": "FLOAT", "fp16": "FLOAT16", "uint8": "UINT8"}
SHAPES = {
    "nchw": lambda c: ["n", c, "h", "w"],
    "nhwc": lambda c: ["n", "h", "w", c],
    "chw": lambda c: [c, "h", "w"],
    "hwc": lambda c: ["h", "w", c],
}


def identity(layout, dtype, channels, opset):
    """Return a graph that gives what it takes."""
    shape = SHAPES[layout](channels)
    ends = [("x", TYPES[dtype], shape)], [("y", TYPES[dtype], shape)]
    return model([node("Identity", ["x"], ["y"])], *ends, {}, opset=opset, ir=3)


def run(graph, x):
    onnx.checker.check_model(graph, full_check=True)
    return raw_session(graph.SerializeToString()).run(None, {"lr": x})[0]


def noise(h=7, w=9):
    return np.random.default_rng(0).random((1, 3, h, w), dtype=np.float32)


@pytest.mark.parametrize("opset", [9, 10, 12, 13, 18])
@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_every_layout_type_and_opset_gives_the_image_back(layout, dtype, opset):
    values = (0.0, 255.0) if dtype == "uint8" else (-1.0, 1.0)
    ends = [ImageEnd(name, layout, dtype, values) for name in "xy"]
    graph = standard_graph(identity(layout, dtype, 3, opset), Interface(*ends, "bgr"), 1)
    x = noise()
    expected = np.rint(x * 255) / 255 if dtype == "uint8" else x
    np.testing.assert_allclose(run(graph, x), expected, atol=1e-3 if dtype == "fp16" else 1e-6)
    assert [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 0, 0]


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_luma_goes_through_the_network_and_chroma_is_enlarged_by_bicubic(scale, opset):
    """The reference converts to YCbCr, as papers do, and resizes as MATLAB does."""
    shape = ["n", 1, "h", "w"]
    up = np.array([1, 1, scale, scale], np.float32)
    resize = "Upsample" if opset == 9 else "Resize"
    inputs = ["x", "up"] if opset == 9 else ["x", "", "up"]
    nodes = [node(resize, inputs, ["y"], mode="nearest")]
    net = model(nodes, [("x", "FLOAT", shape)], [("y", "FLOAT", shape)], {"up": up}, opset=opset)
    ends = [ImageEnd(name, values=STUDIO) for name in "xy"]
    x = noise(12, 14)
    y = run(standard_graph(net, Interface(*ends, "y"), scale), x)

    rgb = x[0].transpose(1, 2, 0).astype(np.float64)
    to_ycc = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112], [112, -93.786, -18.214]])
    ycc = rgb @ (to_ycc / 255).T + np.array([16, 128, 128]) / 255
    luma = ycc[..., :1].repeat(scale, 0).repeat(scale, 1)
    enlarged = np.concatenate([luma, imresize(ycc[..., 1:], scale=scale)], 2)
    expected = (enlarged - np.array([16, 128, 128]) / 255) @ np.linalg.inv(to_ycc / 255).T
    inner = slice(2 * scale, -2 * scale or None)  # MATLAB mirrors at the edges
    difference = np.abs(y[0].transpose(1, 2, 0) - expected)[inner, inner]
    assert difference.max() < 2e-5


def test_bytes_that_are_only_cast_need_no_byte_tensors():
    graph = standard_graph(
        FOREIGN["bytes_nhwc"].make(),
        Interface(
            ImageEnd("image", "nhwc", "uint8", (0, 255)),
            ImageEnd("enlarged", "nhwc", "uint8", (0, 255)),
        ),
        2,
    )
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    types = {v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    assert types == {onnx.TensorProto.FLOAT}
    assert run(graph, noise()).shape == (1, 3, 14, 18)


def test_names_are_unique_and_only_what_the_output_needs_is_kept():
    graph = standard_graph(
        FOREIGN["several_outputs_opset24"].make(),
        Interface(ImageEnd("x"), ImageEnd("image"), other_outputs=("features", "mask")),
        2,
    ).graph
    assert [n.op_type for n in graph.node] == ["Conv", "DepthToSpace"]
    names = [n.name for n in graph.node]
    assert all(names) and len(set(names)) == len(names)
    assert graph.node[0].output[0] == "sr_1" and graph.node[1].output[0] == "sr"


def test_subgraphs_read_renamed_tensors():
    body = onnx.helper.make_graph(
        [node("Add", ["lr", "one"], ["inner"])],
        "body",
        [],
        [onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)],
    )
    nodes = [
        node("Identity", ["sr"], ["lr"]),
        node("If", ["yes"], ["image"], then_branch=body, else_branch=body),
    ]
    weights = {"yes": np.array(True), "one": np.array(1, np.float32)}
    ends = [("sr", "FLOAT", [1, 3, "h", "w"])], [("image", "FLOAT", [1, 3, "h", "w"])]
    net = model(nodes, *ends, weights, opset=13)
    graph = standard_graph(net, Interface(ImageEnd("sr"), ImageEnd("image")), 1)
    np.testing.assert_allclose(run(graph, noise()), noise() + 1)


def test_an_interface_of_another_graph_is_refused():
    net = identity("nchw", "fp32", 3, 13)
    with pytest.raises(ArtifactError, match="no output 'z'"):
        standard_graph(net, Interface(ImageEnd("x"), ImageEnd("z")), 1)
    net.opset_import[0].domain = "org.me"
    with pytest.raises(ArtifactError, match="does not say which opset"):
        standard_graph(net, Interface(ImageEnd("x"), ImageEnd("y")), 1)
