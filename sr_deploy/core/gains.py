"""Cards of gains heads, which predict where more depth pays. No weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, Tuple

from sr_deploy.core.cards import WeightsKind

CELL_PX = 32
"""Side of a cell in LR pixels."""


@dataclass(frozen=True)
class GainsSpec:
    """The card of a gains head, stored as JSON beside its weights."""

    model: str
    """The checkpoint whose depths it chooses between: a file beside it, or a shipped one."""
    model_sha256: str
    """Of the weights of that checkpoint."""
    scale: int
    variants: Tuple[str, ...]
    """The depths, smallest first, such as d1, d3, d5. A gain is against the first."""
    price: float
    """The gain that a multiply-accumulate must bring unless a budget says otherwise, in the unit
    of the gains: see GainsHead."""
    cell: int = CELL_PX
    """Side of a cell in LR pixels."""
    config: Dict[str, Any] = field(default_factory=dict)
    """Arguments of the head's network, without its number of depths."""
    licence: str = ""
    trained_on: str = ""
    training: Dict[str, Any] = field(default_factory=dict)
    notes: str = ""
    weights_sha256: str = ""


def _problems(spec: GainsSpec) -> Iterator[str]:
    if len(set(spec.variants)) < max(2, len(spec.variants)):
        yield f"its depths are {', '.join(spec.variants) or 'none'}; expected at least two"
    if spec.cell != CELL_PX:
        yield f"its cells have {spec.cell} LR pixels a side; expected {CELL_PX}"
    if not 0 <= spec.price < float("inf"):
        yield f"its price is {spec.price}; expected a number of at least 0"


GAINS = WeightsKind("gains head", ".gains.safetensors", GainsSpec, _problems)
"""Gains heads, shipped and others."""
