"""Writes Q/DQ nodes into a graph, from the ranges of its values, by the rules of a target."""

from __future__ import annotations

from typing import Collection, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.core.errors import ExportError, one_line
from sr_deploy.core.target import CHANNEL_QUANTISATION, HALF_QUANTISATION, Int8Rules
from sr_deploy.export.half import folded, plain_graph
from sr_deploy.export.int8.plan import FLOAT_TYPES, GraphView, QuantPlan, planned
from sr_deploy.export.int8.plan import quantisable as quantisable
from sr_deploy.export.int8.ranges import Ranges as Ranges
from sr_deploy.export.int8.scales import activation_scale, most_weight, storable, weight_scales
from sr_deploy.export.opset import check as check_opset
from sr_deploy.runtime.graph_nodes import all_nodes, drop_unused_constants, free_name, opset_of
from sr_deploy.runtime.onnx_view import attributes_of

_READ_CONSTANTS = ("Add", "Mul", "MatMul", "Concat")
_MOST_BIAS = 2.0**30


def ready_to_quantise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of an FP32 graph in which all nodes have names and weights are constants.

    Raises ExportError for a graph that is quantised already, or has weights that are not numbers.
    """
    for node in all_nodes(model.graph):
        op = node.op_type
        if "QuantizeLinear" in op or op.startswith("QLinear") or op.endswith("Integer"):
            raise ExportError(
                f"the graph is quantised already (node '{node.name}' is {op})",
                hint="quantise the FP32 graph that it was made from",
            )
    plain = folded(plain_graph(_with_channels(model)))
    view = GraphView(plain)
    for node in filter(view.has_weights, plain.graph.node):
        for name in node.input[1:]:
            tensor = view.constants.get(name)
            if tensor is not None and not np.isfinite(numpy_helper.to_array(tensor)).all():
                raise ExportError(
                    f"the weights '{name}' of node '{node.name}' ({node.op_type}) contain values "
                    "that are not numbers",
                    hint="its checkpoint is damaged, or its training diverged",
                )
    return plain


def _with_channels(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of an opset that has scales per channel."""
    own = opset_of(model)
    if own >= CHANNEL_QUANTISATION:
        return model
    try:
        return onnx.version_converter.convert_version(model, CHANNEL_QUANTISATION)
    except Exception as e:  # onnx raises several kinds, some of them of C++
        raise ExportError(
            f"the graph of opset {own} cannot be written in opset {CHANNEL_QUANTISATION}, which "
            f"INT8 needs: {one_line(e)}",
            hint=f"export it from its framework in opset {CHANNEL_QUANTISATION} or later",
        ) from e


def placed(
    model: onnx.ModelProto, ranges: Ranges, rules: Int8Rules, *, kept: Collection[str] = ()
) -> onnx.ModelProto:
    """Return a graph with Q/DQ nodes where the rules of a target want them.

    model: of `ready_to_quantise`, in FP32, or converted to FP16 after that. ranges: of its values,
    by their names in the FP32 graph. kept: names of layers that stay in floating point, of
    `quantisable`. FP16 graphs are relabelled to opset 19, the first with such nodes. Raises
    ExportError for a name that is not of these, a value without a range, and a scale of zero.
    """
    unknown = sorted(set(kept) - set(quantisable(model, rules)))
    if unknown:
        raise ExportError(f"node '{unknown[0]}' is none that the target can compute in INT8")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    writer = _Writer(result, ranges, rules, planned(model, rules, kept))
    writer.write()
    if writer.half and opset_of(result) < HALF_QUANTISATION:
        _relabel(result, HALF_QUANTISATION)
    check_scales(result)
    return result


def _relabel(model: onnx.ModelProto, opset: int) -> None:
    """Give a graph a later opset, in which its operators mean the same. Raises ExportError."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    model.ir_version = max(
        model.ir_version, helper.find_min_ir_version_for(list(model.opset_import))
    )
    check_opset(model, opset)


def check_scales(model: onnx.ModelProto) -> None:
    """Raise ExportError unless all scales of a quantised graph are finite and above zero.

    Builders of TensorRT 8.5 die at a scale of zero.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
            if not ((scale > 0) & np.isfinite(scale)).all():
                raise ExportError(
                    f"a scale of node '{node.name}' ({node.op_type}) is {scale.min():g}; expected "
                    "scales above zero"
                )


class _Scaled(NamedTuple):
    """The scale and zero point of a value, and the axis of its channels, if it has one for each."""

    scale: np.ndarray
    zero: np.ndarray
    axis: Optional[int] = None


class _Writer:
    """Adds the nodes of a plan to a graph, in place."""

    def __init__(
        self, model: onnx.ModelProto, ranges: Ranges, rules: Int8Rules, plan: QuantPlan
    ) -> None:
        self._graph, self._rules, self._plan = model.graph, rules, plan
        self._view = GraphView(model)
        self._values = _scaled_values(ranges, rules, plan, self._view)
        self._taken = {name for node in self._graph.node for name in (*node.output, node.name)}
        self._taken.update(tensor.name for tensor in self._graph.initializer)
        self._taken.update(value.name for value in self._graph.input)
        self._made: Dict[Tuple[str, bytes], str] = {}
        self._front: List[onnx.NodeProto] = []
        self.half = any(self._view.types[v] == TensorProto.FLOAT16 for v in self._values)

    def write(self) -> None:
        graph, plan = self._graph, self._plan
        pairs = {name: self._pair(name, scaled) for name, scaled in self._values.items()}
        layers, operators = set(plan.layers), set(plan.operators)
        readers = {name: set(nodes) for name, nodes in plan.readers.items()}
        nodes = [node for value in graph.input for node in pairs.get(value.name, [])]
        for node in list(graph.node):
            if node.name in layers:
                self._quantise_weights(node)
            elif node.name in operators and node.op_type in _READ_CONSTANTS:
                self._quantise_constants(node)
            for i, name in enumerate(node.input):
                if node.name in readers.get(name, ()):
                    node.input[i] = pairs[name][1].output[0]
            nodes.append(node)
            for name in node.output:
                nodes += pairs.get(name, [])
        nodes = [type(n).FromString(n.SerializeToString()) for n in (*self._front, *nodes)]
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
        drop_unused_constants(graph)

    def _quantise_weights(self, node: onnx.NodeProto) -> None:
        """Let a layer read 8-bit weights, and an integer bias if the rules want one."""
        name, step = node.input[1], float(self._values[node.input[0]].scale)
        tensor = self._view.constants[name]
        weights = numpy_helper.to_array(tensor).astype(np.float32)
        axis = _channel_axis(node, weights.ndim)
        bias = None
        if self._rules.quantised_bias and len(node.input) > 2:
            bias = self._view.constants.get(node.input[2])
        values = np.zeros(1) if bias is None else numpy_helper.to_array(bias).astype(np.float64)
        most = most_weight(self._rules)
        scale = weight_scales(weights, axis, most, np.abs(values).ravel() / (step * _MOST_BIAS))
        scale = storable(scale, tensor.data_type)
        scaled = _Scaled(scale, np.zeros(scale.shape, np.int8), axis)
        node.input[1] = self._once(name, weights, scaled)
        if bias is not None:
            total = storable(step * scale.astype(np.float64), bias.data_type)
            ints = np.rint(values / total.astype(np.float64)).astype(np.int32)
            scaled = _Scaled(total, np.zeros(total.shape, np.int32), 0)
            node.input[2] = self._dequantised(node.input[2], ints, scaled)

    def _quantise_constants(self, node: onnx.NodeProto) -> None:
        """Let an operator read its constants as integers of the type of activations."""
        for i, name in enumerate(node.input):
            tensor = self._view.constants.get(name)
            if tensor is not None and tensor.data_type in FLOAT_TYPES:
                values = numpy_helper.to_array(tensor).astype(np.float32)
                ends = float(values.min(initial=0.0)), float(values.max(initial=0.0))
                scaled = _Scaled(*activation_scale(*ends, self._rules, tensor.data_type))
                node.input[i] = self._once(name, values, scaled)

    def _once(self, name: str, values: np.ndarray, scaled: _Scaled) -> str:
        """Return the result of the DQ node of a constant, which several nodes may read."""
        key = (name, scaled.scale.tobytes())
        if key not in self._made:
            if self._rules.weights == "float":
                self._front += self._pair(name, scaled)
                self._made[key] = str(self._front[-1].output[0])
            else:
                self._made[key] = self._dequantised(name, _as_integers(values, scaled), scaled)
        return self._made[key]

    def _pair(self, name: str, scaled: _Scaled) -> List[onnx.NodeProto]:
        """Return the Q and the DQ node of a value."""
        ends = self._ends(name, scaled)
        first = self._node("QuantizeLinear", name, [name, *ends], scaled.axis)
        return [first, self._node("DequantizeLinear", name, [*first.output, *ends], scaled.axis)]

    def _dequantised(self, name: str, ints: np.ndarray, scaled: _Scaled) -> str:
        """Add integers, and the DQ node of them; return its result."""
        inputs = [self._constant(f"{name}_int", ints), *self._ends(name, scaled)]
        self._front.append(self._node("DequantizeLinear", name, inputs, scaled.axis))
        return str(self._front[-1].output[0])

    def _ends(self, name: str, scaled: _Scaled) -> List[str]:
        return [
            self._constant(f"{name}_scale", scaled.scale),
            self._constant(f"{name}_zero_point", scaled.zero),
        ]

    def _node(self, op: str, name: str, inputs: List[str], axis: Optional[int]) -> onnx.NodeProto:
        output = free_name(f"{name}_{op}", self._taken)
        node = helper.make_node(op, inputs, [output], name=output)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        return node

    def _constant(self, name: str, values: np.ndarray) -> str:
        name = free_name(name, self._taken)
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name


def _scaled_values(
    ranges: Ranges, rules: Int8Rules, plan: QuantPlan, view: GraphView
) -> Dict[str, _Scaled]:
    """Return the scales of the values of a plan; one for those that share theirs."""
    found = {name: _range_of(name, ranges, view) for name in plan.readers}
    shared: Dict[str, Tuple[float, float]] = {}
    for name, (low, high) in found.items():
        first = plan.same_scale[name]
        before = shared.get(first, (low, high))
        shared[first] = (min(low, before[0]), max(high, before[1]))
    return {
        name: _Scaled(*activation_scale(*shared[plan.same_scale[name]], rules, view.types[name]))
        for name in found
    }


def _range_of(name: str, ranges: Ranges, view: GraphView) -> Tuple[float, float]:
    """Return the range of a value; of a cast one, that of the value before the cast."""
    source = name
    while source not in ranges:
        maker = view.makers.get(source)
        if maker is None or maker.op_type != "Cast":
            raise ExportError(f"the range of the value '{name}' was not measured")
        source = maker.input[0]
    low, high = ranges[source]
    return float(low), float(high)


def _channel_axis(node: onnx.NodeProto, rank: int) -> Optional[int]:
    """Return the axis of the output channels of a layer's weights; None for a common scale."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if rank != 2:
        return None
    return 0 if node.op_type == "Gemm" and attributes_of(node).get("transB", 0) else 1


def _as_integers(values: np.ndarray, scaled: _Scaled) -> np.ndarray:
    scale, zero, axis = scaled
    if axis is not None:
        wide = [-1 if i == axis else 1 for i in range(values.ndim)]
        scale, zero = scale.reshape(wide), zero.reshape(wide)
    limits = np.iinfo(zero.dtype)
    steps = np.rint(values / scale.astype(np.float32)) + zero.astype(np.float32)
    result: np.ndarray = np.clip(steps, limits.min, limits.max).astype(zero.dtype)
    return result
