"""What a target's ONNX parser would do with a graph, node by node, before anything is built.

A rule is a function that yields problems, and a line in `RULES` that says to whom it applies. Where the facts are from:
[ops N] onnx-tensorrt's docs/operators.md of release N, [log] its docs/Changelog.md, [code] its builtin_op_importers.cpp,
[dla] TensorRT's page of DLA layer restrictions and Deep-Learning-Accelerator-SW's operators/README.md,
[rtx] single-node graphs given to tensorrt_rtx 1.7.1, and its release notes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import BuildError
from sr_deploy.core.target import RUNTIMES, TargetProfile
from sr_deploy.runtime.onnx_view import Graph, Node, load_graph

Version = Tuple[int, ...]
Problem = Tuple[str, str, str]
"""Severity, what would happen, and what to do."""


@dataclass(frozen=True)
class Finding:
    """One thing that a parser would not do as the graph says."""

    severity: str
    """`error`: refused or read wrongly; `warning`: it works, but not as asked."""
    node: str
    """Its name, empty for the graph."""
    operator: str
    what: str
    hint: str

    @property
    def where(self) -> str:
        return f"node '{self.node}' ({self.operator})" if self.operator else "the graph"


def preflight(
    onnx_path: Path, target: TargetProfile, *, precision: str = "fp16", dla: bool = False
) -> List[Finding]:
    """Return what the parser of `target` would refuse, misread or change, in the graph's order; what holds for the whole first.

    precision: the engine's. Raises ArtifactError when the file is no ONNX graph or its weights' file is missing, and
    MissingPackageError without onnx.
    """
    graph = Graph(load_graph(Path(onnx_path)))
    to = _Parser(target, precision, dla)
    found: List[Tuple[int, Finding]] = []
    for rule in RULES:
        if (
            target.runtime not in rule.runtimes
            or (rule.before and not to.before(rule.before))
            or (rule.dla and not dla)
        ):
            continue
        if rule.whole:
            found += [
                (-1, Finding(severity, "", "", what, hint))
                for severity, what, hint in rule.check(graph, to)
            ]
            continue
        for position, node in enumerate(graph.nodes):
            if node.standard or rule.check is _known:
                for severity, what, hint in rule.check(node, to):
                    found.append((position, Finding(severity, node.name, node.op, what, hint)))
    return [finding for _, finding in sorted(found, key=lambda pair: pair[0])]


def refuse(findings: Sequence[Finding], onnx_name: str, target: TargetProfile) -> None:
    """Raise BuildError naming the errors among `findings`, three in full; do nothing when there are none."""
    errors = [f for f in findings if f.severity == "error"]
    if errors:
        named = [f"{f.where}: {f.what}" for f in errors[:3]] + [f"and {len(errors) - 3} more"] * (
            len(errors) > 3
        )
        raise BuildError(
            f"{onnx_name} cannot be built for '{target.name}': " + "; ".join(named),
            hint=errors[0].hint,
        )


def summary(findings: Sequence[Finding], target: TargetProfile) -> Dict[str, object]:
    """Return what a manifest keeps of findings that `refuse` let pass."""
    return {"target": target.name, "warnings": [f"{f.where}: {f.what}" for f in findings]}


def lowest_version(target: TargetProfile) -> Version:
    """Return the lowest runtime version of the profile, padded to three numbers; zeros when it names none."""
    bounds = [
        tuple(int(n) for n in b.split("."))
        for b in re.findall(r">=\s*(\d+(?:\.\d+)*)", target.runtime_versions)
    ]
    return (max(bounds, default=()) + (0, 0, 0))[:3]


class _Parser:
    """Whose parser reads the graph, and what is asked of it."""

    def __init__(self, target: TargetProfile, precision: str, dla: bool) -> None:
        self.target, self.precision, self.dla = target, precision, dla
        self.rtx = target.runtime == "tensorrt-rtx"
        self.strong = target.fp16_graph == "fp16"
        self.lowest = (
            (11, 0, 0) if self.rtx else lowest_version(target)
        )  # [rtx]: it reads what 10.15 and later do

    def before(self, version: Version) -> bool:
        """Tell whether any version of the profile is older."""
        return self.lowest < (version + (0, 0, 0))[:3]


# Facts ---------------------------------------------------------------------------------------------------------------

_REPLACE = "replace it by operators that this parser reads"
_FIXED = "make it a constant of the graph"

# The first TensorRT that reads an operator. [log; ops 8.0, 8.4, 8.5, 10.15] CastLike, Gelu, Mish: not by 8.6; when is not known.
_ADDED = {
    op: version
    for version, ops in {
        (8, 2): "Einsum GatherND If IsNaN Round Scatter ScatterElements ScatterND Sign",
        (8, 4): "Shrink Xor",
        (
            8,
            5,
        ): "GridSample HardSwish MeanVarianceNormalization Mod NonZero OneHot RandomNormal RandomNormalLike RoiAlign Trilu",
        (8, 6): "GroupNormalization IsInf LayerNormalization",
        (9, 2): "Hardmax",
        (10, 0): "CastLike Gelu Mish",
        (10, 1): "DeformConv",
        (10, 4): "BlackmanWindow HammingWindow HannWindow",
        (10, 5): "STFT",
        (10, 15): "RMSNormalization RotaryEmbedding TensorScatter",
    }.items()
    for op in ops.split()
}
# Read by no version. [ops 8.0 to 10.15]
_NEVER = set(
    "AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress ConcatFromSequence ConvInteger"
    " DFT Det DynamicQuantizeLinear ImageDecoder MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss"
    " Optional OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty"
    " SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer"
    " StringSplit TfIdfVectorizer Unique".split()
)
_NOT_ON_RTX = {"DeformConv", "NonMaxSuppression", "NonZero", "RoiAlign"}  # plugins [rtx]

# Operator, attribute, the values that are read, and the first version that reads all of them. [log; ops 10.15; code; rtx]
_COORDINATES = (
    "half_pixel",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
    "asymmetric",
    "align_corners",
)
_VALUES: Tuple[Tuple[str, str, Tuple[Any, ...], Optional[Version]], ...] = (
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
# Operator, input, its name, and the first version that takes a computed one. [ops 8.0, 8.4, 8.5, 10.15; log]
_CONSTANT: Tuple[Tuple[str, int, str, Optional[Version]], ...] = (
    ("Clip", 1, "min", (8, 4)),
    ("Clip", 2, "max", (8, 4)),
    ("Split", 1, "split", (8, 4)),
    ("Resize", 2, "scales", (8, 4)),
    ("Pad", 1, "pads", (8, 2)),
    ("ConvTranspose", 1, "weights", (8, 5)),
    ("TopK", 1, "K", (8, 6)),
    ("InstanceNormalization", 1, "scale", (10, 0)),
    ("InstanceNormalization", 2, "B", (10, 0)),
    ("Slice", 3, "axes", (10, 3)),
    ("Pad", 3, "axes", (10, 4)),
    ("Squeeze", 1, "axes", (10, 7)),
    ("Unsqueeze", 1, "axes", (10, 7)),
    ("CumSum", 1, "axis", None),
)
# The first version that has a type; other types are read by none, and DOUBLE as FP32. [log; ops 8.0 to 10.15; rtx]
_TYPES: Dict[str, Version] = {
    **dict.fromkeys(("FLOAT", "FLOAT16", "DOUBLE", "INT8", "INT32", "INT64", "BOOL"), (0,)),
    **dict.fromkeys(("BFLOAT16", "FLOAT8E4M3FN"), (9, 0)),
    "UINT8": (8, 5),
    "INT4": (10, 0),
}
_TOPK_MAX = 3840  # [ops 10.15; rtx: 3840 builds and 3841 does not]

_ON_DLA = set(  # [dla]; what falls out of a static graph when it is built is among them
    "Abs Add AveragePool BatchNormalization Clip Concat Constant ConstantOfShape Conv ConvTranspose Gemm Identity LRN LeakyRelu MatMul Max"
    " MaxPool Min Mul PRelu Relu Reshape Resize Shape Sigmoid Slice Softmax Split Sub Sum Tanh Transpose".split()
)
_DLA_RANGES: Dict[str, Dict[str, Tuple[int, int]]] = {  # [dla]
    "Conv": {
        "kernel_shape": (1, 32),
        "pads": (0, 31),
        "strides": (1, 8),
        "dilations": (1, 32),
        "group": (1, 8192),
    },
    "ConvTranspose": {
        "kernel_shape": (1, 32),
        "pads": (0, 0),
        "dilations": (1, 1),
        "group": (1, 1),
        "output_padding": (0, 0),
    },
    "MaxPool": {"kernel_shape": (1, 8), "strides": (1, 16), "dilations": (1, 1)},
    "AveragePool": {"kernel_shape": (1, 8), "strides": (1, 16), "dilations": (1, 1)},
    "Concat": {"axis": (1, 1)},
}
_DLA_CONSTANT = {"Conv": 1, "ConvTranspose": 1, "PRelu": 1, "MatMul": 1, "Gemm": 1}


# Rules on the graph -------------------------------------------------------------------------------------------------


def _opset(graph: Graph, to: _Parser) -> Iterator[Problem]:
    if graph.opset > to.target.opset:
        what = f"it is written in opset {graph.opset}; this parser reads {to.target.opset} at most, and takes newer forms without an error"
        yield "error", what, f"export it again with --target {to.target.name}"


def _image(graph: Graph, to: _Parser) -> Iterator[Problem]:
    shapes = [graph.shapes.get(name) for name in graph.inputs]
    if len(shapes) != 1 or shapes[0] is None or len(shapes[0]) != 4 or shapes[0][1] != 3:
        found = (
            ", ".join(f"{name} {_dims(shape)}" for name, shape in zip(graph.inputs, shapes))
            or "none"
        )
        yield (
            "error",
            f"expected one input (1, 3, H, W), found {found}",
            "export a super-resolution network with srdeploy export",
        )
    elif shapes[0][0] is None:
        yield (
            "warning",
            "its batch is dynamic; the engine is built for a batch of 1",
            "export it with a batch of 1",
        )


def _precision(graph: Graph, to: _Parser) -> Iterator[Problem]:
    wanted = to.target.fp16_graph if to.precision == "fp16" else "fp32"
    again = f"export it again with --target {to.target.name} --precision {to.precision}"
    if wanted == "fp32":
        halves = sum(kind == "FLOAT16" for kind in graph.types.values())
        if halves and to.strong:
            yield (
                "error",
                f"{halves} of its tensors are FP16, and typing is strong: the engine would not be FP32",
                again,
            )
        elif halves:
            yield (
                "error",
                f"{halves} of its tensors are FP16; typing is weak, and such a graph computes in FP32 without the flag",
                again,
            )
        return
    aside = ("Cast", "Constant", "ConstantOfShape")
    sizeable = [
        n
        for n in graph.nodes
        if n.op not in aside and n.outputs and len(graph.shapes.get(n.outputs[0], [0, 0])) > 1
    ]
    full = [n for n in sizeable if graph.types.get(n.outputs[0]) == "FLOAT"]
    if full and not any(graph.types.get(n.outputs[0]) == "FLOAT16" for n in sizeable):
        yield (
            "error",
            "its tensors are FP32, and typing is strong: the engine would be FP32, without an error",
            again,
        )
    elif full:
        yield (
            "warning",
            f"{len(full)} of {len(sizeable)} nodes compute in FP32, the first is '{full[0].name}'; typing is strong",
            again,
        )


def _io_types(graph: Graph, to: _Parser) -> Iterator[Problem]:
    for name in [*graph.inputs, *graph.outputs]:
        yield from _type_problem(f"'{name}'", graph.types.get(name, "FLOAT"), to)


def _dla(graph: Graph, to: _Parser) -> Iterator[Problem]:
    without = "leave --dla out"
    if not to.target.dla_cores:
        yield "error", f"target '{to.target.name}' has no DLA", without
        return
    if to.precision != "fp16":
        yield "error", f"the DLA does not compute in {to.precision.upper()}", "build an FP16 engine"
    for name in graph.inputs:
        shape = graph.shapes.get(name)
        if shape is None or None in shape:
            yield (
                "error",
                f"the DLA takes static shapes only, and '{name}' is {_dims(shape)}",
                "export it with --shape HxW",
            )


# Rules on a node ----------------------------------------------------------------------------------------------------


def _known(node: Node, to: _Parser) -> Iterator[Problem]:
    from onnx import defs

    runs_anything = to.target.runtime == "onnxruntime"
    if not node.standard:
        local = (node.domain, node.op) in node.graph.functions and (
            runs_anything or not to.before((9, 0))
        )  # [log]
        if not local and not (runs_anything and node.domain in ("com.microsoft", "ai.onnx.ml")):
            yield (
                "error",
                f"it is an operator of the domain '{node.domain}'",
                "write it with standard ONNX operators",
            )
        return
    try:
        schema = defs.get_schema(node.op, node.graph.opset, "")
    except defs.SchemaError:
        yield (
            "error",
            f"opset {node.graph.opset} has no such operator",
            "write it with standard ONNX operators",
        )
        return
    unknown = [a for a in node.attributes if a not in schema.attributes]
    if len(node.inputs) > schema.max_input or unknown:
        form = f"the attribute '{unknown[0]}'" if unknown else f"{len(node.inputs)} inputs"
        yield (
            "error",
            f"opset {node.graph.opset} has no form of it with {form}",
            "export it again: it is newer than its number says",
        )


def _missing(node: Node, to: _Parser) -> Iterator[Problem]:
    first = _ADDED.get(node.op)
    if node.op in _NEVER or (to.rtx and node.op in _NOT_ON_RTX):
        yield "error", "this parser does not read the operator", _REPLACE
    elif first is not None and to.before(first):
        yield "error", f"the operator is not read before TensorRT {_dotted(first)}", _REPLACE


def _values(node: Node, to: _Parser) -> Iterator[Problem]:
    for op, attribute, read, first in _VALUES:
        wrong = [v for v in node.ints(attribute) if v not in read] if op == node.op else []
        if wrong and (first is None or to.before(first)):
            since = f" before TensorRT {_dotted(first)}" if first else ""
            yield (
                "error",
                f"{attribute}={wrong[0]} is not read{since}",
                f"use {' or '.join(map(str, read))}",
            )
            return


def _constants(node: Node, to: _Parser) -> Iterator[Problem]:
    for op, index, what, first in _CONSTANT:
        if (
            op == node.op
            and node.given(index)
            and node.constant(index) is None
            and (first is None or to.before(first))
        ):
            since = f" before TensorRT {_dotted(first)}" if first else ""
            yield "error", f"its {what} is computed, which is not read{since}", _FIXED
    # ReduceSum's axes have been an input since opset 13, those of the others since 18. [ops 10.15]
    if node.op.startswith("Reduce") and node.given(1) and node.constant(1) is None:
        yield "error", "its axes are computed, which is not read", _FIXED


def _reductions(node: Node, to: _Parser) -> Iterator[Problem]:
    """[code 8.5] The axes are looked for among the attributes, and none mean all."""
    if (
        node.op.startswith("Reduce")
        and node.op != "ReduceSum"
        and (node.given(1) or node.attributes.get("noop_with_empty_axes"))
    ):
        yield (
            "error",
            "its axes are an input, which is lost without an error: it reduces over all axes",
            "write it in opset 17 or lower",
        )


def _split(node: Node, to: _Parser) -> Iterator[Problem]:
    """[code 8.5] num_outputs is not looked at; the size is divided by the number of outputs and rounded down."""
    if node.op == "Split" and "num_outputs" in node.attributes:
        shape, axis = node.shape(node.inputs[0]), node.attributes.get("axis", 0)
        size = shape[axis] if shape and -len(shape) <= axis < len(shape) else None
        if size is None or size % len(node.outputs):
            yield (
                "error",
                f"{size or 'an unknown size'} is split into {len(node.outputs)} parts of one size",
                "give the sizes as an input",
            )


def _pad(node: Node, to: _Parser) -> Iterator[Problem]:
    if node.op == "Pad" and node.given(3):
        yield (
            "error",
            "its axes are an input, which is not read before TensorRT 10",
            "pad all axes, with zeros where nothing is added",
        )


def _pad_80(node: Node, to: _Parser) -> Iterator[Problem]:
    """[ops 8.0; log 8.2] Zeros on the last two of four axes."""
    pads, value = (node.constant(1), node.constant(2)) if node.op == "Pad" else (None, None)
    if pads is not None and (
        pads.size != 8 or pads[[0, 1, 4, 5]].any() or (value is not None and value.any())
    ):
        yield (
            "error",
            "only zeros, and only height and width, are padded before TensorRT 8.2",
            _REPLACE,
        )


def _resize(node: Node, to: _Parser) -> Iterator[Problem]:
    """[code 8.5] The scales' bytes are taken for FP32, and there is no `axes`."""
    if (
        node.op == "Resize"
        and node.given(2)
        and node.graph.types.get(node.given(2), "FLOAT") != "FLOAT"
    ):
        yield (
            "error",
            f"its scales are {node.graph.types[node.given(2)]}, and are read as FP32",
            "keep the scales FP32",
        )
    if node.op == "Resize" and "axes" in node.attributes:
        yield "error", "its axes are ignored", "give the scales of all axes"


def _outputs(node: Node, to: _Parser) -> Iterator[Problem]:
    if node.op in ("MaxPool", "LayerNormalization") and any(node.outputs[1:]):
        yield (
            "error",
            f"only its first output is computed, not '{next(filter(None, node.outputs[1:]))}'",
            _REPLACE,
        )


def _topk(node: Node, to: _Parser) -> Iterator[Problem]:
    k = node.constant(1) if node.op == "TopK" else None
    if k is not None and k.size and k.max() > _TOPK_MAX:
        yield "error", f"K is {k.max()}, and at most {_TOPK_MAX} is built", _REPLACE


def _integers(node: Node, to: _Parser) -> Iterator[Problem]:
    """[ops 8.5] INT64 becomes INT32, clamped; 8.0 refuses what does not fit. Slice's `to the end` survives."""
    for index, name in enumerate(node.inputs):
        value = (
            node.constant(index)
            if node.op != "Slice" and node.graph.types.get(name) == "INT64"
            else None
        )
        if value is not None and value.size and not -(2**31) <= value.min() <= value.max() < 2**31:
            yield (
                "error",
                f"'{name}' holds {max(value.min(), value.max(), key=abs)}, beyond INT32, and is clamped",
                "use smaller numbers",
            )


def _types(node: Node, to: _Parser) -> Iterator[Problem]:
    outputs = (
        [] if node.op == "Constant" else [o for o in node.outputs if o not in node.graph.outputs]
    )
    for name in [*(i for i in node.inputs if node.graph.constant(i) is not None), *outputs]:
        problem = list(_type_problem(f"'{name}'", node.graph.types.get(name, "FLOAT"), to))
        if problem:
            yield from problem
            return


def _type_problem(name: str, kind: str, to: _Parser) -> Iterator[Problem]:
    if kind not in _TYPES:
        yield "error", f"{name} is {kind}, a type that is not read", "cast it to a float type"
    elif to.before(_TYPES[kind]):
        yield (
            "error",
            f"{name} is {kind}, a type that is not read before TensorRT {_dotted(_TYPES[kind])}",
            "cast it to a float type",
        )
    elif kind == "DOUBLE":
        yield "warning", f"{name} is DOUBLE, and becomes FP32", "export it in FP32"


def _mixed(node: Node, to: _Parser) -> Iterator[Problem]:
    """[rtx] Where typing is strong, what ONNX wants of one type must be so; Clip's limits alone are converted."""
    from onnx import defs

    if not to.strong or node.op == "Clip":
        return
    formal = (
        defs.get_schema(node.op, node.graph.opset, "").inputs
        if defs.has(node.op, node.graph.opset, "")
        else ()
    )
    kinds: Dict[str, List[str]] = {}
    for index, name in enumerate(node.inputs if formal else ()):
        if name in node.graph.types:
            kinds.setdefault(formal[min(index, len(formal) - 1)].type_str, []).append(
                node.graph.types[name]
            )
    for found in kinds.values():
        if len(set(found)) > 1:
            yield (
                "error",
                f"its inputs are {' and '.join(sorted(set(found)))}; typing is strong and takes one type",
                "cast one of them",
            )


def _control(node: Node, to: _Parser) -> Iterator[Problem]:
    if node.op in ("If", "Loop", "Scan"):
        yield (
            "warning",
            "what runs depends on data, so that CUDA graphs cannot be used",
            "export a graph without branches and loops",
        )


def _strided_and_dilated(node: Node, to: _Parser) -> Iterator[Problem]:
    """[rtx] The release notes exclude both; of the two, the convolution was built."""
    if (
        node.op in ("Conv", "ConvTranspose")
        and max(node.ints("strides") + [1]) > 1
        and max(node.ints("dilations") + [1]) > 1
    ):
        severity = "error" if node.op == "ConvTranspose" else "warning"
        yield severity, "stride and dilation together are not supported", "use one of them"


def _turing(node: Node, to: _Parser) -> Iterator[Problem]:
    """[rtx] No FP32 matrix product and no BF16 on SM 7.5."""
    kinds = {node.graph.types.get(name) for name in [*node.inputs, *node.outputs]}
    if ("FLOAT" in kinds and node.op in ("MatMul", "Gemm")) or "BFLOAT16" in kinds:
        what = "BF16 does not exist" if "BFLOAT16" in kinds else "FP32 matrix products do not exist"
        if 75 in to.target.compute_capabilities:
            yield "error", f"{what} on Turing (SM 7.5)", "export it in FP16"
        elif 75 in to.target.compute_capabilities_on_request:
            yield "warning", f"{what} on Turing: it cannot be built for SM 7.5", "export it in FP16"


def _off_dla(node: Node, to: _Parser) -> Iterator[Problem]:
    if to.target.dla_cores and (
        not node.inputs or any(node.constant(i) is None for i in range(len(node.inputs)))
    ):
        reason = _why_off_dla(node, to)
        if reason:
            yield (
                "warning",
                f"it falls back from the DLA to the GPU: {reason}",
                "allow the fallback, or leave --dla out",
            )


def _why_off_dla(node: Node, to: _Parser) -> str:
    shape = node.shape(node.outputs[0]) or []
    if node.op not in _ON_DLA:
        return "the DLA has no such operator"
    for attribute, (low, high) in _DLA_RANGES.get(node.op, {}).items():
        for value in node.ints(attribute):
            value += len(shape) if attribute == "axis" and value < 0 else 0
            if not low <= value <= high:
                return f"{attribute} is {value}, not {low}" + (f" to {high}" if high > low else "")
    if node.op == "Conv" and any(
        p >= k for p, k in zip(node.ints("pads"), node.ints("kernel_shape") * 2)
    ):
        return "its padding is not smaller than its kernel"
    if node.op in _DLA_CONSTANT and node.constant(_DLA_CONSTANT[node.op]) is None:
        return f"'{node.given(_DLA_CONSTANT[node.op])}' is computed, not constant"
    if node.op == "Concat" and len(node.inputs) < 2:
        return "it has one input"
    if node.op == "Softmax" and 87 not in to.target.compute_capabilities:
        return "only Orin's has Softmax"
    if node.op == "Resize":
        before = node.shape(node.inputs[0]) or []
        scales = [b / a if a and b else 0.0 for a, b in zip(before, shape)]
        most = {"nearest": 32, "linear": 4}.get(node.attributes.get("mode", "nearest"), 0)
        if (
            len(scales) != 4
            or scales[:2] != [1, 1]
            or any(s != int(s) or not 1 <= s <= most for s in scales[2:])
        ):
            return (
                f"it takes whole scales of height and width, to {most} in this mode"
                if most
                else "it has nearest and linear only"
            )
    if node.op in ("Slice", "Split", "Reshape", "Transpose") and {
        len(node.shape(node.inputs[0]) or []),
        len(shape),
    } != {4}:
        return "its tensors have not four axes"
    if shape and ((shape[0] or 0) > 4096 or any((n or 0) > 8192 for n in shape[1:])):
        return f"{_dims(shape)} is larger than a batch of 4096 or a side of 8192"
    return ""


def _dims(shape: Optional[Sequence[Optional[int]]]) -> str:
    return (
        "of unknown rank"
        if shape is None
        else "(" + ", ".join("?" if n is None else str(n) for n in shape) + ")"
    )


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


# Who is asked what ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    check: Callable[[Any, _Parser], Iterator[Problem]]
    """Takes a node, or the graph, and yields problems."""
    runtimes: Tuple[str, ...] = ("tensorrt", "tensorrt-rtx")
    before: Optional[Version] = None
    """It holds for a profile that has any older version."""
    dla: bool = False
    """It holds only where the DLA is asked for."""
    whole: bool = False
    """It takes the graph."""


_RTX = ("tensorrt-rtx",)
RULES = [
    Rule(_opset, RUNTIMES, whole=True),
    Rule(_image, whole=True),
    Rule(_precision, whole=True),
    Rule(_io_types, whole=True),
    Rule(_dla, RUNTIMES, dla=True, whole=True),
    Rule(_known, RUNTIMES),
    Rule(_missing),
    Rule(_values),
    Rule(_constants),
    Rule(_reductions, before=(10, 0)),
    Rule(_split, before=(10, 0)),
    Rule(_pad, before=(10, 0)),
    Rule(_pad_80, before=(8, 2)),
    Rule(_resize, before=(10, 0)),
    Rule(_outputs),
    Rule(_topk),
    Rule(_integers, before=(9, 0)),
    Rule(_types),
    Rule(_mixed),
    Rule(_control, before=(9, 0)),
    Rule(_strided_and_dilated, _RTX),
    Rule(_turing, _RTX),
    Rule(_off_dla, dla=True),
]
