"""AdaDSR: the plan of an exported network, what is computed for a depth map, and its cost.

A block is computed where a tile has a pixel that goes so deep: on windows around the tiles, wide
enough that what a window lacks beyond its edges does not reach its tile. At the image's borders a
window ends, and is padded with zeros as the image is. So all that a block needs is itself, on any
size; the whole image is one window without margins.

AdaRCAN has a map for each of its residual groups, and blocks with channel attention, which averages
a block over the whole image. So each of its blocks is computed by itself: on its windows, then
weighted by its average over them (it is zero elsewhere), then added.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError, VariantError
from sr_deploy.core.parts import AdaptivePlan, PlanEngine, PlanPart, read_plan_file
from sr_deploy.core.quadtree import SIZES, Quadtree, TailCost, cells_hw
from sr_deploy.core.sizes import HW
from sr_deploy.core.spec import check_desired_depth

SUFFIX = ".adadsr.json"
_OLD_SUFFIXES = (".rows.json", ".tiles.json")
WHOLE_ABOVE = 0.85
"""The share of the blocks' work above which the whole network runs instead, in one part: parts of
it cost their inputs and outputs (measured; see docs/adaptive.md)."""
WHOLE_ABOVE_REORDERED = 0.5
"""The same for single blocks with attention in OpenVINO, which reorders what a part takes and
gives."""
TAIL_PX = 3
"""Receptive radius of the last convolution and the tail, in LR pixels."""
ADAPTER_PX = 5
"""Receptive radius of a depth on the head's features, in LR pixels: the adapter's convolutions."""
_WHOLE_PX = 2
"""What a pixel counts where a single block with attention is run on the whole image: in OpenVINO it
took 2.2 times as long as in windows, which stay in the cache, in ONNX Runtime 1.1 times."""
_GROUPS = 8
"""The most groups of blocks: more cost more inputs and outputs, fewer wider margins."""


class BlockGroup(NamedTuple):
    """Blocks that are computed on the same windows."""

    role: str
    """Of its part."""
    map: int
    """The depth map that it follows, counted from 0."""
    before: int
    """The blocks of that map before it."""
    last: int
    """Its last block, counted from 1."""


@dataclass(frozen=True)
class DepthPlan(AdaptivePlan):
    """An exported AdaDSR: parts and costs. Stored as NAME.adadsr.json beside its parts.

    `map` gives the depth maps of an image, `whole` its result in one pass. Or `head` gives
    features, a part for each group of blocks changes them, on windows or everywhere, and `end`
    gives the result.

    With channel attention, a block's part gives its masked output and the means of that. `factors`
    gives the channels' factors of all blocks for such means, and `add` adds the product where
    arrays have no arithmetic. `g1.last` ends the first residual group.
    """

    model: str
    scale: int
    blocks: int
    parent_sha256: str
    macs_px: int
    """Multiply-accumulates of the dense backbone per LR pixel, without `attention_macs`."""
    conv_macs_px: int
    """Multiply-accumulates of one convolution of a block per LR pixel."""
    map_macs_px: int
    """Multiply-accumulates of the depth map per LR pixel."""
    depths: Tuple[int, ...] = ()
    """The last block of each group, ascending; the last one is `blocks`."""
    fixed: bool = False
    """Whether it was trained for one depth (FAdaEDSR in the paper), which cannot be changed."""
    maps: int = 1
    """Depth maps; of an AdaRCAN one for each residual group, which has `blocks` blocks."""
    mean_macs_px: int = 0
    """Multiply-accumulates per LR pixel of the means that a block's channel attention takes; 0:
    blocks have none."""
    attention_macs: int = 0
    """Multiply-accumulates of a block's channel attention per image, without the means."""
    parts: Dict[str, PlanPart] = field(default_factory=dict)
    target: str = ""
    precision: str = "fp32"
    checks: Dict[str, Any] = field(default_factory=dict)
    engine: Optional[PlanEngine] = None

    @property
    def kind(self) -> str:
        return "adadsr"

    @property
    def attends(self) -> bool:
        """Whether its blocks have channel attention."""
        return self.mean_macs_px > 0

    @property
    def block_macs_px(self) -> int:
        """Multiply-accumulates of a block per LR pixel."""
        return 2 * self.conv_macs_px + self.mean_macs_px

    def roles(self) -> List[str]:
        groups, common = self.groups(), ["map", "whole", "head", "end"]
        if not self.attends:
            return [*common, *(group.role for group in groups)]
        roles = [*common, "factors", "add"]
        for number in range(self.maps):
            roles += [group.role for group in groups if group.map == number]
            roles.append(end_role(number))
        return roles

    def groups(self) -> List[BlockGroup]:
        """Return the groups of blocks in order; with channel attention, each block is one."""
        spans = list(zip((0, *self.depths), self.depths))
        return [
            BlockGroup(f"g{number + 1}.b{last}" if self.attends else f"b{last}", number, *span)
            for number in range(self.maps)
            for span, last in zip(spans, self.depths)
        ]

    def problems(self) -> Iterator[str]:
        consistent = (
            self.depths[-1:] == (self.blocks,)
            and 0 < self.depths[0] <= self.blocks <= 1024
            and list(self.depths) == sorted(set(self.depths))
            and min(self.macs_px, self.conv_macs_px) > 0
            and min(self.map_macs_px, self.mean_macs_px, self.attention_macs) >= 0
            and 1 <= self.maps <= (256 if self.attends else 1)
            and (len(self.depths) == self.blocks or not self.attends)
        )
        if not consistent:
            yield "depths and costs are inconsistent"

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


def end_role(number: int) -> str:
    """Return the role of what ends a residual group, counted from 0."""
    return f"g{number + 1}.last"


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
    return path.name.endswith((SUFFIX, *_OLD_SUFFIXES))


def read_depth_plan(path: Path) -> DepthPlan:
    """Read a plan. Raises ArtifactError if it is missing, malformed or of an older version."""
    if path.name.endswith(_OLD_SUFFIXES) and path.is_file():
        raise ArtifactError(
            f"{path} was written by an older version, which skipped blocks by rows or fixed tiles",
            hint="export it again: srdeploy export MODEL --adaptive -o DIR",
        )
    return read_plan_file(DepthPlan, path)


def group_depths(blocks: int) -> Tuple[int, ...]:
    """Return the last block of each of at most eight groups."""
    return tuple(sorted({-(-blocks * i // _GROUPS) for i in range(1, _GROUPS + 1)}))


@dataclass(frozen=True)
class Window:
    """A tile, and the part of the image that is computed for it. In LR pixels."""

    tile: Tuple[int, int, int, int]
    """Top, left, height and width."""
    corner: Tuple[int, int]
    """The top and left of what is computed."""
    hw: HW


@dataclass(frozen=True)
class DepthChoice:
    """What is computed for a depth map."""

    groups: Tuple[Tuple[Window, ...], ...]
    """Of each group of the plan: none if no pixel goes so deep, one of the image's size for all."""
    blocks_px: int
    """Pixels times blocks computed."""
    whole: bool
    """Whether the whole network is run at once instead."""


def choose_windows(
    plan: DepthPlan, depth_maps: np.ndarray, whole_above: float = WHOLE_ABOVE
) -> DepthChoice:
    """Return what is computed for the maps of depths, (maps, H, W).

    whole_above: the share of the blocks' work above which the whole network runs.
    """
    hw = (depth_maps.shape[1], depth_maps.shape[2])
    deepest = [_deepest_of_cells(depth_map) for depth_map in depth_maps]
    found: Dict[Tuple[bytes, int], Tuple[Window, ...]] = {}  # neighbouring blocks often share them
    groups = []
    for _, number, before, last in plan.groups():
        needed, margin = deepest[number] > before, 2 * (last - before)
        key = (needed.tobytes(), margin)
        if key not in found:
            found[key] = _windows(hw, needed, margin, _WHOLE_PX if plan.attends else 1)
        groups.append(found[key])
    done = sum(
        (group.last - group.before) * sum(w.hw[0] * w.hw[1] for w in windows)
        for group, windows in zip(plan.groups(), groups)
    )
    everything = plan.blocks * depth_maps.size
    whole = done > whole_above * everything
    return DepthChoice(tuple(groups), everything if whole else done, whole)


def executed_macs(plan: DepthPlan, choice: DepthChoice, px: int) -> int:
    """Return the multiply-accumulates executed for an image of `px` LR pixels."""
    blocks = plan.maps * plan.blocks
    outside_blocks = plan.macs_px + plan.map_macs_px - blocks * plan.block_macs_px
    # The part `factors` computes those of all blocks for each block that runs by itself.
    attentions = blocks if choice.whole else blocks * sum(map(bool, choice.groups))
    return (
        outside_blocks * px
        + plan.block_macs_px * choice.blocks_px
        + plan.attention_macs * attentions
    )


def plain_macs(plan: DepthPlan, px: int) -> int:
    """Return the multiply-accumulates of the dense backbone for an image of `px` LR pixels."""
    return plan.macs_px * px + plan.attention_macs * plan.maps * plan.blocks


def takes_block(depth_map: np.ndarray, block: int) -> np.ndarray:
    """Return where an (H, W) map takes block number `block`, counted from 1: (H, W) bool."""
    return depth_map > block - 1


def _deepest_of_cells(depth_map: np.ndarray) -> np.ndarray:
    rows, columns = cells_hw((depth_map.shape[0], depth_map.shape[1]))
    by_row = np.maximum.reduceat(depth_map, np.arange(rows) * SIZES[0], axis=0)
    return np.asarray(np.maximum.reduceat(by_row, np.arange(columns) * SIZES[0], axis=1))


def _windows(hw: HW, needed: np.ndarray, margin: int, whole_px: int) -> Tuple[Window, ...]:
    """Return the windows that cover the cells that need a group, with the fewest pixels.

    needed: (rows, columns) bool. margin: how far the group's blocks reach. whole_px: what a pixel
    counts where all of the image is one window.
    """
    if not needed.any():
        return ()
    costs = [TailCost(0, 0, 0, 0, 0), TailCost(margin, 1, 2 * margin, 4 * margin**2, whole_px)]
    gains = needed[None] * (4.0 * hw[0] * hw[1] + 1e6)  # more than all could cost
    choice = Quadtree(hw, costs).choose(gains, 1.0)
    if choice.whole:
        return (Window((0, 0, *hw), (0, 0), hw),)
    return tuple(
        _window(hw, (top, left, h, w), margin)
        for top, left, h, w, taken in choice.tiles.tolist()
        if taken
    )


def _window(hw: HW, tile: Tuple[int, int, int, int], margin: int) -> Window:
    """Return a tile's window. It is moved into the image, so that equal tiles have equal windows.

    Where it is moved it has more than its margin.
    """
    sides = [min(n + 2 * margin, whole) for n, whole in zip(tile[2:], hw)]
    corner = [
        min(max(first - margin, 0), whole - side) for first, whole, side in zip(tile, hw, sides)
    ]
    return Window(tile, (corner[0], corner[1]), (sides[0], sides[1]))
