"""The opset a parser can read, and nothing newer hidden under an older number.

torch's exporter writes opset 18. TensorRT 8.5 reads 17 at most, and takes newer forms without an error but wrongly (its
ReduceMean then reduces over all axes). `lower` rewrites what changed; `check` proves that nothing was missed.
"""

from __future__ import annotations

from typing import List, Optional, Set

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sr_deploy.core.errors import ExportError

EXPORTED = 18
LOWEST = 13

# Reductions that took their axes as an input from opset 18 on (ReduceSum did from 13 on).
_REDUCTIONS = frozenset(
    "ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare".split()
)


def lower(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the opset-18 `model` written in `opset`, 13 to 18. Raises ExportError where no exact form exists."""
    if not LOWEST <= opset <= EXPORTED:
        raise ExportError(f"opset {opset} cannot be written; expected {LOWEST} to {EXPORTED}")
    out = onnx.shape_inference.infer_shapes(model, strict_mode=True)  # a copy
    constants = {t.name: t for t in out.graph.initializer}
    nodes: List[onnx.NodeProto] = []
    for node in out.graph.node:
        nodes.extend(_lowered(node, out, constants, opset))
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    del out.graph.value_info[:]
    _drop_unused_constants(out)
    del out.opset_import[:]
    out.opset_import.append(helper.make_opsetid("", opset))
    out.ir_version = helper.find_min_ir_version_for(list(out.opset_import))
    return out


def check(model: onnx.ModelProto, ceiling: int) -> None:
    """Raise ExportError, naming the node, when the model needs an opset above `ceiling` or a node is not of its form."""
    for entry in model.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            raise ExportError(
                f"the graph uses operators of the domain '{entry.domain}', which TensorRT does not read"
            )
        if entry.version > ceiling:
            raise ExportError(
                f"the graph is written in opset {entry.version}; the target reads {ceiling} at most"
            )
    opset = next(entry.version for entry in model.opset_import)
    for node in model.graph.node:
        problem = _not_of_opset(node, opset)
        if problem:
            raise ExportError(
                f"node '{node.name}' ({node.op_type}) is not of opset {opset}: {problem}"
            )
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as e:  # the checker raises several kinds
        raise ExportError(f"the graph is not valid ONNX: {str(e).splitlines()[0]}") from e


def _not_of_opset(node: onnx.NodeProto, opset: int) -> str:
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return "there is no such operator"
    if not schema.min_input <= len(node.input) <= schema.max_input:
        return f"it has {len(node.input)} inputs, expected {schema.min_input} to {schema.max_input}"
    unknown = [a.name for a in node.attribute if a.name not in schema.attributes]
    return f"it has no attribute '{unknown[0]}'" if unknown else ""


def _lowered(
    node: onnx.NodeProto, model: onnx.ModelProto, constants: dict, opset: int
) -> List[onnx.NodeProto]:
    def constant(index: int) -> Optional[np.ndarray]:
        if len(node.input) <= index or not node.input[index]:
            return None
        tensor = constants.get(node.input[index])
        if tensor is None:
            what = f"node '{node.name}' ({node.op_type})"
            raise ExportError(
                f"{what} cannot be written in opset {opset}: its {node.input[index]} is no constant"
            )
        return numpy_helper.to_array(tensor)

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if opset < 18 and node.op_type in _REDUCTIONS:
        axes = constant(1)
        if axes is not None and axes.size:
            node.attribute.append(helper.make_attribute("axes", [int(a) for a in axes]))
        elif attributes.get("noop_with_empty_axes", 0):
            return [
                helper.make_node("Identity", [node.input[0]], list(node.output), name=node.name)
            ]
        _drop_attributes(node, "noop_with_empty_axes")
        del node.input[1:]
    if opset < 18 and node.op_type == "Resize":
        policy = attributes.get("keep_aspect_ratio_policy", b"stretch")
        if attributes.get("antialias", 0) or "axes" in attributes or policy != b"stretch":
            raise ExportError(
                f"node '{node.name}' (Resize): antialias, axes and keep_aspect_ratio_policy do not exist in opset {opset}"
            )
        _drop_attributes(node, "antialias", "keep_aspect_ratio_policy")
    if opset < 18 and node.op_type == "Split" and "num_outputs" in attributes:
        _split_by_sizes(node, model, constants, attributes, opset)
    if opset < 18 and node.op_type == "Pad" and len(node.input) > 3:
        raise ExportError(
            f"node '{node.name}' (Pad): axes do not exist in opset {opset}; pad all axes"
        )
    if opset < 14 and node.op_type == "Reshape":
        if attributes.get("allowzero", 0) and 0 in (
            constant(1) if node.input[1] in constants else ()
        ):
            raise ExportError(
                f"node '{node.name}' (Reshape): a zero dimension cannot be written in opset {opset}"
            )
        _drop_attributes(node, "allowzero")
    if opset < 15 and node.op_type == "Shape" and ("start" in attributes or "end" in attributes):
        return _sliced_shape(node, model, constants, attributes)
    return [node]


def _split_by_sizes(
    node: onnx.NodeProto, model: onnx.ModelProto, constants: dict, attributes: dict, opset: int
) -> None:
    """num_outputs, which came in opset 18 and makes the last part smaller where it must, as explicit sizes."""
    dims = {v.name: v.type.tensor_type.shape.dim for v in model.graph.value_info}.get(
        node.input[0], ()
    )
    axis, parts = attributes.get("axis", 0), attributes["num_outputs"]
    size = dims[axis].dim_value if len(dims) > max(axis, -axis - 1) else 0
    if not size:
        raise ExportError(
            f"node '{node.name}' (Split) cannot be written in opset {opset}: the size it splits is not known"
        )
    part = -(-size // parts)
    sizes = [max(min(part, size - i * part), 0) for i in range(parts)]
    tensor = numpy_helper.from_array(np.array(sizes, dtype=np.int64), f"{node.output[0]}_sizes")
    model.graph.initializer.append(tensor)
    constants[tensor.name] = tensor
    del node.input[1:]
    node.input.append(tensor.name)
    _drop_attributes(node, "num_outputs")


def _sliced_shape(
    node: onnx.NodeProto, model: onnx.ModelProto, constants: dict, attributes: dict
) -> List[onnx.NodeProto]:
    """Shape with start and end, which came in opset 15, as Shape and Slice."""
    whole, names = node.output[0] + "_whole", []
    for key, value in (
        ("start", attributes.get("start", 0)),
        ("end", attributes.get("end", 2**31 - 1)),
    ):
        tensor = numpy_helper.from_array(
            np.array([value], dtype=np.int64), f"{node.output[0]}_{key}"
        )
        model.graph.initializer.append(tensor)
        constants[tensor.name] = tensor
        names.append(tensor.name)
    return [
        helper.make_node("Shape", list(node.input), [whole], name=node.name),
        helper.make_node("Slice", [whole, *names], list(node.output), name=node.name + "_slice"),
    ]


def _drop_attributes(node: onnx.NodeProto, *names: str) -> None:
    kept = [a for a in node.attribute if a.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _drop_unused_constants(model: onnx.ModelProto) -> None:
    used = _names_in(model.graph)
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _names_in(graph: onnx.GraphProto) -> Set[str]:
    """What the nodes of a graph read, those of its branches too."""
    branches = [
        a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH
    ]
    return {name for node in graph.node for name in node.input}.union(
        *map(_names_in, branches), *({o.name for o in b.output} for b in branches)
    )
