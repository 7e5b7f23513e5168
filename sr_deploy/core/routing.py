"""The card of a router: which networks it chooses between, smallest first, and what each costs. No weights are read here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, List, Tuple

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.files import data_folder
from sr_deploy.core.jsonio import from_dict, read_json

ROUTER_SUFFIX = ".router.safetensors"
CELL = 4
"""LR pixels a side that a router's first convolution reads at once; the smallest patch."""


@dataclass(frozen=True)
class Branch:
    """One class of patches: a variant of a checkpoint, by its name, and multiply-accumulates a patch as it is exported."""

    model: str
    variant: str
    weights_sha256: str
    macs: int


@dataclass(frozen=True)
class RouterSpec:
    """The card of a router, stored as JSON beside its weights. The tuples have one entry a class, the smallest branch first."""

    scale: int
    models: Tuple[str, ...]
    """Each branch's checkpoint: a shipped one's name, or that of a file beside the router's."""
    variants: Tuple[str, ...]
    weights_sha256s: Tuple[str, ...]
    """Of the branches' checkpoints: the router was trained for these weights."""
    macs: Tuple[int, ...]
    """Multiply-accumulates of each branch on one patch, as it is exported."""
    router_macs: int
    """Of the router itself on one patch."""
    patch_hw: Tuple[int, int] = (32, 32)
    """The LR patches it was trained on, (h, w) in pixels."""
    config: dict = field(default_factory=dict)
    """Constructor arguments of the router's network other than its number of classes."""
    licence: str = ""
    trained_on: str = ""
    training: dict = field(default_factory=dict)
    notes: str = ""
    weights_sha256: str = ""

    @property
    def branches(self) -> Tuple[Branch, ...]:
        """The branches, smallest first."""
        return tuple(Branch(*facts) for facts in zip(self.models, self.variants, self.weights_sha256s, self.macs))


def shipped_routers() -> List[Path]:
    """Return the weight files of the shipped routers, sorted by name."""
    return sorted(data_folder("models").glob("*" + ROUTER_SUFFIX))


def router_name(weights: Path) -> str:
    """Return a router's name: its file's without the suffix."""
    return weights.name[: -len(ROUTER_SUFFIX)]


def read_router_card(weights: Path) -> RouterSpec:
    """Read the card beside a router's weights. Raises CheckpointError when there is none, or it is malformed."""
    card = weights.with_suffix(".json")
    if not card.is_file():
        raise CheckpointError(f"{weights} has no card: expected {card.name} beside it")
    spec = from_dict(RouterSpec, read_json(card, CheckpointError), source=str(card), error=CheckpointError)
    for problem in _problems(spec):
        raise CheckpointError(f"the card {card} is not usable: {problem}")
    return spec


def _problems(spec: RouterSpec) -> Iterator[str]:
    classes = len(spec.models)
    lengths = {len(spec.variants), len(spec.weights_sha256s), len(spec.macs)}
    if lengths != {classes} or classes < 2:
        yield f"it names {classes} models, {len(spec.variants)} variants, {len(spec.weights_sha256s)} checksums and {len(spec.macs)} costs"
    if list(spec.macs) != sorted(spec.macs) or min(spec.macs, default=0) < 1:
        yield f"its branches are not from the smallest to the largest: {', '.join(map(str, spec.macs))} multiply-accumulates"
    if min(spec.patch_hw) < CELL:
        yield f"its patches are {spec.patch_hw[0]}x{spec.patch_hw[1]}; the smallest is {CELL}x{CELL}"
