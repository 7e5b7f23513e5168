"""Puts the standard ends around a graph: (1, 3, H, W) float32 RGB, 0..1, to (1, 3, s*H, s*W).

All adaptation of graphs of unknown origin is here, in nodes that every parser reads. Around a
network that takes luma only, the colour differences are enlarged by MATLAB's bicubic kernel, with
repeated edges.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Set, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError, CannotRunHereError
from sr_deploy.core.images import cubic_kernel
from sr_deploy.core.interface import LUMA, ImageEnd, Interface
from sr_deploy.runtime.graph_nodes import (
    all_nodes,
    bodies_of,
    free_name,
    name_nodes,
    names_read,
    needed_nodes,
)
from sr_deploy.runtime.onnx_view import load_graph

INPUT, OUTPUT = "lr", "sr"
_NET_INPUT, _NET_OUTPUT = "network_input", "network_output"
_TO_NCHW = {"nhwc": (0, 3, 1, 2), "hwc": (2, 0, 1)}
_FROM_NCHW = {"nhwc": (0, 2, 3, 1), "hwc": (1, 2, 0)}
_MOVES = set(
    "Identity Transpose Reshape Squeeze Unsqueeze Flatten Slice DepthToSpace SpaceToDepth".split()
)
"""Operators that move values of any type without changing them."""
_ROUND_SINCE, _CLIP_BY_INPUTS, _AXES_BY_INPUT = 11, 11, 13
"""The opsets in which these began."""


def standard_graph(model: Any, interface: Interface, scale: int) -> Any:
    """Return a ModelProto with one input `lr` and one output `sr` around the network of `model`.

    model: a ModelProto whose weights are loaded; it is not changed. Functions are inlined, nodes
    that do not lead to the output are dropped, unnamed nodes get names. Raises ArtifactError if the
    interface does not fit the graph.
    """
    from onnx import inliner

    copy = type(model)()
    copy.CopyFrom(model)
    if copy.functions:
        copy = inliner.inline_local_functions(copy)
    graph = copy.graph
    _tidy(copy, interface)
    source = _one(graph.input, interface.input.name, "input")
    sides = _sides(source, interface.input)
    editor = _Editor(copy)
    editor.free_names({interface.input.name: _NET_INPUT, interface.output.name: _NET_OUTPUT})
    as_uint8 = interface.input.dtype == "uint8" and not _only_cast(graph, _NET_INPUT)
    is_float = interface.output.dtype == "fp32" or (
        interface.output.dtype == "uint8" and _float_output(editor)
    )
    before = _into_network(editor, interface, as_uint8=as_uint8)
    after = _out_of_network(editor, interface, scale, is_float=is_float)
    _replace(graph.node, [*before, *graph.node, *after])
    _set_ends(graph, sides, scale)
    return copy


def standard_bytes(path: Path, interface: Interface, scale: int) -> bytes:
    """Return the standard graph of a file, its weights included, for a runtime.

    Raises ArtifactError for a file that is no graph or lacks its weights, MissingPackageError
    without onnx, and CannotRunHereError for a graph of over 2 GiB, which no message can hold.
    """
    return serialised(standard_graph(load_graph(path), interface, scale))


def serialised(model: Any) -> bytes:
    """Return a ModelProto as bytes. Raises CannotRunHereError for one of over 2 GiB."""
    try:
        content: bytes = model.SerializeToString()
    except Exception as e:  # protobuf's kinds differ between its versions
        raise CannotRunHereError(f"the graph is too large for a runtime: {e}") from e
    return content


def _tidy(model: Any, interface: Interface) -> None:
    """Keep what leads to the output, give names to nodes, and drop what would be out of date."""
    graph = model.graph
    target = _one(graph.output, interface.output.name, "output")
    kept = needed_nodes(graph, [target.name])
    used = {name for node in kept for name in names_read(node)} | {target.name}
    weights = {t.name for t in (*graph.initializer, *(s.values for s in graph.sparse_initializer))}
    _replace(graph.node, kept)
    _replace(graph.initializer, [t for t in graph.initializer if t.name in used])
    _replace(graph.input, [v for v in graph.input if v.name not in weights])
    _replace(graph.output, [target])
    del graph.value_info[:]
    for node in all_nodes(graph):
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    name_nodes(model)
    domains = {node.domain for node in all_nodes(graph)} | {""}
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    if "" not in opsets:
        raise ArtifactError("the graph does not say which opset of ONNX it has")
    del model.opset_import[:]
    for domain, version in opsets.items():
        if domain in domains:
            model.opset_import.add(domain=domain, version=version)
    model.ir_version = max(model.ir_version, 4)  # before, weights had to be inputs


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _replace(field: Any, items: Sequence[Any]) -> None:
    """Give a repeated field of protobuf other items, some of which may be its own."""
    copies = [_copy(item) for item in items]
    del field[:]
    field.extend(copies)


def _one(values: Iterable[Any], name: str, what: str) -> Any:
    for value in values:
        if value.name == name:
            return value
    raise ArtifactError(f"the graph has no {what} '{name[:80]}'", hint="import the file again")


def _tensor_names(graph: Any) -> Set[str]:
    """Return the names of all tensors, also of those in graphs inside nodes."""
    names = {item.name for item in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names.update(node.input, node.output, *map(_tensor_names, bodies_of(node)))
    return names


def _rename(graph: Any, names: Dict[str, str]) -> None:
    """Rename tensors, also where graphs inside nodes read or make them."""
    for items in (graph.input, graph.output, graph.initializer, graph.value_info):
        for item in items:
            item.name = names.get(item.name, item.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for body in bodies_of(node):
            _rename(body, names)


def _readers(graph: Any, name: str) -> List[Any]:
    return [node for node in graph.node if name in names_read(node)]


def _only_cast(graph: Any, name: str) -> bool:
    """Return whether bytes are only moved and cast, so that whole floats can stand for them."""
    for node in _readers(graph, name):
        moved = node.op_type in _MOVES and node.input[0] == name
        if node.op_type != "Cast" and not (moved and _only_cast(graph, node.output[0])):
            return False
    return name != _NET_OUTPUT


def _float_output(editor: _Editor) -> bool:
    """Let the network's output be floats where a cast makes it bytes; return whether that is done.

    A cast to bytes cuts off fractions, as Floor does.
    """
    graph, name = editor.graph, _NET_OUTPUT
    makers = {output: node for node in graph.node for output in node.output}
    while name in makers and len(_readers(graph, name)) == (name != _NET_OUTPUT):
        node = makers[name]
        if node.op_type == "Cast":
            as_float = editor.cast(node.input[0], "fp32", node.name + "_float")
            node.op_type, node.input[0] = "Floor", as_float
            del node.attribute[:]
            at = list(graph.node).index(node)
            _replace(graph.node, [*graph.node[:at], *editor.take(), *graph.node[at:]])
            return True
        if node.op_type not in _MOVES:
            break
        name = node.input[0]
    return False


class _Editor:
    """Adds nodes and constants with names that are free."""

    def __init__(self, model: Any) -> None:
        self.graph = model.graph
        self.opset = next(o.version for o in model.opset_import if o.domain == "")
        self._taken = _tensor_names(self.graph) | {n.name for n in all_nodes(self.graph)}
        self._nodes: List[Any] = []

    def free_names(self, ends: Dict[str, str]) -> None:
        """Rename the ends of the network, and tensors within it that have names of ends."""
        reserved = {INPUT, OUTPUT, *ends.values()}
        self._taken |= reserved
        inner = {name: free_name(name, self._taken) for name in reserved - set(ends)}
        _rename(self.graph, {**inner, **ends})

    def add(self, op: str, inputs: Sequence[str], label: str, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        from onnx import helper

        name = free_name(label, self._taken)
        self._nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: Any, label: str) -> str:
        from onnx import numpy_helper

        name = free_name(label, self._taken)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def take(self) -> List[Any]:
        """Return the nodes that were added since the last call."""
        nodes, self._nodes = self._nodes, []
        return nodes

    # Operators whose form depends on the opset.

    def clip(self, name: str, low: float, high: float, label: str) -> str:
        if self.opset < _CLIP_BY_INPUTS:
            return self.add("Clip", [name], label, min=low, max=high)
        bounds = [self.constant(np.float32(value), label + "_bound") for value in (low, high)]
        return self.add("Clip", [name, *bounds], label)

    def round(self, name: str, label: str) -> str:
        """Round half to even; half up before opset 11, which has no other way."""
        if self.opset >= _ROUND_SINCE:
            return self.add("Round", [name], label)
        half = self.add("Add", [name, self.constant(np.float32(0.5), label + "_half")], label)
        return self.add("Floor", [half], label)

    def axis(self, op: str, name: str, label: str) -> str:
        """Add Squeeze or Unsqueeze of the first axis."""
        if self.opset < _AXES_BY_INPUT:
            return self.add(op, [name], label, axes=[0])
        return self.add(op, [name, self.constant(np.array([0]), label + "_axes")], label)

    def cast(self, name: str, dtype: str, label: str) -> str:
        from onnx import TensorProto

        types = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
        return self.add("Cast", [name], label, to=types[dtype])

    def scaled(self, name: str, factor: float, offset: float, label: str) -> str:
        """Return name * factor + offset, without what changes nothing."""
        if factor != 1:
            name = self.add("Mul", [name, self.constant(np.float32(factor), label)], label + "_mul")
        if offset != 0:
            name = self.add("Add", [name, self.constant(np.float32(offset), label)], label + "_add")
        return name

    def conv(
        self, name: str, weight: np.ndarray, bias: Optional[Sequence[float]], label: str
    ) -> str:
        inputs = [name, self.constant(weight.astype(np.float32), label + "_weight")]
        if bias is not None:
            inputs.append(self.constant(np.array(bias, np.float32), label + "_bias"))
        return self.add("Conv", inputs, label, kernel_shape=list(weight.shape[2:]))

    def reversed_channels(self, name: str, label: str) -> str:
        order = self.constant(np.array([2, 1, 0]), label + "_order")
        return self.add("Gather", [name, order], label, axis=1)


def _into_network(editor: _Editor, interface: Interface, *, as_uint8: bool) -> List[Any]:
    """Return the nodes from `lr` to the network's input."""
    end, label = interface.input, "lr_to_network"
    low, high = end.values
    name = INPUT
    if interface.colours == "y":
        weight = np.array(LUMA, np.float64).reshape(1, 3, 1, 1) * (high - low)
        name = editor.conv(name, weight, [low] if low else None, label)
    else:
        if interface.colours == "bgr":
            name = editor.reversed_channels(name, label)
        name = editor.scaled(name, high - low, low, label)
    if end.dtype == "uint8":
        name = editor.clip(editor.round(name, label), 0.0, 255.0, label)
    if end.dtype == "fp16" or (end.dtype == "uint8" and as_uint8):
        name = editor.cast(name, end.dtype, label)
    if end.layout in ("chw", "hwc"):
        name = editor.axis("Squeeze", name, label)
    if end.layout in _FROM_NCHW:
        name = editor.add("Transpose", [name], label, perm=_FROM_NCHW[end.layout])
    return _ended(editor, _NET_INPUT, {_NET_INPUT: INPUT})


def _out_of_network(
    editor: _Editor, interface: Interface, scale: int, *, is_float: bool
) -> List[Any]:
    """Return the nodes from the network's output to `sr`."""
    end, label = interface.output, "network_to_sr"
    low, high = end.values
    name = _NET_OUTPUT
    if end.layout in _TO_NCHW:
        name = editor.add("Transpose", [name], label, perm=_TO_NCHW[end.layout])
    if end.layout in ("chw", "hwc"):
        name = editor.axis("Unsqueeze", name, label)
    if not is_float:
        name = editor.cast(name, "fp32", label)
    if low:
        name = editor.scaled(name, 1, -low, label)
    if high - low != 1:
        span = editor.constant(np.float32(high - low), label + "_span")
        name = editor.add("Div", [name, span], label)
    if interface.colours == "bgr":
        name = editor.reversed_channels(name, label)
    if interface.colours == "y":
        name = editor.add("Add", [_enlarged_chroma(editor, scale), name], label)
    return _ended(editor, OUTPUT, {_NET_OUTPUT: OUTPUT})


def _ended(editor: _Editor, output: str, names: Dict[str, str]) -> List[Any]:
    """Return the added nodes, the last of which makes `output`; rename if there are none."""
    nodes = editor.take()
    if nodes:
        nodes[-1].output[0] = output
    else:
        _rename(editor.graph, names)
    return nodes


def _enlarged_chroma(editor: _Editor, scale: int) -> str:
    """Add nodes that enlarge RGB - Y by bicubic interpolation; return their output.

    R, G and B are Y plus sums of Cb and Cr, so that this equals enlarging Cb and Cr.
    """
    label = "chroma"
    weight = bicubic_weights(scale)
    name = _padded(editor, INPUT, weight.shape[2] // 2, label)
    name = editor.conv(name, weight, None, label)
    if scale == 1:
        return name
    return editor.add("DepthToSpace", [name], label, blocksize=scale)


def _padded(editor: _Editor, name: str, px: int, label: str) -> str:
    if not px:
        return name
    pads = [0, 0, px, px] * 2
    if editor.opset < _CLIP_BY_INPUTS:  # of Pad, too, since opset 11
        return editor.add("Pad", [name], label, mode="edge", pads=pads)
    return editor.add("Pad", [name, editor.constant(np.array(pads), label)], label, mode="edge")


def bicubic_weights(scale: int) -> np.ndarray:
    """Return the convolution that makes the enlarged RGB - Y of an RGB image, before DepthToSpace.

    (3*scale**2, 3, 5, 5) float64, (3, 3, 1, 1) for a scale of 1; outputs in the order of
    DepthToSpace's mode DCR.
    """
    reach = 0 if scale == 1 else 2
    centres = (np.arange(scale) + 0.5) / scale - 0.5
    taps = cubic_kernel(centres[:, None] - np.arange(-reach, reach + 1))  # (scale, taps)
    taps /= taps.sum(axis=1, keepdims=True)
    colour = np.eye(3) - np.array(LUMA)  # (out, in)
    weights = np.einsum("iy,jx,oc->ijocyx", taps, taps, colour)
    return weights.reshape(3 * scale**2, 3, 2 * reach + 1, 2 * reach + 1)


def _sides(value: Any, end: ImageEnd) -> Tuple[Optional[int], Optional[int]]:
    """Return the declared height and width; None where they are free."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) != len(end.layout):
        return None, None
    h, w = (n if n > 0 else None for n in (dims[axis].dim_value for axis in end.axes_hw))
    return h, w


def _set_ends(graph: Any, sides: Tuple[Optional[int], Optional[int]], scale: int) -> None:
    from onnx import TensorProto, helper

    outer = [n and scale * n for n in sides]
    for field, name, hw in ((graph.input, INPUT, sides), (graph.output, OUTPUT, outer)):
        shape = [1, 3, *(n or f"{name}_{side}" for n, side in zip(hw, "hw"))]
        del field[:]
        field.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
