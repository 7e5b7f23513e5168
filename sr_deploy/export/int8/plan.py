"""Which layers of a graph are quantised for a target, and which values therefore get Q/DQ nodes.

`Int8Rules.placement` says which of two ways a target wants:

- `operators`: all that ONNX Runtime's CPU kernels compute in 8 bits. Every value between quantised
  operators is quantised, a layer's own output too.
- `convolutions`: the inputs of convolutions only, and of residual additions the skip input. What
  lies between (activations, softmax, shuffles) computes in the type of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Optional, Set, Tuple

import onnx
from onnx import TensorProto

from sr_deploy.core.target import Int8Rules
from sr_deploy.runtime.graph_nodes import names_read
from sr_deploy.runtime.graph_types import element_types, values_of_image
from sr_deploy.runtime.onnx_view import attributes_of

FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16)
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_TRANSPOSED_MULTIPLE = 4
"""Of the output channels of transposed convolutions: OpenVINO 2026.4 computes others in FP32."""
_KERNELS = ("Conv", "MatMul", "Gemm")
"""Operators with weights that ONNX Runtime's CPU provider computes in 8 bits."""
_BETWEEN = (
    "Add Mul MatMul LeakyRelu Relu Sigmoid Softmax AveragePool GlobalAveragePool Concat Resize "
    "MaxPool Reshape Transpose Split Slice DepthToSpace SpaceToDepth Identity Squeeze Unsqueeze "
    "Flatten"
).split()
"""Operators that follow these in 8 bits."""
_SAME_SCALE = (
    "Concat Resize MaxPool Reshape Transpose Split Slice DepthToSpace SpaceToDepth Identity "
    "Squeeze Unsqueeze Flatten"
).split()
"""Operators that move values, so that inputs and outputs have one scale."""


@dataclass
class GraphView:
    """What makes and reads the values of a model's own graph."""

    model: onnx.ModelProto
    constants: Dict[str, TensorProto] = field(default_factory=dict)
    makers: Dict[str, onnx.NodeProto] = field(default_factory=dict)
    readers: Dict[str, List[onnx.NodeProto]] = field(default_factory=dict)
    outputs: Set[str] = field(default_factory=set)
    types: Dict[str, int] = field(default_factory=dict)
    """Element types of floating values that depend on pixels."""

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                self.constants[node.output[0]] = node.attribute[0].t
            self.makers.update((name, node) for name in node.output if name)
            for name in names_read(node):
                self.readers.setdefault(name, []).append(node)
        images = values_of_image(graph)
        for name, kind in element_types(self.model).items():
            if name in images and kind in FLOAT_TYPES:
                self.types[name] = kind

    def image_inputs(self, node: onnx.NodeProto) -> List[str]:
        """Return the inputs of a node that depend on pixels and are of a floating type."""
        return list(dict.fromkeys(name for name in node.input if name in self.types))

    def has_weights(self, node: onnx.NodeProto) -> bool:
        """Whether a node multiplies a value of the image by constant weights."""
        return (
            node.op_type in (*_CONVOLUTIONS, *_KERNELS)
            and len(node.input) > 1
            and node.input[0] in self.types
            and node.input[1] in self.constants
        )


@dataclass(frozen=True)
class QuantPlan:
    """Where the Q/DQ nodes of a graph are."""

    layers: Tuple[str, ...]
    """Names of the nodes whose weights are quantised, in the graph's order."""
    operators: Tuple[str, ...]
    """Names of the other nodes that compute in 8 bits."""
    readers: Dict[str, Tuple[str, ...]]
    """The nodes that read a value in 8 bits, by the name of the value, in the graph's order."""
    same_scale: Dict[str, str]
    """Values that share one scale, by the name of the first of them."""


def quantisable(model: onnx.ModelProto, rules: Int8Rules) -> List[str]:
    """Return the names of the layers that a target can compute in INT8, in the graph's order.

    model: a graph of `int8.placement.ready_to_quantise`.
    """
    view = GraphView(model)
    return [node.name for node in model.graph.node if _is_quantisable(view, node, rules)]


def planned(model: onnx.ModelProto, rules: Int8Rules, kept: Collection[str] = ()) -> QuantPlan:
    """Return where a graph's Q/DQ nodes are, if the `kept` layers stay in floating point."""
    view, out = GraphView(model), set(kept)
    layers = [
        node
        for node in model.graph.node
        if node.name not in out and _is_quantisable(view, node, rules)
    ]
    if rules.placement == "operators":
        operators = _following(view, layers, out)
        readers = _between_operators(view, layers, operators)
    else:
        operators = []
        readers = _at_convolutions(view, layers, rules)
    order = {name: i for i, name in enumerate(_values_in_order(model))}
    found = {name: readers[name] for name in sorted(readers, key=order.__getitem__)}
    return QuantPlan(
        tuple(node.name for node in layers),
        tuple(node.name for node in operators),
        found,
        _groups(view, found, rules),
    )


def values_with_ranges(model: onnx.ModelProto, rules: Int8Rules) -> List[str]:
    """Return the values that are quantised, with any layers kept, in the graph's order.

    Where a layer is kept, another input of an addition can become its skip.
    """
    names = set(planned(model, rules).readers)
    if rules.residuals:
        view = GraphView(model)
        for node in model.graph.node:
            if node.op_type == "Add" and len(view.image_inputs(node)) == 2:
                names.update(view.image_inputs(node))
    return [name for name in _values_in_order(model) if name in names]


def _is_quantisable(view: GraphView, node: onnx.NodeProto, rules: Int8Rules) -> bool:
    if not view.has_weights(node):
        return False
    if rules.placement == "operators":
        # Its last values are the picture itself: 8 bits there would be the precision of the result.
        return node.op_type in _KERNELS and node.output[0] not in view.outputs
    if node.op_type not in _CONVOLUTIONS:
        return False
    group, dims = attributes_of(node).get("group", 1), view.constants[node.input[1]].dims
    if node.op_type == "ConvTranspose":
        return bool(group == 1 and dims[1] % _TRANSPOSED_MULTIPLE == 0)
    return bool(
        group == 1
        or group % rules.group_multiple == 0
        and all(n % rules.channel_multiple == 0 for n in (dims[0] // group, dims[1]))
    )


def _at_convolutions(
    view: GraphView, layers: List[onnx.NodeProto], rules: Int8Rules
) -> Dict[str, Tuple[str, ...]]:
    """Return the values to quantise and their readers: convolutions, and additions of a skip."""
    readers: Dict[str, List[str]] = {}
    for node in layers:
        readers.setdefault(node.input[0], []).append(node.name)
    if rules.residuals:
        quantised = {node.name for node in layers}
        for node in view.model.graph.node:
            skip = _skip_input(view, node, quantised)
            if skip and _is_read_in_8_bits(view, node, readers):
                readers.setdefault(skip, []).append(node.name)
    return {name: tuple(nodes) for name, nodes in readers.items()}


def _skip_input(view: GraphView, node: onnx.NodeProto, quantised: Set[str]) -> Optional[str]:
    """Return the input of an addition that is not the quantised convolution it fuses with."""
    inputs = view.image_inputs(node)
    if node.op_type != "Add" or len(inputs) != 2 or len(node.input) != 2:
        return None
    fused = [
        name
        for name in inputs
        if name in view.makers
        and view.makers[name].name in quantised
        and len(view.readers[name]) == 1
        and name not in view.outputs
    ]
    if not fused:
        return None
    return next(name for name in inputs if name != fused[-1])


def _is_read_in_8_bits(view: GraphView, node: onnx.NodeProto, readers: Dict[str, Any]) -> bool:
    """Whether an addition's sum, behind an activation too, is an input of a convolution."""
    name = node.output[0]
    following = view.readers.get(name, [])
    if len(following) == 1 and following[0].op_type in ("Relu", "LeakyRelu", "Clip", "PRelu"):
        name = following[0].output[0]
    return name in readers


def _following(
    view: GraphView, layers: List[onnx.NodeProto], kept: Set[str]
) -> List[onnx.NodeProto]:
    """Return the operators that compute in 8 bits since values of the layers are."""
    names, leading = {node.name for node in layers}, _leads_to(view, layers)
    values = {node.input[0] for node in layers}
    found = []
    for node in view.model.graph.node:
        follows = (
            _has_kernel(view, node)
            and node.name not in kept
            and any(name in values for name in node.input)
            and any(name in leading for name in node.output)
        )
        if follows:
            found.append(node)
        if follows or node.name in names:
            values.update(node.output)
    return found


def _has_kernel(view: GraphView, node: onnx.NodeProto) -> bool:
    if node.op_type not in _BETWEEN or view.has_weights(node):
        return False
    if node.op_type == "Resize":
        return bool(attributes_of(node).get("mode") != "cubic")
    return all(name in view.types for name in node.output if name)


def _between_operators(
    view: GraphView, layers: List[onnx.NodeProto], operators: List[onnx.NodeProto]
) -> Dict[str, Tuple[str, ...]]:
    """Return the values between operators in 8 bits; all their readers read them so."""
    values: Dict[str, None] = {}
    for node in (*layers, *operators):
        sources = node.input[:1] if view.has_weights(node) else view.image_inputs(node)
        values.update(dict.fromkeys(_behind_relu(view, name) for name in sources))
        values.update(dict.fromkeys(_behind_relu(view, name) for name in node.output if name))
    return {
        name: tuple(node.name for node in view.readers.get(name, []))
        for name in values
        if name in view.types and name not in view.outputs
    }


def _leads_to(view: GraphView, layers: List[onnx.NodeProto]) -> Set[str]:
    """Return the values that some of the layers depend on."""
    found = {node.input[0] for node in layers}
    for node in reversed(view.model.graph.node):
        if not found.isdisjoint(node.output):
            found.update(name for name in node.input if name in view.types)
    return found


def _behind_relu(view: GraphView, name: str) -> str:
    """Return the result of the Relu that alone reads a value; else the value itself.

    Quantisation from zero up computes a Relu, and runtimes drop it.
    """
    readers = view.readers.get(name, [])
    alone = len(readers) == 1 and name not in view.outputs and readers[0].op_type == "Relu"
    return str(readers[0].output[0]) if alone else name


def _groups(view: GraphView, values: Collection[str], rules: Int8Rules) -> Dict[str, str]:
    """Return the first of the values that have one scale, by each of them."""
    moves = _SAME_SCALE if rules.placement == "operators" else ("Concat",)
    first = {name: name for name in values}
    for node in view.model.graph.node:
        if node.op_type not in moves:
            continue
        ends = [name for name in (*node.input, *node.output) if name in first]
        for name in ends[1:]:
            old, new = first[name], first[ends[0]]
            first.update((other, new) for other in first if first[other] == old)
    return first


def _values_in_order(model: onnx.ModelProto) -> List[str]:
    graph = model.graph
    return [v.name for v in graph.input] + [name for node in graph.node for name in node.output]
