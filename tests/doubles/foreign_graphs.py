"""Tiny super-resolution graphs as other exporters write them. Each resembles its enlarged input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np


def _onnx() -> Any:
    import onnx

    return onnx


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    return _onnx().helper.make_node(op, list(inputs), list(outputs), **attributes)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Tuple[str, str, Any]],
    outputs: Sequence[Tuple[str, str, Any]],
    weights: Dict[str, np.ndarray],
    *,
    opset: int,
    ir: int = 8,
    producer: str = "",
) -> Any:
    """Return a ModelProto. Ends are (name, element type, shape)."""
    onnx = _onnx()
    value = onnx.helper.make_tensor_value_info
    ends = [
        [value(name, getattr(onnx.TensorProto, kind), shape) for name, kind, shape in group]
        for group in (inputs, outputs)
    ]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = onnx.helper.make_graph(nodes, "main_graph", *ends, constants)
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(
        graph, opset_imports=opsets, ir_version=ir, producer_name=producer, producer_version="1.2"
    )


def shuffling(
    scale: int, channels: int = 3, *, dcr: bool = False, reach: int = 1, noise: float = 0.02
) -> np.ndarray:
    """Return a convolution whose shuffled output is about the repeated pixels of its input."""
    size = 2 * reach + 1
    phases = scale**2
    weight = np.random.default_rng(0).standard_normal((channels * phases, channels, size, size))
    weight = (weight - weight.mean((1, 2, 3), keepdims=True)) * noise
    for out in range(channels * phases):
        weight[out, out % channels if dcr else out // phases, reach, reach] += 1
    return weight.astype(np.float32)


def _pixel_shuffle_by_reshape(source: str, target: str, scale: int, hw: Tuple[int, int]) -> Any:
    """Return nodes and constants of PixelShuffle as exported before DepthToSpace was."""
    h, w = hw
    return [
        node("Reshape", [source, "six"], ["p1"]),
        node("Transpose", ["p1"], ["p2"], perm=[0, 1, 4, 2, 5, 3]),
        node("Reshape", ["p2", "four"], [target]),
    ], {
        "six": np.array([-1, 1, scale, scale, h, w]),
        "four": np.array([-1, 1, scale * h, scale * w]),
    }


def torch_opset9() -> Any:
    """TorchScript of 2019: numbers as names, weights among the inputs, Upsample."""
    weights = {
        "conv.weight": shuffling(1),
        "conv.bias": np.zeros(3, np.float32),
        "17": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        node("Upsample", ["input.1", "17"], ["18"], mode="nearest"),
        node("Conv", ["18", "conv.weight", "conv.bias"], ["19"], pads=[1] * 4),
        node("Clip", ["19"], ["20"], min=0.0, max=1.0),
    ]
    shape = ["batch", 3, "height", "width"]
    named = [(name, "FLOAT", list(array.shape)) for name, array in weights.items()]
    return model(
        nodes,
        [("input.1", "FLOAT", shape), *named],
        [("20", "FLOAT", None)],
        weights,
        opset=9,
        ir=3,
        producer="pytorch",
    )


def torch_opset11() -> Any:
    """TorchScript of 2021: an interpolation to sizes that are computed from the input's."""
    weights = {
        "w": shuffling(1),
        "two": np.array([2, 2]),
        "start": np.array([2]),
        "end": np.array([4]),
        "zero": np.array([0]),
        "top": np.array([2]),
        "empty": np.array([], np.float32),
    }
    nodes = [
        node("Shape", ["input"], ["/Shape_output_0"]),
        node("Slice", ["/Shape_output_0", "start", "end", "zero"], ["hw"]),
        node("Slice", ["/Shape_output_0", "zero", "top", "zero"], ["nc"]),
        node("Mul", ["hw", "two"], ["sized"]),
        node("Concat", ["nc", "sized"], ["sizes"], axis=0),
        node(
            "Resize",
            ["input", "empty", "empty", "sizes"],
            ["up"],
            mode="linear",
            coordinate_transformation_mode="pytorch_half_pixel",
        ),
        node("Conv", ["up", "w"], ["c"], pads=[1] * 4),
        node("LeakyRelu", ["c"], ["output"], alpha=0.1),
    ]
    shape = ["batch_size", 3, "height", "width"]
    out = ["batch_size", 3, "height_up", "width_up"]
    return model(
        nodes, [("input", "FLOAT", shape)], [("output", "FLOAT", out)], weights, opset=11, ir=6
    )


def tensorflow_nhwc() -> Any:
    """tf2onnx: NHWC and 0..255, which a bias and Relu require."""
    weights = {
        "w": shuffling(2, dcr=True),
        "b": np.full(12, -8, np.float32),
        "shift:0": np.array(8, np.float32),
        "max": np.array(255, np.float32),
    }
    nodes = [
        node("Transpose", ["input_1:0"], ["t0"], perm=[0, 3, 1, 2], name="model/conv__6"),
        node("Conv", ["t0", "w", "b"], ["c"], pads=[1] * 4, name="model/conv"),
        node("Relu", ["c"], ["r"], name="model/relu"),
        node("DepthToSpace", ["r"], ["d"], blocksize=2, name="model/lambda"),
        node("Transpose", ["d"], ["t1"], perm=[0, 2, 3, 1], name="model/lambda__9"),
        node("Add", ["t1", "shift:0"], ["Identity:0"], name="model/add"),
    ]
    shape = ["unk__7", "unk__8", "unk__9", 3]
    out = ["unk__7", "unk__10", "unk__11", 3]
    return model(
        nodes,
        [("input_1:0", "FLOAT", shape)],
        [("Identity:0", "FLOAT", out)],
        weights,
        opset=13,
        producer="tf2onnx",
    )


LUMA_HW = (20, 24)


def luma_opset10() -> Any:
    """The model zoo's: luma of one size, x3, PixelShuffle by Reshape and Transpose."""
    nodes, constants = _pixel_shuffle_by_reshape("c", "output", 3, LUMA_HW)
    first = node("Conv", ["input", "w"], ["c"], pads=[1] * 4)
    h, w = LUMA_HW
    return model(
        [first, *nodes],
        [("input", "FLOAT", ["batch_size", 1, h, w])],
        [("output", "FLOAT", ["batch_size", 1, 3 * h, 3 * w])],
        {"w": shuffling(3, 1), **constants},
        opset=10,
        ir=5,
        producer="pytorch",
    )


def bytes_nhwc() -> Any:
    """Bytes in and out, NHWC, with the casts of a deployment."""
    onnx = _onnx()
    weights = {
        "w": shuffling(2, dcr=True),
        "low": np.array(0, np.float32),
        "high": np.array(255, np.float32),
    }
    nodes = [
        node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        node("Cast", ["t"], ["f"], to=onnx.TensorProto.FLOAT),
        node("Conv", ["f", "w"], ["c"], pads=[1] * 4),
        node("DepthToSpace", ["c"], ["d"], blocksize=2),
        node("Round", ["d"], ["r"]),
        node("Clip", ["r", "low", "high"], ["k"]),
        node("Cast", ["k"], ["u"], to=onnx.TensorProto.UINT8),
        node("Transpose", ["u"], ["enlarged"], perm=[0, 2, 3, 1]),
    ]
    return model(
        nodes,
        [("image", "UINT8", [1, "h", "w", 3])],
        [("enlarged", "UINT8", [1, "H", "W", 3])],
        weights,
        opset=13,
    )


def half_opset17() -> Any:
    """FP16 with FP16 ends, and an internal tensor named `lr`."""
    nodes = [
        node("Conv", ["x", "w"], ["lr"], pads=[1] * 4, name="conv"),
        node("DepthToSpace", ["lr"], ["y"], blocksize=2, mode="CRD", name="shuffle"),
    ]
    shape, out = [1, 3, "h", "w"], [1, 3, "H", "W"]
    return model(
        nodes,
        [("x", "FLOAT16", shape)],
        [("y", "FLOAT16", out)],
        {"w": shuffling(2).astype(np.float16)},
        opset=17,
    )


def dynamo_opset20() -> Any:
    """torch.onnx.export(dynamo=True): a function, symbols as sizes; saved with external data."""
    onnx = _onnx()
    domain = "pkg.onnxscript.torch_lib"
    function = onnx.helper.make_function(
        domain,
        "aten_pixel_shuffle",
        ["self"],
        ["result"],
        [node("DepthToSpace", ["self"], ["result"], blocksize=2, mode="CRD")],
        [onnx.helper.make_opsetid("", 20)],
    )
    nodes = [
        node("Conv", ["x", "net.0.weight"], ["conv2d"], pads=[1] * 4, name="node_conv2d"),
        node("Gelu", ["conv2d"], ["gelu"], name="node_gelu"),
        node("Mul", ["gelu", "gain"], ["mul"], name="node_mul"),
        node("Add", ["conv2d", "mul"], ["add"], name="node_add"),
        node("aten_pixel_shuffle", ["add"], ["pixel_shuffle"], domain=domain),
    ]
    graph = model(
        nodes,
        [("x", "FLOAT", [1, 3, "s77", "s27"])],
        [("pixel_shuffle", "FLOAT", [1, 3, "2*s77", "2*s27"])],
        {"net.0.weight": shuffling(2), "gain": np.array(1e-3, np.float32)},
        opset=20,
        ir=10,
        producer="pytorch",
    )
    graph.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    graph.functions.append(function)
    graph.metadata_props.add(key="license", value="MIT")
    return graph


def quantised_opset13() -> Any:
    """QDQ of onnxruntime's quantiser: INT8 weights and UINT8 activations."""
    weight = shuffling(2)
    step = np.abs(weight).max((1, 2, 3)) / 127
    q = np.rint(weight / step[:, None, None, None]).astype(np.int8)
    weights = {
        "w_q": q,
        "w_s": step.astype(np.float32),
        "w_z": np.zeros(12, np.int8),
        "s": np.array(1 / 255, np.float32),
        "z": np.array(0, np.uint8),
    }
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["x_q"]),
        node("DequantizeLinear", ["x_q", "s", "z"], ["x_d"]),
        node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w_d"], axis=0),
        node("Conv", ["x_d", "w_d"], ["c"], pads=[1] * 4),
        node("DepthToSpace", ["c"], ["y"], blocksize=2, mode="CRD"),
    ]
    shape, out = [1, 3, "h", "w"], [1, 3, "H", "W"]
    return model(
        nodes,
        [("x", "FLOAT", shape)],
        [("y", "FLOAT", out)],
        weights,
        opset=13,
        producer="onnx.quantize",
    )


def paddle_names() -> Any:
    """Odd names, nodes without any, and -1 for free sizes."""
    nodes = [
        node("Conv", ["x é 1", "conv2d_0.w_0@GRAD"], ["conv2d_0.tmp_0"], pads=[1] * 4),
        node("DepthToSpace", ["conv2d_0.tmp_0"], ["a b/c"], blocksize=2, mode="CRD"),
        node("Identity", ["a b/c"], ["save_infer_model/scale_0.tmp_0"]),
    ]
    return model(
        nodes,
        [("x é 1", "FLOAT", [-1, 3, -1, -1])],
        [("save_infer_model/scale_0.tmp_0", "FLOAT", [-1, 3, -1, -1])],
        {"conv2d_0.w_0@GRAD": shuffling(2)},
        opset=11,
        ir=7,
        producer="PaddlePaddle",
    )


def unshuffling_opset18() -> Any:
    """A head that folds 4x4 pixels into channels, values of -1..1; x2."""
    fold = np.zeros((48, 3, 4, 4), np.float32)
    for c in range(3):
        for y in range(4):
            for x in range(4):
                fold[c * 16 + y * 4 + x, c, y, x] = 1
    weights = {
        "fold": fold,
        "up": np.array([1, 1, 2, 2], np.float32),
        "one": np.array(1, np.float32),
    }
    nodes = [
        node("Conv", ["x", "fold"], ["folded"], strides=[4, 4]),
        node("DepthToSpace", ["folded"], ["d"], blocksize=4, mode="CRD"),
        node("Resize", ["d", "", "up"], ["r"], mode="nearest"),
        node("Add", ["r", "one"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Sub", ["b", "one"], ["y"]),
    ]
    shape, out = [1, 3, "h", "w"], [1, 3, "H", "W"]
    return model(nodes, [("x", "FLOAT", shape)], [("y", "FLOAT", out)], weights, opset=18)


def several_outputs_opset24() -> Any:
    """A training graph: features, and the image under another name than `sr`, which is taken."""
    nodes = [
        node("Conv", ["x", "w"], ["sr"], pads=[1] * 4),
        node("ReduceMean", ["sr"], ["features"], keepdims=1),
        node("DepthToSpace", ["sr"], ["image"], blocksize=2, mode="CRD"),
        node("Sigmoid", ["image"], ["mask"]),
    ]
    outputs = [
        ("features", "FLOAT", [1, 1, 1, 1]),
        ("image", "FLOAT", [1, 3, "H", "W"]),
        ("mask", "FLOAT", [1, 3, "H", "W"]),
    ]
    return model(
        nodes, [("x", "FLOAT", [1, 3, "h", "w"])], outputs, {"w": shuffling(2)}, opset=24, ir=11
    )


def blue_first_chw() -> Any:
    """No batch, blue first, 8-bit values."""
    nodes = [
        node("Unsqueeze", ["x", "first"], ["a"]),
        node("Conv", ["a", "w", "b"], ["c"], pads=[1] * 4),
        node("Relu", ["c"], ["r"]),
        node("DepthToSpace", ["r"], ["d"], blocksize=2, mode="CRD"),
        node("Squeeze", ["d", "first"], ["e"]),
        node("Add", ["e", "eight"], ["y"]),
    ]
    weights = {
        "w": shuffling(2),
        "b": np.full(12, -8, np.float32),
        "eight": np.array(8, np.float32),
        "first": np.array([0]),
    }
    shape, out = [3, "h", "w"], [3, "H", "W"]
    return model(nodes, [("x", "FLOAT", shape)], [("y", "FLOAT", out)], weights, opset=15)


@dataclass(frozen=True)
class ForeignGraph:
    """A graph and what must be found of it."""

    make: Callable[[], Any]
    scale: int = 2
    layout: str = "nchw"
    colours: str = "rgb"
    values: Tuple[float, float] = (0.0, 1.0)
    values_out: Optional[Tuple[float, float]] = None
    precision: str = "fp32"
    multiple: int = 1
    hw: Tuple[int, int] = (16, 20)
    external: bool = False
    options: Tuple[Tuple[str, Any], ...] = ()


STUDIO = (16 / 255, 235 / 255)
FOREIGN = {
    "torch_opset9": ForeignGraph(torch_opset9),
    "torch_opset11": ForeignGraph(torch_opset11),
    "tensorflow_nhwc": ForeignGraph(tensorflow_nhwc, layout="nhwc", values=(0, 255)),
    "luma_opset10": ForeignGraph(luma_opset10, 3, colours="y", values=STUDIO, hw=LUMA_HW),
    "bytes_nhwc": ForeignGraph(bytes_nhwc, layout="nhwc", values=(0, 255)),
    "half_opset17": ForeignGraph(half_opset17, precision="fp16"),
    "dynamo_opset20": ForeignGraph(dynamo_opset20, external=True),
    "quantised_opset13": ForeignGraph(quantised_opset13, precision="int8"),
    "paddle_names": ForeignGraph(paddle_names),
    "unshuffling_opset18": ForeignGraph(
        unshuffling_opset18, multiple=4, values=(-1, 1), options=(("value_range", "-1:1"),)
    ),
    "several_outputs_opset24": ForeignGraph(
        several_outputs_opset24, options=(("output", "image"),)
    ),
    "blue_first_chw": ForeignGraph(
        blue_first_chw, layout="chw", colours="bgr", values=(0, 255), options=(("bgr", True),)
    ),
}


def save_foreign(name: str, folder: Any) -> Any:
    """Save a graph of `FOREIGN` in a folder, with its external data; return its path."""
    onnx = _onnx()
    path = folder / f"{name}.onnx"
    extra = (
        dict(save_as_external_data=True, location=f"{name}.onnx.data", size_threshold=0)
        if FOREIGN[name].external
        else {}
    )
    onnx.save(FOREIGN[name].make(), str(path), **extra)
    return path
