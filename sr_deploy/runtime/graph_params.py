"""The parameters of an ONNX graph: which of its constants are learned, and how many there are."""

from __future__ import annotations

import math
from typing import Any, Dict, Set, Tuple

import numpy as np

from sr_deploy.runtime.graph_rules import NORMS, is_affine, is_bias
from sr_deploy.runtime.graph_walk import Step

# The inputs of operators that are learned; of other nodes see `Params`.
_LEARNED: Dict[str, Tuple[int, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "com.microsoft::FusedConv"), (1, 2)),
    **dict.fromkeys(("QLinearConv", "com.microsoft::QLinearConv"), (3, 8)),
    "ConvInteger": (1,),
    "DeformConv": (1, 3),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    **dict.fromkeys(("Gemm", "com.microsoft::FusedGemm"), (0, 1, 2)),
    **dict.fromkeys(("com.microsoft::FusedMatMul", "com.microsoft::FusedMatMulActivation"), (0, 1)),
    "QLinearMatMul": (0, 3),
    "com.microsoft::QGemm": (3, 6),
    "com.microsoft::MatMulIntegerToFloat": (1, 6),
    "com.microsoft::DynamicQuantizeMatMul": (1, 4),
    "Einsum": tuple(range(8)),
    "com.microsoft::Attention": (1, 2),
    "com.microsoft::MultiHeadAttention": (3,),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2, 3)),
    **dict.fromkeys(NORMS, (1, 2)),
    "com.microsoft::GroupNorm": (1, 2),
    "RMSNormalization": (1,),
    "com.microsoft::SkipLayerNormalization": (2, 3, 4),
    "com.microsoft::BiasGelu": (1,),
    "com.microsoft::FastGelu": (1,),
    "PRelu": (1,),
    "Gather": (0,),
}
_ARITHMETIC = frozenset("Add Sub Mul Div Pow Max Min Sum Concat Where Expand".split())
_COUNTING = frozenset({7, 8, 9, 12, 13})
"""TensorProto's types of sizes, indices, texts and truths."""


_MERGED = 1024
"""Exporters merge equal tensors of at most so many elements."""


class Params:
    """The elements of learned constants."""

    def __init__(self, constants: Dict[str, Any]) -> None:
        self._constants = constants
        self._layers: Dict[Any, int] = {}
        """Elements by tensors, with a number where all have one value."""
        self._large: Dict[str, int] = {}

    @property
    def total(self) -> int:
        return sum(self._layers.values()) + sum(self._large.values())

    def add(self, step: Step) -> None:
        names = self._learned(step)
        sizes = {name: self._numel(name) for name in names}
        small = [name for name, n in sizes.items() if n <= _MERGED]
        self._large.update((name, n) for name, n in sizes.items() if n > _MERGED)
        if small:
            elements = sum(sizes[name] for name in small)
            one_value = len(small) == len(names) and all(self._is_uniform(n) for n in small)
            number = len(self._layers) if one_value and elements > 1 else None
            self._layers[frozenset(names), number] = elements

    def _learned(self, step: Step) -> Set[str]:
        if step.op in _LEARNED:
            if step.op in NORMS and not is_affine(step):
                return set()
            places, is_layer = _LEARNED[step.op], True
        elif step.op in _ARITHMETIC:
            places, is_layer = tuple(range(len(step.inputs))), is_bias(step)
        else:
            return set()
        constants = [t for t in map(step.input, places) if t is not None and not t.computed]
        names = {name for tensor in constants for name in tensor.sources}
        direct = {t.name for t in constants if t.sources == {t.name}}
        return {
            name
            for name in names
            if self._constants[name].data_type not in _COUNTING
            and (is_layer or self._is_table(name))
            and (name in direct or len(self._constants[name].dims) > 0)
        }

    def _is_table(self, name: str) -> bool:
        """Return whether a constant in plain arithmetic is learned."""
        if self._numel(name) in (1, 3):
            return False
        values = self._few_values(name)
        return len(values) != 2 and set(values) != {0} or 0 not in values

    def _is_uniform(self, name: str) -> bool:
        return len(self._few_values(name)) == 1

    def _few_values(self, name: str) -> Tuple[float, ...]:
        """Return the different values of a constant; the first three of more."""
        from onnx import numpy_helper

        values = numpy_helper.to_array(self._constants[name])
        return tuple(np.unique(values)[:3].tolist())

    def _numel(self, name: str) -> int:
        return math.prod(self._constants[name].dims)
