"""The floating types of an ONNX graph: which nodes compute in FP16 and which in FP32.

`retyped` rewrites a graph so that each node computes in the type that is chosen for it. Constants
get the types that their readers want, and casts stand only where the type really changes: two FP32
nodes in a row exchange FP32 values. What an operator takes in FP32 only, by its ONNX definition
(scales of Resize, Range, stage-one results of LayerNormalization), stays FP32.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple, Union

import numpy as np

from sr_deploy.runtime.graph_nodes import (
    all_graphs,
    bodies_of,
    free_name,
    image_inputs,
    names_read,
    opset_of,
)

FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16
"""Of TensorProto.DataType."""
FLOATS = (FLOAT, FLOAT16, BFLOAT16)
FP16_MAX = 65504.0
_SUFFIX = {FLOAT: "fp32", FLOAT16: "fp16"}
_DTYPE_ATTRIBUTES = ("to", "dtype", "output_datatype")
_ALLOWED = {FLOAT16: ("tensor(float16)", "seq(tensor(float16))", "optional(tensor(float16))")}
Kind = Callable[[Any], Optional[int]]
"""The type a node shall compute in: FLOAT, FLOAT16, or None to leave it as it is."""
Ends = Union[None, int, Mapping[str, int]]
"""The type of a graph's ends, or of each by name; None or not named: as it is."""


class Retyped(NamedTuple):
    """A graph and what was rounded for it."""

    model: Any
    halved: Dict[str, List[Tuple[str, str]]]
    """The nodes (name, operator) that read a value in FP16, by the value's name."""


def retyped(model: Any, kind: Kind, *, io: Ends = None) -> Retyped:
    """Return a copy of an ONNX model whose nodes compute in the types that `kind` gives them.

    io: the types of the graph's floating inputs and outputs. Constants are rounded to FP16 to
    nearest; finite ones beyond its range become its largest number.
    """
    work = _Retyping(model, kind, io)
    return Retyped(work.result(), work.halved)


def values_of_image(graph: Any, images: Optional[Set[str]] = None) -> Set[str]:
    """Return the names of all values computed from pixels, not from sizes and constants only."""
    found = {v.name for v in image_inputs(graph)} if images is None else images
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or not names_read(node) & found:
            continue
        found |= {name for name in node.output if name}
        for body in bodies_of(node):
            found |= {value.name for value in body.input}
            values_of_image(body, found)
    return found


def element_types(model: Any) -> Dict[str, int]:
    """Return the element types of all values by name, those of subgraphs too."""
    import onnx

    types: Dict[str, int] = {}
    inferred = onnx.shape_inference.infer_shapes(model)
    schemas = _Schemas(opset_of(model))
    for graph in all_graphs(inferred.graph):
        for value in [*graph.input, *graph.value_info, *graph.output]:
            leaf = _leaf(value.type)
            if leaf is not None and leaf.elem_type:
                types[value.name] = leaf.elem_type
        for tensor in graph.initializer:
            types[tensor.name] = tensor.data_type
        for node in graph.node:
            if node.op_type == "Constant":
                types[node.output[0]] = next((a.t.data_type for a in node.attribute), 0)
    for graph in all_graphs(inferred.graph):  # what the inference of shapes does not cover
        for node in graph.node:
            for name, code in schemas.output_types(node, types).items():
                types.setdefault(name, code)
    return types


def converted(tensor: Any, to: int) -> Any:
    """Return a floating tensor in another type, of the same name."""
    from onnx import numpy_helper

    value = numpy_helper.to_array(tensor).astype(np.float32)
    if to == FLOAT16:
        finite = np.isfinite(value)
        value = np.where(finite, np.clip(value, -FP16_MAX, FP16_MAX), value).astype(np.float16)
    return numpy_helper.from_array(value, tensor.name)


def _end(io: Ends, name: str) -> Optional[int]:
    return io.get(name) if isinstance(io, Mapping) else io


class _Schemas:
    """The ONNX definitions of the operators of an opset."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._cache: Dict[str, Any] = {}

    def of(self, node: Any) -> Any:
        """Return the definition of a node's operator; None for one that is not of ONNX."""
        from onnx import defs

        if node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type not in self._cache:
            try:
                self._cache[node.op_type] = defs.get_schema(node.op_type, self._opset, "")
            except defs.SchemaError:
                self._cache[node.op_type] = None
        return self._cache[node.op_type]

    def takes(self, node: Any, index: int, to: int, *, output: bool) -> bool:
        """Return whether an input or output of a node may be of a type."""
        schema = self.of(node)
        if schema is None:
            return False
        formal = _formal(schema.outputs if output else schema.inputs, index)
        if to == FLOAT or formal is None:
            return True
        constraints = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        allowed = constraints.get(formal.type_str, [formal.type_str])
        return any(name in allowed for name in _ALLOWED[to])

    def output_types(self, node: Any, types: Dict[str, int]) -> Dict[str, int]:
        """Return the types of outputs that follow from those of the inputs."""
        schema = self.of(node)
        if schema is None:
            return {}
        bound: Dict[str, int] = {}
        for i, name in enumerate(node.input):
            formal = _formal(schema.inputs, i)
            if formal is not None and name in types:
                bound.setdefault(formal.type_str, types[name])
        found = {}
        for i, name in enumerate(node.output):
            formal = _formal(schema.outputs, i)
            if name and formal is not None and formal.type_str in bound:
                found[name] = bound[formal.type_str]
        return found


class _Retyping:
    """One rewrite of a model."""

    def __init__(self, model: Any, kind: Kind, io: Ends) -> None:
        self.model = type(model)()
        self.model.CopyFrom(model)
        self._kind, self._io = kind, io
        self._types = element_types(model)
        self._schemas = _Schemas(opset_of(model))
        self._now: Dict[str, int] = {}
        self._needs: Dict[str, Set[int]] = {}
        self._casts: List[Dict[Tuple[str, int], str]] = []
        self._taken = set(self._types) | {n for g in all_graphs(model.graph) for n in _names(g)}
        self.halved: Dict[str, List[Tuple[str, str]]] = {}

    def result(self) -> Any:
        self._find_needs(self.model.graph, self._io)
        self._rewrite(self.model.graph, self._io, top=True)
        return self.model

    def _ports(self, node: Any) -> Tuple[List[Optional[int]], List[Optional[int]]]:
        """Return the types of the node's inputs and outputs; None for those that do not float."""
        kind = self._kind(node)

        def port(name: str, index: int, output: bool) -> Optional[int]:
            original = self._types.get(name, 0) if name else 0
            if original not in FLOATS or kind is None:
                return original if original in FLOATS else None
            return kind if self._schemas.takes(node, index, kind, output=output) else FLOAT

        inputs = node.input if node.op_type != "Cast" else ()  # a cast reads what there is
        return (
            [port(name, i, False) for i, name in enumerate(inputs)],
            [port(name, i, True) for i, name in enumerate(node.output)],
        )

    def _find_needs(self, graph: Any, io: Ends) -> None:
        """Note the types in which each value is read; constants are stored in these."""
        for node in graph.node:
            for name, want in zip(node.input, self._ports(node)[0]):
                if want is not None:
                    self._needs.setdefault(name, set()).add(want)
                    if want == FLOAT16:
                        self.halved.setdefault(name, []).append((node.name, node.op_type))
            for body in bodies_of(node):
                self._find_needs(body, self._kind(node))
        for value in graph.output:
            original = self._types.get(value.name, 0)
            if original in FLOATS:
                self._needs.setdefault(value.name, set()).add(_end(io, value.name) or original)

    def _rewrite(self, graph: Any, io: Ends, *, top: bool) -> None:
        self._casts.append({})
        for value in graph.input:
            leaf = _leaf(value.type)
            if leaf is not None and leaf.elem_type in FLOATS:
                leaf.elem_type = _end(io, value.name) or leaf.elem_type
                self._now[value.name] = leaf.elem_type
        for tensor in list(graph.initializer):
            self._place(tensor.name, tensor, graph)
        nodes: List[Any] = []
        for node in list(graph.node):
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    self._place(node.output[0], attribute.t, graph)
            else:
                self._rewrite_node(node, nodes)
            nodes.append(node)
        for value in graph.output:
            leaf, have = _leaf(value.type), self._now.get(value.name)
            if have is None:
                continue
            want = _end(io, value.name) or self._types[value.name]
            if leaf is not None:
                leaf.elem_type = want
            if have != want and top:
                self._cast_output(value.name, have, want, nodes)
            elif have != want:
                value.name = self._read(value.name, want, nodes)
        self._casts.pop()
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)

    def _rewrite_node(self, node: Any, nodes: List[Any]) -> None:
        kind, (sources, results) = self._kind(node), self._ports(node)
        for i, want in enumerate(sources):
            if want is not None:
                node.input[i] = self._read(node.input[i], want, nodes)
        for body in bodies_of(node):
            self._rewrite(body, kind, top=False)
        for name, result in zip(node.output, results):
            if result is not None:
                self._now[name] = result
        result = next((r for r in results if r is not None), None)
        if kind is None or result is None:
            return
        for attribute in node.attribute:
            if attribute.name in _DTYPE_ATTRIBUTES and attribute.i in FLOATS:
                attribute.i = result
            if attribute.HasField("t") and attribute.t.data_type in FLOATS:
                attribute.t.CopyFrom(converted(attribute.t, result))
        if kind == FLOAT16 and result == FLOAT16 and node.op_type in _FLOAT_BY_DEFAULT:
            _complete(node)

    def _place(self, name: str, tensor: Any, graph: Any) -> None:
        """Store a constant in the types in which it is read."""
        if tensor.data_type not in FLOATS:
            return
        needs = self._needs.get(name) or {tensor.data_type}
        first = tensor.data_type if tensor.data_type in needs else min(needs)
        for other in sorted(needs - {first}):
            copy = converted(tensor, other)
            copy.name = self._new_name(name, other)
            graph.initializer.append(copy)
            self._casts[-1][name, other] = copy.name
        if first != tensor.data_type:
            original = tensor.name
            tensor.CopyFrom(converted(tensor, first))
            tensor.name = original
        self._now[name] = first

    def _read(self, name: str, want: int, nodes: List[Any]) -> str:
        """Return the name under which a value can be read in a type; append a cast if needed."""
        from onnx import helper

        if self._now.get(name, want) == want:
            return name
        for casts in reversed(self._casts):
            if (name, want) in casts:
                return casts[name, want]
        target = self._new_name(name, want)
        nodes.append(helper.make_node("Cast", [name], [target], name=target, to=want))
        self._casts[-1][name, want] = target
        return target

    def _cast_output(self, name: str, have: int, want: int, nodes: List[Any]) -> None:
        """Compute an output of the graph under another name, and cast it at the end."""
        from onnx import helper

        inner = self._new_name(name, have)
        for node in nodes:
            _rename(node, name, inner)
        nodes.append(helper.make_node("Cast", [inner], [name], name=f"{name}/cast", to=want))

    def _new_name(self, name: str, code: int) -> str:
        return free_name(f"{name}/{_SUFFIX[code]}", self._taken)


_FLOAT_BY_DEFAULT = ("RandomNormal", "RandomUniform", "SequenceEmpty", "ConstantOfShape", "EyeLike")


def _complete(node: Any) -> None:
    """Give a node whose type is FP32 by default the attribute that says FP16."""
    from onnx import helper

    if node.op_type == "ConstantOfShape":
        if not node.attribute:
            zero = helper.make_tensor("value", FLOAT16, [1], [0])
            node.attribute.append(helper.make_attribute("value", zero))
    elif not any(a.name == "dtype" for a in node.attribute):
        node.attribute.append(helper.make_attribute("dtype", FLOAT16))


def _formal(parameters: Any, index: int) -> Any:
    """Return the definition of an input or output; the last one may stand for several."""
    if index < len(parameters):
        return parameters[index]
    return parameters[-1] if parameters else None


def _leaf(type_proto: Any) -> Any:
    """Return the tensor type within a type (of a sequence or an optional one); None without."""
    while type_proto.WhichOneof("value") in ("sequence_type", "optional_type"):
        type_proto = getattr(type_proto, type_proto.WhichOneof("value")).elem_type
    is_tensor = type_proto.WhichOneof("value") == "tensor_type"
    return type_proto.tensor_type if is_tensor else None


def _names(graph: Any) -> Set[str]:
    return {name for node in graph.node for name in (node.name, *node.output)}


def _rename(node: Any, old: str, new: str) -> None:
    for names in (node.input, node.output):
        names[:] = [new if name == old else name for name in names]
    for body in bodies_of(node):
        for value in body.output:
            value.name = new if value.name == old else value.name
        for inner in body.node:
            _rename(inner, old, new)
