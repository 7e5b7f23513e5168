"""How deep each pixel goes (AdaDSR): what a deployed network of that kind is, and what a depth map costs. Arrays: numpy alone."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError, VariantError
from sr_deploy.core.jsonio import from_dict, read_json
from sr_deploy.core.spec import check_desired_depth

WAYS = ("rows", "tiles")
TAIL_PX = 3
"""How far, in LR pixels, an output pixel reaches beyond its own in what the blocks made: the last convolution and the tail."""

ADAPTER_PX = 5
"""How far, in LR pixels, a depth reaches into the head's features: the adapter's convolutions."""


@dataclass(frozen=True)
class DepthPlan:
    """A deployed AdaEDSR: its graphs and what they cost. Stored as NAME.WAY.json beside them."""

    model: str
    scale: int
    blocks: int
    way: str
    """How blocks are skipped: `rows` gathers the pixels that take them, `tiles` cuts those out that hold such pixels."""
    parent_sha256: str
    """Of the checkpoint's weights."""
    graphs: Dict[str, str]
    """SHA-256 by file name: of the start, of the end, and for each group of blocks of two, everywhere and by `way`."""
    macs_px: int
    """Multiply-accumulates of the dense backbone on one LR pixel."""
    conv_macs_px: int
    """Those of one convolution of a block."""
    map_macs_px: int
    """Those of the depth map on one LR pixel."""
    dense_above: float = 1.0
    """A group of blocks is computed everywhere where more than this share of the pixels take it, on average of its blocks (rows), or
    where its tiles would take more than this share of its multiply-accumulates (tiles)."""
    tile: int = 0
    """Tiles: LR pixels a side."""
    depths: Tuple[int, ...] = ()
    """The last block of each group: the smallest first, all blocks last."""
    fixed: bool = False
    """Whether it was trained for one depth (the paper's FAdaEDSR): then there is none to ask for."""
    timed_ms: Optional[float] = None
    """Of a photograph of 256x256 at half of all blocks, in turns with the other way, where it was exported."""
    checks: Dict[str, Any] = field(default_factory=dict)

    def desired_depth(self, depth: Optional[float]) -> float:
        """Return the depth, half of all blocks for None. Raises VariantError for a depth that it does not have."""
        if self.fixed and depth is not None:
            raise VariantError(
                f"'{self.model}' was trained for one depth: no other can be asked for",
                hint="leave the depth out",
            )
        depth = self.blocks / 2 if depth is None else depth
        check_desired_depth(depth, self.blocks)
        return depth


def depth_from(variant: str, blocks: int) -> float:
    """Read the desired depth from a variant, `d8` or `d7.5`. Raises VariantError unless a backbone of `blocks` has it."""
    try:
        depth = float(variant[1:]) if variant[:1] == "d" else float("nan")
    except ValueError:
        depth = float("nan")
    if depth != depth:
        raise VariantError(f"'{variant}' is not a desired depth; expected d{blocks // 2}, say")
    check_desired_depth(depth, blocks)
    return depth


def reach_px(blocks: int) -> int:
    """Return how far, in LR pixels, a pixel depends on its surroundings through the head, `blocks` blocks and the tail."""
    return 1 + 2 * blocks + TAIL_PX


def plan_path(folder: Path, model: str, way: str) -> Path:
    """Return where the plan of a model lies."""
    return folder / f"{model}.{way}.json"


def is_depth_plan(path: Path) -> bool:
    """Tell by its name whether a file is a plan."""
    return path.suffixes[-2:] in [[f".{way}", ".json"] for way in WAYS]


def read_plan(path: Path) -> DepthPlan:
    """Read a plan. Raises ArtifactError when it is missing, malformed, or what none of ours is."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}")
    plan = from_dict(
        DepthPlan, read_json(path, ArtifactError), source=str(path), error=ArtifactError
    )
    whole = (
        plan.way in WAYS
        and plan.depths[-1:] == (plan.blocks,)
        and 0 < plan.depths[0] <= plan.blocks <= 1024
        and 1 <= plan.scale <= 8
        and (plan.way == "rows" or 0 < plan.tile <= 4096)
        and 0 <= plan.dense_above <= 1
        and min(plan.macs_px, plan.conv_macs_px) > 0
        and plan.map_macs_px >= 0
        and list(plan.graphs) == graph_names(plan)
    )
    if not whole or list(plan.depths) != sorted(set(plan.depths)):
        raise ArtifactError(
            f"{path} is no plan of ours: its way '{plan.way}', graphs, tile, depths and costs do not go together"
        )
    return plan


def graph_names(plan: DepthPlan) -> List[str]:
    """Return the file names of a plan's graphs, in their order."""
    skipping = f"t{plan.tile}" if plan.way == "tiles" else plan.way
    groups = [f"b{last}.{how}" for last in plan.depths for how in ("everywhere", skipping)]
    return [f"{plan.model}.{part}.onnx" for part in ("start", "end", *groups)]


def taken(depth_map: np.ndarray, block: int) -> np.ndarray:
    """Return where an (H, W) map takes block number `block`, from 1: bool."""
    return depth_map > block - 1


def dilated(where: np.ndarray, px: int) -> np.ndarray:
    """Return the maximum of (H, W) over squares of 2*px + 1 pixels a side."""
    lowest = False if where.dtype == bool else -np.inf
    h, w = where.shape
    padded = np.pad(where, px, constant_values=lowest)
    rows = np.maximum.reduce([padded[i : i + h] for i in range(2 * px + 1)])
    result: np.ndarray = np.maximum.reduce([rows[:, i : i + w] for i in range(2 * px + 1)])
    return result


def groups_of(blocks: int) -> Tuple[int, ...]:
    """Return the last block of each quarter of all blocks, of fewer than four of each block."""
    return tuple(sorted({-(-blocks * i // 4) for i in range(1, 5)}))


def tiles_of(plan: DepthPlan, depth_map: np.ndarray, before: int) -> List[Tuple[int, int]]:
    """Return the corners (top, left) of the tiles of an (H, W) map that hold a pixel which goes on after `before` blocks."""
    corners = itertools.product(
        range(0, depth_map.shape[0], plan.tile), range(0, depth_map.shape[1], plan.tile)
    )
    return [
        (top, left)
        for top, left in corners
        if taken(depth_map[top : top + plan.tile, left : left + plan.tile], before + 1).any()
    ]


def everywhere(plan: DepthPlan, depth_map: np.ndarray) -> Tuple[bool, ...]:
    """Return for each group of blocks whether it is computed at all pixels of an (H, W) map."""
    return tuple(
        _share(plan, depth_map, first, last) > plan.dense_above for first, last in groups(plan)
    )


def groups(plan: DepthPlan) -> List[Tuple[int, int]]:
    """Return for each group how many blocks come before it, and its last block."""
    return list(zip((0, *plan.depths), plan.depths))


def executed_macs(plan: DepthPlan, depth_map: np.ndarray) -> int:
    """Return the multiply-accumulates at an (H, W) map."""
    px = depth_map.size
    total = (plan.macs_px + plan.map_macs_px - 2 * plan.blocks * plan.conv_macs_px) * px
    for (first, last), dense in zip(groups(plan), everywhere(plan, depth_map)):
        if dense:
            total += 2 * (last - first) * plan.conv_macs_px * px
        elif plan.way == "tiles":
            total += len(tiles_of(plan, depth_map, first)) * _tile_macs(plan, last - first)
        else:
            for where in (taken(depth_map, block) for block in range(first + 1, last + 1)):
                total += plan.conv_macs_px * (int(where.sum()) + int(dilated(where, 1).sum()))
    return int(total)


def _share(plan: DepthPlan, depth_map: np.ndarray, first: int, last: int) -> float:
    if plan.way == "tiles":
        everywhere_macs = 2 * (last - first) * plan.conv_macs_px * depth_map.size
        return (
            len(tiles_of(plan, depth_map, first)) * _tile_macs(plan, last - first) / everywhere_macs
        )
    return float(np.mean([taken(depth_map, block).mean() for block in range(first + 1, last + 1)]))


def _tile_macs(plan: DepthPlan, blocks: int) -> int:
    """Of so many blocks on one tile, which comes with two pixels more on each side for each of them."""
    return plan.conv_macs_px * sum(
        (plan.tile + 4 * blocks - 2 * conv) ** 2 for conv in range(1, 2 * blocks + 1)
    )
