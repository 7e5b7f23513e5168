"""LayerNormalization as basic operators, for parsers and opsets that do not have it.

TensorRT reads it from 8.6 on, and ONNX has it from opset 17 on. The squares inside of it are then
tensors of the graph: in FP16 they overflow where an input deviates by more than 255 from its mean.
"""

from __future__ import annotations

from typing import Dict, List

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sr_deploy.core.errors import ExportError
from sr_deploy.core.target import TargetProfile
from sr_deploy.runtime.graph_nodes import all_graphs, all_nodes, opset_of
from sr_deploy.runtime.graph_types import element_types

_OP = "LayerNormalization"
_READ_FROM = (8, 6)
LAYER_NORM_OPSET = 17


def reads_layer_norm(target: TargetProfile) -> bool:
    """Return whether every version of the target's parser reads LayerNormalization."""
    lowest = [version for sign, version in target.version_bounds() if sign == ">="]
    return target.runtime != "tensorrt" or all(version >= _READ_FROM for version in lowest)


def split_layer_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph in which each LayerNormalization is split.

    Raises ExportError for one of unknown rank.
    """
    split = onnx.ModelProto()
    split.CopyFrom(model)
    nodes = list(all_nodes(model.graph))
    if not any(node.op_type == _OP for node in nodes):
        return split
    ranks, types = _ranks(model), element_types(model)
    for graph in all_graphs(split.graph):
        made: List[onnx.NodeProto] = []
        for node in graph.node:
            if node.op_type == _OP and not any(node.output[1:]):
                dtype = helper.tensor_dtype_to_np_dtype(types[node.input[0]])
                made += _split(node, graph, ranks, dtype, opset_of(model))
            else:
                made.append(node)
        del graph.node[:]
        graph.node.extend(made)
    return split


def _split(
    node: onnx.NodeProto,
    graph: onnx.GraphProto,
    ranks: Dict[str, int],
    dtype: np.dtype,
    opset: int,
) -> List[onnx.NodeProto]:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    axis = attributes.get("axis", -1)
    if axis >= 0 and node.input[0] not in ranks:
        raise ExportError(f"node '{node.name}' ({_OP}) cannot be split: its rank is unknown")
    axes = list(range(axis - ranks[node.input[0]] if axis >= 0 else axis, 0))
    x, y = node.input[0], node.output[0]
    nodes: List[onnx.NodeProto] = []

    def add(op: str, *inputs: str, end: str) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{y}/{end}"], name=f"{node.name}/{end}"))
        return f"{y}/{end}"

    def constant(end: str, value: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{y}/{end}"))
        return f"{y}/{end}"

    def mean(source: str, end: str) -> str:
        if opset >= 18:
            return add("ReduceMean", source, constant(f"{end}_axes", np.array(axes)), end=end)
        name = add("ReduceMean", source, end=end)
        nodes[-1].attribute.append(helper.make_attribute("axes", axes))
        return name

    deviation = add("Sub", x, mean(x, "mean"), end="deviation")
    variance = mean(add("Mul", deviation, deviation, end="square"), "variance")
    epsilon = constant("epsilon", np.array(attributes.get("epsilon", 1e-5), dtype))
    root = add("Sqrt", add("Add", variance, epsilon, end="stable"), end="root")
    last = add("Div", deviation, root, end="normal")
    last = add("Mul", last, node.input[1], end="scaled") if any(node.input[1:2]) else last
    if any(node.input[2:3]):
        add("Add", last, node.input[2], end="biased")
    nodes[-1].output[0] = y
    return nodes


def _ranks(model: onnx.ModelProto) -> Dict[str, int]:
    ranks = {}
    for graph in all_graphs(onnx.shape_inference.infer_shapes(model).graph):
        for value in [*graph.input, *graph.value_info]:
            if value.type.tensor_type.HasField("shape"):
                ranks[value.name] = len(value.type.tensor_type.shape.dim)
    return ranks
