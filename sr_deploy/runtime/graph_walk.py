"""Walks through an ONNX graph at one size of its input, without computing images.

Shapes and sizes are computed as far as they follow from the size of the input: one branch of an
`If`, as many rounds of a `Loop` as it takes. Importable without onnx.
"""

from __future__ import annotations

import collections
import functools
from dataclasses import dataclass, field, replace
from typing import Any, ChainMap, Dict, FrozenSet, Iterable, Iterator, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError
from sr_deploy.runtime.graph_nodes import image_inputs, needed_nodes
from sr_deploy.runtime.onnx_view import attributes_of

Shape = Tuple[int, ...]

_FEW = 4096
"""Tensors of at most so many elements are computed, if they follow from sizes."""
_ROUNDS = 10_000
_STANDARD = ("", "ai.onnx")
# Operators with the shape of another one, or of their first input.
_LIKE = {"com.microsoft::FusedConv": "Conv", "com.microsoft::FusedGemm": "Gemm"}
_SAME = frozenset(
    ["GroupNormalization"]
    + [
        f"com.microsoft::{name}"
        for name in "Gelu BiasGelu FastGelu QuickGelu SkipLayerNormalization GroupNorm "
        "QLinearSigmoid QLinearLeakyRelu QLinearSoftmax".split()
    ]
)


@dataclass(frozen=True)
class Tensor:
    """A tensor with what is known of it."""

    name: str
    type: Any
    """An onnx.TypeProto."""
    value: Optional[np.ndarray] = None
    """Of a small one that does not depend on the image."""
    computed: bool = False
    """Whether it depends on the image, not only on its size."""
    sources: FrozenSet[str] = frozenset()
    """The constants that it was made from; of what is quantised, without scales."""
    maker: Optional[Step] = field(default=None, repr=False, compare=False)

    @property
    def is_named(self) -> bool:
        """Whether it is a weight with a name, not one that a Constant node holds."""
        return not self.computed and (self.maker is None or self.maker.op != "Constant")

    @functools.cached_property
    def shape(self) -> Optional[Shape]:
        """None where it is not known."""
        return shape_of(self.type)


@dataclass(frozen=True)
class Step:
    """A node that runs."""

    op: str
    """With the domain before it unless it is the standard one: `com.microsoft::FusedConv`."""
    name: str
    attributes: Dict[str, Any]
    inputs: Tuple[Optional[Tensor], ...]
    """None: omitted."""
    outputs: Tuple[Tensor, ...] = ()

    def input(self, index: int) -> Optional[Tensor]:
        return self.inputs[index] if index < len(self.inputs) else None

    def value(self, index: int) -> Optional[np.ndarray]:
        tensor = self.input(index)
        return None if tensor is None else tensor.value


class GraphWalk:
    """A walk through a model at one size of its inputs."""

    def __init__(
        self, model: Any, shapes: Dict[str, Shape], known: Optional[Dict[str, Shape]] = None
    ) -> None:
        """shapes: of the inputs. known: shapes of tensors, used where none can be inferred."""
        from onnx import helper, inliner

        self.model = inliner.inline_local_functions(model) if model.functions else model
        self._versions = {entry.domain: entry.version for entry in model.opset_import}
        self._versions.setdefault("", self._versions.get("ai.onnx", 1))
        self._known = known or {}
        self.constants: Dict[str, Any] = {}
        """TensorProtos by name."""
        self._sources: Dict[str, Tensor] = {}
        for source in image_inputs(self.model.graph):
            kind = helper.make_tensor_type_proto(
                source.type.tensor_type.elem_type, shapes[source.name]
            )
            self._sources[source.name] = Tensor(source.name, kind, computed=True)

    def steps(self, outputs: Optional[Iterable[str]] = None) -> Iterator[Step]:
        """Yield the nodes that `outputs` of the graph need, in order; None: all outputs.

        Raises ArtifactError where a branch or the rounds of a loop are not known.
        """
        graph = self.model.graph
        scope: ChainMap[str, Tensor] = collections.ChainMap(dict(self._sources))
        wanted = list(outputs) if outputs is not None else [o.name for o in graph.output]
        yield from self._body(graph, scope, wanted)

    def _body(
        self, body: Any, scope: ChainMap[str, Tensor], wanted: Iterable[str]
    ) -> Iterator[Step]:
        for tensor in body.initializer:
            scope[tensor.name] = self._constant(tensor.name, tensor)
        for node in needed_nodes(body, wanted):
            given = {name: scope[name] for name in node.input if name in scope}
            inputs = tuple(given.get(name) for name in node.input)
            if node.op_type == "If" and node.domain in _STANDARD:
                outputs = yield from self._if(node, inputs, scope)
            elif node.op_type == "Loop" and node.domain in _STANDARD:
                outputs = yield from self._loop(node, inputs, scope)
            else:
                step = self._step(node, given)
                yield step
                outputs = list(step.outputs)
            scope.update({name: t for name, t in zip(node.output, outputs) if name})

    def _if(self, node: Any, inputs: Tuple[Optional[Tensor], ...], scope: Any) -> Any:
        condition = inputs[0].value if inputs[0] is not None else None
        if condition is None:
            what = f"which branch of the node '{_name(node)}' runs"
            raise ArtifactError(f"{what} does not follow from the size of the image")
        branch = attributes_of(node)["then_branch" if condition.all() else "else_branch"]
        inner, names = scope.new_child(), [o.name for o in branch.output]
        yield from self._body(branch, inner, names)
        return [inner[name] for name in names]

    def _loop(self, node: Any, inputs: Tuple[Optional[Tensor], ...], scope: Any) -> Any:
        from onnx import helper

        limit, condition, *carried = inputs
        unknown = any(t is not None and t.value is None for t in (limit, condition))
        rounds = _ROUNDS if limit is None or limit.value is None else int(limit.value)
        body, goes = attributes_of(node)["body"], condition is None or condition.value
        names = [o.name for o in body.output]
        stacked: List[Tensor] = []
        done = 0
        while not unknown and done < rounds and goes:
            number = helper.make_tensor_type_proto(7, ())
            first = [Tensor("", number, np.array(done)), Tensor("", number, np.array(True))]
            inner = scope.new_child()
            inner.update(zip((v.name for v in body.input), [*first, *carried]))
            yield from self._body(body, inner, names)
            going, *outs = (inner[name] for name in names)
            carried, stacked, goes = outs[: len(carried)], outs[len(carried) :], going.value
            unknown, done = goes is None, done + 1
        if unknown or done == _ROUNDS:
            what = f"how often the node '{_name(node)}' runs"
            raise ArtifactError(f"{what} does not follow from the size of the image")
        return [*carried, *(_stack(tensor, done) for tensor in stacked)]

    def _step(self, node: Any, given: Dict[str, Tensor]) -> Step:
        op = node.op_type if node.domain in _STANDARD else f"{node.domain}::{node.op_type}"
        attributes = attributes_of(node)
        if op == "Constant":
            step = Step(op, _name(node), attributes, ())
            constant = replace(self._constant_node(node, attributes), maker=step)
            return replace(step, outputs=(constant,))
        step = Step(op, _name(node), attributes, tuple(given.get(name) for name in node.input))
        types = self._types(op, node, given)
        # The size of an image depends on none of its values.
        computed = op not in ("Shape", "Size") and any(t.computed for t in given.values())
        values = {} if computed else self._values(op, node, given, types)
        sources = frozenset() if computed else _sources(op, step.inputs)
        outputs = tuple(
            Tensor(
                name,
                self._type(name, types.get(name), values.get(name)),
                values.get(name),
                computed,
                sources,
                step,
            )
            for name in node.output
        )
        return replace(step, outputs=outputs)

    def _type(self, name: str, inferred: Any, value: Optional[np.ndarray]) -> Any:
        import onnx

        kind = onnx.TypeProto() if inferred is None else inferred
        shape = self._known.get(name) if value is None else value.shape
        if shape is None or shape_of(kind) is not None:
            return kind
        return onnx.helper.make_tensor_type_proto(kind.tensor_type.elem_type or 1, shape)

    def _types(self, op: str, node: Any, given: Dict[str, Tensor]) -> Dict[str, Any]:
        """Return the types of the outputs that can be inferred."""
        import onnx

        types = {name: tensor.type for name, tensor in given.items()}
        if op in _SAME and node.input[0] in types:
            return {node.output[0]: types[node.input[0]]}
        if op in _LIKE:
            node = onnx.helper.make_node(
                _LIKE[op],
                node.input[: 3 if op in _LIKE else None],
                node.output,
                **{k: v for k, v in attributes_of(node).items() if "activation" not in k},
            )
        domain = "" if op in _LIKE or node.domain in _STANDARD else node.domain
        try:
            schema = onnx.defs.get_schema(node.op_type, self._versions.get(domain, 1), domain)
            values = {n: t.value for n, t in given.items() if t.value is not None}
            found = onnx.shape_inference.infer_node_outputs(
                schema,
                node,
                types,
                {name: onnx.numpy_helper.from_array(value) for name, value in values.items()},
                opset_imports=[onnx.helper.make_opsetid(domain, self._versions.get(domain, 1))],
            )
        except Exception:  # of onnx's kinds, for unknown operators and shapes that do not fit
            return {}
        return found if op != "Reshape" or _fits(types[node.input[0]], found) else {}

    def _values(
        self, op: str, node: Any, given: Dict[str, Tensor], types: Dict[str, Any]
    ) -> Dict[str, np.ndarray]:
        """Return the values of small outputs that follow from known ones."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        if op in ("Shape", "Size"):
            shape = given[node.input[0]].shape
            if shape is None:
                return {}
            start, end = (attributes_of(node).get(key) for key in ("start", "end"))
            whole = op == "Size"
            numbers = np.prod(shape, dtype=np.int64) if whole else shape[slice(start, end)]
            return {node.output[0]: np.array(numbers, np.int64)}
        few = all(_size(kind) <= _FEW for kind in types.values())
        if not given or not few or any(t.value is None for t in given.values()) or node.domain:
            return {}
        inputs = [onnx.helper.make_value_info(name, t.type) for name, t in given.items()]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "step", inputs, outputs)
        model = onnx.helper.make_model(graph, opset_imports=self.model.opset_import)
        try:
            evaluator = ReferenceEvaluator(model)
            results = evaluator.run(None, {name: t.value for name, t in given.items()})
        except Exception:  # of many kinds: the value stays unknown
            return {}
        found = {o.name: value for o, value in zip(outputs, results)}
        return {n: v for n, v in found.items() if isinstance(v, np.ndarray) and v.size <= _FEW}

    def _constant(self, name: str, tensor: Any) -> Tensor:
        from onnx import helper, numpy_helper

        self.constants[name] = tensor
        kind = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        value = numpy_helper.to_array(tensor) if _size(kind) <= _FEW else None
        return Tensor(name, kind, value, sources=frozenset([name]))

    def _constant_node(self, node: Any, attributes: Dict[str, Any]) -> Tensor:
        import onnx

        ((key, value),) = attributes.items()
        if key != "value":
            kinds = {"f": np.float32, "i": np.int64}
            value = onnx.numpy_helper.from_array(np.array(value, kinds.get(key[6:7], object)))
        return self._constant(node.output[0], value)


def input_of(model: Any) -> Any:
    """Return the ValueInfoProto of the model's input. Raises ArtifactError unless it has one."""
    inputs = image_inputs(model.graph)
    if len(inputs) != 1:
        names = ", ".join(v.name for v in inputs) or "none"
        raise ArtifactError(f"expected one input, found {len(inputs)}: {names}")
    return inputs[0]


def _name(node: Any) -> str:
    return node.name or f"{node.op_type}:{next(iter(node.output), '')}"


def shape_of(kind: Any) -> Optional[Shape]:
    """Return the shape of a TypeProto; None where it is not known."""
    tensor = kind.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
    return tuple(dims) if tensor.HasField("shape") and -1 not in dims else None


def _sources(op: str, inputs: Tuple[Optional[Tensor], ...]) -> FrozenSet[str]:
    """Return the constants in the outputs of a node; a size or a scale has none."""
    if op in ("Shape", "Size"):
        return frozenset()
    used = inputs[:1] if op.endswith("QuantizeLinear") or op == "DequantizeLinear" else inputs
    return frozenset(name for tensor in used if tensor is not None for name in tensor.sources)


def _size(kind: Any) -> int:
    """Return the number of elements of a type; 0: unknown."""
    return int(np.prod(shape_of(kind) or (shape_of(kind) is not None), dtype=np.int64))


def _fits(source: Any, types: Dict[str, Any]) -> bool:
    """Return whether a Reshape keeps the number of elements, which onnx does not check."""
    sizes = {_size(kind) for kind in (source, *types.values())}
    return len(sizes) == 1 or 0 in sizes


def _stack(tensor: Tensor, rounds: int) -> Tensor:
    from onnx import helper

    elements = tensor.type.tensor_type.elem_type
    shape = None if tensor.shape is None else (rounds, *tensor.shape)
    kind = helper.make_tensor_type_proto(elements, shape)
    return Tensor(tensor.name, kind, None, tensor.computed, tensor.sources)
