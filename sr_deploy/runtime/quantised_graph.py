"""Graphs with QuantizeLinear and DequantizeLinear: their convolutions, their scales, and the same
graphs without them.

An activation goes through a QuantizeLinear and a DequantizeLinear; weights through both, or through
a DequantizeLinear of INT8. In a graph of FP16 tensors there may be casts around them.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterable, List, Optional, Sequence

import numpy as np

from sr_deploy.runtime.graph_nodes import (
    all_nodes,
    drop_unused_constants,
    name_nodes,
    needed_nodes,
)

_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def quantised_nodes(model: Any) -> List[str]:
    """Return the names of the nodes that compute in INT8: of dequantised values and weights."""
    name_nodes(model)
    view = _View(model)
    return [node.name for node in model.graph.node if view.is_quantised(node)]


def layer_precisions(model: Any) -> Dict[str, int]:
    """Return how many of the layers with constant weights compute in `int8`, `fp32` or `fp16`."""
    view = _View(model)
    counts: Dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or not view.is_constant(node.input[1]):
            continue
        kind = "int8" if view.is_quantised(node) else view.float_type(node.input[1])
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def activation_scales(model: Any) -> Dict[str, float]:
    """Return the scales of the quantised values that are computed, by their names.

    A scale is the value of one step: 127 of them are the largest value.
    """
    view, scales = _View(model), {}
    for node in model.graph.node:
        value = view.behind_casts(node.input[0]) if node.op_type == _QUANTISE else ""
        scale = view.constant(node.input[1]) if value and value not in view.constants else None
        if scale is not None and scale.size == 1:
            scales[value] = float(scale.ravel()[0])
    return scales


def without_quantisation(model: Any, nodes: Optional[Sequence[str]] = None) -> Any:
    """Return a copy in which the named nodes read floats; None: all nodes.

    Weights that are INT8 become floats of the values that they stand for.
    """
    import onnx

    work = onnx.ModelProto()
    work.CopyFrom(model)
    name_nodes(work)
    view = _View(work)
    reads = [
        (node, index, view.as_float(name))
        for node in work.graph.node
        if node.op_type not in (_QUANTISE, _DEQUANTISE) and (nodes is None or node.name in nodes)
        for index, name in enumerate(node.input)
    ]
    for node, index, name in reads:
        node.input[index] = name
    _drop_unused(work.graph)
    return work


def nodes_in(text: str, names: Iterable[str]) -> List[str]:
    """Return those of `names` that occur in a layer's name or a message of TensorRT's.

    It joins the names of fused nodes by ` + `: `weight + weight_Q + conv_3 + PWN(act_3)`.
    """
    found = []
    for name in names:
        if re.search(rf"(?<![\w/:-])(?<!\w\.){re.escape(name)}(?![\w/:-]|\.\w)", text):
            found.append(name)
    return found


class _View:
    """Finds what a node reads behind quantisation."""

    def __init__(self, model: Any) -> None:
        self.graph = model.graph
        self.makers = {name: node for node in all_nodes(model.graph) for name in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def constant(self, name: str) -> Optional[np.ndarray]:
        from onnx import numpy_helper

        if name in self.constants:
            return numpy_helper.to_array(self.constants[name])
        maker = self.makers.get(name)
        values = maker.attribute if maker is not None and maker.op_type == "Constant" else ()
        return next((numpy_helper.to_array(a.t) for a in values if a.name == "value"), None)

    def behind_casts(self, name: str) -> str:
        maker = self.makers.get(name)
        while maker is not None and maker.op_type == "Cast":
            name = maker.input[0]
            maker = self.makers.get(name)
        return name

    def dequantise(self, name: str) -> Any:
        """Return the DequantizeLinear that makes a value, behind casts; None where none does."""
        maker = self.makers.get(self.behind_casts(name))
        return maker if maker is not None and maker.op_type == _DEQUANTISE else None

    def is_quantised(self, node: Any) -> bool:
        read = node.input[:2] if node.op_type in WEIGHTED else []
        return len(read) == 2 and all(self.dequantise(name) is not None for name in read)

    def source(self, name: str) -> str:
        """Return what a value is before casts and quantisation."""
        while True:
            name = self.behind_casts(name)
            maker = self.makers.get(name)
            if maker is None or maker.op_type not in (_QUANTISE, _DEQUANTISE):
                return name
            name = maker.input[0]

    def is_constant(self, name: str) -> bool:
        return self.constant(self.source(name)) is not None

    def float_type(self, name: str) -> str:
        """Return the type of constant weights that are not quantised."""
        values = self.constant(name)
        return "fp16" if values is not None and values.dtype == np.float16 else "fp32"

    def as_float(self, name: str) -> str:
        """Return the float that a value was before it was quantised; `name` where it was not."""
        node = self.dequantise(name)
        if node is None:
            return name
        quantise = self.makers.get(node.input[0])
        if quantise is not None and quantise.op_type == _QUANTISE:
            value = quantise.input[0]
            return self.behind_casts(value) if name != node.output[0] else value
        return self._dequantised(node, name)

    def _dequantised(self, node: Any, name: str) -> str:
        """Add the floats that INT8 weights stand for; return their name."""
        from onnx import TensorProto, numpy_helper

        values, scale = self.constant(node.input[0]), self.constant(node.input[1])
        if values is None or scale is None:
            return name
        zero = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [-1 if i == axis % values.ndim else 1 for i in range(values.ndim)]
        per_axis = [a if a is None or a.size == 1 else a.reshape(shape) for a in (scale, zero)]
        steps = values.astype(np.float32) - (0 if per_axis[1] is None else per_axis[1])
        floats = steps * per_axis[0].astype(np.float32)  # type: ignore[union-attr]
        cast = self.makers[name] if name != node.output[0] else None
        to = next((a.i for a in cast.attribute if a.name == "to"), 0) if cast is not None else 0
        is_half = to == TensorProto.FLOAT16 or (cast is None and scale.dtype == np.float16)
        new = f"{name}_float"
        if new not in self.constants:
            floats = floats.astype(np.float16 if is_half else np.float32)
            tensor = numpy_helper.from_array(floats, new)
            self.graph.initializer.append(tensor)
            self.constants[new] = tensor
        return new


def _drop_unused(graph: Any) -> None:
    """Remove the nodes and constants that nothing reads."""
    nodes = [
        type(node).FromString(node.SerializeToString())
        for node in needed_nodes(graph, [value.name for value in graph.output])
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_constants(graph)
