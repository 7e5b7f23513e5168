"""Lowering of graphs to the opset that a parser reads.

torch's exporter writes opset 18. TensorRT 8.5 reads 17 at most. It accepts newer operator versions
without an error, but computes them wrongly: its ReduceMean then reduces over all axes. `lower`
rewrites what changed between the opsets, and `check` verifies every node.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sr_deploy.core.errors import ExportError
from sr_deploy.runtime.graph_nodes import drop_unused_constants

EXPORTED = 18
LOWEST = 13

# Reductions whose axes are an input since opset 18; ReduceSum's are since 13.
_REDUCTIONS = frozenset(
    "ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceSumSquare".split()
)


def lower(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the opset-18 `model` in `opset`, 13 to 18. Raises ExportError if it cannot."""
    if not LOWEST <= opset <= EXPORTED:
        raise ExportError(f"cannot write opset {opset}; expected {LOWEST} to {EXPORTED}")
    lowered = onnx.shape_inference.infer_shapes(model, strict_mode=True)  # a copy
    lowering = _Lowering(lowered.graph, opset)
    nodes = [new for node in lowered.graph.node for new in lowering.lower_node(node)]
    del lowered.graph.node[:]
    lowered.graph.node.extend(nodes)
    del lowered.graph.value_info[:]
    drop_unused_constants(lowered.graph)
    del lowered.opset_import[:]
    lowered.opset_import.append(helper.make_opsetid("", opset))
    lowered.ir_version = helper.find_min_ir_version_for(list(lowered.opset_import))
    return lowered


def check(model: onnx.ModelProto, ceiling: int) -> None:
    """Raise ExportError unless the model is valid ONNX of an opset up to `ceiling`.

    The error names the first node that is not valid in the model's opset.
    """
    for entry in model.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            raise ExportError(
                f"the graph uses operators of the domain '{entry.domain}', "
                "which TensorRT does not read"
            )
        if entry.version > ceiling:
            raise ExportError(
                f"the graph has opset {entry.version}, but the target reads {ceiling} at most"
            )
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as e:  # the checker raises several kinds
        opset = next(entry.version for entry in model.opset_import)
        reason = " ".join(str(e).split())
        raise ExportError(f"the graph is not valid ONNX of opset {opset}: {reason}") from e


class _Lowering:
    """The rewrites of single nodes. New constants are added to the graph."""

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.graph, self.opset = graph, opset
        self.constants = {t.name: t for t in graph.initializer}

    def lower_node(self, node: onnx.NodeProto) -> List[onnx.NodeProto]:
        """Return the nodes that replace `node`; it is changed in place where that suffices."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if self.opset < 18 and node.op_type in _REDUCTIONS:
            axes = self._constant(node, 1)
            if axes is not None and axes.size:
                node.attribute.append(helper.make_attribute("axes", [int(a) for a in axes]))
            elif attributes.get("noop_with_empty_axes", 0):
                return [
                    helper.make_node("Identity", node.input[:1], node.output[:], name=node.name)
                ]
            _drop_attributes(node, "noop_with_empty_axes")
            del node.input[1:]
        if self.opset < 18 and node.op_type == "Resize":
            policy = attributes.get("keep_aspect_ratio_policy", b"stretch")
            if attributes.get("antialias", 0) or "axes" in attributes or policy != b"stretch":
                raise ExportError(
                    f"{_name(node)}: antialias, axes and keep_aspect_ratio_policy "
                    f"do not exist in opset {self.opset}"
                )
            _drop_attributes(node, "antialias", "keep_aspect_ratio_policy")
        if self.opset < 18 and node.op_type == "Split" and "num_outputs" in attributes:
            self._split_by_sizes(node, attributes)
        if self.opset < 18 and node.op_type == "Mish":
            return _mish(node)
        if self.opset < 18 and node.op_type == "Pad" and len(node.input) > 3:
            raise ExportError(f"{_name(node)}: axes do not exist in opset {self.opset}")
        if self.opset < 14 and node.op_type == "Reshape":
            shape = self._constant(node, 1) if node.input[1] in self.constants else None
            if attributes.get("allowzero", 0) and shape is not None and 0 in shape:
                raise ExportError(
                    f"{_name(node)}: opset {self.opset} has no dimensions of size zero"
                )
            _drop_attributes(node, "allowzero")
        if self.opset < 15 and node.op_type == "Shape" and {"start", "end"} & set(attributes):
            return self._sliced_shape(node, attributes)
        return [node]

    def _split_by_sizes(self, node: onnx.NodeProto, attributes: Dict[str, Any]) -> None:
        """Replace num_outputs of opset 18, whose last part may be smaller, by explicit sizes."""
        shapes = {v.name: v.type.tensor_type.shape.dim for v in self.graph.value_info}
        dims = shapes.get(node.input[0], ())
        axis, parts = attributes.get("axis", 0), attributes["num_outputs"]
        size = dims[axis].dim_value if len(dims) > max(axis, -axis - 1) else 0
        del node.input[1:]
        _drop_attributes(node, "num_outputs")
        if size:  # otherwise unknown: without sizes, the parts must be equal, or the node fails
            part = -(-size // parts)
            sizes = [max(min(part, size - i * part), 0) for i in range(parts)]
            node.input.append(self._add_constant(f"{node.output[0]}_sizes", sizes))

    def _sliced_shape(
        self, node: onnx.NodeProto, attributes: Dict[str, Any]
    ) -> List[onnx.NodeProto]:
        """Replace a Shape with start and end, of opset 15, by Shape and Slice."""
        output, full = node.output[0], node.output[0] + "_whole"
        start = self._add_constant(f"{output}_start", [attributes.get("start", 0)])
        end = self._add_constant(f"{output}_end", [attributes.get("end", 2**31 - 1)])
        shape = helper.make_node("Shape", node.input[:], [full], name=node.name)
        crop = helper.make_node("Slice", [full, start, end], [output], name=node.name + "_slice")
        return [shape, crop]

    def _constant(self, node: onnx.NodeProto, index: int) -> Optional[np.ndarray]:
        """Return a constant input; None if the node does not have it. Raises ExportError."""
        if len(node.input) <= index or not node.input[index]:
            return None
        tensor = self.constants.get(node.input[index])
        if tensor is None:
            raise ExportError(
                f"{_name(node)} cannot be written in opset {self.opset}: "
                f"its {node.input[index]} is not a constant"
            )
        return numpy_helper.to_array(tensor)

    def _add_constant(self, name: str, values: List[int]) -> str:
        tensor = numpy_helper.from_array(np.array(values, dtype=np.int64), name)
        self.graph.initializer.append(tensor)
        self.constants[name] = tensor
        return name


def _mish(node: onnx.NodeProto) -> List[onnx.NodeProto]:
    """Return x * tanh(softplus(x)), which Mish of opset 18 computes."""
    x, y = node.input[0], node.output[0]
    return [
        helper.make_node("Softplus", [x], [f"{y}_softplus"], name=f"{node.name}_softplus"),
        helper.make_node("Tanh", [f"{y}_softplus"], [f"{y}_tanh"], name=f"{node.name}_tanh"),
        helper.make_node("Mul", [x, f"{y}_tanh"], [y], name=node.name),
    ]


def _name(node: onnx.NodeProto) -> str:
    return f"node '{node.name}' ({node.op_type})"


def _drop_attributes(node: onnx.NodeProto, *names: str) -> None:
    attributes = [a for a in node.attribute if a.name not in names]
    del node.attribute[:]
    node.attribute.extend(attributes)
