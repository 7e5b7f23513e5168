"""Run a deployed AdaEDSR: each pixel through as many blocks as the adapter says, at a desired depth chosen for each image."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from sr_deploy.core.depth_plan import (
    ADAPTER_PX,
    DepthPlan,
    everywhere,
    executed_macs,
    groups,
    reach_px,
    read_plan,
    tiles_of,
)
from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.session import Spent
from sr_deploy.core.spec import check_desired_depth
from sr_deploy.runtime.adaptive.base import Adapted, AdaptiveSession
from sr_deploy.runtime.ort import OnnxParts

BATCH = 8
"""Tiles a call: their features are what takes memory."""
Part = Callable[..., Sequence[np.ndarray]]
"""Takes a part's inputs by name, gives its outputs in their order."""


class AdaDSR(AdaptiveSession):
    """An AdaEDSR that skips. `depth`, the desired one, 0..blocks, may be changed between runs."""

    def __init__(
        self,
        plan: DepthPlan,
        parts: Sequence[Part],
        *,
        depth: Optional[float],
        backend: str,
        backend_version: str,
        threads: int,
    ) -> None:
        """parts: what the plan's graphs are. depth: None for half of all blocks. Raises VariantError for another depth than the plan has."""
        super().__init__(
            name=plan.model,
            scale=plan.scale,
            backend=backend,
            backend_version=backend_version,
            threads=threads,
        )
        self.plan, self.depth, self._parts = plan, plan.desired_depth(depth), parts
        self.halo_px = reach_px(plan.blocks) + ADAPTER_PX
        self.min_hw = (2, 2)  # torch exports free sizes from 2 on

    @classmethod
    def from_plan(cls, plan: Union[str, Path], *, depth: Optional[float] = None) -> AdaDSR:
        """Open a deployed one. Raises ArtifactError when the plan or a graph is missing, malformed or changed."""
        path = Path(plan)
        read = read_plan(path)
        graphs = OnnxParts(path, read.graphs)
        return cls(
            read,
            graphs.parts,
            depth=depth,
            backend="onnxruntime",
            backend_version=graphs.version,
            threads=graphs.threads,
        )

    def exercise(self, hw: Tuple[int, int]) -> None:
        features, depth_map = self._parts[0](
            lr=np.zeros((1, 3, *hw), np.float32), depth=np.array([self.plan.blocks], np.float32)
        )
        deep = np.full_like(depth_map, self.plan.blocks)
        for group in range(len(self.plan.depths)):
            for dense in (True, False):
                self._group(group, dense, features, deep)
        self._parts[1](y=features, features=features)

    def adapted(self, x_nchw: np.ndarray) -> Adapted:
        """Upscale (1, 3, H, W) float32, 0..1, RGB. Decisions are depths as shares of all blocks."""
        plan, start = self.plan, time.perf_counter()
        check_desired_depth(self.depth, plan.blocks)
        features, depth_map = self._parts[0](lr=x_nchw, depth=np.array([self.depth], np.float32))
        if not np.isfinite(depth_map).all():
            raise ArtifactError(
                "the depth map has values that are no numbers",
                hint="are there such pixels in the image?",
            )
        chosen, deepest = everywhere(plan, depth_map[0, 0]), depth_map.max()
        ms = {"map": _ms_since(start)}
        y = features
        for group, ((before, last), dense) in enumerate(zip(groups(plan), chosen)):
            if deepest > before:
                start = time.perf_counter()
                y = self._group(group, dense, y, depth_map)
                ms[f"to {last}, {'everywhere' if dense else plan.way}"] = _ms_since(start)
        start = time.perf_counter()
        image = self._parts[1](y=y, features=features)[0]
        ms["end"] = _ms_since(start)
        return self._adapted(image, depth_map[0, 0], ms)

    def _group(self, group: int, dense: bool, y: np.ndarray, depth_map: np.ndarray) -> np.ndarray:
        part = self._parts[2 + 2 * group + (not dense)]
        if dense or self.plan.way == "rows":
            return part(y=y, depth_map=depth_map)[0]
        return self._on_tiles(part, *groups(self.plan)[group], y, depth_map)

    def _on_tiles(
        self, part: Part, before: int, last: int, y: np.ndarray, depth_map: np.ndarray
    ) -> np.ndarray:
        tile, reach = self.plan.tile, 2 * (last - before)
        h, w = y.shape[2:]
        around = (0, 0), (0, 0), (reach, reach + -h % tile), (reach, reach + -w % tile)
        features, depths = np.pad(y, around), np.pad(depth_map, around, constant_values=-1)
        side, made = tile + 2 * reach, y.copy()
        corners = tiles_of(self.plan, depth_map[0, 0], before)
        for first in range(0, len(corners), BATCH):
            some = corners[first : first + BATCH]
            for (top, left), core in zip(
                some, part(y=_cut(features, some, side), depth_map=_cut(depths, some, side))[0]
            ):
                place = made[0, :, top : top + tile, left : left + tile]
                place[...] = core[:, : place.shape[1], : place.shape[2]]
        return made

    def _adapted(self, y: np.ndarray, depth_map: np.ndarray, ms: Dict[str, float]) -> Adapted:
        plan = self.plan
        counts = np.bincount(np.ceil(depth_map).astype(np.int64).ravel(), minlength=plan.blocks + 1)
        pixels = {
            f"to {last} blocks": int(counts[before + (before > 0) : last + 1].sum())
            for before, last in groups(plan)
        }
        spent = Spent(executed_macs(plan, depth_map), plan.macs_px * depth_map.size, ms, pixels)
        return Adapted(y, depth_map / plan.blocks, spent)


def _cut(padded: np.ndarray, corners: Sequence[Tuple[int, int]], side: int) -> np.ndarray:
    """The tiles of a (1, C, H, W) array with what lies round them, (N, C, side, side)."""
    return np.concatenate(
        [padded[:, :, top : top + side, left : left + side] for top, left in corners]
    )


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
