"""How deep each pixel goes (AdaDSR): what a deployed network of that kind is, and what a depth map costs. Arrays: numpy alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.jsonio import from_dict, read_json

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
    """`rows`: a graph of the start, one of the end, and for each group of blocks two, everywhere and by gathered rows; `tiles`: one
    of the map, and one of the first blocks for each depth of `depths`."""
    parent_sha256: str
    """Of the checkpoint's weights."""
    graphs: Dict[str, str]
    """SHA-256 by file name, in the order of `way`."""
    macs_px: int
    """Multiply-accumulates of the dense backbone on one LR pixel."""
    conv_macs_px: int
    """Those of one convolution of a block."""
    map_macs_px: int
    """Those of the depth map on one LR pixel: the adapter's, and by tiles the head's before it, which the tiles compute again."""
    dense_above: float = 1.0
    """Rows: a group of blocks that more than this share of the pixels take, on average of its blocks, is computed everywhere."""
    tile: int = 0
    """Tiles: LR pixels a side."""
    depths: Tuple[int, ...] = ()
    """The smallest first, all blocks last. Rows: the last block of each group. Tiles: how many blocks each graph has; a tile takes
    the first that is enough."""
    tile_macs: Tuple[int, ...] = ()
    """Of each of those graphs on one tile."""
    timed_ms: Optional[float] = None
    """Of a photograph of 256x256 at half of all blocks, in turns with the other way, where it was exported."""
    checks: dict = field(default_factory=dict)


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
    plan = from_dict(DepthPlan, read_json(path, ArtifactError), source=str(path), error=ArtifactError)
    graphs = 2 + 2 * len(plan.depths) if plan.way == "rows" else 1 + len(plan.depths)
    whole = (
        plan.way in WAYS and len(plan.graphs) == graphs and all(Path(name).name == name for name in plan.graphs)
        and plan.depths[-1:] == (plan.blocks,) and 0 < plan.depths[0] <= plan.blocks <= 1024
        and 1 <= plan.scale <= 8 and plan.tile <= 4096
        and (plan.way == "rows" or (plan.tile > 0 and len(plan.tile_macs) == len(plan.depths)))
    )  # fmt: skip
    if not whole or list(plan.depths) != sorted(set(plan.depths)):
        raise ArtifactError(f"{path} is no plan of ours: its way '{plan.way}', graphs, tile and depths do not go together")
    return plan


def taken(depth_map: np.ndarray, block: int) -> np.ndarray:
    """Return where an (H, W) map takes block number `block`, from 1: bool."""
    return depth_map > block - 1


def dilated(where: np.ndarray, px: int) -> np.ndarray:
    """Return the maximum of (H, W) over squares of 2*px + 1 pixels a side."""
    lowest = False if where.dtype == bool else -np.inf
    h, w = where.shape
    padded = np.pad(where, px, constant_values=lowest)
    rows = np.maximum.reduce([padded[i : i + h] for i in range(2 * px + 1)])
    return np.maximum.reduce([rows[:, i : i + w] for i in range(2 * px + 1)])


def groups_of(blocks: int) -> Tuple[int, ...]:
    """Return the last block of each quarter of all blocks, of fewer than four of each block."""
    return tuple(sorted({-(-blocks * i // 4) for i in range(1, 5)}))


def everywhere(plan: DepthPlan, depth_map: np.ndarray) -> Tuple[bool, ...]:
    """Return for each group of blocks whether it is computed at all pixels of an (H, W) map, not by rows."""
    shares = [taken(depth_map, block).mean() for block in range(1, plan.blocks + 1)]
    firsts = [0, *plan.depths[:-1]]
    return tuple(bool(np.mean(shares[first:last]) > plan.dense_above) for first, last in zip(firsts, plan.depths))


def rows_macs(plan: DepthPlan, depth_map: np.ndarray) -> int:
    """Return the multiply-accumulates by rows at an (H, W) map."""
    px = depth_map.size
    total = (plan.macs_px + plan.map_macs_px - 2 * plan.blocks * plan.conv_macs_px) * px
    groups = everywhere(plan, depth_map)
    for block in range(1, plan.blocks + 1):
        if groups[next(i for i, last in enumerate(plan.depths) if block <= last)]:
            total += plan.conv_macs_px * 2 * px
        else:
            where = taken(depth_map, block)
            total += plan.conv_macs_px * (int(where.sum()) + int(dilated(where, 1).sum()))
    return int(total)
