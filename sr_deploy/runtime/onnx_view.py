"""A read-only view of an ONNX graph with the types, shapes and constants of its tensors.

Importable without onnx.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import numpy as np

from sr_deploy.core.errors import ArtifactError, MissingPackageError, first_line
from sr_deploy.core.files import foreign_file
from sr_deploy.core.onnx_file import weight_files
from sr_deploy.runtime.graph_nodes import bodies_of, image_inputs, opset_of, sort_nodes


def attributes_of(proto: Any) -> Dict[str, Any]:
    """Return the attributes of an ONNX node by name, text as str."""
    from onnx import helper

    values = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        for name, value in values.items()
    }


class Node:
    """An ONNX node, with access to what is known of its tensors."""

    def __init__(self, proto: Any, graph: Graph) -> None:
        self.graph, self.op, self.domain = graph, proto.op_type, proto.domain
        self.name = proto.name or f"{proto.op_type}:{next(iter(proto.output), '')}"
        self.standard = proto.domain in ("", "ai.onnx")
        self.inputs, self.outputs = list(proto.input), list(proto.output)
        self.attributes = attributes_of(proto)

    def input(self, index: int) -> str:
        """Return the name of an input; empty where it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def constant(self, index: int) -> Optional[np.ndarray]:
        """Return the value of an input; None where it is computed or omitted."""
        return self.graph.constant(self.input(index))

    def is_computed(self, index: int) -> bool:
        """Return whether an input is there, but not a constant."""
        return bool(self.input(index)) and self.constant(index) is None

    def shape(self, name: str) -> Optional[List[Optional[int]]]:
        return self.graph.shapes.get(name)

    def type(self, name: str) -> str:
        """Return the type of a tensor; FLOAT where it is unknown."""
        return self.graph.types.get(name, "FLOAT")

    def ints(self, attribute: str) -> List[Any]:
        """Return an attribute as a list. The kernel shape of a convolution may be its weights'."""
        value = self.attributes.get(attribute)
        if value is None and attribute == "kernel_shape" and self.op in ("Conv", "ConvTranspose"):
            value = (self.shape(self.input(1)) or [])[2:]
        return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


class Graph:
    """An ONNX model with the types and shapes of its tensors, including those of subgraphs."""

    def __init__(self, model: Any) -> None:
        import onnx

        try:
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception:  # the shapes stay unknown; the rules find the reason
            pass
        self.opset = opset_of(model)
        self.functions = {(f.domain, f.name) for f in model.functions}
        self.types: Dict[str, str] = {}
        self.shapes: Dict[str, List[Optional[int]]] = {}
        self._tensors: Dict[str, Any] = {}
        self.nodes: List[Node] = []
        self.makers: Dict[str, Node] = {}
        """The nodes by the names of their outputs."""
        self._read(model.graph)
        self.inputs = [v.name for v in image_inputs(model.graph)]
        self.outputs = [v.name for v in model.graph.output]

    def _read(self, body: Any) -> None:
        from onnx import TensorProto

        for value in [*body.input, *body.value_info, *body.output]:
            tensor = value.type.tensor_type
            if tensor.elem_type:
                self.types[value.name] = TensorProto.DataType.Name(tensor.elem_type)
            if tensor.HasField("shape"):
                self.shapes[value.name] = [
                    d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim
                ]
        constants = {t.name: t for t in body.initializer}
        for node in body.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name == "value":
                    constants[node.output[0]] = attribute.t
        for name, tensor in constants.items():
            self._tensors[name] = tensor
            self.types[name] = TensorProto.DataType.Name(tensor.data_type)
            self.shapes[name] = list(tensor.dims)
        for node in body.node:
            self.nodes.append(Node(node, self))
            self.makers.update(dict.fromkeys(node.output, self.nodes[-1]))
            for inner in bodies_of(node):
                self._read(inner)

    def constant(self, name: str) -> Optional[np.ndarray]:
        from onnx import numpy_helper

        return numpy_helper.to_array(self._tensors[name]) if name in self._tensors else None


def _is_text(message: Any) -> bool:
    """Return whether all strings of a protobuf message are UTF-8; others are read as bytes."""
    for field, value in message.ListFields():
        single = isinstance(value, (str, bytes)) or hasattr(value, "ListFields")
        items = [value] if single else value
        if field.type == field.TYPE_STRING and any(isinstance(item, bytes) for item in items):
            return False
        if field.type == field.TYPE_MESSAGE and not all(map(_is_text, items)):
            return False
    return True


def load_graph(path: Path) -> Any:
    """Load an ONNX model with its external weights, its nodes in the order of their inputs.

    Raises ArtifactError or MissingPackageError.
    """
    try:
        import onnx
        from onnx import external_data_helper
    except ImportError as e:
        raise MissingPackageError("onnx", needed_for="checking a graph", cause=e) from e
    hint = "make one with: srdeploy export MODEL -o DIR"
    foreign, remedy = foreign_file(path)
    not_onnx = ArtifactError(
        f"{path} is not an ONNX graph" + (f": {foreign}" if foreign else ""), hint=remedy or hint
    )
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as e:
        raise ArtifactError(f"cannot read {path}: {e.strerror or e}") from e
    except Exception as e:  # protobuf has several kinds
        raise not_onnx from e
    if not model.graph.node or not model.opset_import:
        raise not_onnx
    if not _is_text(model):
        raise ArtifactError(f"{path} is damaged: a name in it is not UTF-8", hint=hint)
    weight_files(path)
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as e:  # onnx raises its checker's errors and built-in ones
        reason = first_line(e)
        raise ArtifactError(f"cannot read the external weights of {path}: {reason}") from e
    for problem in _problems(model):
        raise ArtifactError(f"{path} is a damaged ONNX graph: {problem}", hint=hint)
    sort_nodes(model.graph)
    return model


def _problems(model: Any) -> Iterator[str]:
    """Yield what onnx itself could not read of a model."""
    from onnx import TensorProto, helper, numpy_helper

    if any(not 0 < opset.version < 1000 for opset in model.opset_import):
        yield "an opset has no version"
    types = TensorProto.DataType.values()
    bodies = [model.graph]
    for body in bodies:
        tensors = [(f"the tensor '{t.name[:80]}'", t) for t in body.initializer]
        for value in (*body.input, *body.value_info, *body.output):
            if value.type.tensor_type.elem_type not in types:
                yield f"the type of '{value.name[:80]}' is unknown"
        for node in body.node:
            where = f"the node '{(node.name or node.op_type)[:80]}'"
            if not node.output:
                yield f"{where} has no output"
            bodies += bodies_of(node)
            for attribute in node.attribute:
                tensors += [(where, attribute.t)] if attribute.HasField("t") else []
                try:
                    helper.get_attribute_value(attribute)
                except ValueError:
                    yield f"{where} has a malformed attribute '{attribute.name[:80]}'"
        for where, tensor in tensors:
            try:
                numpy_helper.to_array(tensor)
            except Exception:  # of numpy, protobuf and onnx, by what is wrong
                yield f"{where} has data that do not fit its type and shape"
