"""Checks what a target's ONNX parser would do with a graph, node by node, before it is built.

A check yields messages about a node or the graph; its `Rule` says when it applies.
The rules of quantised graphs are in `quantisation_rules`. Sources of the facts: [ops N]
docs/operators.md of onnx-tensorrt's release N, [log] its docs/Changelog.md, [code] its
builtin_op_importers.cpp, [dla] TensorRT's page of DLA layer restrictions and operators/README.md of
Deep-Learning-Accelerator-SW, [rtx] single-node graphs given to tensorrt_rtx 1.7.1, and its release
notes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import BuildError
from sr_deploy.core.target import ONNX_RUNTIMES, RUNTIMES, TargetProfile
from sr_deploy.runtime import quantisation_rules  # noqa: F401 - adds its rules to RULES
from sr_deploy.runtime.onnx_view import Graph, Node, load_graph
from sr_deploy.runtime.parser_rules import (
    EXPORT,
    EXPORT_AGAIN,
    RTX,
    RULES,
    Finding,
    Parser,
    Rule,
    Version,
    not_read,
)
from sr_deploy.runtime.quantised_graph import without_quantisation


def preflight(
    onnx_path: Path,
    target: TargetProfile,
    *,
    precision: str = "fp16",
    dla: bool = False,
    part: bool = False,
) -> List[Finding]:
    """Return the findings about a graph for the parser of `target`: the graph's, then the nodes'.

    precision: the engine's. part: the graph is a part of an adaptive network, with inputs of any
    kind. Raises ArtifactError when the file is not an ONNX graph or its external
    weights are missing, and MissingPackageError without onnx.
    """
    model = load_graph(Path(onnx_path))
    return preflight_model(model, target, precision=precision, dla=dla, part=part)


def preflight_model(
    model: Any,
    target: TargetProfile,
    *,
    precision: str = "fp16",
    dla: bool = False,
    part: bool = False,
) -> List[Finding]:
    """Return the findings about a ModelProto; see `preflight`."""
    if dla and precision == "int8":  # it is built without its Q/DQ pairs, of FP32 and FP16
        model, precision = without_quantisation(model), "fp16"
    graph = Graph(model)
    to = Parser(target, precision, dla, part)
    findings: List[Tuple[int, Finding]] = []
    for rule, check in RULES:
        if target.runtime in rule.runtimes and to.before(rule.before) and (dla or not rule.dla):
            findings += rule.findings(check, graph, to)
    return [finding for _, finding in sorted(findings, key=lambda pair: pair[0])]


def refuse(findings: Sequence[Finding], onnx_name: str, target: TargetProfile) -> None:
    """Raise BuildError when there are errors among `findings`; it names three of them in full."""
    errors = [f for f in findings if f.severity == "error"]
    if errors:
        reasons = [f"{f.where}: {f.what}" for f in errors[:3]]
        reasons += [f"and {len(errors) - 3} more"] if len(errors) > 3 else []
        problem = f"{onnx_name} cannot be built for '{target.name}': {'; '.join(reasons)}"
        raise BuildError(problem, hint=errors[0].hint)


def summary(findings: Sequence[Finding], target: TargetProfile) -> Dict[str, object]:
    """Return the record in a manifest of findings that `refuse` accepted."""
    return {"target": target.name, "warnings": [f"{f.where}: {f.what}" for f in findings]}


# Facts ------------------------------------------------------------------------------------------

# The first TensorRT that reads an operator. [log; ops 8.0, 8.4, 8.5, 10.15] CastLike, Gelu and Mish
# are not read by 8.6; it is unknown when they were added.
_ADDED: Dict[str, Version] = {
    op: version
    for version, ops in (
        ((8, 2), "Einsum GatherND If IsNaN Round Scatter ScatterElements ScatterND Sign"),
        ((8, 4), "Shrink Xor"),
        ((8, 5), "GridSample HardSwish MeanVarianceNormalization Mod NonZero OneHot RandomNormal"),
        ((8, 5), "RandomNormalLike RoiAlign Trilu"),
        ((8, 6), "GroupNormalization IsInf LayerNormalization"),
        ((9, 2), "Hardmax"),
        ((10, 0), "CastLike Gelu Mish"),
        ((10, 1), "DeformConv"),
        ((10, 4), "BlackmanWindow HammingWindow HannWindow"),
        ((10, 5), "STFT"),
        ((10, 15), "RMSNormalization RotaryEmbedding TensorScatter"),
    )
    for op in ops.split()
}
# Read by no version. [ops 8.0 to 10.15]
_NEVER = set(
    "AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im"
    " Compress ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear ImageDecoder"
    " MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss"
    " Optional OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch"
    " SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength"
    " SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer StringSplit"
    " TfIdfVectorizer Unique".split()
)
_NOT_ON_RTX = {"DeformConv", "NonMaxSuppression", "NonZero", "RoiAlign"}  # plugins [rtx]
_REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd"
    " ReduceSumSquare"
)

# Operator, attribute, the values that are read, and the first version that reads all values.
# [log; ops 10.15; code; rtx]
_COORDINATES = "half_pixel pytorch_half_pixel tf_half_pixel_for_nn asymmetric align_corners".split()
_VALUES: Tuple[Tuple[str, str, Sequence[Any], Optional[Version]], ...] = (
    ("Resize", "antialias", (0,), None),
    ("Resize", "keep_aspect_ratio_policy", ("stretch",), None),
    ("Resize", "coordinate_transformation_mode", _COORDINATES, None),
    ("Resize", "mode", ("nearest", "linear"), (8, 4)),
    ("Pad", "mode", ("constant",), (8, 2)),
    ("Pad", "mode", ("constant", "reflect", "edge"), (10, 0)),
    ("ScatterND", "reduction", ("none",), None),
    ("MaxPool", "dilations", (1,), None),
    ("AveragePool", "dilations", (1,), None),
)
# Operator, input, its name, and the first version that takes a computed one. [ops 8.0, 8.4, 8.5,
# 10.15; log] The axes of ReduceSum are an input since opset 13, of the other reductions since 18.
_CONSTANT: Tuple[Tuple[str, int, str, Optional[Version]], ...] = (
    ("Clip", 1, "min", (8, 4)), ("Clip", 2, "max", (8, 4)), ("Split", 1, "split", (8, 4)),
    ("Resize", 2, "scales", (8, 4)), ("Pad", 1, "pads", (8, 2)), ("Pad", 3, "axes", (10, 4)),
    ("ConvTranspose", 1, "weights", (8, 5)), ("TopK", 1, "K", (8, 6)),
    ("InstanceNormalization", 1, "scale", (10, 0)), ("InstanceNormalization", 2, "B", (10, 0)),
    ("Slice", 3, "axes", (10, 3)), ("Squeeze", 1, "axes", (10, 7)),
    ("Unsqueeze", 1, "axes", (10, 7)), ("CumSum", 1, "axis", None),
    *((op, 1, "axes", None) for op in ["ReduceSum", *_REDUCTIONS.split()]),
)  # fmt: skip
# The first version that has a type. Other types are read by none. DOUBLE is read as FP32.
# [log; ops 8.0 to 10.15; rtx]
_TYPES: Dict[str, Version] = {
    **dict.fromkeys(("FLOAT", "FLOAT16", "DOUBLE", "INT8", "INT32", "INT64", "BOOL"), (0,)),
    **dict.fromkeys(("BFLOAT16", "FLOAT8E4M3FN"), (9, 0)),
    "UINT8": (8, 5),
    "INT4": (10, 0),
}
_TOPK_MAX = 3840  # [ops 10.15; rtx: 3840 builds, 3841 does not]

# [dla]; includes what disappears from a static graph when it is built.
_ON_DLA = set(
    "Abs Add AveragePool BatchNormalization Clip Concat Constant ConstantOfShape Conv ConvTranspose"
    " Gemm Identity LRN LeakyRelu MatMul Max MaxPool Min Mul PRelu Relu Reshape Resize Shape"
    " Sigmoid Slice Softmax Split Sub Sum Tanh Transpose".split()
)
_POOL_RANGES = {"kernel_shape": (1, 8), "strides": (1, 16), "dilations": (1, 1)}
_DLA_RANGES: Dict[str, Dict[str, Tuple[int, int]]] = {  # [dla]
    "Conv": {"kernel_shape": (1, 32), "pads": (0, 31), "strides": (1, 8), "dilations": (1, 32),
             "group": (1, 8192)},
    "ConvTranspose": {"kernel_shape": (1, 32), "pads": (0, 0), "dilations": (1, 1),
                      "group": (1, 1), "output_padding": (0, 0)},
    "MaxPool": _POOL_RANGES, "AveragePool": _POOL_RANGES, "Concat": {"axis": (1, 1)},
}  # fmt: skip
_DLA_CONSTANT = ("Conv", "ConvTranspose", "PRelu", "MatMul", "Gemm")
"""Operators whose second input must be constant."""

_REPLACE = "replace it by operators that this parser reads"
_STANDARD = "write it with standard ONNX operators"


def _dims(shape: Optional[Sequence[Optional[int]]]) -> str:
    if shape is None:
        return "of unknown rank"
    return "(" + ", ".join("?" if n is None else str(n) for n in shape) + ")"


# Rules for the graph ----------------------------------------------------------------------------


@Rule(EXPORT_AGAIN + "{target}", subject="graph", runtimes=RUNTIMES)
def _opset(graph: Graph, to: Parser) -> Iterator[str]:
    if graph.opset > to.target.opset:
        yield (
            f"it has opset {graph.opset}, but this parser reads at most {to.target.opset}, and "
            "misreads newer operators without an error"
        )


@Rule("export a super-resolution network with srdeploy export", subject="graph")
def _image(graph: Graph, to: Parser) -> Iterator[str]:
    shapes = [graph.shapes.get(name) for name in graph.inputs]
    if to.part:
        return
    if len(shapes) != 1 or shapes[0] is None or len(shapes[0]) != 4 or shapes[0][1] != 3:
        pairs = zip(graph.inputs, shapes)
        inputs = ", ".join(f"{name} {_dims(shape)}" for name, shape in pairs)
        yield f"expected one input (1, 3, H, W), found {inputs or 'none'}"


@Rule("export it with a batch of 1", subject="graph", severity="warning")
def _dynamic_batch(graph: Graph, to: Parser) -> Iterator[str]:
    shapes = [graph.shapes.get(name) for name in graph.inputs]
    one = len(shapes) == 1 and not to.part
    if one and shapes[0] and len(shapes[0]) == 4 and shapes[0][:2] == [None, 3]:
        yield "its batch is dynamic; the engine is built for a batch of 1"


@Rule(EXPORT, subject="graph")
def _fp16_tensors(graph: Graph, to: Parser) -> Iterator[str]:
    tensors = sum(kind == "FLOAT16" for kind in graph.types.values())
    if tensors and not (to.precision in ("fp16", "int8") and to.strongly_typed):
        yield f"{tensors} of its tensors are FP16, " + (
            "and the network is strongly typed: the engine would not be FP32"
            if to.strongly_typed
            else "but the network is weakly typed: such a graph computes in FP32 without the flag"
        )


_NO_COMPUTATION = "Cast Constant ConstantOfShape QuantizeLinear DequantizeLinear".split()


def _nodes_by_type(graph: Graph, to: Parser) -> Dict[str, List[Node]]:
    """Return the computing nodes by output type, without scalars and vectors, where typing is
    strong and FP16 was requested, for all or for what INT8 leaves; else nothing.
    """
    nodes: Dict[str, List[Node]] = {}
    if to.precision not in ("fp16", "int8") or not to.strongly_typed:
        return nodes
    for node in graph.nodes:
        if node.outputs and node.op not in _NO_COMPUTATION:
            if len(graph.shapes.get(node.outputs[0], [0, 0])) > 1:
                nodes.setdefault(graph.types.get(node.outputs[0], ""), []).append(node)
    return nodes


@Rule(EXPORT, subject="graph")
def _fp32_tensors(graph: Graph, to: Parser) -> Iterator[str]:
    nodes = _nodes_by_type(graph, to)
    if "FLOAT" in nodes and "FLOAT16" not in nodes:
        yield (
            "its tensors are FP32, and the network is strongly typed: "
            "the engine would silently be FP32"
        )


@Rule(EXPORT, subject="graph", severity="warning")
def _mixed_tensors(graph: Graph, to: Parser) -> Iterator[str]:
    nodes = _nodes_by_type(graph, to)
    if "FLOAT" in nodes and "FLOAT16" in nodes:
        fp32, total = nodes["FLOAT"], sum(map(len, nodes.values()))
        count = f"{len(fp32)} of {total} nodes"
        first = fp32[0].name
        yield f"{count} compute in FP32, the first is '{first}'; the network is strongly typed"


@Rule("omit --dla", subject="graph", runtimes=RUNTIMES, dla=True)
def _has_dla(graph: Graph, to: Parser) -> Iterator[str]:
    if not to.target.dla_cores:
        yield f"target '{to.target.name}' has no DLA"


@Rule("build an FP16 engine", subject="graph", runtimes=RUNTIMES, dla=True)
def _dla_precision(graph: Graph, to: Parser) -> Iterator[str]:
    if to.target.dla_cores and to.precision not in ("fp16", "int8"):
        yield f"the DLA does not compute in {to.precision.upper()}"


@Rule("export it with --size HxW", subject="graph", runtimes=RUNTIMES, dla=True)
def _dla_shapes(graph: Graph, to: Parser) -> Iterator[str]:
    for name in graph.inputs if to.target.dla_cores else ():
        shape = graph.shapes.get(name)
        if shape is None or None in shape:
            yield f"the DLA takes static shapes only, but '{name}' is {_dims(shape)}"


# Rules for nodes --------------------------------------------------------------------------------


@Rule(_STANDARD, subject="foreign", runtimes=RUNTIMES)
def _domain(node: Node, to: Parser) -> Iterator[str]:
    onnxruntime = to.target.runtime in ONNX_RUNTIMES
    is_function = (node.domain, node.op) in node.graph.functions
    read = is_function and (onnxruntime or not to.before((9, 0)))  # [log]
    if not read and not (onnxruntime and node.domain in ("com.microsoft", "ai.onnx.ml")):
        yield f"it is an operator of the domain '{node.domain}'"


def _schema(node: Node) -> Any:
    """Return the operator's definition in the graph's opset; None when it has none."""
    from onnx import defs

    try:
        return defs.get_schema(node.op, node.graph.opset, "")
    except defs.SchemaError:
        return None


@Rule(_STANDARD, runtimes=RUNTIMES)
def _unknown(node: Node, to: Parser) -> Iterator[str]:
    if _schema(node) is None:
        yield f"opset {node.graph.opset} has no such operator"


@Rule("export it again: it uses a newer opset than it declares", runtimes=RUNTIMES)
def _newer(node: Node, to: Parser) -> Iterator[str]:
    schema = _schema(node)
    unknown = [a for a in node.attributes if schema and a not in schema.attributes]
    if unknown or (schema and len(node.inputs) > schema.max_input):
        extra = f"the attribute '{unknown[0]}'" if unknown else f"{len(node.inputs)} inputs"
        yield f"in opset {node.graph.opset} it cannot have {extra}"


@Rule(_REPLACE)
def _unsupported(node: Node, to: Parser) -> Iterator[str]:
    first = _ADDED.get(node.op) if node.op != "LayerNormalization" else None
    if node.op in _NEVER or (to.rtx and node.op in _NOT_ON_RTX):
        yield "this parser does not read the operator"
    elif first and to.before(first):
        yield f"the operator is {not_read(first)}"


@Rule(EXPORT, "LayerNormalization")
def _layer_norm(node: Node, to: Parser) -> Iterator[str]:
    if to.before(_ADDED[node.op]):
        yield f"the operator is {not_read(_ADDED[node.op])}"


@Rule("use a value that is read")
def _values(node: Node, to: Parser) -> Iterator[str]:
    for op, attribute, read, first in _VALUES:
        unread = [v for v in node.ints(attribute) if v not in read] if op == node.op else []
        if unread and to.before(first):
            expected = " or ".join(map(str, read))
            yield f"{attribute}={unread[0]} is {not_read(first)}; expected {expected}"
            return


@Rule("make it a constant of the graph")
def _constants(node: Node, to: Parser) -> Iterator[str]:
    for op, index, name, first in _CONSTANT:
        if op == node.op and node.is_computed(index) and to.before(first):
            yield f"its input '{name}' is computed, which is {not_read(first)}"


@Rule("write it in opset 17 or lower", _REDUCTIONS, before=(10, 0))
def _reductions(node: Node, to: Parser) -> Iterator[str]:
    # [code 8.5] The axes are read from the attributes; without them it reduces over all.
    if node.input(1) or node.attributes.get("noop_with_empty_axes"):
        yield "its axes are an input, which is ignored without an error: it reduces over all axes"


@Rule("give the sizes as an input", "Split", before=(10, 0))
def _split(node: Node, to: Parser) -> Iterator[str]:
    # [code 8.5] num_outputs is ignored. The size is divided by the number of outputs, rounded down.
    if "num_outputs" in node.attributes:
        shape, axis = node.shape(node.inputs[0]), node.attributes.get("axis", 0)
        size = shape[axis] if shape and -len(shape) <= axis < len(shape) else None
        if size is None or size % len(node.outputs):
            yield f"{size or 'an unknown size'} is split into {len(node.outputs)} parts of one size"


@Rule("pad all axes, with zeros where nothing is added", "Pad", before=(10, 0))
def _pad_axes(node: Node, to: Parser) -> Iterator[str]:
    if node.input(3):
        yield "its axes are an input, which is not read before TensorRT 10"


@Rule(_REPLACE, "Pad", before=(8, 2))
def _pad_values(node: Node, to: Parser) -> Iterator[str]:
    # [ops 8.0; log 8.2] Zeros on the last two of four axes.
    pads, value = node.constant(1), node.constant(2)
    is_zero = value is None or not value.any()
    if pads is not None and (pads.size != 8 or pads[[0, 1, 4, 5]].any() or not is_zero):
        yield "only zeros, and only height and width, are padded before TensorRT 8.2"


@Rule("keep the scales FP32", "Resize", before=(10, 0))
def _resize_scales(node: Node, to: Parser) -> Iterator[str]:
    # [code 8.5] Their bytes are read as FP32.
    if node.input(2) and node.type(node.input(2)) != "FLOAT":
        yield f"its scales are {node.type(node.input(2))}, and are read as FP32"


@Rule("give the scales of all axes", "Resize", before=(10, 0))
def _resize_axes(node: Node, to: Parser) -> Iterator[str]:
    if "axes" in node.attributes:  # [code 8.5]
        yield "its axes are ignored"


@Rule(_REPLACE, "MaxPool LayerNormalization")
def _outputs(node: Node, to: Parser) -> Iterator[str]:
    for name in filter(None, node.outputs[1:]):
        yield f"only its first output is computed, not '{name}'"
        return


@Rule(_REPLACE, "TopK")
def _topk(node: Node, to: Parser) -> Iterator[str]:
    k = node.constant(1)
    if k is not None and k.size and k.max() > _TOPK_MAX:
        yield f"K is {k.max()}; expected at most {_TOPK_MAX}"


@Rule("use smaller numbers", before=(9, 0))
def _integers(node: Node, to: Parser) -> Iterator[str]:
    # [ops 8.5] INT64 becomes INT32, clamped; 8.0 refuses values that do not fit. Slice's end may be
    # INT64's largest: clamped, it still means the end.
    for index, name in enumerate(node.inputs if node.op != "Slice" else ()):
        value = node.constant(index) if node.type(name) == "INT64" else None
        if value is not None and value.size and not -(2**31) <= value.min() <= value.max() < 2**31:
            largest = max(value.min(), value.max(), key=abs)
            yield f"'{name}' contains {largest}, which is outside INT32 and is clamped"


def _types(subject: Any) -> Dict[str, str]:
    """Return the types of a graph's inputs and outputs, or of a node's constants and outputs."""
    if isinstance(subject, Graph):
        return {n: subject.types.get(n, "FLOAT") for n in [*subject.inputs, *subject.outputs]}
    constants = [n for n in subject.inputs if subject.graph.constant(n) is not None]
    outputs = subject.outputs if subject.op != "Constant" else []
    names = constants + [n for n in outputs if n not in subject.graph.outputs]
    return {name: subject.type(name) for name in names}


@Rule("cast it to a float type", subject="graph")
@Rule("cast it to a float type")
def _unread_types(subject: Any, to: Parser) -> Iterator[str]:
    for name, kind in _types(subject).items():
        if to.before(_TYPES.get(kind)):
            yield f"'{name}' is {kind}, a type that is {not_read(_TYPES.get(kind))}"


@Rule("export it in FP32", subject="graph", severity="warning")
@Rule("export it in FP32", severity="warning")
def _double(subject: Any, to: Parser) -> Iterator[str]:
    for name, kind in _types(subject).items():
        if kind == "DOUBLE":
            yield f"'{name}' is DOUBLE, and becomes FP32"


@Rule("cast one of them")
def _mixed_inputs(node: Node, to: Parser) -> Iterator[str]:
    # [rtx] With strong typing, inputs of one ONNX type must have one type. Only the limits of Clip
    # are converted.
    schema = _schema(node) if to.strongly_typed and node.op != "Clip" else None
    types: Dict[str, set] = {}
    formal = schema.inputs if schema else ()
    for index, name in enumerate(node.inputs if formal else ()):
        if name in node.graph.types:
            variable = formal[min(index, len(formal) - 1)].type_str
            types.setdefault(variable, set()).add(node.type(name))
    for names in types.values():
        if len(names) > 1:
            yield f"its inputs are {' and '.join(sorted(names))}; strong typing requires one type"


@Rule("export without branches and loops", "If Loop Scan", before=(9, 0), severity="warning")
def _control_flow(node: Node, to: Parser) -> Iterator[str]:
    yield "control flow depends on data, so CUDA graphs cannot be used"


# [rtx] The release notes exclude both, but the convolution was built.
@Rule("use either stride or dilation", "Conv", runtimes=RTX, severity="warning")
@Rule("use either stride or dilation", "ConvTranspose", runtimes=RTX)
def _stride_and_dilation(node: Node, to: Parser) -> Iterator[str]:
    if all(max(node.ints(name) + [1]) > 1 for name in ("strides", "dilations")):
        yield "stride and dilation together are not supported"


def _not_on_turing(node: Node) -> Iterator[str]:
    # [rtx] No FP32 matrix product and no BF16 on SM 7.5.
    types = {node.graph.types.get(name) for name in [*node.inputs, *node.outputs]}
    if "BFLOAT16" in types:
        yield "BF16 does not exist on Turing (SM 7.5)"
    elif "FLOAT" in types and node.op in ("MatMul", "Gemm"):
        yield "FP32 matrix products do not exist on Turing (SM 7.5)"


@Rule("export it in FP16", runtimes=RTX)
def _turing(node: Node, to: Parser) -> Iterator[str]:
    if 75 in to.target.compute_capabilities:
        yield from _not_on_turing(node)


@Rule("export it in FP16", runtimes=RTX, severity="warning")
def _turing_on_request(node: Node, to: Parser) -> Iterator[str]:
    on_request = 75 in to.target.compute_capabilities_on_request
    if on_request and 75 not in to.target.compute_capabilities:
        for message in _not_on_turing(node):
            yield f"{message}: it cannot be built with --sm 75"


@Rule("allow the fallback, or omit --dla", dla=True, severity="warning")
def _off_dla(node: Node, to: Parser) -> Iterator[str]:
    indices = range(len(node.inputs))
    is_constant = node.inputs and all(node.constant(i) is not None for i in indices)
    reason = _why_off_dla(node, to) if to.target.dla_cores and not is_constant else ""
    if reason:
        yield f"it falls back from the DLA to the GPU: {reason}"


def _why_off_dla(node: Node, to: Parser) -> str:
    shape = node.shape(node.outputs[0]) or []
    if node.op not in _ON_DLA:
        return "the DLA has no such operator"
    for attribute, (low, high) in _DLA_RANGES.get(node.op, {}).items():
        for value in node.ints(attribute):
            value += len(shape) if attribute == "axis" and value < 0 else 0
            if not low <= value <= high:
                return f"{attribute} is {value}, not {low}" + (f" to {high}" if high > low else "")
    pads = zip(node.ints("pads"), node.ints("kernel_shape") * 2)
    if node.op == "Conv" and any(pad >= kernel for pad, kernel in pads):
        return "its padding is not smaller than its kernel"
    if node.op in _DLA_CONSTANT and node.constant(1) is None:
        return f"'{node.input(1)}' is computed, not constant"
    if node.op == "Concat" and len(node.inputs) < 2:
        return "it has one input"
    if node.op == "Softmax" and 87 not in to.target.compute_capabilities:
        return "only Orin's has Softmax"
    if node.op == "Resize":
        before, mode = node.shape(node.inputs[0]) or [], node.attributes.get("mode", "nearest")
        scales = [b / a if a and b else 0.0 for a, b in zip(before, shape)]
        largest = {"nearest": 32, "linear": 4}.get(mode)
        if largest is None:
            return "it has nearest and linear only"
        whole = all(s == int(s) and 1 <= s <= largest for s in scales[2:])
        if len(scales) != 4 or scales[:2] != [1, 1] or not whole:
            return f"it takes whole scales of height and width, up to {largest} in this mode"
    if node.op in ("Slice", "Split", "Reshape", "Transpose"):
        if {len(node.shape(node.inputs[0]) or []), len(shape)} != {4}:
            return "its tensors do not have four axes"
    if shape and ((shape[0] or 0) > 4096 or any((n or 0) > 8192 for n in shape[1:])):
        return f"{_dims(shape)} is larger than a batch of 4096 or a side of 8192"
    return ""
