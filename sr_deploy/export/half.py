"""Conversion of graphs to FP16, and a check in real half precision.

ONNX Runtime's CPU provider computes FP16 graphs in FP32, so its output proves nothing, and that of
a GPU does not tell which tensor overflowed. The check runs a copy of the graph in which the result
of every operator is rounded to FP16. It shows overflows, dead outputs, loss of quality, and the
largest activations. Products are summed in FP32: accumulation in FP16 is not covered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.core.errors import ExportError
from sr_deploy.core.manifest import mixed_precision
from sr_deploy.core.metrics import MIN_FP16_PSNR_DB, psnr_unit
from sr_deploy.export.opset import check as check_opset

FP16_MAX = 65504.0
_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}


def fp16_graph(model: onnx.ModelProto, *, io_dtype: str) -> onnx.ModelProto:
    """Return the FP32 `model` in FP16, with input and output in `io_dtype`. Raises ExportError."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if (
            tensor.data_type == TensorProto.FLOAT
            and np.abs(numpy_helper.to_array(tensor)).max(initial=0) > FP16_MAX
        ):
            raise ExportError(
                f"the weight '{tensor.name}' exceeds the largest FP16 number, {FP16_MAX:.0f}",
                hint="use --precision fp32",
            )
    # By default the converter leaves some operators in FP32.
    half = convert_float_to_float16(copy, op_block_list=[])
    if io_dtype == "fp32":
        _cast_ends(half)
    check_opset(half, half.opset_import[0].version)
    return half


def _cast_ends(half: onnx.ModelProto) -> None:
    """Give an FP16 graph FP32 input and output by casts at both ends."""
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


def _element_types(model: onnx.ModelProto) -> Dict[str, int]:
    """Return the element types of all operator results by name."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.output]}


def tensor_types(model: onnx.ModelProto) -> Dict[str, int]:
    """Return the number of operator results of each floating type, such as `{"fp16": 168}`.

    Casts are not counted.
    """
    types = _element_types(model)
    names: Dict[Optional[int], str] = {code: name for name, code in _TYPES.items()}
    counts: Dict[str, int] = {}
    for node in model.graph.node:
        name = names.get(types.get(node.output[0]))
        if name is not None and node.op_type not in ("Cast", "Constant"):
            counts[name] = counts.get(name, 0) + 1
    return counts


def precision_of(model: onnx.ModelProto) -> str:
    """Return `fp16`, `fp32`, or for example `mixed: 3 fp32, 165 fp16`."""
    counts = tensor_types(model)
    return next(iter(counts)) if len(counts) == 1 else mixed_precision(counts)


@dataclass(frozen=True)
class HalfReport:
    """The effects of half precision on a graph."""

    psnr_db: float
    """Between the FP16 and FP32 outputs, clipped to 0..1, peak 1; of the worst image."""
    overflows: Tuple[str, ...]
    """Tensors with values beyond FP16 or NaNs."""
    dead: bool
    """The output of some image is not finite, or is constant while the FP32 output is not."""
    largest: Dict[str, float]
    """The largest magnitude of each tensor in all images."""

    def problems(self) -> List[str]:
        """Return descriptions of all problems."""
        problems = []
        if self.overflows:
            count, first = len(self.overflows), self.overflows[0]
            problems.append(f"{count} tensors overflow, the first is '{first}'")
        if self.dead:
            problems.append("the output is dead (constant)")
        if not self.psnr_db >= MIN_FP16_PSNR_DB:
            psnr = f"{self.psnr_db:.1f} dB against FP32"
            problems.append(f"{psnr}, expected at least {MIN_FP16_PSNR_DB:.0f}")
        return problems


def check_half(
    half: onnx.ModelProto, images: Sequence[np.ndarray], references: Sequence[np.ndarray]
) -> HalfReport:
    """Run `half` in half precision on images, (1, 3, H, W) float32; compare with FP32 outputs."""
    from sr_deploy.runtime.ort import raw_session

    emulation, tensors = half_emulation(half)
    session = raw_session(emulation.SerializeToString(), optimise=False)
    name = half.graph.input[0].name
    largest: Dict[str, float] = {}
    worst, dead = float("inf"), False
    for x, reference in zip(images, references):
        y, *peaks = session.run(None, {name: x})
        for tensor, peak in zip(tensors, peaks):  # np.maximum keeps a NaN
            largest[tensor] = float(np.maximum(largest.get(tensor, 0.0), peak))
        dead |= bool(np.std(y) < 1e-6 < np.std(reference)) or not np.isfinite(y).all()
        worst = min(worst, psnr_unit(y, reference))
    overflows = tuple(t for t, peak in largest.items() if not peak <= FP16_MAX)
    return HalfReport(worst, overflows, dead, largest)


def half_emulation(half: onnx.ModelProto) -> Tuple[onnx.ModelProto, List[str]]:
    """Return an FP32 copy of an FP16 graph that rounds every result to FP16, and their names.

    The copy has a further output for each result: its largest magnitude before rounding.
    """
    types = _element_types(half)
    opset = half.opset_import[0].version
    nodes: List[onnx.NodeProto] = []
    results: List[str] = []
    for source in half.graph.node:
        node = _fp32_node(source)
        rounded = [name for name in node.output if types.get(name) in _TYPES.values()]
        node.output[:] = [f"{name}/exact" if name in rounded else name for name in node.output]
        nodes.append(node)
        for name in rounded:
            exact = name + "/exact"
            nodes += [
                helper.make_node("Cast", [exact], [name + "/half"], to=TensorProto.FLOAT16),
                helper.make_node("Cast", [name + "/half"], [name], to=TensorProto.FLOAT),
                helper.make_node("Abs", [exact], [name + "/abs"]),
                helper.make_node("ReduceMax", [name + "/abs"], [name + "/peak"], keepdims=0),
            ]
        results += rounded
    ends = []
    for end in (half.graph.input[0], half.graph.output[0]):
        value = onnx.ValueInfoProto()
        value.CopyFrom(end)
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        ends.append(value)
    peaks = [helper.make_tensor_value_info(f"{r}/peak", TensorProto.FLOAT, []) for r in results]
    constants = [_as_fp32(t) for t in half.graph.initializer]
    graph = helper.make_graph(nodes, "half", ends[:1], [ends[1], *peaks], constants)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=half.ir_version), results


def _fp32_node(source: onnx.NodeProto) -> onnx.NodeProto:
    """Copy a node with FP32 in place of FP16 in casts and constants."""
    node = onnx.NodeProto()
    node.CopyFrom(source)
    for attribute in node.attribute:
        is_cast_type = node.op_type == "Cast" and attribute.name == "to"
        if is_cast_type and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t"):
            attribute.t.CopyFrom(_as_fp32(attribute.t))
    return node


def _as_fp32(tensor: TensorProto) -> TensorProto:
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
