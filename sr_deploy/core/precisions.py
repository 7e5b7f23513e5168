"""Precisions of engines, and of what they really compute in."""

from __future__ import annotations

from typing import Dict, Sequence

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
"""What can be asked of an engine. Its graph may be of another type: FP32 for a BF16 engine, and for
an FP16 engine of a weakly typed builder."""
GRAPH_DTYPES = ("fp32", "fp16")
"""Types of the tensors of graphs; those of INT8 graphs are of these between their Q/DQ pairs."""


def mixed_precision(counts: Dict[str, int]) -> str:
    """Return the precision of layers or tensors of several types: `mixed: 165 fp16, 3 fp32`."""
    return "mixed: " + ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))


def precision_of_counts(counts: Dict[str, int]) -> str:
    """Return the precision of layers or tensors: `int8` where all are, else as `mixed_precision`;
    empty for none."""
    return next(iter(counts)) if len(counts) == 1 else mixed_precision(counts) if counts else ""


def precisions_text(names: Sequence[str]) -> str:
    """Return a list in words: `fp16, fp32 and int8`. names: one at least."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def is_quantised(precision: str) -> bool:
    """Return whether a precision has 8-bit parts."""
    return "int8" in precision or "fp8" in precision


LOWEST_FIRST = ("int8", "fp8", "bf16", "fp16", "fp32")


def lowest_precision(text: str) -> str:
    """Return the lowest precision that is computed in: `int8` of `mixed: 20 fp32, 31 int8`."""
    return next((name for name in LOWEST_FIRST if name in text), text)
