"""The multiply-accumulates of ONNX operators, by the rules of both counters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Dict, Optional

from sr_deploy.core.counts import einsum_macs
from sr_deploy.core.errors import ArtifactError
from sr_deploy.runtime.graph_patterns import is_affine, is_layer_norm, is_scale
from sr_deploy.runtime.graph_walk import Shape, Step, Tensor


@dataclass(frozen=True)
class Work:
    """What the counters see of a node. None: a counter ignores it."""

    hooks: Optional[int] = None
    fvcore: Optional[int] = None
    products: int = 0
    """Multiply-accumulates of convolutions and matrix products."""
    acts: Optional[int] = None
    """The elements of a convolution's output."""


class UnknownShapeError(ArtifactError):
    """The shape of a tensor is not known."""


# Operators that move, create or convert data. All others that a counter ignores are reported.
MOVES = frozenset(
    "Cast CastLike Compress Concat ConcatFromSequence Constant ConstantOfShape DepthToSpace "
    "DequantizeLinear Dropout DynamicQuantizeLinear Expand EyeLike Flatten Gather GatherElements "
    "GatherND Identity OneHot Optional OptionalGetElement Pad QuantizeLinear Range Reshape "
    "ReverseSequence ScatterElements ScatterND Scatter SequenceAt SequenceConstruct SequenceEmpty "
    "SequenceErase SequenceInsert SequenceLength Shape Size Slice SpaceToDepth Split "
    "SplitToSequence Squeeze Tile Transpose Unsqueeze "
    "com.microsoft::DequantizeLinear com.microsoft::QLinearConcat "
    "com.microsoft::QuantizeLinear".split()
)


def work_of(step: Step) -> Work:
    rule = _RULES.get(step.op)
    base = step.op.rpartition("::")[2]
    if rule is None and base != step.op and (base in _RULES or base.endswith("Conv")):
        raise ArtifactError(
            f"the operator {step.op} of the node '{step.name}' is not known",
            hint="count the graph that it was made from",
        )
    return Work() if rule is None else rule(step)


def _shape(tensor: Optional[Tensor]) -> Shape:
    if tensor is None:
        return ()
    if tensor.shape is None:
        raise UnknownShapeError(f"the shape of '{tensor.name}' is not known")
    return tensor.shape


def _numel(tensor: Optional[Tensor]) -> int:
    return math.prod(_shape(tensor))


# Rules of operators. x, weight and out are the tensors of a node.


def _conv(weight: int = 1, transposed: bool = False) -> Callable[[Step], Work]:
    """Return the rule of a convolution. weight: its input."""

    def rule(step: Step) -> Work:
        x, kernel, out = step.input(0), _shape(step.input(weight)), step.outputs[0]
        # of a transposed one (in, out/groups, ...), else (out, in/groups, ...)
        acts = _numel(out)
        inputs = kernel[0] // step.attributes.get("group", 1) if transposed else kernel[1]
        of_output = acts * math.prod(kernel[2:]) * inputs
        of_input = _numel(x) * math.prod(kernel[1:]) if transposed else of_output
        hooks = of_output if len(kernel) == 4 else None
        if hooks is not None and _is_fused_activation(step):
            hooks += acts
        return Work(hooks, of_input, of_input, acts)

    return rule


def _deform_conv(step: Step) -> Work:
    kernel = _shape(step.input(1))
    return Work(products=_numel(step.outputs[0]) * math.prod(kernel[1:]))


def _is_fused_activation(step: Step) -> bool:
    name = step.attributes.get("activation", "")
    return name in _ACTIVATIONS or (
        name == "Clip" and list(step.attributes.get("activation_params", ())) == [0, 6]
    )


def _matmul(second: int = 1) -> Callable[[Step], Work]:
    """Return the rule of a matrix product. second: the input with the second factor."""

    def rule(step: Step) -> Work:
        a, b = step.input(0), step.input(second)
        flipped = [bool(step.attributes.get(key, 0)) for key in ("transA", "transB")]
        a_shape, b_shape = _shape(a), _shape(b)
        if not a_shape or not b_shape:
            raise UnknownShapeError(f"a factor of the node '{step.name}' is not known")
        inner = a_shape[-2] if flipped[0] else a_shape[-1]
        products = _numel(step.outputs[0]) * inner
        # As fvcore: broadcasting of the first factor is missed, and a vector has no rule.
        outer = b_shape[-2] if flipped[1] else b_shape[-1]
        fvcore = _numel(a) * outer if len(b_shape) > 1 else None
        assert b is not None
        is_linear = not b.computed and len(b_shape) == 2
        hooks = products if is_linear else None
        if hooks is not None and _is_fused_activation(step):
            hooks += _numel(step.outputs[0])
        return Work(hooks, fvcore, products)

    return rule


def _matmul_nbits(step: Step) -> Work:
    macs = _numel(step.outputs[0]) * step.attributes["K"]
    return Work(macs, macs, macs)


def _einsum(step: Step) -> Work:
    """Two factors at a time, as torch computes them."""
    equation = step.attributes["equation"].replace(" ", "")
    shapes = [_shape(tensor) for tensor in step.inputs]
    terms, _, out = equation.partition("->")
    if "..." in equation or "->" not in equation:
        raise ArtifactError(f"the equation {equation} of the node '{step.name}' is not supported")
    labels = terms.split(",")
    sizes = {c: n for term, shape in zip(labels, shapes) for c, n in zip(term, shape)}
    left, products = set(labels[0]), 0
    for i, term in enumerate(labels[1:], 1):
        after = set(out).union(*labels[i + 1 :])
        alone = (left ^ set(term)) - after
        if (left & set(term)) - after:
            products += math.prod(sizes[c] for c in (left | set(term)) - alone)
        left = (left | set(term)) & after
    return Work(None, einsum_macs(equation, shapes), products)


def _attention(step: Step) -> Work:
    """Products of queries and keys, and of their softmax with values."""
    if any(tensor is not None for tensor in step.inputs[4:6]):
        raise ArtifactError(f"the node '{step.name}' has a cache, which cannot be counted")
    q, k, v = (_shape(step.input(i)) for i in range(3))
    if len(q) == 4:  # (batch, heads, tokens, channels)
        heads, queries, channels, keys, values = q[1], q[2], q[3], k[2], v[3]
    elif len(q) == len(k) == len(v) == 3:  # (batch, tokens, heads * channels)
        heads = step.attributes.get("q_num_heads") or step.attributes["num_heads"]
        kv_heads = step.attributes.get("kv_num_heads", heads)
        queries, channels, keys, values = q[1], q[2] // heads, k[1], v[2] // kv_heads
    else:
        raise ArtifactError(f"the node '{step.name}' has packed inputs, which cannot be counted")
    return Work(products=q[0] * heads * queries * keys * (channels + values))


def _projected_attention(step: Step) -> Work:
    """com.microsoft's Attention: x (batch, tokens, channels), weight (channels, q + k + v)."""
    batch, tokens, _ = _shape(step.input(0))
    width = _shape(step.input(1))
    sizes = step.attributes.get("qkv_hidden_sizes") or [width[1] // 3] * 3
    projections = batch * tokens * math.prod(width)
    return Work(products=projections + batch * tokens * tokens * (sizes[0] + sizes[2]))


def _recurrent(step: Step) -> Work:
    x, weights = _shape(step.input(0)), (step.input(1), step.input(2))
    return Work(products=x[0] * x[1] * sum(map(_numel, weights)))


def _activation(step: Step) -> Work:
    return Work(hooks=_numel(step.outputs[0]))


def _clip(step: Step) -> Work:
    """Only ReLU6 is an activation."""
    limits = [
        step.attributes.get(key) if step.value(i) is None else float(step.value(i))  # type: ignore
        for i, key in ((1, "min"), (2, "max"))
    ]
    return _activation(step) if limits == [0, 6] else Work()


def _batch_norm(step: Step) -> Work:
    x = step.input(0)
    macs = _numel(x) * (1 + is_affine(step))
    return Work(macs if len(_shape(x)) == 4 else None, macs)


def _norm(step: Step) -> Work:
    return Work(fvcore=_numel(step.input(0)) * (4 + is_affine(step)))


def _mul(step: Step) -> Work:
    return Work(fvcore=_numel(step.outputs[0])) if is_scale(step) else Work()


def _div(step: Step) -> Work:
    return Work(fvcore=4 * _numel(step.outputs[0])) if is_layer_norm(step) else Work()


def _mean(step: Step) -> Work:
    """A mean over both sides of an image is adaptive pooling to one pixel."""
    x = step.input(0)
    axes = step.attributes.get("axes") if step.value(1) is None else step.value(1)
    sides = sorted(int(axis) % 4 for axis in axes) if axes is not None else []
    pooling = len(_shape(x)) == 4 and sides == [2, 3] and step.attributes.get("keepdims", 1)
    return Work(fvcore=_numel(x)) if pooling else Work()


def _pooling(step: Step) -> Work:
    return Work(fvcore=_numel(step.input(0))) if len(_shape(step.input(0))) == 4 else Work()


def _resize(step: Step) -> Work:
    out, mode = step.outputs[0], step.attributes.get("mode", "nearest")
    each = {"nearest": 1, "linear": 4, "bilinear": 4}.get(mode)
    if each is None or len(_shape(out)) != 4 or step.attributes.get("antialias"):
        return Work()
    return Work(fvcore=each * _numel(out))


def _grid_sample(step: Step) -> Work:
    return Work(fvcore=4 * _numel(step.outputs[0]))


NORMS = (
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
)
_ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu", "Elu")
_RULES: Dict[str, Callable[[Step], Work]] = {
    **dict.fromkeys(_ACTIVATIONS, _activation),
    "Clip": _clip,
    "Conv": _conv(),
    "ConvTranspose": _conv(transposed=True),
    "ConvInteger": _conv(),
    "QLinearConv": _conv(weight=3),
    "DeformConv": _deform_conv,
    "MatMul": _matmul(),
    "Gemm": _matmul(),
    "MatMulInteger": _matmul(),
    "QLinearMatMul": _matmul(second=3),
    "Einsum": _einsum,
    "Attention": _attention,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    **dict.fromkeys(NORMS, _norm),
    "BatchNormalization": _batch_norm,
    "Mul": _mul,
    "Div": _div,
    "ReduceMean": _mean,
    "GlobalAveragePool": _pooling,
    "Resize": _resize,
    "Upsample": _resize,
    "GridSample": _grid_sample,
    "com.microsoft::FusedConv": _conv(),
    "com.microsoft::QLinearConv": _conv(weight=3),
    "com.microsoft::FusedGemm": _matmul(),
    "com.microsoft::FusedMatMul": _matmul(),
    "com.microsoft::FusedMatMulActivation": _matmul(),
    "com.microsoft::QGemm": _matmul(second=3),
    "com.microsoft::MatMulIntegerToFloat": _matmul(),
    "com.microsoft::DynamicQuantizeMatMul": _matmul(),
    "com.microsoft::MatMulNBits": _matmul_nbits,
    "com.microsoft::Attention": _projected_attention,
    "com.microsoft::MultiHeadAttention": _attention,
    "com.microsoft::SkipLayerNormalization": _norm,
    "com.microsoft::GroupNorm": _norm,
    "com.microsoft::QLinearGlobalAveragePool": _pooling,
}
