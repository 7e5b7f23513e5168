"""AdaDSR: each pixel passes as many blocks of an AdaEDSR as its depth map says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from sr_deploy.core.depth_plan import (
    ADAPTER_PX,
    DepthPlan,
    block_groups,
    dense_groups,
    executed_macs,
    reach_px,
    read_depth_plan,
    tile_corners,
)
from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.parts import Part
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import BackendInfo, ExecutedWork
from sr_deploy.core.spec import check_desired_depth
from sr_deploy.runtime.adaptive.base import AdaptiveOutput, AdaptiveSession, check_outputs
from sr_deploy.runtime.parts import open_parts

BATCH = 8
"""Tiles per call: memory grows with their features."""


class AdaDSR(AdaptiveSession):
    """An AdaEDSR that skips blocks. `depth`, in 0..blocks, may be changed between runs."""

    def __init__(
        self,
        plan: DepthPlan,
        parts: Sequence[Part],
        info: BackendInfo,
        *,
        depth: Optional[float],
        to_host: Callable[[Any], np.ndarray] = np.asarray,
    ) -> None:
        """parts: in the order of the plan's roles. depth: None for half of all blocks.
        to_host: returns an output of a part as an array.

        Raises VariantError for a depth that the plan does not have.
        """
        super().__init__(plan.model, plan.scale, info)
        self.plan, self.depth = plan, plan.desired_depth(depth)
        blocks = (plan.blocks * i / 4 for i in range(5))
        self.levels = tuple(f"{n:g} blocks" for n in blocks)
        self._parts, self._to_host = parts, to_host
        self._names = plan.roles()
        self.halo_px = reach_px(plan.blocks) + ADAPTER_PX
        self.min_hw = (2, 2)  # torch exports free sizes from 2 on

    @classmethod
    def from_plan(
        cls,
        path: Union[str, Path],
        *,
        depth: Optional[float] = None,
        run: RunOptions = DEFAULT_RUN,
    ) -> AdaDSR:
        """Open an exported AdaEDSR.

        Raises ArtifactError when the plan or a graph is missing, malformed or changed.
        """
        plan = read_depth_plan(Path(path))
        opened = open_parts(Path(path), plan, run)
        return cls(plan, list(opened.parts.values()), opened.info, depth=depth)

    def run_all_paths(self, hw: Tuple[int, int]) -> None:
        depth = np.array([self.plan.blocks], np.float32)
        features, depth_map = self._start(np.zeros((1, 3, *hw), np.float32), depth)
        deepest = np.full_like(self._to_host(depth_map), self.plan.blocks)
        for group in range(len(self.plan.depths)):
            for dense in (True, False):
                self._run_group(group, dense, features, deepest)
        self._end(features, features)

    def run_adaptive(self, x_nchw: np.ndarray) -> AdaptiveOutput:
        """Upscale (1, 3, H, W) float32, 0..1, RGB. Decisions are depths as shares of all blocks."""
        plan, start = self.plan, time.perf_counter()
        check_desired_depth(self.depth, plan.blocks)
        depth = np.array([self.depth], np.float32)
        features, map_there = self._start(x_nchw, depth)
        depth_map = self._to_host(map_there)
        if not ((depth_map >= 0) & (depth_map <= plan.blocks)).all():  # nor are NaNs
            raise ArtifactError(
                f"the depth map has values that are not in 0..{plan.blocks}",
                hint="check the image for pixels that are not finite, or export the model again",
            )
        dense_flags, deepest = dense_groups(plan, depth_map[0, 0]), depth_map.max()
        ms = {"map": _ms_since(start)}
        y = features
        for group, ((before, last), dense) in enumerate(zip(block_groups(plan), dense_flags)):
            if deepest > before:
                start = time.perf_counter()
                y = self._run_group(group, dense, y, map_there)
                ms[f"to {last}, {'everywhere' if dense else plan.way}"] = _ms_since(start)
        start = time.perf_counter()
        image = self._to_host(self._end(y, features))
        ms["end"] = _ms_since(start)
        work = _executed_work(plan, depth_map[0, 0], ms, self._own)
        return AdaptiveOutput(image, depth_map[0, 0] / plan.blocks, work)

    def _release(self) -> None:
        self._parts = ()
        super()._release()

    def _outputs(self, number: int, *shapes: Tuple[int, ...], **inputs: Any) -> Sequence[Any]:
        """Run a part of the plan. Raises ArtifactError unless its outputs have these shapes."""
        outputs = self._parts[number](**inputs)
        check_outputs(self._names[number], outputs, *shapes)
        return outputs

    def _start(self, x_nchw: np.ndarray, depth: np.ndarray) -> Sequence[Any]:
        """Return the features and the depth map."""
        hw = x_nchw.shape[2:]
        return self._outputs(0, (1, -1, *hw), (1, 1, *hw), lr=x_nchw, depth=depth)

    def _end(self, y: Any, features: Any) -> Any:
        sides = (self.plan.scale * n for n in features.shape[2:])
        return self._outputs(1, (1, 3, *sides), y=y, features=features)[0]

    def _run_group(self, group: int, dense: bool, y: Any, depth_map: Any) -> Any:
        number = 2 + 2 * group + (not dense)
        if dense or self.plan.way == "rows":
            return self._outputs(number, tuple(y.shape), y=y, depth_map=depth_map)[0]
        return self._run_tiles(number, block_groups(self.plan)[group], y, depth_map)

    def _run_tiles(
        self, number: int, blocks: Tuple[int, int], y: np.ndarray, depth_map: np.ndarray
    ) -> np.ndarray:
        """Run the tiles with pixels deeper than `blocks[0]`; the rest of y stays. On arrays."""
        before, last = blocks
        tile, reach = self.plan.tile, 2 * (last - before)
        h, w = y.shape[2:]
        margins = (0, 0), (0, 0), (reach, reach + -h % tile), (reach, reach + -w % tile)
        features, depths = np.pad(y, margins), np.pad(depth_map, margins, constant_values=-1)
        side, output = tile + 2 * reach, y.copy()
        corners = tile_corners(self.plan, depth_map[0, 0], before)
        for first in range(0, len(corners), BATCH):
            batch = corners[first : first + BATCH]
            inputs = {"y": _cut(features, batch, side), "depth_map": _cut(depths, batch, side)}
            shape = (len(batch), y.shape[1], tile, tile)
            for (top, left), core in zip(batch, self._outputs(number, shape, **inputs)[0]):
                target = output[0, :, top : top + tile, left : left + tile]
                target[...] = core[:, : target.shape[1], : target.shape[2]]
        return output


def _executed_work(
    plan: DepthPlan, depth_map: np.ndarray, ms: Dict[str, float], own: float
) -> ExecutedWork:
    counts = np.bincount(np.ceil(depth_map).astype(np.int64).ravel(), minlength=plan.blocks + 1)
    pixels = {
        f"to {last} blocks": int(counts[before + (before > 0) : last + 1].sum())
        for before, last in block_groups(plan)
    }
    plain_macs = plan.macs_px * depth_map.size * own
    return ExecutedWork(executed_macs(plan, depth_map), plain_macs, ms, pixels)


def _cut(padded: np.ndarray, corners: Sequence[Tuple[int, int]], side: int) -> np.ndarray:
    """Cut tiles with their margins out of a (1, C, H, W) array: (N, C, side, side)."""
    return np.concatenate(
        [padded[:, :, top : top + side, left : left + side] for top, left in corners]
    )


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
