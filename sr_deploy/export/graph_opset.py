"""Conversion of graphs of unknown origin to older opsets."""

from __future__ import annotations

from typing import List

import onnx
import onnx.inliner
from onnx import helper

from sr_deploy.core.errors import ExportError, one_line
from sr_deploy.export import opset as opsets
from sr_deploy.export.half import folded, plain_graph
from sr_deploy.export.layer_norm import LAYER_NORM_OPSET, split_layer_norms
from sr_deploy.runtime.graph_nodes import all_nodes, name_nodes, opset_of
from sr_deploy.runtime.graph_types import element_types

_OLDER = "export it from its framework in an older opset"
_OLD_MODES = {"linear": "bilinear", "cubic": "bicubic"}
"""GridSample's modes have other names before opset 20."""


def in_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a plain graph in an older opset or, if its own is as old, unchanged.

    Raises ExportError if it cannot be written in it.
    """
    own = opset_of(model)
    if own <= opset:
        return model
    try:
        if opset < LAYER_NORM_OPSET:
            model = split_layer_norms(model)
        model = _without_newer_operators(model, opset)
        if own > opsets.EXPORTED:
            model = _relabelled(model, max(opset, opsets.EXPORTED))
        model = opsets.lower(model, opset) if opset < opsets.EXPORTED else model
    except ExportError as e:
        raise ExportError(e.message, hint=_OLDER) from e
    except Exception as e:  # onnx raises several kinds, some of them of C++
        reason = one_line(e)
        raise ExportError(
            f"the graph of opset {own} cannot be written in opset {opset}: {reason}", hint=_OLDER
        ) from e
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
    name_nodes(model)
    opsets.check(model, opset)
    return model


def _without_newer_operators(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Replace operators that an opset lacks by what ONNX defines them to compute."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = list(all_nodes(copy.graph))
    lacking = [n for n in nodes if n.domain == "" and not onnx.defs.has(n.op_type, opset, "")]
    if not lacking:
        return model
    for node in lacking:
        _add_usual_attributes(node, opset_of(model))
    for tensor in copy.graph.initializer:  # the inliner wants their types
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        copy.graph.value_info.append(value)
    inlined = onnx.inliner.inline_selected_functions(
        copy, sorted({("", node.op_type) for node in lacking}), inline_schema_functions=True
    )
    types = element_types(inlined)
    for node in all_nodes(inlined.graph):
        if node.op_type == "CastLike" and node.input[1] in types:
            like = types[node.input[1]]
            node.CopyFrom(helper.make_node("Cast", node.input[:1], node.output[:], to=like))
    return folded(plain_graph(inlined))


def _add_usual_attributes(node: onnx.NodeProto, opset: int) -> None:
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in onnx.defs.get_schema(node.op_type, opset, "").attributes.items():
        if name not in given and attribute.default_value.name:
            node.attribute.append(attribute.default_value)


def _relabelled(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a graph of a later opset in this one: between them, operators gained types and
    attributes. Raises ExportError where one of these is used.
    """
    own = opset_of(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in all_nodes(copy.graph):
        if node.domain == "":
            _drop_newer_attributes(node, own, opset)
    for entry in copy.opset_import:
        if entry.domain == "":
            entry.version = opset
    return copy


def _drop_newer_attributes(node: onnx.NodeProto, own: int, opset: int) -> None:
    newer, older = (onnx.defs.get_schema(node.op_type, version, "") for version in (own, opset))
    kept: List[onnx.AttributeProto] = []
    for attribute in node.attribute:
        if attribute.name in older.attributes:
            if node.op_type == "GridSample" and attribute.name == "mode" and opset < 20:
                attribute.s = _OLD_MODES.get(attribute.s.decode(), attribute.s.decode()).encode()
            kept.append(attribute)
            continue
        usual = newer.attributes[attribute.name].default_value
        if helper.get_attribute_value(attribute) != helper.get_attribute_value(usual):
            raise ExportError(
                f"node '{node.name}' ({node.op_type}): {attribute.name} does not exist in opset "
                f"{opset}"
            )
    del node.attribute[:]
    node.attribute.extend(kept)
