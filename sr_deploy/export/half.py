"""Conversion of FP32 graphs to FP16, also of graphs that other exporters wrote.

What does not depend on pixels stays as it is: arithmetic on sizes and coordinates is done in FP32,
constants are computed once, in FP32. Weights are rounded to nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Collection, Dict, List, Mapping, Optional, Tuple, Union

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.core.errors import ExportError
from sr_deploy.core.precisions import precision_of_counts
from sr_deploy.export.opset import check as check_opset
from sr_deploy.runtime.graph_nodes import (
    all_graphs,
    all_nodes,
    bodies_of,
    drop_unused_constants,
    image_inputs,
    name_nodes,
    names_read,
    opset_of,
)
from sr_deploy.runtime.graph_types import FLOATS, FP16_MAX, element_types, retyped, values_of_image
from sr_deploy.runtime.ort import raw_session
from sr_deploy.runtime.quantised_graph import layer_precisions

_TYPES = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "fp64": TensorProto.DOUBLE,
}
_LIMITS = ("Clip", "Max", "Min", "Pad", "Where")
"""Operators for which a constant beyond FP16 means a limit or a mask, and may become 65504."""
_RANDOM = ("RandomNormal", "RandomUniform", "Multinomial", "Bernoulli")
_FOLDED_MIB = 256


@dataclass(frozen=True)
class HalfGraph:
    """An FP16 graph and what the conversion did."""

    model: onnx.ModelProto
    fp32_nodes: Tuple[str, ...]
    """Nodes that compute in FP32: those asked for, and those that ONNX does not define in FP16."""
    notes: Dict[str, object]
    """Constants that were limited to FP16's range, or became zero; empty without any."""


class WeightRangeError(ExportError):
    """Weights exceed FP16; `nodes` would have to read them in FP32."""

    def __init__(self, message: str, nodes: Tuple[str, ...], *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.nodes = nodes


def fp16_graph(
    model: onnx.ModelProto, *, io_dtype: str, fp32_nodes: Collection[str] = ()
) -> HalfGraph:
    """Return the FP32 `model` in FP16, with input and output in `io_dtype`.

    fp32_nodes: names of nodes that compute in FP32. Raises ExportError for a quantised graph and
    operators that are not of ONNX, WeightRangeError for weights beyond FP16.
    """
    return halved(prepared(model), io_dtype=io_dtype, fp32_nodes=fp32_nodes)


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a plain graph with folded constants, for `halved`. Raises ExportError."""
    plain = plain_graph(model)
    _refuse_quantised(plain)
    return folded(plain)


def halved(
    plain: onnx.ModelProto,
    *,
    io_dtype: Union[str, Mapping[str, str]],
    fp32_nodes: Collection[str] = (),
) -> HalfGraph:
    """Return a prepared graph in FP16: `fp16_graph` without its first step.

    io_dtype: of all inputs and outputs, or of each by name.
    """
    images, asked = values_of_image(plain.graph), set(fp32_nodes)

    def kind(node: Any) -> int:
        of_image = any(name in images for name in node.output)
        return TensorProto.FLOAT16 if of_image and node.name not in asked else TensorProto.FLOAT

    if isinstance(io_dtype, str):
        result = retyped(plain, kind, io=_TYPES[io_dtype])
    else:
        result = retyped(plain, kind, io={name: _TYPES[dtype] for name, dtype in io_dtype.items()})
    notes = _check_constants(plain, result.halved)
    half = result.model
    check_opset(half, opset_of(half))
    kept = asked | set(_fp32_results(half))
    order = [node.name for node in all_nodes(half.graph)]
    return HalfGraph(half, tuple(name for name in order if name in kept), notes)


def fp32_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of FP16, BF16 or mixed types in FP32: same weights, input and output FP32."""
    return retyped(plain_graph(model), lambda node: TensorProto.FLOAT, io=TensorProto.FLOAT).model


def plain_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with names for all nodes, and without what only older or newer exporters use.

    Functions of the model are inlined, sparse and short forms of constants become tensors, and
    constants are no longer listed as inputs.
    """
    if model.functions:
        plain = onnx.inliner.inline_local_functions(model)
    else:
        plain = onnx.ModelProto()
        plain.CopyFrom(model)
    for graph in all_graphs(plain.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse))
        del graph.sparse_initializer[:]
        for node in graph.node:
            if node.op_type == "Constant":
                _plain_constant(node)
        inputs = image_inputs(graph)
        del graph.input[:]
        graph.input.extend(inputs)
    used = {node.domain for node in all_nodes(plain.graph)}
    opsets = [e for e in plain.opset_import if e.domain in used or e.domain in ("", "ai.onnx")]
    del plain.opset_import[:]
    plain.opset_import.extend(opsets)
    plain.ir_version = max(plain.ir_version, 4)  # the first one with constants beside the inputs
    name_nodes(plain)
    if any(not value.type.tensor_type.HasField("shape") for value in plain.graph.output):
        inferred = onnx.shape_inference.infer_shapes(plain).graph
        for value, known in zip(plain.graph.output, inferred.output):
            value.type.CopyFrom(known.type)
    return plain


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a plain graph in which what depends on constants only is a constant."""
    graph = model.graph
    known = {t.name for t in graph.initializer}
    nodes = []
    # Beside quantised activations, runtimes look for the quantised weights and biases.
    quantised = any(node.op_type == "QuantizeLinear" for node in graph.node)
    left = (*_RANDOM, *(["DequantizeLinear"] if quantised else []))
    for node in graph.node:
        constant = set(filter(None, node.input)) <= known and not bodies_of(node)
        if constant and node.op_type not in left and node.domain in ("", "ai.onnx"):
            nodes.append(node)
            known.update(node.output)
    made = {name for node in nodes for name in node.output if name}
    if all(node.op_type == "Constant" for node in nodes):
        return model
    rest = [node for node in graph.node if not made & set(node.output)]
    read = {v.name for v in graph.output}.union(*(names_read(node) for node in rest)) & made
    if not read:
        return model
    outputs = [onnx.ValueInfoProto(name=name) for name in sorted(read)]
    part = helper.make_graph(nodes, "constants", [], outputs, list(graph.initializer))
    constants = helper.make_model(part, opset_imports=model.opset_import)
    constants.ir_version = model.ir_version
    values = raw_session(constants.SerializeToString(), optimise=False).run(None, {})
    arrays = {o.name: np.asarray(v) for o, v in zip(outputs, values) if not isinstance(v, list)}
    if len(arrays) < len(outputs) or sum(v.nbytes for v in arrays.values()) > _FOLDED_MIB << 20:
        return model
    del graph.node[:]
    graph.node.extend(rest)
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in arrays.items())
    drop_unused_constants(graph)
    return model


def tensor_types(model: onnx.ModelProto) -> Dict[str, int]:
    """Return the number of operator results of each floating type, such as `{"fp16": 168}`.

    Results that depend on pixels are counted; casts are not.
    """
    types = element_types(model)
    names: Dict[Optional[int], str] = {code: name for name, code in _TYPES.items()}
    counts: Dict[str, int] = {}
    for node in nodes_of_image(model):
        name = names.get(types.get(node.output[0]))
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    return counts


def precision_of(model: onnx.ModelProto) -> str:
    """Return `fp16`, `fp32`, or for example `mixed: 3 fp32, 165 fp16`.

    Of a quantised graph the layers with weights are counted: `int8`, `mixed: 2 fp32, 13 int8`.
    """
    layers = layer_precisions(model)
    counts = layers if "int8" in layers else tensor_types(model)
    return precision_of_counts(counts)


def nodes_of_image(model: onnx.ModelProto) -> List[onnx.NodeProto]:
    """Return the nodes whose results depend on pixels, without casts."""
    images = values_of_image(model.graph)
    return [
        node
        for node in all_nodes(model.graph)
        if node.op_type != "Cast" and any(name in images for name in node.output)
    ]


def _fp32_results(half: onnx.ModelProto) -> List[str]:
    types = element_types(half)
    nodes = nodes_of_image(half)
    return [node.name for node in nodes if types.get(node.output[0]) == TensorProto.FLOAT]


def _refuse_quantised(model: onnx.ModelProto) -> None:
    for node in all_nodes(model.graph):
        op = node.op_type
        if "QuantizeLinear" in op or op.startswith("QLinear") or op.endswith("Integer"):
            raise ExportError(
                f"the graph is quantised (node '{node.name}' is {op}): its 8-bit values "
                "would not gain from FP16",
                hint="use --precision fp32, or export the graph it was quantised from",
            )


def _check_constants(
    plain: onnx.ModelProto, halved: Dict[str, List[Tuple[str, str]]]
) -> Dict[str, object]:
    """Return notes about constants that FP16 changes. Raises WeightRangeError."""
    beyond: List[str] = []
    nodes: List[str] = []
    limited: Dict[str, float] = {}
    zeros: Dict[str, str] = {}
    for name, tensor in _constants(plain).items():
        if name not in halved or tensor.data_type not in FLOATS:
            continue
        value = np.abs(numpy_helper.to_array(tensor).astype(np.float32))
        peak = float(value.max(initial=0, where=np.isfinite(value)))
        readers = [(node, op) for node, op in halved[name] if op not in _LIMITS]
        if peak > FP16_MAX and readers:
            node, op = readers[0]
            beyond.append(f"'{name}' of node '{node}' ({op}) reaches {peak:.4g}")
            nodes += [node for node, _ in readers]
        elif peak > FP16_MAX:
            limited[name] = peak
        lost = int(((value > 0) & (value <= 2.0**-25)).sum())
        if lost:
            zeros[name] = f"{lost} of {int((value > 0).sum())}"
    if beyond:
        more = f", and {len(beyond) - 3} more weights" if len(beyond) > 3 else ""
        raise WeightRangeError(
            f"a weight exceeds the largest FP16 number, {FP16_MAX:.0f}: "
            f"{'; '.join(beyond[:3])}{more}",
            tuple(dict.fromkeys(nodes)),
            hint="keep these nodes in FP32 with --fallback auto, or use --precision fp32",
        )
    notes: Dict[str, object] = {}
    if limited:
        notes["constants_limited_to_65504"] = limited
    if zeros:
        notes["constants_rounded_to_zero"] = zeros
    return notes


def _constants(model: onnx.ModelProto) -> Dict[str, TensorProto]:
    found: Dict[str, TensorProto] = {}
    for graph in all_graphs(model.graph):
        found.update((tensor.name, tensor) for tensor in graph.initializer)
        for node in graph.node:
            if node.op_type == "Constant":
                found.update((node.output[0], a.t) for a in node.attribute)
    return found


def _plain_constant(node: onnx.NodeProto) -> None:
    """Give a Constant its value as a tensor, whatever form it has."""
    (attribute,) = node.attribute
    value: Any = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return
    if attribute.name == "sparse_value":
        tensor = _dense(value)
    elif attribute.name.startswith("value_string"):
        return
    else:
        dtype = np.float32 if attribute.name.startswith("value_float") else np.int64
        tensor = numpy_helper.from_array(np.array(value, dtype=dtype))
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("value", tensor))


def _dense(sparse: onnx.SparseTensorProto) -> TensorProto:
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), dtype=values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return numpy_helper.from_array(dense, sparse.values.name)
