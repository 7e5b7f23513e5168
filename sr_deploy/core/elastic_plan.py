"""Networks that are chosen tile by tile: exported plans, their costs and budgets. No weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from sr_deploy.core.budgets import LARGE_HW
from sr_deploy.core.errors import InputError
from sr_deploy.core.parts import AdaptivePlan, PlanEngine, PlanPart, read_plan_file
from sr_deploy.core.quadtree import RATED, Quadtree, TailCost, TileRates, cells_hw
from sr_deploy.core.sizes import HW, hw_text

PLAN_SUFFIX = ".elastic.json"
BRANCHES_SUFFIX = ".branches.json"


@dataclass(frozen=True)
class ElasticPlan(AdaptivePlan):
    """A gains head, a start, and tails, as they run. Stored as NAME.elastic.json beside its parts.

    The parts are `gains`, from lr to the gains of cells; `start`, from lr to features, which only
    tiles need; and two for each depth: `d3`, from features and inside of tiles to sr, and
    `d3.whole`, the network of that depth, from lr to sr.
    """

    model: str
    """The name of the gains head."""
    network: str
    """The checkpoint whose depths it chooses between."""
    scale: int
    parent_sha256: str
    """Of the weights of the gains head."""
    start_macs_px: int
    """Multiply-accumulates of the smallest depth's blocks per LR pixel, which tiles need; 0: tails
    start from the image."""
    gains_macs: int
    """Multiply-accumulates of the gains per cell."""
    channels: int
    """Of the features."""
    tails: Dict[str, TailCost]
    """What each depth costs: in tiles after the start, and the whole network. Smallest first."""
    price: float
    """The gain that a multiply-accumulate must bring, unless there is a budget."""
    rates: Dict[str, TileRates] = field(default_factory=dict)
    """By backend: what the parts took where the plan was written."""
    parts: Dict[str, PlanPart] = field(default_factory=dict)
    target: str = ""
    precision: str = "fp32"
    checks: Dict[str, Any] = field(default_factory=dict)
    engine: Optional[PlanEngine] = None

    @property
    def kind(self) -> str:
        return "elastic"

    @property
    def concurrent(self) -> Tuple[str, ...]:
        return tuple(self.tails)

    @property
    def names(self) -> Tuple[str, ...]:
        """The networks of its depths, smallest first: `asrn_x4.d1`."""
        return tuple(f"{self.network}.{variant}" for variant in self.tails)

    @property
    def elastic(self) -> bool:
        """Whether it chooses between depths of one network."""
        return True

    def roles(self) -> List[str]:
        start = ["start"] if self.has_start else []
        return ["gains", *start, *self.tails, *map(whole_role, self.tails)]

    def problems(self) -> Iterator[str]:
        costs = list(self.tails.values())
        wholes = [cost.whole_px for cost in costs]
        margins = [cost.margin for cost in costs]
        consistent = (
            len(costs) >= 2
            and wholes == sorted(set(wholes))
            and margins == sorted(margins)
            and 0 <= margins[0] <= margins[-1] <= 256
            and min(cost.px for cost in costs) > 0
            and min(min(cost.side, cost.corner) for cost in costs) >= 0
            and self.start_macs_px >= 0
            and min(self.gains_macs, self.channels) > 0
        )
        if not consistent:
            yield "depths, margins and costs are inconsistent"
        for rates in self.rates.values():
            rows = rates.ms_of_mac
            if set(rows) != set(RATED) or {len(row) for row in rows.values()} != {len(costs)}:
                yield "its rates are not of its tiles and depths"
            elif not (rates.start_ms_px >= 0 and rates.table.min() > 0):
                yield "its rates are not above 0"
        if not 0 <= self.price < float("inf"):
            yield f"its price is {self.price}; expected a number of at least 0"

    @property
    def has_start(self) -> bool:
        """Whether the tails of tiles continue from features; else from the image."""
        return self.start_macs_px > 0

    @property
    def plain_macs_px(self) -> int:
        """Multiply-accumulates of the plain network, the largest depth, per LR pixel."""
        return list(self.tails.values())[-1].whole_px

    def gains_macs_of(self, hw: HW) -> int:
        """Return the multiply-accumulates of the gains of an image of (h, w)."""
        rows, columns = cells_hw(hw)
        return self.gains_macs * rows * columns

    def least_share(self, hw: HW) -> float:
        """Return the smallest budget of an image: the smallest depth everywhere, and the gains."""
        px = hw[0] * hw[1]
        least = self.gains_macs_of(hw) + next(iter(self.tails.values())).whole_px * px
        return least / (self.plain_macs_px * px)

    def quadtree(self, hw: HW, rates: Optional[TileRates] = None) -> Quadtree:
        """Return the possible tiles of an image of (h, w), with costs in multiply-accumulates.

        rates: the times in ms on a machine; costs are times then.
        """
        costs = list(self.tails.values())
        if rates is None:
            return Quadtree(hw, costs, start_px=self.start_macs_px)
        return Quadtree(hw, costs, rates.table, rates.start_ms_px)

    def check_budget(self, max_share: Optional[float], hw: HW = LARGE_HW, own: float = 1.0) -> None:
        """Raise InputError for a budget that an image of (h, w) cannot keep.

        own: the pixels of the image per pixel of its tiles, which overlap.
        """
        least = self.least_share(hw) / own
        if max_share is None or least <= max_share:
            return
        largest, smallest = self.names[-1], self.names[0]
        of = "a large image, such as " if hw == LARGE_HW else ""
        raise InputError(
            f"a budget of {max_share:.1%} of '{largest}' on the whole image is too small for "
            f"{of}{hw_text(hw)}{' of a tile' if own < 1 else ''}: '{smallest}' everywhere and the "
            f"prediction of gains take {least:.1%}",
            hint=f"give {np.ceil(least * 100):.0f}% or more",
        )


@dataclass(frozen=True)
class BranchesPlan(ElasticPlan):
    """A router and its branches by tiles, as they run. Stored as NAME.branches.json.

    The router gives the gains: by how much it scores a branch above the smallest. There is no
    start: the features of tiles are the image. A tail is a branch.
    """

    branches: Tuple[str, ...] = ()
    """The networks, smallest first."""

    @property
    def kind(self) -> str:
        return "branches"

    @property
    def names(self) -> Tuple[str, ...]:
        return self.branches

    @property
    def elastic(self) -> bool:
        return False

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if len(self.branches) != len(self.tails):
            yield f"it names {len(self.branches)} branches for {len(self.tails)} tails"


def whole_role(variant: str) -> str:
    """Return the role of a depth's network, which runs on the whole image."""
    return f"{variant}.whole"


def is_elastic_plan(path: Path) -> bool:
    """Return whether a file is named like a plan of either kind."""
    return path.name.endswith((PLAN_SUFFIX, BRANCHES_SUFFIX))


def read_elastic_plan(path: Path) -> ElasticPlan:
    """Read a plan of either kind. Raises ArtifactError if missing, malformed or inconsistent."""
    branches = path.name.endswith(BRANCHES_SUFFIX)
    return read_plan_file(BranchesPlan if branches else ElasticPlan, path)
