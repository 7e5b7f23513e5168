"""The parameters of an ONNX graph: which of its constants are learned, and how many there are."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Dict, Hashable, Iterable, List, Tuple

import numpy as np

from sr_deploy.runtime.graph_patterns import is_affine, is_bias, is_scale_or_shift
from sr_deploy.runtime.graph_rules import NORMS
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


_FLOATS = frozenset({1, 10, 11, 16})
_MERGED = 1024
"""Exporters merge equal tensors of at most so many elements, and copy larger shared ones."""

_REPEATED = 4
"""A table whose entries are repeated so often is the smaller one that it was made from."""


@dataclass(frozen=True)
class _Learned:
    """A learned constant."""

    key: str
    """Of its values; equal tensors have one key."""
    elements: int
    is_uniform: bool
    """Whether it has one value, as before training."""


class Params:
    """The elements of learned constants.

    Large tensors of the same values are one, small ones if all tensors of their layers are.
    """

    def __init__(self, constants: Dict[str, Any]) -> None:
        """constants: TensorProtos by name."""
        self._constants = constants
        self._found: Dict[Hashable, int] = {}
        self._known: Dict[Tuple[str, bool], _Learned] = {}

    @property
    def total(self) -> int:
        return sum(self._found.values())

    def add(self, step: Step) -> None:
        """Add those of a node, unless they are there."""
        tensors = self._learned(step)
        large = [t for t in tensors if t.elements > _MERGED and not t.is_uniform]
        self._found.update((t.key, t.elements) for t in large)
        small = [t for t in tensors if t not in large]
        elements = sum(t.elements for t in small)
        untrained = elements > 1 and not large and all(t.is_uniform for t in small)
        layer = frozenset(t.key for t in tensors)
        self._found[layer, len(self._found) if untrained else None] = elements

    def _learned(self, step: Step) -> List[_Learned]:
        is_layer = step.op in _LEARNED or is_bias(step) or is_scale_or_shift(step)
        if step.op in _LEARNED:
            places: Iterable[int] = _LEARNED[step.op]
        elif step.op in _ARITHMETIC:
            places = range(len(step.inputs))
        else:
            return []
        if step.op in NORMS and not is_affine(step):
            return []
        constants = [t for t in map(step.input, places) if t is not None and not t.computed]
        direct = {t.name for t in constants}
        names = {name for tensor in constants for name in tensor.sources}
        return [
            self._of(name, is_layer)
            for name in sorted(names)
            if (name in direct or self._constants[name].dims)
            and (self._is_weight(name) if is_layer else self._is_table(name))
        ]

    def _is_weight(self, name: str) -> bool:
        return self._constants[name].data_type not in _COUNTING

    def _is_table(self, name: str) -> bool:
        """Return whether a constant in plain arithmetic is learned."""
        if self._constants[name].data_type not in _FLOATS:
            return False
        values = self._values(name)
        whole = bool((values == np.round(values)).all())
        return values.size not in (1, 3) and not whole and not self._of(name, False).is_uniform

    def _of(self, name: str, is_layer: bool) -> _Learned:
        if (name, is_layer) not in self._known:
            values = np.ascontiguousarray(self._values(name))
            key = hashlib.sha256(values.tobytes() + str(values.shape).encode()).hexdigest()
            uniform = bool((values == values.ravel()[:1]).all())
            elements = values.size if is_layer else _table_size(values)
            self._known[name, is_layer] = _Learned(key, elements, uniform)
        return self._known[name, is_layer]

    def _values(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        tensor = self._constants[name]
        values = numpy_helper.to_array(tensor)
        return values.astype(np.float32) if tensor.data_type in _FLOATS else values


def _table_size(values: np.ndarray) -> int:
    """Return the elements of a table.

    A bias of tokens by tokens, (..., N, M), was gathered from a table of their relative positions,
    which is many times smaller: its different columns are counted.
    """
    if values.ndim < 3:
        return values.size
    columns = values.reshape(-1, math.prod(values.shape[-2:]))
    table = len(columns) * np.unique(columns, axis=1).shape[1]
    return table if _REPEATED * table <= values.size else values.size
