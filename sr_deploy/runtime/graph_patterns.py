"""Layers that exporters write as several ONNX nodes: biases, and norms of older opsets."""

from __future__ import annotations

import math
from typing import Optional

from sr_deploy.runtime.graph_walk import Step, Tensor


def is_bias(step: Step) -> bool:
    """Return whether an Add is the bias of the convolution or product before it."""
    x = _operand(step, "Add")
    layer = None if x is None else _made_by(x)
    if layer is None:
        return False
    if layer.op in ("Conv", "ConvTranspose"):
        return layer.input(2) is None
    weight = layer.input(1)
    return layer.op == "MatMul" and weight is not None and not weight.computed


def is_scale_or_shift(step: Step) -> bool:
    """Return whether a Mul or an Add has the scale or the bias of a norm before it."""
    if is_scale(step):
        return True
    x = _operand(step, "Add")
    scale = None if x is None else _made_by(x)
    return scale is not None and is_scale(scale)


def is_scale(step: Step) -> bool:
    """Return whether a Mul has the scale of a norm before it: a LayerNorm or a GroupNorm.

    A GroupNorm is an InstanceNormalization of groups without a scale of its own.
    """
    x = _operand(step, "Mul")
    norm = None if x is None else _made_by(x)
    if norm is not None and norm.op == "Reshape":
        groups = norm.input(0)
        norm = None if groups is None else _made_by(groups)
        return norm is not None and norm.op == "InstanceNormalization" and not is_affine(norm)
    return norm is not None and is_layer_norm(norm)


def is_layer_norm(step: Step) -> bool:
    """Return whether a Div ends a LayerNorm over the last axis that is written as sums.

    (x - mean) / sqrt(mean((x - mean)**2) + epsilon)
    """
    numerator, denominator = step.input(0), step.input(1)
    if step.op != "Div" or numerator is None or denominator is None:
        return False
    difference, root = _made_by(numerator), _made_by(denominator)
    if difference is None or root is None or (difference.op, root.op) != ("Sub", "Sqrt"):
        return False
    total = _maker_of_input(root, 0)
    variance = _maker_of_input(total, 0) or _maker_of_input(total, 1)
    mean, square = _maker_of_input(difference, 1), _maker_of_input(variance, 0)
    return (
        _is_mean_of_last(mean)
        and _is_mean_of_last(variance)
        and square is not None
        and square.op in ("Pow", "Mul")
        and _maker_of_input(square, 0) is difference
    )


def is_affine(norm: Step) -> bool:
    """Return whether a norm has a scale and a bias; ones and zeros stand for none.

    A LayerNormalization without a scale has no bias either, or one that a Constant node holds.
    """
    scale, bias = norm.value(1), norm.value(2)
    if scale is None or not (scale == 1).all():
        return True
    if norm.op == "LayerNormalization" and bias is not None:
        tensor = norm.input(2)
        return tensor is not None and tensor.is_named
    return bias is not None and bool((bias != 0).any())


def _operand(step: Step, op: str) -> Optional[Tensor]:
    """Return what a node adds a vector to, or multiplies by one; None for other nodes.

    The vector is a constant of one axis.
    """
    if step.op != op or len(step.inputs) != 2 or None in step.inputs:
        return None
    a, b = step.inputs
    assert a is not None and b is not None
    x, constant = (a, b) if a.computed else (b, a)
    shape = constant.shape
    if not x.computed or constant.computed or shape is None:
        return None
    return x if math.prod(shape) == max(shape, default=1) else None


def _made_by(tensor: Tensor) -> Optional[Step]:
    """Return the node that made a tensor, other than a change of its type."""
    step = tensor.maker
    while step is not None and step.op in ("Cast", "Identity"):
        step = _direct_maker(step, 0)
    return step


def _direct_maker(step: Step, index: int) -> Optional[Step]:
    tensor = step.input(index)
    return None if tensor is None else tensor.maker


def _maker_of_input(step: Optional[Step], index: int) -> Optional[Step]:
    tensor = None if step is None else step.input(index)
    return None if tensor is None else _made_by(tensor)


def _is_mean_of_last(step: Optional[Step]) -> bool:
    if step is None or step.op != "ReduceMean":
        return False
    x = step.input(0)
    axes = step.attributes.get("axes") if step.value(1) is None else step.value(1)
    rank = 0 if x is None or x.shape is None else len(x.shape)
    return rank > 0 and axes is not None and [int(axis) % rank for axis in axes] == [rank - 1]
