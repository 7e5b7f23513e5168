"""Routers: cards, exported plans, and the choice of a branch for each patch. No weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from sr_deploy.core.budgets import LARGE_HW
from sr_deploy.core.cards import WeightsKind
from sr_deploy.core.errors import InputError
from sr_deploy.core.parts import AdaptivePlan, PlanEngine, PlanPart, read_plan_file
from sr_deploy.core.quadtree import SIZES
from sr_deploy.core.sizes import HW

PLAN_SUFFIX = ".routed.json"
_FARTHEST = 1e9
"""Larger than any quotient of a difference of log-odds and one of costs."""
OVERLAP_PX = 4
"""LR pixels shared by neighbouring patches, as in the paper: 32x32 with a stride of 28."""
BLENDS = ("none", "average", "ramp")
"""What becomes of pixels that patches share: `average` of their outputs, as in the paper, or a
`ramp` from one to the next. `none`: patches share none; a branch also sees their surroundings, as
far as its output depends on them, so a patch equals the branch on the whole image."""
MAX_SHARE = 2.0
"""The largest budget: all branches may take more than the plain network, as patches overlap."""
CELL = 4
"""Kernel size and stride of a router's first convolution in LR pixels; the smallest patch."""


@dataclass(frozen=True)
class Branch:
    """One class of patches: the variant of a checkpoint that upscales them."""

    model: str
    variant: str
    weights_sha256: str
    macs: int
    """Multiply-accumulates per patch, as exported."""


@dataclass(frozen=True)
class RouterSpec:
    """The card of a router, stored as JSON beside its weights.

    The tuples have one entry per class, the smallest branch first.
    """

    scale: int
    models: Tuple[str, ...]
    """The checkpoint of each branch: the name of a file beside the router, or of a shipped one."""
    variants: Tuple[str, ...]
    weights_sha256s: Tuple[str, ...]
    """Of the checkpoints whose branches the router was trained for."""
    macs: Tuple[int, ...]
    """Multiply-accumulates of each branch per patch, as exported."""
    router_macs: int
    """Multiply-accumulates of the router per patch."""
    patch_hw: Tuple[int, int] = (32, 32)
    """The LR patches it was trained on, (h, w) in pixels."""
    overlap: int = OVERLAP_PX
    """LR pixels shared by neighbouring patches."""
    blend: str = "ramp"
    """One of BLENDS; with `none`, the overlap is 0."""
    price: float = 0.0
    """With `none`: what a multiply-accumulate costs, in the unit of the router's scores, unless
    there is a budget. The branch with the highest score less its price is chosen. 0: the highest
    scores that take no more work than the largest branch on the whole image."""
    config: Dict[str, Any] = field(default_factory=dict)
    """Arguments of the router's network, without its number of classes."""
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


def _problems(spec: RouterSpec) -> Iterator[str]:
    classes = len(spec.models)
    lengths = {len(spec.variants), len(spec.weights_sha256s), len(spec.macs)}
    if lengths != {classes} or classes < 2:
        yield (
            f"it names {classes} models, {len(spec.variants)} variants, "
            f"{len(spec.weights_sha256s)} checksums and {len(spec.macs)} costs"
        )
    if list(spec.macs) != sorted(spec.macs) or min(spec.macs, default=0) < 1:
        costs = ", ".join(map(str, spec.macs))
        yield f"its branches are not sorted by size: {costs} multiply-accumulates"
    h, w = spec.patch_hw
    if min(h, w) < CELL:
        yield f"its patches are {h}x{w}; expected at least {CELL}x{CELL}"
    if spec.blend == "none" and not (h == w and h in SIZES):
        sides = ", ".join(map(str, SIZES))
        yield f"its patches are {h}x{w} and not blended; expected a side of {sides}"
    if not 0 <= spec.price < math.inf:
        yield f"its price is {spec.price}; expected a number of at least 0"
    yield from blend_problems(spec.blend, spec.overlap, min(spec.patch_hw))


def blend_problems(blend: str, overlap: int, patch: int) -> Iterator[str]:
    """Yield what is wrong with how patches overlap and are blended."""
    if blend not in BLENDS:
        yield f"its blend is '{blend[:20]}'; expected one of {', '.join(BLENDS)}"
    if not 0 <= overlap < patch:
        yield f"its patches of {patch} overlap by {overlap}; expected 0 to {patch - 1}"
    if blend == "none" and overlap:
        yield f"its patches overlap by {overlap} and are not blended; expected an overlap of 0"


ROUTERS = WeightsKind("router", ".router.safetensors", RouterSpec, _problems)
"""Routers, shipped and others."""


@dataclass(frozen=True)
class RoutedPlan(AdaptivePlan):
    """A router and its branches on patches that are blended. Stored as NAME.routed.json.

    This is how the paper runs them. Without blending, a router's plan is a `BranchesPlan`. The
    parts are the router and the branches, which take (N, 3, patch, patch).
    """

    model: str
    scale: int
    names: Tuple[str, ...]
    """The branches, smallest first."""
    macs: Tuple[int, ...]
    """Multiply-accumulates of each branch per patch, as it runs."""
    router_macs: int
    """Multiply-accumulates of the router per patch."""
    patch: int
    """Height and width in LR pixels."""
    parent_sha256: str
    overlap: int = OVERLAP_PX
    """LR pixels shared by neighbouring patches."""
    blend: str = "ramp"
    """How these are joined: `average` or `ramp`."""
    parts: Dict[str, PlanPart] = field(default_factory=dict)
    target: str = ""
    precision: str = "fp32"
    checks: Dict[str, Any] = field(default_factory=dict)
    engine: Optional[PlanEngine] = None

    @property
    def kind(self) -> str:
        return "routed"

    def roles(self) -> List[str]:
        return ["router", *self.names]

    def problems(self) -> Iterator[str]:
        classes = len(self.names)
        consistent = (
            classes >= 2
            and len(self.macs) == classes
            and list(self.macs) == sorted(self.macs)
            and self.macs[0] > 0
            and self.router_macs >= 0
            and CELL <= self.patch <= 1024
        )
        if not consistent:
            yield "branches, costs and patches are inconsistent"
        yield from blend_problems(self.blend, self.overlap, self.patch)

    @property
    def elastic(self) -> bool:
        """Whether all branches are variants of one checkpoint."""
        return len({name.rpartition(".")[0] for name in self.names}) == 1

    @property
    def plain_macs_px(self) -> float:
        """Multiply-accumulates of the plain network, the largest branch, per LR pixel."""
        return self.macs[-1] / self.patch**2

    @property
    def least_macs(self) -> int:
        """Multiply-accumulates per patch of the router and the smallest branch."""
        return self.router_macs + self.macs[0]

    def least_share(self, hw: HW) -> float:
        """Return the smallest budget of an image of (h, w) LR pixels.

        It is the work of the router and the smallest branch on all its patches, relative to the
        largest branch on the whole image.
        """
        patches = math.prod(
            len(patch_spans(max(n, self.patch), self.patch, self.overlap)[0]) for n in hw
        )
        return patches * self.least_macs / (self.plain_macs_px * math.prod(hw))

    def check_budget(self, max_share: Optional[float]) -> None:
        """Raise InputError for a budget that no image can keep."""
        least = self.least_share((self.patch, self.patch))  # one patch: no overlap
        if max_share is not None and not least <= max_share:
            large = self.least_share(LARGE_HW)
            raise InputError(
                f"a budget of {max_share:.1%} of '{self.names[-1]}' on the whole image is too "
                f"small: the router and '{self.names[0]}' everywhere take {least:.1%} of it "
                f"on one patch and {large:.1%} on overlapping ones",
                hint=f"give {np.ceil(large * 100):.0f}% or more",
            )

    def classes(self, log_odds: np.ndarray, max_macs: Optional[float] = None) -> np.ndarray:
        """Return the class of each patch: (N, classes) -> (N,) int64, 0 the smallest branch.

        Without a budget it is the likeliest class. With one, each class has a handicap in
        proportion to its cost: the smallest handicap with which the router and the branches execute
        at most `max_macs` multiply-accumulates on all patches together. It is negative where the
        budget allows more than the router chose. A budget below `least_macs` on each patch cannot
        be kept: all patches get the smallest branch.
        """
        if max_macs is None:
            return np.asarray(log_odds.argmax(axis=1))
        cost = np.array(self.macs, np.float64) / self.macs[-1]
        per_patch = max_macs / len(log_odds) - self.router_macs
        branch_share = per_patch / self.macs[-1] + 1e-12

        def choose(handicap: float) -> np.ndarray:
            return np.asarray((log_odds - handicap * cost).argmax(axis=1))

        def fits(handicap: float) -> bool:
            return bool(cost[choose(handicap)].mean() <= branch_share)

        low, high = -_FARTHEST, _FARTHEST
        if fits(low):
            return choose(low)
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return choose(high)


def read_routed_plan(path: Path) -> RoutedPlan:
    """Read a router's plan. Raises ArtifactError if missing, malformed or inconsistent."""
    return read_plan_file(RoutedPlan, path)


def parse_share(text: str) -> float:
    """Parse `60%` or `0.6`. Raises InputError unless it is above 0 and at most 200 %.

    A share of the plain network on the whole image; patches that overlap may take more than all.
    """
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = float("nan")
    if not 0 < share <= MAX_SHARE:
        raise InputError(
            f"'{text}' is not a valid share of the plain network's work; "
            "expected a value above 0 up to 200%, such as 60% or 0.6"
        )
    return share


def patch_spans(
    size: int, patch: int, overlap: int, blend: str = "ramp"
) -> Tuple[List[int], np.ndarray]:
    """Return the starts of the patches of an axis, and the weights of their pixels.

    size: pixels, at least `patch`. The weights, (patches, patch) float32, sum to 1 at each pixel of
    the axis. With `ramp` they fall linearly towards an edge that lies on a neighbour, with
    `average` all patches of a pixel have the same.
    """
    starts = [*range(0, max(size - patch, 0), max(patch - overlap, 1)), size - patch]
    weights = np.ones((len(starts), patch))
    if blend == "ramp":
        ramp = np.minimum(np.arange(1, patch + 1), overlap + 1) / (overlap + 1)
        weights[:] = np.minimum(ramp, ramp[::-1])
        weights[0, : patch // 2], weights[-1, patch // 2 :] = 1, 1
    total = np.zeros(size)
    for start, weight in zip(starts, weights):
        total[start : start + patch] += weight
    for start, weight in zip(starts, weights):
        weight /= total[start : start + patch]
    return starts, weights.astype(np.float32)
