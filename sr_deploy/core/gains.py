"""Cards of gains heads, which predict where more depth pays. No weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.files import data_folder
from sr_deploy.core.jsonio import read_dataclass

GAINS_SUFFIX = ".gains.safetensors"
_CARD_SUFFIX = ".gains.json"
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


def shipped_gains() -> List[Path]:
    """Return the weight files of the shipped gains heads, sorted by name."""
    return sorted(data_folder("models").glob("*" + GAINS_SUFFIX))


def gains_name(weights: Path) -> str:
    """Return the name of a gains head: its file name without the suffix."""
    return weights.name[: -len(GAINS_SUFFIX)]


def is_gains(text: str) -> bool:
    """Return whether `text` names a shipped gains head, or the path of one or of its card."""
    shipped = map(gains_name, shipped_gains())
    return text in shipped or Path(text).name.endswith((GAINS_SUFFIX, _CARD_SUFFIX))


def read_gains_card(weights: Path) -> GainsSpec:
    """Read the card beside a head's weights. Raises CheckpointError if missing or malformed."""
    card = weights.with_suffix(".json")
    if not card.is_file():
        raise CheckpointError(f"{weights} has no card: expected {card.name} beside it")
    spec = read_dataclass(GainsSpec, card, CheckpointError)
    for problem in _problems(spec):
        raise CheckpointError(f"the card {card} is not usable: {problem}")
    return spec


def _problems(spec: GainsSpec) -> Iterator[str]:
    if len(set(spec.variants)) < max(2, len(spec.variants)):
        yield f"its depths are {', '.join(spec.variants) or 'none'}; expected at least two"
    if spec.cell != CELL_PX:
        yield f"its cells have {spec.cell} LR pixels a side; expected {CELL_PX}"
    if not 0 <= spec.price < float("inf"):
        yield f"its price is {spec.price}; expected a number of at least 0"
