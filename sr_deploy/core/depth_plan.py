"""AdaDSR: the plan of an exported AdaEDSR, and the cost of a depth map."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import VariantError
from sr_deploy.core.parts import AdaptivePlan, PlanEngine, PlanPart, read_plan_file
from sr_deploy.core.spec import check_desired_depth

WAYS = ("rows", "tiles")
TAIL_PX = 3
"""Receptive radius of the last convolution and the tail, in LR pixels."""
ADAPTER_PX = 5
"""Receptive radius of a depth on the head's features, in LR pixels: the adapter's convolutions."""


@dataclass(frozen=True)
class DepthPlan(AdaptivePlan):
    """An exported AdaEDSR: parts and costs. Stored as NAME.WAY.json beside its parts.

    The parts are the start, the end, and two per group of blocks: everywhere, and by `way`.
    """

    model: str
    scale: int
    blocks: int
    way: str
    """How blocks are skipped: `rows` gathers the pixels that take them, `tiles` cuts out the tiles
    with such pixels."""
    parent_sha256: str
    macs_px: int
    """Multiply-accumulates of the dense backbone per LR pixel."""
    conv_macs_px: int
    """Multiply-accumulates of one convolution of a block per LR pixel."""
    map_macs_px: int
    """Multiply-accumulates of the depth map per LR pixel."""
    dense_above: float = 1.0
    """A group of blocks is computed at all pixels if more than this share of the pixels take it,
    averaged over its blocks (rows), or if its tiles would cost more than this share of the dense
    multiply-accumulates (tiles)."""
    tile: int = 0
    """Height and width of a tile in LR pixels, for `tiles`."""
    depths: Tuple[int, ...] = ()
    """The last block of each group, ascending; the last one is `blocks`."""
    fixed: bool = False
    """Whether it was trained for one depth (FAdaEDSR in the paper), which cannot be changed."""
    timed_ms: Optional[float] = None
    """Time for a 256x256 photograph at half of all blocks, measured in turns with the other way
    on the exporting machine."""
    parts: Dict[str, PlanPart] = field(default_factory=dict)
    target: str = ""
    precision: str = "fp32"
    checks: Dict[str, Any] = field(default_factory=dict)
    engine: Optional[PlanEngine] = None

    @property
    def kind(self) -> str:
        return self.way

    def roles(self) -> List[str]:
        skipping = f"t{self.tile}" if self.way == "tiles" else self.way
        groups = [f"b{last}.{how}" for last in self.depths for how in ("everywhere", skipping)]
        return ["start", "end", *groups]

    def problems(self) -> Iterator[str]:
        consistent = (
            self.way in WAYS
            and self.depths[-1:] == (self.blocks,)
            and 0 < self.depths[0] <= self.blocks <= 1024
            and list(self.depths) == sorted(set(self.depths))
            and (self.way == "rows" or 0 < self.tile <= 4096)
            and 0 <= self.dense_above <= 1
            and min(self.macs_px, self.conv_macs_px) > 0
            and self.map_macs_px >= 0
        )
        if not consistent:
            yield f"way '{self.way[:20]}', tile, depths and costs are inconsistent"

    def desired_depth(self, depth: Optional[float]) -> float:
        """Return `depth`, or half of all blocks for None. Raises VariantError if unavailable."""
        if self.fixed and depth is not None:
            raise VariantError(
                f"'{self.model}' was trained for one depth, which cannot be changed",
                hint="omit the depth",
            )
        depth = self.blocks / 2 if depth is None else depth
        check_desired_depth(depth, self.blocks)
        return depth


def parse_depth(variant: str, blocks: int) -> float:
    """Parse the depth of a variant, `d8` or `d7.5`. Raises VariantError outside 0..blocks."""
    try:
        depth = float(variant[1:]) if variant[:1] == "d" else float("nan")
    except ValueError:
        depth = float("nan")
    if depth != depth:
        raise VariantError(
            f"'{variant}' is not a desired depth; expected for example d{blocks // 2}"
        )
    check_desired_depth(depth, blocks)
    return depth


def reach_px(blocks: int) -> int:
    """Return the receptive radius of the head, `blocks` blocks and the tail, in LR pixels."""
    return 1 + 2 * blocks + TAIL_PX


def is_depth_plan(path: Path) -> bool:
    """Return whether a file is named like a plan."""
    return path.suffixes[-2:] in [[f".{way}", ".json"] for way in WAYS]


def read_depth_plan(path: Path) -> DepthPlan:
    """Read a plan. Raises ArtifactError if it is missing, malformed or inconsistent."""
    return read_plan_file(DepthPlan, path)


def takes_block(depth_map: np.ndarray, block: int) -> np.ndarray:
    """Return where an (H, W) map takes block number `block`, counted from 1: (H, W) bool."""
    return depth_map > block - 1


def dilate(where: np.ndarray, px: int) -> np.ndarray:
    """Return the maximum of an (H, W) array over windows of (2*px + 1) x (2*px + 1)."""
    lowest = False if where.dtype == bool else -np.inf
    h, w = where.shape
    padded = np.pad(where, px, constant_values=lowest)
    rows = np.maximum.reduce([padded[i : i + h] for i in range(2 * px + 1)])
    windows = [rows[:, i : i + w] for i in range(2 * px + 1)]
    return np.asarray(np.maximum.reduce(windows))


def quarter_depths(blocks: int) -> Tuple[int, ...]:
    """Return the last block of each quarter of the blocks, or all blocks of fewer than four."""
    return tuple(sorted({-(-blocks * i // 4) for i in range(1, 5)}))


def tile_corners(plan: DepthPlan, depth_map: np.ndarray, before: int) -> List[Tuple[int, int]]:
    """Return the corners (top, left) of the map's tiles with pixels deeper than `before`."""
    corners = itertools.product(
        range(0, depth_map.shape[0], plan.tile), range(0, depth_map.shape[1], plan.tile)
    )
    return [
        (top, left)
        for top, left in corners
        if takes_block(depth_map[top : top + plan.tile, left : left + plan.tile], before + 1).any()
    ]


def dense_groups(plan: DepthPlan, depth_map: np.ndarray) -> Tuple[bool, ...]:
    """Return for each group of blocks whether it is computed at all pixels of an (H, W) map."""
    return tuple(
        _share(plan, depth_map, first, last) > plan.dense_above
        for first, last in block_groups(plan)
    )


def block_groups(plan: DepthPlan) -> List[Tuple[int, int]]:
    """Return (blocks before it, its last block) for each group."""
    return list(zip((0, *plan.depths), plan.depths))


def executed_macs(plan: DepthPlan, depth_map: np.ndarray) -> int:
    """Return the multiply-accumulates executed for an (H, W) map."""
    px = depth_map.size
    total = (plan.macs_px + plan.map_macs_px - 2 * plan.blocks * plan.conv_macs_px) * px
    for (first, last), dense in zip(block_groups(plan), dense_groups(plan, depth_map)):
        if dense:
            total += 2 * (last - first) * plan.conv_macs_px * px
        elif plan.way == "tiles":
            total += len(tile_corners(plan, depth_map, first)) * _tile_macs(plan, last - first)
        else:
            for where in (takes_block(depth_map, block) for block in range(first + 1, last + 1)):
                total += plan.conv_macs_px * (int(where.sum()) + int(dilate(where, 1).sum()))
    return int(total)


def _share(plan: DepthPlan, depth_map: np.ndarray, first: int, last: int) -> float:
    if plan.way == "tiles":
        everywhere_macs = 2 * (last - first) * plan.conv_macs_px * depth_map.size
        return (
            len(tile_corners(plan, depth_map, first))
            * _tile_macs(plan, last - first)
            / everywhere_macs
        )
    return float(
        np.mean([takes_block(depth_map, block).mean() for block in range(first + 1, last + 1)])
    )


def _tile_macs(plan: DepthPlan, blocks: int) -> int:
    """Return the cost of `blocks` blocks on a tile; each needs two more pixels on each side."""
    return plan.conv_macs_px * sum(
        (plan.tile + 4 * blocks - 2 * conv) ** 2 for conv in range(1, 2 * blocks + 1)
    )
