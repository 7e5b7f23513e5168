"""A check of FP16 graphs in real half precision.

ONNX Runtime's CPU provider computes FP16 graphs in FP32, so its output proves nothing, and that of
a GPU does not tell which tensor overflowed. The check runs a copy of the graph in FP32 in which
every FP16 result is rounded to FP16; FP32 results stay as they are. It shows overflows, dead
outputs, loss of quality, and the largest activations.

Products and sums are accumulated in FP32 inside of an operator: accumulation in FP16 is not
covered. Operators that runtimes compute in several FP16 steps are treated as these: Attention is
replaced by its ONNX definition, and squares and exponentials inside of others (`_INSIDE`) must not
exceed FP16. LayerNormalization and its like take their statistics in FP32 by definition
(`stash_type`); squares beyond FP16 inside of them are noted.
In bodies of If, Loop and Scan, results are rounded, but their peaks are not watched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Dict, Iterable, List, Mapping, NamedTuple, Sequence, Set, Tuple

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper

from sr_deploy.core.metrics import MIN_FP16_PSNR_DB, psnr_unit
from sr_deploy.runtime.graph_nodes import all_nodes, bodies_of, opset_of
from sr_deploy.runtime.graph_types import FP16_MAX, converted, element_types
from sr_deploy.runtime.ort import raw_session

_ROOT = math.sqrt(FP16_MAX)
_INSIDE = {
    "InstanceNormalization": ("squares", _ROOT),
    "LpNormalization": ("squares", _ROOT),
    "ReduceL2": ("squares", _ROOT),
    "ReduceLogSumExp": ("exponentiates", math.log(FP16_MAX)),
}
"""Operators that runtimes split into FP16 steps: what they do inside, and the largest input."""
_STASHED = ("GroupNormalization", "LayerNormalization", "RMSNormalization")
_ATTENTION = "Attention"
_NAMED = 3
Feeds = Mapping[str, np.ndarray]
"""Inputs of a graph by name."""
_SEQUENCES = ("Sequence", "SplitToSequence", "Optional")


class Overflow(NamedTuple):
    """A value beyond FP16, or not a number."""

    node: str
    op: str
    tensor: str
    peak: float
    """The largest magnitude before rounding."""
    inside: str = ""
    """For values inside of an operator, what it does with `tensor`: `squares`, `exponentiates`."""

    def __str__(self) -> str:
        does = f"{self.inside} values up to" if self.inside else "reaches"
        return f"node '{self.node}' ({self.op}) {does} {self.peak:.4g} in '{self.tensor}'"


@dataclass(frozen=True)
class HalfReport:
    """The effects of half precision on a graph."""

    psnr_db: float
    """Between the FP16 and FP32 outputs, clipped to 0..1, peak 1; of the worst image. NaN where
    the output is not a number."""
    overflows: Tuple[Overflow, ...]
    """Where values leave the range of FP16, in the order of the graph."""
    following: int
    """The number of further tensors with values beyond FP16, which come from these."""
    dead: bool
    """The output of some image is not finite, or is constant while the FP32 output is not."""
    largest: Dict[str, float]
    """The largest magnitude of each FP16 tensor in all images."""
    stashed: Dict[str, float]
    """Largest squares beyond FP16 inside of nodes whose statistics ONNX defines to be FP32."""

    def problems(self) -> List[str]:
        """Return descriptions of all problems."""
        problems = []
        if self.overflows:
            named = "; ".join(map(str, self.overflows[:_NAMED]))
            more = len(self.overflows) - _NAMED
            named += f"; and {more} more" if more > 0 else ""
            named += f" ({self.following} tensors follow from these)" if self.following else ""
            problems.append(f"values overflow: {named}")
        if self.dead:
            problems.append("the output is dead (constant, or not finite)")
        if self.psnr_db < MIN_FP16_PSNR_DB:
            psnr = f"{self.psnr_db:.1f} dB against FP32"
            problems.append(f"{psnr}, expected at least {MIN_FP16_PSNR_DB:.0f}")
        return problems


def check_half(
    half: onnx.ModelProto, images: Iterable[np.ndarray], references: Iterable[np.ndarray]
) -> HalfReport:
    """Run `half` in half precision on images, (1, 3, H, W) float32; compare with FP32 outputs."""
    source = half.graph.input[0].name
    return check_half_runs(half, [{source: x} for x in images], [[y] for y in references])


def check_half_runs(
    half: onnx.ModelProto,
    runs: Iterable[Feeds],
    references: Iterable[Sequence[np.ndarray]],
) -> HalfReport:
    """As `check_half`, of a graph with any inputs and outputs; `psnr_db` is of the first one.

    runs: float32 inputs by name for each run. references: the FP32 outputs of each.
    """
    half, owners = _decomposed(half)
    runs, references = list(runs), list(references)
    outputs, largest = _run(half, runs)
    worst, dead = float("inf"), False
    for found, expected in zip(outputs, references):
        for y, reference in zip(found, expected):
            dead = dead or not np.isfinite(y).all() or bool(np.std(y) < 1e-6 < np.std(reference))
        worst = float(np.minimum(worst, psnr_unit(found[0], expected[0])))  # keeps a NaN
    beyond = {tensor for tensor, peak in largest.items() if not peak <= FP16_MAX}
    if any(not math.isfinite(largest[tensor]) for tensor in beyond):
        # Masks may be infinite on purpose: then they are so without rounding, too.
        exact = _run(half, runs, rounding=False)[1]
        beyond = {t for t in beyond if math.isfinite(exact[t]) or math.isnan(largest[t])}
    overflows, after = _overflows(half, owners, largest, beyond)
    stashed = {}
    for node in half.graph.node:
        peak = largest.get(node.input[0], 0.0) if node.input else 0.0
        if _is_stashed(node, opset_of(half)) and _ROOT < peak <= FP16_MAX:
            stashed[node.name] = peak**2
    return HalfReport(worst, overflows, after, dead, largest, stashed)


def _overflows(
    half: onnx.ModelProto,
    owners: Dict[str, Tuple[str, str]],
    largest: Dict[str, float],
    beyond: Set[str],
) -> Tuple[Tuple[Overflow, ...], int]:
    """Return where values first exceed FP16, and the number of tensors that follow from these."""
    overflows: List[Overflow] = []
    after: Set[str] = set()
    makers = {name: node for node in half.graph.node for name in node.output}
    for node in half.graph.node:
        maker = makers.get(node.input[0], node) if node.op_type == "Cast" else node
        name, op = owners.get(maker.name, (maker.name, maker.op_type))
        follows = bool(after.intersection(node.input))
        for tensor in beyond.intersection(node.output):
            if not follows or math.isfinite(largest[tensor]):
                overflows.append(Overflow(name, op, tensor, largest[tensor]))
        if follows or beyond.intersection(node.output):
            after.update(node.output)
        overflows += _inside(node, opset_of(half), largest, beyond)
    named = {overflow.tensor for overflow in overflows}
    return tuple(overflows), len(beyond - named)


def run_half(
    half: onnx.ModelProto,
    images: Iterable[np.ndarray],
    *,
    rounding: bool = True,
    watch: bool = True,
) -> Tuple[List[np.ndarray], Dict[str, float]]:
    """Run a graph in half precision; return the outputs, and the peak of each FP16 tensor.

    rounding: False computes everything in FP32. watch: False takes no peaks, which is faster.
    """
    source = half.graph.input[0].name
    outputs, largest = _run(half, [{source: x} for x in images], rounding=rounding, watch=watch)
    return [y for y, *_ in outputs], largest


def _run(
    half: onnx.ModelProto, runs: Iterable[Feeds], *, rounding: bool = True, watch: bool = True
) -> Tuple[List[List[np.ndarray]], Dict[str, float]]:
    emulation, tensors = half_emulation(half, rounding=rounding, watch=watch)
    session = raw_session(emulation.SerializeToString(), optimise=False)
    rounded = {
        source.name
        for source in half.graph.input
        if source.type.tensor_type.elem_type == TensorProto.FLOAT16 and rounding
    }
    ends = len(half.graph.output)
    outputs: List[List[np.ndarray]] = []
    largest: Dict[str, float] = {}
    for feeds in runs:
        halves = {name: feeds[name].astype(np.float16).astype(np.float32) for name in rounded}
        results = session.run(None, {**feeds, **halves})
        outputs.append(results[:ends])
        peaks = results[ends:]
        for tensor, peak in zip(tensors, peaks):  # np.maximum keeps a NaN
            largest[tensor] = float(np.maximum(largest.get(tensor, 0.0), peak))
    return outputs, largest


def half_emulation(
    half: onnx.ModelProto, *, rounding: bool = True, watch: bool = True
) -> Tuple[onnx.ModelProto, List[str]]:
    """Return an FP32 copy of an FP16 graph that rounds every FP16 result, and their names.

    The copy has a further output for each result outside of branches and loops: its largest
    magnitude before rounding, unless `watch` is False. FP32 results of a mixed graph are not
    rounded.
    """
    emulation = onnx.ModelProto()
    emulation.CopyFrom(half)
    types, results = element_types(half), _Watched(rounding)
    _emulate(emulation.graph, types, results, watch=watch)
    peaks = [f"{name}/peak" for name in results.watched]
    emulation.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in peaks
    )
    return emulation, results.watched


class _Watched:
    """Writes what follows each result of an emulation: its rounding, and its peak."""

    def __init__(self, rounding: bool) -> None:
        self._rounding = rounding
        self.watched: List[str] = []

    def nodes(self, name: str, watch: bool) -> List[onnx.NodeProto]:
        exact, half, size = self.exact(name), f"{name}/half", f"{name}/abs"
        nodes = []
        if self._rounding:
            nodes.append(helper.make_node("Cast", [exact], [half], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
        if watch:
            self.watched.append(name)
            nodes.append(helper.make_node("Abs", [exact], [size]))
            nodes.append(helper.make_node("ReduceMax", [size], [f"{name}/peak"], keepdims=0))
        return nodes

    def exact(self, name: str) -> str:
        return f"{name}/exact" if self._rounding else name


def _emulate(
    graph: onnx.GraphProto, types: Dict[str, int], results: _Watched, *, watch: bool
) -> None:
    """Make a graph FP32, with its FP16 results rounded."""
    del graph.value_info[:]
    for value in [*graph.input, *graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        tensor.CopyFrom(_as_fp32(tensor))
    nodes: List[onnx.NodeProto] = []
    for node in graph.node:
        _make_fp32(node)
        for body in bodies_of(node):
            _emulate(body, types, results, watch=False)
        nodes.append(node)
        if node.op_type == "Constant" or node.op_type.startswith(_SEQUENCES):
            continue
        for i, name in enumerate(node.output):
            if types.get(name) == TensorProto.FLOAT16:
                node.output[i] = results.exact(name)
                nodes += results.nodes(name, watch)
    del graph.node[:]
    graph.node.extend(nodes)


def _make_fp32(node: onnx.NodeProto) -> None:
    """Replace FP16 by FP32 in the attributes of a node."""
    for attribute in node.attribute:
        is_type = attribute.name in ("to", "dtype", "output_datatype")
        if is_type and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t"):
            attribute.t.CopyFrom(_as_fp32(attribute.t))


def _as_fp32(tensor: TensorProto) -> TensorProto:
    is_half = tensor.data_type == TensorProto.FLOAT16
    return converted(tensor, TensorProto.FLOAT) if is_half else tensor


def _inside(
    node: onnx.NodeProto, opset: int, largest: Dict[str, float], beyond: Set[str]
) -> List[Overflow]:
    """Return the overflow of a node that splits into FP16 steps; empty if there is none."""
    does, limit = _INSIDE.get(node.op_type, ("", math.inf))
    if node.op_type in _STASHED and not _is_stashed(node, opset):
        does, limit = "squares", _ROOT
    tensor = node.input[0] if node.input else ""
    peak = largest.get(tensor, 0.0)
    if tensor in beyond or peak <= limit:
        return []
    return [Overflow(node.name, node.op_type, tensor, peak, does)]


def _is_stashed(node: onnx.NodeProto, opset: int) -> bool:
    """Return whether ONNX defines the statistics of a normalisation to be FP32."""
    if node.op_type not in _STASHED or (node.op_type == "GroupNormalization" and opset < 21):
        return False
    return all(a.i == TensorProto.FLOAT for a in node.attribute if a.name == "stash_type")


def _decomposed(half: onnx.ModelProto) -> Tuple[onnx.ModelProto, Dict[str, Tuple[str, str]]]:
    """Replace Attention by its ONNX definition; return the owners of the new nodes by name."""
    found = {
        name: (node.name, node.op_type)
        for node in all_nodes(half.graph)
        if node.op_type == _ATTENTION
        for name in node.output
    }
    if not found:
        return half, {}
    functions = [("", _ATTENTION)]
    inlined = onnx.inliner.inline_selected_functions(half, functions, inline_schema_functions=True)
    owners: Dict[str, Tuple[str, str]] = {}
    pending: List[onnx.NodeProto] = []
    for node in inlined.graph.node:
        if node.name:
            continue
        pending.append(node)
        owner = next((found[name] for name in node.output if name in found), None)
        if owner is not None:
            for inner in pending:
                inner.name = f"{owner[0]}/{inner.output[0]}"
                owners[inner.name] = owner
            pending = []
    return inlined, owners
