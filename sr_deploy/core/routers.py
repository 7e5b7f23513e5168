"""Routers: the card of one (which networks it chooses between, smallest first, and what each costs), its deployed plan, its choice.

No weights are read here. Arrays: numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError, CheckpointError, InputError
from sr_deploy.core.files import data_folder
from sr_deploy.core.jsonio import from_dict, read_json

ROUTER_SUFFIX = ".router.safetensors"
_CARD_SUFFIX = ".router.json"
PLAN_SUFFIX = ".routed.json"
_FARTHEST = 1e9
"""Beyond any difference of log-odds over one of costs."""
OVERLAP_PX = 4
"""LR pixels that neighbouring patches share, as in the paper: 32x32 every 28."""
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
    config: Dict[str, Any] = field(default_factory=dict)
    """Constructor arguments of the router's network other than its number of classes."""
    licence: str = ""
    trained_on: str = ""
    training: Dict[str, Any] = field(default_factory=dict)
    notes: str = ""
    weights_sha256: str = ""

    @property
    def branches(self) -> Tuple[Branch, ...]:
        """The branches, smallest first."""
        return tuple(
            Branch(*facts)
            for facts in zip(self.models, self.variants, self.weights_sha256s, self.macs)
        )


def shipped_routers() -> List[Path]:
    """Return the weight files of the shipped routers, sorted by name."""
    return sorted(data_folder("models").glob("*" + ROUTER_SUFFIX))


def router_name(weights: Path) -> str:
    """Return a router's name: its file's without the suffix."""
    return weights.name[: -len(ROUTER_SUFFIX)]


def is_router(given: str) -> bool:
    """Tell whether a name or a path is that of a router, or of its card."""
    return given in map(router_name, shipped_routers()) or Path(given).name.endswith(
        (ROUTER_SUFFIX, _CARD_SUFFIX)
    )


def read_router_card(weights: Path) -> RouterSpec:
    """Read the card beside a router's weights. Raises CheckpointError when there is none, or it is malformed."""
    card = weights.with_suffix(".json")
    if not card.is_file():
        raise CheckpointError(f"{weights} has no card: expected {card.name} beside it")
    spec = from_dict(
        RouterSpec, read_json(card, CheckpointError), source=str(card), error=CheckpointError
    )
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


@dataclass(frozen=True)
class RoutedPlan:
    """A router with its branches as they are run. Deployed, it is stored as NAME.routed.json beside its graphs."""

    model: str
    scale: int
    names: Tuple[str, ...]
    """The branches, smallest first."""
    macs: Tuple[int, ...]
    """Multiply-accumulates of each branch on one patch, as it is run."""
    router_macs: int
    """Of the router on one patch."""
    patch: int
    """LR pixels a side."""
    parent_sha256: str
    """Of the router's weights."""
    overlap: int = OVERLAP_PX
    """LR pixels that neighbouring patches share."""
    graphs: Dict[str, str] = field(default_factory=dict)
    """SHA-256 by file name: the router's, then the branches'. Each takes patches (N, 3, patch, patch)."""
    checks: Dict[str, Any] = field(default_factory=dict)

    @property
    def elastic(self) -> bool:
        """Whether all branches are slices of one checkpoint."""
        return len({name.rpartition(".")[0] for name in self.names}) == 1

    @property
    def least_share(self) -> float:
        """The smallest part of the largest branch's work that can be executed: the router, and the smallest branch everywhere."""
        return (self.router_macs + self.macs[0]) / self.macs[-1]

    def check_budget(self, max_share: Optional[float]) -> None:
        """Raise InputError for a budget that cannot be kept."""
        if max_share is not None and not self.least_share <= max_share:
            raise InputError(
                f"{max_share:.1%} of the largest branch is below the smallest: '{self.names[0]}' everywhere, with deciding it, takes "
                f"{self.least_share:.1%} of '{self.names[-1]}'",
                hint=f"give {np.ceil(self.least_share * 100):.0f}% or more",
            )

    def classes(self, log_odds: np.ndarray, max_share: Optional[float] = None) -> np.ndarray:
        """Return the class of each patch: (N, classes) -> (N,) int64, 0 the smallest branch.

        It is the likeliest one. With a budget each class is given a handicap by its cost, the smallest one (for the large classes
        an advantage, where the budget has room) with which no more than `max_share` of the largest branch on all patches is
        executed. Raises InputError for a budget below the smallest branch.
        """
        if max_share is None:
            return np.argmax(log_odds, axis=1)
        self.check_budget(max_share)
        cost = np.array(self.macs, np.float64) / self.macs[-1]

        def handicapped(by: float) -> np.ndarray:
            return np.argmax(log_odds - by * cost, axis=1)

        def kept(by: float) -> bool:
            executed = float(cost[handicapped(by)].mean()) + self.router_macs / self.macs[-1]
            return executed <= max_share + 1e-12

        low, high = -_FARTHEST, _FARTHEST
        if kept(low):
            return handicapped(low)
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (low, middle) if kept(middle) else (middle, high)
        return handicapped(high)


def read_routed_plan(path: Path) -> RoutedPlan:
    """Read a plan. Raises ArtifactError when it is missing, malformed, or what none of ours is."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}")
    plan = from_dict(
        RoutedPlan, read_json(path, ArtifactError), source=str(path), error=ArtifactError
    )
    classes = len(plan.names)
    whole = (
        classes >= 2
        and len(plan.macs) == classes
        and len(plan.graphs) == classes + 1
        and list(plan.macs) == sorted(plan.macs)
        and plan.macs[0] > 0
        and plan.router_macs >= 0
        and CELL <= plan.patch <= 1024
        and 0 <= plan.overlap < plan.patch
        and 1 <= plan.scale <= 8
        and all(Path(name).name == name for name in plan.graphs)
    )
    if not whole:
        raise ArtifactError(
            f"{path} is no plan of ours: its branches, costs, graphs and patches do not go together"
        )
    return plan


def share_from(text: str) -> float:
    """Read `60%` or `0.6`. Raises InputError on anything that is no share above 0 and up to 100 %."""
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = float("nan")
    if not 0 < share <= 1:
        raise InputError(
            f"'{text}' is no share of the largest network's work; expected such as 60% or 0.6"
        )
    return share


def spans(size: int, patch: int, overlap: int) -> Tuple[List[int], np.ndarray]:
    """Return where the patches of an axis of `size` >= patch pixels start, and how much each of their pixels counts.

    (patches, patch) float32: at each pixel of the axis those of all patches on it add up to 1; they fall linearly towards an edge
    that lies on a neighbour.
    """
    starts = [*range(0, max(size - patch, 0), max(patch - overlap, 1)), size - patch]
    ramp = np.minimum(np.arange(1, patch + 1), overlap + 1) / (overlap + 1)
    weights = np.tile(np.minimum(ramp, ramp[::-1]), (len(starts), 1))
    weights[0, : patch // 2], weights[-1, patch // 2 :] = 1, 1
    total = np.zeros(size)
    for start, weight in zip(starts, weights):
        total[start : start + patch] += weight
    for start, weight in zip(starts, weights):
        weight /= total[start : start + patch]
    return starts, weights.astype(np.float32)
