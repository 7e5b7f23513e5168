"""Run a deployed AdaEDSR: each pixel through as many blocks as the adapter says, at a desired depth chosen for each image."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from sr_deploy.adaptive.session import Adapted, AdaptiveSession, digest
from sr_deploy.core.depths import ADAPTER_PX, TAIL_PX, DepthPlan, dilated, everywhere, groups_of, reach_px, read_plan, rows_macs
from sr_deploy.core.errors import ArtifactError, VariantError
from sr_deploy.core.session import Spent
from sr_deploy.core.spec import check_desired_depth
from sr_deploy.runtime.ort import OnnxParts

BATCH = 8
"""Tiles a call: their features are what takes memory."""
Part = Callable[..., Sequence[np.ndarray]]
"""Takes a part's inputs by name, gives its outputs in their order."""


class AdaDSR(AdaptiveSession):
    """An AdaEDSR that skips. `depth`, the desired one, 0..blocks, may be changed between runs."""

    def __init__(
        self, plan: DepthPlan, parts: Sequence[Part], *, depth: Optional[float], backend: str, backend_version: str, threads: int
    ) -> None:  # fmt: skip
        """parts: what the plan's graphs are. depth: None for half of all blocks. Raises VariantError for a depth that there is not."""
        depth = plan.blocks / 2 if depth is None else depth
        check_desired_depth(depth, plan.blocks)
        super().__init__(name=plan.model, scale=plan.scale, backend=backend, backend_version=backend_version, threads=threads)
        self.plan, self.depth, self._parts = plan, depth, parts
        self.halo_px = reach_px(plan.blocks) + ADAPTER_PX
        self.min_hw = (2, 2) if plan.way == "rows" else (1, 1)  # torch exports free sizes from 2 on

    @classmethod
    def from_plan(cls, plan: Union[str, Path], *, depth: Optional[float] = None) -> AdaDSR:
        """Open a deployed one. Raises ArtifactError when the plan or a graph is missing, malformed or changed."""
        path = Path(plan)
        read = read_plan(path)
        graphs = OnnxParts(path, read.graphs)
        return cls(read, graphs.parts, depth=depth, backend="onnxruntime", backend_version=graphs.version, threads=graphs.threads)

    @property
    def identity(self) -> str:
        return f"{digest(self.plan)} {self.backend} depth {self.depth:g}"

    def exercise(self, hw: Tuple[int, int]) -> None:
        plan, x = self.plan, np.zeros((1, 3, *hw), np.float32)
        if plan.way == "tiles":
            for part, k in zip(self._parts[1:], plan.depths):
                side = plan.tile + 2 * reach_px(k)
                part(lr=np.zeros((BATCH, 3, side, side), np.float32), depth_map=np.zeros((BATCH, 1, side, side), np.float32))
            return
        features, depth_map = self._parts[0](lr=x, depth=np.array([plan.blocks], np.float32))
        for part in self._parts[2:]:
            part(y=features, depth_map=np.full_like(depth_map, plan.blocks))

    def adapted(self, x_nchw: np.ndarray) -> Adapted:
        """Upscale (1, 3, H, W) float32, 0..1, RGB. Decisions are depths as shares of all blocks."""
        check_desired_depth(self.depth, self.plan.blocks)
        return (self._by_rows if self.plan.way == "rows" else self._by_tiles)(x_nchw, np.array([self.depth], np.float32))

    def _by_rows(self, x: np.ndarray, depth: np.ndarray) -> Adapted:
        plan, start = self.plan, time.perf_counter()
        features, depth_map = self._parts[0](lr=x, depth=depth)
        _check_map(depth_map)
        ms = {"map": (time.perf_counter() - start) * 1000}
        y, done = features, 0
        for number, (last, dense) in enumerate(zip(plan.depths, everywhere(plan, depth_map[0, 0]))):
            start = time.perf_counter()
            if dense or depth_map.max() > done:
                y = self._parts[2 + 2 * number + (not dense)](y=y, depth_map=depth_map)[0]
                ms[f"to {last}, {'everywhere' if dense else 'rows'}"] = (time.perf_counter() - start) * 1000
            done = last
        start = time.perf_counter()
        image = self._parts[1](y=y, features=features)[0]
        ms["end"] = (time.perf_counter() - start) * 1000
        return self._adapted(image, depth_map[0, 0], rows_macs(plan, depth_map[0, 0]), ms)

    def _by_tiles(self, x: np.ndarray, depth: np.ndarray) -> Adapted:
        plan, start = self.plan, time.perf_counter()
        depth_map = self._parts[0](lr=x, depth=depth)[0]
        _check_map(depth_map)
        ms = {"map": (time.perf_counter() - start) * 1000}
        bins = binned(plan, depth_map[0, 0])
        h, w = x.shape[2:]
        y = np.empty((1, 3, h * plan.scale, w * plan.scale), np.float32)
        pad = reach_px(plan.blocks) + plan.tile
        image = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        depths = np.pad(depth_map, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-1)
        macs = h * w * plan.map_macs_px
        for number, k in enumerate(plan.depths):
            start = time.perf_counter()
            for first in range(0, len(bins[k]), BATCH):
                tiles = bins[k][first : first + BATCH]
                given = {
                    "lr": _cut(image, tiles, plan.tile, pad, reach_px(k)),
                    "depth_map": _cut(depths, tiles, plan.tile, pad, reach_px(k)),
                }
                for (top, left), sr in zip(tiles, self._parts[1 + number](**given)[0]):
                    s, rows, columns = plan.scale, min(plan.tile, h - top), min(plan.tile, w - left)
                    y[0, :, s * top : s * (top + rows), s * left : s * (left + columns)] = sr[:, : s * rows, : s * columns]
            if bins[k]:
                ms[f"{k} blocks"] = (time.perf_counter() - start) * 1000
                macs += len(bins[k]) * plan.tile_macs[number]
        return self._adapted(y, depth_map[0, 0], macs, ms)

    def _adapted(self, y: np.ndarray, depth_map: np.ndarray, macs: int, ms: Dict[str, float]) -> Adapted:
        plan = self.plan
        counts = np.bincount(np.ceil(depth_map).astype(np.int64).ravel(), minlength=plan.blocks + 1)
        quarters = groups_of(plan.blocks)
        pixels = {f"to {k} blocks": int(counts[(0 if i == 0 else quarters[i - 1] + 1) : k + 1].sum()) for i, k in enumerate(quarters)}
        return Adapted(y, depth_map / plan.blocks, Spent(macs, plan.macs_px * depth_map.size, ms, pixels))


def _check_map(depth_map: np.ndarray) -> None:
    if not np.isfinite(depth_map).all():
        raise ArtifactError("the depth map has values that are no numbers", hint="are there such pixels in the image?")


def depth_of(variant: str, blocks: int) -> float:
    """Return the desired depth of a variant, `d8` or `d7.5`. Raises VariantError when it names none of a backbone of `blocks`."""
    try:
        depth = float(variant[1:]) if variant[:1] == "d" else float("nan")
    except ValueError:
        depth = float("nan")
    if depth != depth:
        raise VariantError(f"'{variant}' is no desired depth; expected such as d{blocks // 2}")
    check_desired_depth(depth, blocks)
    return depth


def binned(plan: DepthPlan, depth_map: np.ndarray) -> Dict[int, List[Tuple[int, int]]]:
    """Return the corners (top, left) of the tiles of an (H, W) map by the number of blocks they go through.

    A tile's pixels depend on blocks beyond it, but only as far as its own last block and what follows reach: on none deeper than
    the deepest pixel within the reach of the last convolution and the tail.
    """
    deepest = dilated(np.ceil(depth_map), TAIL_PX)
    bins: Dict[int, List[Tuple[int, int]]] = {k: [] for k in plan.depths}
    h, w = depth_map.shape
    for top in range(0, h, plan.tile):
        for left in range(0, w, plan.tile):
            needed = deepest[top : top + plan.tile, left : left + plan.tile].max()
            bins[next(k for k in plan.depths if k >= needed)].append((top, left))
    return bins


def _cut(padded: np.ndarray, tiles: List[Tuple[int, int]], tile: int, pad: int, reach: int) -> np.ndarray:
    """The tiles of a (1, C, H, W) array padded by `pad`, with `reach` pixels round each: (N, C, S, S)."""
    side = tile + 2 * reach
    corners = [(top + pad - reach, left + pad - reach) for top, left in tiles]
    return np.concatenate([padded[:, :, r : r + side, c : c + side] for r, c in corners])
