"""FP16 graphs, and what they do in real half precision.

onnxruntime's CPU provider computes FP16 graphs in FP32 and so cannot vouch for them. The check here runs a copy in which
every operator's result is rounded to FP16: what overflows, dies or degrades shows, as do the largest activations.
Products are summed in FP32; hardware that accumulates in FP16 is not covered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.core.errors import ExportError
from sr_deploy.core.manifest import mixed_precision
from sr_deploy.core.metrics import MIN_FP16_PSNR_DB, psnr_unit
from sr_deploy.export import opset as opsets

FP16_MAX = 65504.0
_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}


def fp16_graph(model: onnx.ModelProto, *, io_dtype: str) -> onnx.ModelProto:
    """Return the FP32 `model` with FP16 weights and tensors, input and output in `io_dtype`. Raises ExportError."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if (
            tensor.data_type == TensorProto.FLOAT
            and np.abs(numpy_helper.to_array(tensor)).max(initial=0) > FP16_MAX
        ):
            raise ExportError(
                f"the weight '{tensor.name}' exceeds FP16's largest number, {FP16_MAX:.0f}",
                hint="use --precision fp32",
            )
    # No operator is kept in FP32: a graph that says FP16 is FP16 throughout.
    half = convert_float_to_float16(copy, op_block_list=[])
    if io_dtype == "fp32":
        _cast_ends(half)
    opsets.check(half, half.opset_import[0].version)
    return half


def _cast_ends(half: onnx.ModelProto) -> None:
    """Give an FP16 graph an FP32 input and output: a cast before its first node and one after its last."""
    source, result = half.graph.input[0], half.graph.output[0]
    for node in half.graph.node:
        node.input[:] = [f"{n}_fp16" if n == source.name else n for n in node.input]
        node.output[:] = [f"{n}_fp16" if n == result.name else n for n in node.output]
    first = helper.make_node(
        "Cast", [source.name], [f"{source.name}_fp16"], name="cast_in", to=TensorProto.FLOAT16
    )
    last = helper.make_node(
        "Cast", [f"{result.name}_fp16"], [result.name], name="cast_out", to=TensorProto.FLOAT
    )
    half.graph.node.insert(0, first)
    half.graph.node.append(last)
    for value in (source, result):
        value.type.tensor_type.elem_type = TensorProto.FLOAT


def tensor_types(model: onnx.ModelProto) -> Dict[str, int]:
    """Return how many operator results are of each floating type, `{"fp16": 168}`: the precision a graph really has.

    Casts at the input and output are no computation and are left out.
    """
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {
        v.name: v.type.tensor_type.elem_type for v in [*typed.graph.value_info, *typed.graph.output]
    }
    names = {code: name for name, code in _TYPES.items()}
    counted: Dict[str, int] = {}
    for node in typed.graph.node:
        name = names.get(types.get(node.output[0], 0))
        if name is not None and node.op_type not in ("Cast", "Constant"):
            counted[name] = counted.get(name, 0) + 1
    return counted


def precision_of(model: onnx.ModelProto) -> str:
    """Return `fp16`, `fp32`, or `mixed: 3 fp32, 165 fp16`."""
    counted = tensor_types(model)
    if len(counted) == 1:
        return next(iter(counted))
    return mixed_precision(counted)


@dataclass(frozen=True)
class HalfReport:
    """What real half precision does to a graph on some images."""

    psnr_db: float
    """Between the FP16 and FP32 outputs, clipped to 0..1, peak 1; the worst image."""
    overflows: Tuple[str, ...]
    """Tensors with values FP16 cannot hold, or not-a-numbers."""
    dead: bool
    """The output of some image is constant though the FP32 output is not."""
    largest: Dict[str, float]
    """The largest magnitude of each tensor, over all images."""

    def problems(self) -> List[str]:
        found = []
        if self.overflows:
            found.append(
                f"{len(self.overflows)} tensors overflow, the first is '{self.overflows[0]}'"
            )
        if self.dead:
            found.append("the output is dead (constant)")
        if not self.psnr_db >= MIN_FP16_PSNR_DB:
            found.append(
                f"{self.psnr_db:.1f} dB against FP32, expected at least {MIN_FP16_PSNR_DB:.0f}"
            )
        return found


def check_half(
    half: onnx.ModelProto, images: Sequence[np.ndarray], references: Sequence[np.ndarray]
) -> HalfReport:
    """Run `half` in real half precision on images (1, 3, H, W) float32 and compare with its FP32 outputs."""
    from sr_deploy.runtime.ort import raw_session

    emulation, watched = half_emulation(half)
    session = raw_session(emulation.SerializeToString(), optimise=False)
    name = half.graph.input[0].name
    largest: Dict[str, float] = {}
    worst, dead = float("inf"), False
    for x, reference in zip(images, references):
        y, *peaks = session.run(None, {name: x})
        for tensor, peak in zip(watched, peaks):
            largest[tensor] = _larger(largest.get(tensor, 0.0), float(peak))
        dead |= bool(np.std(y) < 1e-6 < np.std(reference)) or not np.isfinite(y).all()
        worst = min(worst, psnr_unit(y, reference))
    overflows = tuple(t for t, peak in largest.items() if not peak <= FP16_MAX)
    return HalfReport(worst, overflows, dead, largest)


def half_emulation(half: onnx.ModelProto) -> Tuple[onnx.ModelProto, List[str]]:
    """Return an FP32 copy of an FP16 graph with every operator's result rounded to FP16, and the tensors it watches.

    The copy has one further output per watched tensor: the largest magnitude before rounding.
    """
    typed = onnx.shape_inference.infer_shapes(half, strict_mode=True)
    types = {
        v.name: v.type.tensor_type.elem_type for v in [*typed.graph.value_info, *typed.graph.output]
    }
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    opset = half.opset_import[0].version
    nodes: List[onnx.NodeProto] = []
    watched: List[str] = []
    peaks: List[onnx.ValueInfoProto] = []
    for source in half.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        for attribute in node.attribute:
            if (
                node.op_type == "Cast"
                and attribute.name == "to"
                and attribute.i == TensorProto.FLOAT16
            ):
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                attribute.t.CopyFrom(_as_fp32(attribute.t))
        rounded = [o for o in node.output if types.get(o) in floats]
        for i, name in enumerate(node.output):
            if name in rounded:
                node.output[i] = name + "/exact"
        nodes.append(node)
        for name in rounded:
            exact = name + "/exact"
            nodes.append(
                helper.make_node("Cast", [exact], [name + "/half"], to=TensorProto.FLOAT16)
            )
            nodes.append(helper.make_node("Cast", [name + "/half"], [name], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Abs", [exact], [name + "/abs"]))
            nodes.append(
                helper.make_node("ReduceMax", [name + "/abs"], [name + "/peak"], keepdims=0)
            )
            peaks.append(helper.make_tensor_value_info(name + "/peak", TensorProto.FLOAT, []))
            watched.append(name)
    graph_input = onnx.ValueInfoProto()
    graph_input.CopyFrom(half.graph.input[0])
    graph_output = onnx.ValueInfoProto()
    graph_output.CopyFrom(half.graph.output[0])
    for value in (graph_input, graph_output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    constants = [_as_fp32(t) for t in half.graph.initializer]
    graph = helper.make_graph(nodes, "half", [graph_input], [graph_output, *peaks], constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=half.ir_version
    ), watched


def _as_fp32(tensor: TensorProto) -> TensorProto:
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _larger(a: float, b: float) -> float:
    return b if not b <= a else a  # keeps a not-a-number once it has appeared
