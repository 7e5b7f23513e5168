"""An ONNX graph with what is known of its tensors: types, shapes, constants. Importable without onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from sr_deploy.core.errors import ArtifactError, MissingPackageError


class Node:
    """An ONNX node with what is known of its tensors."""

    def __init__(self, proto: Any, graph: Graph) -> None:
        from onnx import helper

        self.graph, self.op, self.domain = graph, proto.op_type, proto.domain
        self.name = proto.name or f"{proto.op_type}:{next(iter(proto.output), '')}"
        self.standard = proto.domain in ("", "ai.onnx")
        self.inputs, self.outputs = list(proto.input), list(proto.output)
        values = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        self.attributes = {
            k: v.decode("utf-8", "replace") if isinstance(v, bytes) else v
            for k, v in values.items()
        }

    def given(self, index: int) -> str:
        """The name of an input, empty where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def constant(self, index: int) -> Optional[np.ndarray]:
        return self.graph.constant(self.given(index))

    def shape(self, name: str) -> Optional[List[Optional[int]]]:
        return self.graph.shapes.get(name)

    def ints(self, attribute: str) -> List[int]:
        """An attribute as a list; a convolution's kernel is read off its weights where it is not written down."""
        value = self.attributes.get(attribute)
        if value is None and attribute == "kernel_shape" and self.op in ("Conv", "ConvTranspose"):
            value = (self.shape(self.given(1)) or [])[2:]
        return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


class Graph:
    """An ONNX model with the types and shapes of its tensors, those of its subgraphs included."""

    def __init__(self, model: Any) -> None:
        import onnx

        try:
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception:  # what cannot be inferred stays unknown; the rules say what is wrong
            pass
        self.opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)
        self.functions = {(f.domain, f.name) for f in model.functions}
        self.types: Dict[str, str] = {}
        self.shapes: Dict[str, List[Optional[int]]] = {}
        self._tensors: Dict[str, Any] = {}
        self.nodes: List[Node] = []
        self._read(model.graph)
        weights = {t.name for t in model.graph.initializer}
        self.inputs = [v.name for v in model.graph.input if v.name not in weights]
        self.outputs = [v.name for v in model.graph.output]

    def _read(self, body: Any) -> None:
        from onnx import AttributeProto, TensorProto

        for value in [*body.input, *body.value_info, *body.output]:
            tensor = value.type.tensor_type
            if tensor.elem_type:
                self.types[value.name] = TensorProto.DataType.Name(tensor.elem_type)
            if tensor.HasField("shape"):
                self.shapes[value.name] = [
                    d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim
                ]
        constants = [(t.name, t) for t in body.initializer]
        constants += [
            (n.output[0], a.t)
            for n in body.node
            if n.op_type == "Constant"
            for a in n.attribute
            if a.name == "value"
        ]
        for name, tensor in constants:
            self._tensors[name] = tensor
            self.types[name] = TensorProto.DataType.Name(tensor.data_type)
            self.shapes[name] = list(tensor.dims)
        for proto in body.node:
            self.nodes.append(Node(proto, self))
            for attribute in proto.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    self._read(attribute.g)

    def constant(self, name: str) -> Optional[np.ndarray]:
        from onnx import numpy_helper

        return numpy_helper.to_array(self._tensors[name]) if name in self._tensors else None


def load_graph(path: Path) -> Any:
    """Read an ONNX model, its weights in other files included. Raises ArtifactError, or MissingPackageError without onnx."""
    try:
        import onnx
        from onnx import external_data_helper
    except ImportError as e:
        raise MissingPackageError(
            "onnx", needed_for="checking a graph", extra="export", cause=e
        ) from e
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as e:
        raise ArtifactError(f"cannot read {path}: {e.strerror or e}") from e
    except Exception as e:  # protobuf's own kinds
        raise ArtifactError(
            f"{path} is not an ONNX graph", hint="make one with: srdeploy export MODEL -o DIR"
        ) from e
    if not model.graph.node or not model.opset_import:
        raise ArtifactError(
            f"{path} is not an ONNX graph", hint="make one with: srdeploy export MODEL -o DIR"
        )
    for tensor in model.graph.initializer:
        where = {e.key: e.value for e in tensor.external_data}.get("location")
        if where and not (path.parent / where).is_file():
            raise ArtifactError(
                f"{path} keeps its weights in the file '{where}', which is missing",
                hint="copy it to the same folder",
            )
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as e:  # onnx raises its checker's errors and plain ones
        raise ArtifactError(
            f"the weights that {path} keeps in another file cannot be read: {str(e).splitlines()[0]}"
        ) from e
    return model
