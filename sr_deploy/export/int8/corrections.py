"""Changes of an FP32 graph that make it lose less in INT8.

Cross-layer equalisation is exact. A value has one 8-bit scale for all its channels, so those with
small numbers get few of its steps. Relu, LeakyRelu, additions and the like let a factor of a
channel through. So the weights that make a value are divided by a factor for each channel, those
that read it are multiplied by the same, and all channels fill the range. Values that additions
connect, as along the trunk of a residual network, have their factors in common.

Bias correction takes the mean error that rounded weights cause from each channel's bias.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.core.target import Int8Rules
from sr_deploy.export.int8.plan import GraphView, quantisable
from sr_deploy.export.int8.scales import most_weight, weight_scales
from sr_deploy.runtime.graph_nodes import drop_unused_constants, free_name, names_read
from sr_deploy.runtime.onnx_view import attributes_of
from sr_deploy.runtime.ort import raw_session

_HOMOGENEOUS = (
    "Relu LeakyRelu Add Sub Identity MaxPool AveragePool GlobalAveragePool GlobalMaxPool"
).split()
"""Operators whose result has a channel's factor if their inputs have it."""
_GATES = ("Sigmoid", "HardSigmoid", "Tanh", "Softmax")
"""A value multiplied by a result of these has its factor still."""
_LEAST_FACTOR = 1 / 256
"""Of a channel that would not fill one of 256 steps: a smaller factor would cut what other pictures
than those of the calibration need."""


class LayerWeights(NamedTuple):
    """The weights of a convolution, (out, in / group, kh, kw), and its bias, (out,)."""

    weight: np.ndarray
    bias: Optional[np.ndarray]


@dataclass
class _Connected:
    """Values whose channels have their factors in common."""

    makers: List[str] = field(default_factory=list)
    """Names of the convolutions that make them."""
    readers: List[str] = field(default_factory=list)
    """Names of the convolutions that read them."""


def equalised(model: onnx.ModelProto, images: Sequence[np.ndarray]) -> Dict[str, LayerWeights]:
    """Return new weights for convolutions, by the names of their nodes; empty if none can be.

    model: FP32, of `placement.ready_to_quantise`. images: (1, 3, H, W) float32 each. The graph with
    these weights computes the same.
    """
    view = GraphView(model)
    layers = {node.name: node for node in model.graph.node if _is_plain(view, node)}
    weights = {name: _weights_of(view, node) for name, node in layers.items()}
    groups = _connected(view, layers)
    inputs = {layers[name].input[0] for group in groups for name in group.readers}
    peaks = _per_channel(model, sorted(inputs), images, "GlobalMaxPool", np.max)
    changed: Set[str] = set()
    for group in groups:
        sizes = {len(weights[name].weight) for name in group.makers}
        sizes.update(len(peaks[layers[name].input[0]]) for name in group.readers)
        if len(sizes) > 1:  # an addition repeats one channel
            continue
        largest = np.max([peaks[layers[name].input[0]] for name in group.readers], axis=0)
        if not largest.any():
            continue
        factors = np.where(largest > 0, largest / largest.max(), 1.0)
        factors = np.maximum(factors, _LEAST_FACTOR)
        for name in group.makers:
            weight, bias = weights[name]
            bias = None if bias is None else bias / factors
            weights[name] = LayerWeights(weight / factors[:, None, None, None], bias)
        for name in group.readers:
            weight, bias = weights[name]
            per_input = _inputs_of_outputs(factors, len(weight), weight.shape[1])
            weights[name] = LayerWeights(weight * per_input[:, :, None, None], bias)
        changed.update(group.makers + group.readers)
    return {name: weights[name] for name in layers if name in changed}


def bias_corrections(
    model: onnx.ModelProto, images: Sequence[np.ndarray], rules: Int8Rules
) -> Dict[str, LayerWeights]:
    """Return quantised convolutions with corrected biases, by the names of their nodes.

    model, images: as of `equalised`.
    """
    view, names = GraphView(model), set(quantisable(model, rules))
    layers = {node.name: node for node in model.graph.node if node.name in names}
    layers = {name: node for name, node in layers.items() if _is_plain(view, node)}
    inputs = sorted({node.input[0] for node in layers.values()})
    means = _per_channel(model, inputs, images, "GlobalAveragePool", np.mean)
    most = most_weight(rules)
    corrected = {}
    for name, node in layers.items():
        weight, bias = _weights_of(view, node)
        scale = weight_scales(weight, 0, most, np.zeros(1))[:, None, None, None]
        error = (np.rint(weight / scale) * scale - weight).sum(axis=(2, 3))
        per_input = _inputs_of_outputs(means[node.input[0]], len(weight), weight.shape[1])
        bias = np.zeros(len(weight)) if bias is None else bias
        corrected[name] = LayerWeights(weight, bias - (error * per_input).sum(axis=1))
    return corrected


def with_weights(
    model: onnx.ModelProto, weights: Mapping[str, LayerWeights], without: Collection[str] = ()
) -> onnx.ModelProto:
    """Return a graph whose convolutions have new weights, but for some.

    weights: by the names of their nodes.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    taken = {tensor.name for tensor in graph.initializer}
    taken.update(name for node in graph.node for name in node.output)
    for node in graph.node:
        if node.name in weights and node.name not in without:
            for i, values in enumerate(weights[node.name], 1):
                if values is None:
                    continue
                name = free_name(f"{node.name}_{('weight', 'bias')[i - 1]}", taken)
                tensor = numpy_helper.from_array(values.astype(np.float32), name)
                graph.initializer.append(tensor)
                del node.input[i : i + 1]
                node.input.insert(i, name)
    drop_unused_constants(graph)
    return result


def _is_plain(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution of images by constant weights and bias."""
    constants = [name in view.constants for name in node.input[1:] if name]
    return (
        node.op_type == "Conv"
        and view.has_weights(node)
        and all(constants)
        and len(view.constants[node.input[1]].dims) == 4
    )


def _weights_of(view: GraphView, node: onnx.NodeProto) -> LayerWeights:
    arrays = [
        numpy_helper.to_array(view.constants[name]).astype(np.float64)
        for name in filter(None, node.input[1:])
    ]
    return LayerWeights(arrays[0], arrays[1] if len(arrays) > 1 else None)


def _inputs_of_outputs(values: np.ndarray, outputs: int, inputs: int) -> np.ndarray:
    """Return a value of each input channel, (in,), for the weights of each output, (out, in/g)."""
    grouped = values.reshape(-1, inputs)
    return np.repeat(grouped, outputs // len(grouped), axis=0)


def _connected(view: GraphView, layers: Mapping[str, onnx.NodeProto]) -> List[_Connected]:
    """Return the groups of values that only convolutions make, and some read."""
    graph = view.model.graph
    parents: Dict[str, str] = {name: name for name in view.types}

    def root(name: str) -> str:
        while parents[name] != name:
            name = parents[name]
        return name

    fixed = {value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        if node.name in layers:
            continue
        joined = _joined(view, node)
        for name in joined[1:]:
            parents[root(name)] = root(joined[0])
        fixed.update(name for name in (*names_read(node), *node.output) if name not in joined)
    found: Dict[str, _Connected] = {}
    for name, node in layers.items():
        found.setdefault(root(node.output[0]), _Connected()).makers.append(name)
        found.setdefault(root(node.input[0]), _Connected()).readers.append(name)
    free = set(found) - {root(name) for name in fixed if name in parents}
    return [found[name] for name in found if name in free and found[name].readers]


def _joined(view: GraphView, node: onnx.NodeProto) -> List[str]:
    """Return the values of a node that have a channel's factor in common."""
    values = [name for name in (*node.input, *node.output) if name in view.types]
    inputs = [name for name in node.input if name in view.types]
    if node.op_type in _HOMOGENEOUS:
        return values if len(inputs) == len(node.input) else []
    if node.op_type == "PRelu" or _is_linear_resize(node):
        return values if inputs == list(node.input[:1]) else []
    if node.op_type == "Mul" and len(inputs) == 2:
        makers = [view.makers.get(name) for name in inputs]
        gates = [maker is not None and maker.op_type in _GATES for maker in makers]
        if gates.count(True) == 1:
            return [inputs[gates.index(False)], *node.output]
    return []


def _is_linear_resize(node: onnx.NodeProto) -> bool:
    mode = attributes_of(node).get("coordinate_transformation_mode")
    return node.op_type in ("Resize", "Upsample") and mode != "tf_crop_and_resize"


def _per_channel(
    model: onnx.ModelProto,
    names: Sequence[str],
    images: Sequence[np.ndarray],
    pool: str,
    over: Callable[..., np.ndarray],
) -> Dict[str, np.ndarray]:
    """Return a statistic of each channel of some values, (channels,) float64, over all images.

    pool: the operator that computes it from an image: of absolute values for `GlobalMaxPool`.
    """
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    ends = [f"srdeploy_channels_{i}" for i in range(len(names))]
    for name, end in zip(names, ends):
        source = name
        if pool == "GlobalMaxPool":
            source = f"{end}_abs"
            probed.graph.node.append(helper.make_node("Abs", [name], [source]))
        probed.graph.node.append(helper.make_node(pool, [source], [end]))
        value = helper.make_tensor_value_info(end, TensorProto.FLOAT, [1, None, 1, 1])
        probed.graph.output.append(value)
    session = raw_session(probed.SerializeToString())
    source = session.get_inputs()[0].name
    found = [session.run(ends, {source: image}) for image in images] if ends else []
    stacked = {name: [run[i].ravel() for run in found] for i, name in enumerate(names)}
    return {name: over(values, axis=0).astype(np.float64) for name, values in stacked.items()}
