"""Run a deployed AdaEDSR: each pixel through as many blocks as the adapter says, at a desired depth chosen for each image."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple, Union

import numpy as np

from sr_deploy.core.depths import TAIL_PX, DepthPlan, dilated, reach_px, read_plan, rows_macs
from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.files import sha256_of
from sr_deploy.core.spec import check_desired_depth, check_min_hw
from sr_deploy.runtime.ort import raw_session

BATCH = 8
"""Tiles a call: their features are what takes memory."""


@dataclass(frozen=True)
class Deep:
    """An upscaled image with what it took."""

    y_nchw: np.ndarray
    """(1, 3, scale*H, scale*W) float32, not clipped."""
    depth_map: np.ndarray
    """(H, W) float32, 0..blocks."""
    macs: int
    """Multiply-accumulates executed."""
    share: float
    """Of those of the dense backbone."""
    ms: Dict[str, float]
    """Wall time of each stage."""


class AdaDSR:
    """A plan with its graphs opened. ONNX Runtime runs them."""

    def __init__(self, plan: Union[str, Path]) -> None:
        """Open the plan at a path. Raises ArtifactError when it or a graph is missing, malformed or changed."""
        path = Path(plan)
        self.plan: DepthPlan = read_plan(path)
        self._sessions: List[Any] = []
        for name, sha256 in self.plan.graphs.items():
            graph = path.parent / name
            if not graph.is_file():
                raise ArtifactError(f"{path} names {name}, which is not beside it", hint="export the model again")
            if sha256_of(graph) != sha256:
                raise ArtifactError(f"{graph} was changed after its plan was written", hint="export the model again")
            self._sessions.append(raw_session(str(graph)))

    def run(self, x_nchw: np.ndarray, *, depth: float) -> Deep:
        """Upscale (1, 3, H, W) float32, 0..1, RGB at a desired depth, 0..blocks.

        Raises InputError when shape or type differ, VariantError when the backbone has no such depth.
        """
        check_desired_depth(depth, self.plan.blocks)
        if x_nchw.ndim != 4 or x_nchw.shape[:2] != (1, 3) or x_nchw.dtype != np.float32 or 0 in x_nchw.shape:
            raise InputError(f"expected a (1, 3, H, W) float32 array, got {x_nchw.shape} {x_nchw.dtype}")
        return (self._by_rows if self.plan.way == "rows" else self._by_tiles)(x_nchw, np.array([depth], np.float32))

    def _by_rows(self, x: np.ndarray, depth: np.ndarray) -> Deep:
        check_min_hw(x.shape[2:], (2, 2), what=f"{self.plan.model} by rows")  # torch exports free sizes from 2 on
        start = time.perf_counter()
        y, depth_map = self._sessions[0].run(None, {"lr": x, "depth": depth})
        ms = (time.perf_counter() - start) * 1000
        return self._deep(y, depth_map[0, 0], rows_macs(self.plan, depth_map[0, 0]), {"all": ms})

    def _by_tiles(self, x: np.ndarray, depth: np.ndarray) -> Deep:
        plan, start = self.plan, time.perf_counter()
        depth_map = self._sessions[0].run(None, {"lr": x, "depth": depth})[0]
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
                for (top, left), sr in zip(tiles, self._sessions[1 + number].run(None, given)[0]):
                    s, rows, columns = plan.scale, min(plan.tile, h - top), min(plan.tile, w - left)
                    y[0, :, s * top : s * (top + rows), s * left : s * (left + columns)] = sr[:, : s * rows, : s * columns]
            if bins[k]:
                ms[f"{k} blocks"] = (time.perf_counter() - start) * 1000
                macs += len(bins[k]) * plan.tile_macs[number]
        return self._deep(y, depth_map[0, 0], macs, ms)

    def _deep(self, y: np.ndarray, depth_map: np.ndarray, macs: int, ms: Dict[str, float]) -> Deep:
        return Deep(y, depth_map, macs, macs / (self.plan.macs_px * depth_map.size), ms)


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
