"""AdaDSR: each pixel passes as many blocks of an AdaEDSR as its depth map says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from sr_deploy.core.depth_plan import (
    ADAPTER_PX,
    DepthChoice,
    DepthPlan,
    Window,
    choose_windows,
    executed_macs,
    reach_px,
    read_depth_plan,
)
from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.parts import OpenParts
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import ExecutedWork
from sr_deploy.core.spec import check_desired_depth
from sr_deploy.runtime.adaptive.base import AdaptiveOutput, AdaptiveSession, check_outputs
from sr_deploy.runtime.parts import open_parts

BATCH = 8
"""The most windows per call."""
BATCH_PX = 2**14
"""LR pixels per call, unless a single window has more: memory grows with their features."""


class AdaDSR(AdaptiveSession):
    """An AdaEDSR that skips blocks. `depth`, in 0..blocks, may be changed between runs."""

    def __init__(self, plan: DepthPlan, opened: OpenParts, *, depth: Optional[float]) -> None:
        """opened: parts by the plan's roles. depth: None for half of all blocks.

        Raises VariantError for a depth that the plan does not have.
        """
        super().__init__(plan.model, plan.scale, opened.info)
        self.plan, self.depth = plan, plan.desired_depth(depth)
        blocks = (plan.blocks * i / 4 for i in range(5))
        self.levels = tuple(f"{n:g} blocks" for n in blocks)
        self._parts = opened.parts
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

        Raises ArtifactError when the plan or a part is missing, malformed or changed.
        """
        plan = read_depth_plan(Path(path))
        return cls(plan, open_parts(Path(path), plan, run), depth=depth)

    def run_all_paths(self, hw: Tuple[int, int]) -> None:
        lr = self.arrays.to_device(np.zeros((1, 3, *hw), np.float32))
        self._map(lr)
        deepest = np.full((1, 1, *hw), self.plan.blocks, np.float32)
        self._whole(lr, self.arrays.to_device(deepest))
        everywhere = choose_windows(self.plan, deepest[0, 0])
        self._by_groups(lr, self.arrays.to_device(deepest), everywhere, {})

    def run_adaptive(self, x_nchw: np.ndarray) -> AdaptiveOutput:
        """Upscale (1, 3, H, W) float32, 0..1, RGB. Decisions are depths as shares of all blocks."""
        plan, start = self.plan, time.perf_counter()
        check_desired_depth(self.depth, plan.blocks)
        lr, ms = self.arrays.to_device(x_nchw), {}
        map_there = self._map(lr)
        depth_map = self.arrays.to_host(map_there)[0, 0]
        if not ((depth_map >= 0) & (depth_map <= plan.blocks)).all():  # nor are NaNs
            raise ArtifactError(
                f"the depth map has values that are not in 0..{plan.blocks}",
                hint="check the image for pixels that are not finite, or export the model again",
            )
        choice = choose_windows(plan, depth_map)
        ms["map"] = _ms_since(start)
        if choice.whole:
            start = time.perf_counter()
            sr = self._whole(lr, map_there)
            ms["whole"] = _ms_since(start)
        else:
            sr = self._by_groups(lr, map_there, choice, ms)
        work = self._executed_work(choice, depth_map, ms)
        return AdaptiveOutput(sr, depth_map / plan.blocks, work)

    def _release(self) -> None:
        self._parts = {}
        super()._release()

    def _outputs(self, role: str, *shapes: Tuple[int, ...], **inputs: Any) -> Any:
        """Run a part with one output. Raises ArtifactError unless it has this shape."""
        outputs = self._parts[role](**inputs)
        check_outputs(role, outputs, *shapes)
        return outputs[0]

    def _map(self, lr: Any) -> Any:
        depth = self.arrays.to_device(np.array([self.depth], np.float32))
        return self._outputs("map", (1, 1, *lr.shape[2:]), lr=lr, depth=depth)

    def _whole(self, lr: Any, depth_map: Any) -> np.ndarray:
        sr = self._outputs("whole", self._sr_shape(lr), lr=lr, depth_map=depth_map)
        return self.arrays.to_host(sr)

    def _by_groups(
        self, lr: Any, depth_map: Any, choice: DepthChoice, ms: Dict[str, float]
    ) -> np.ndarray:
        """Run the groups of blocks on their windows. ms: gets the time of each stage."""
        start = time.perf_counter()
        features = self._outputs("head", (1, -1, *lr.shape[2:]), lr=lr)
        ms["head"], y = _ms_since(start), features
        for last, windows in zip(self.plan.depths, choice.groups):
            if windows:
                start = time.perf_counter()
                y = self._run_group(f"b{last}", windows, y, depth_map)
                ms[f"to {last}"] = _ms_since(start)
        start = time.perf_counter()
        sr = self._outputs("end", self._sr_shape(lr), y=y, features=features)
        sr = self.arrays.to_host(sr)
        ms["end"] = _ms_since(start)
        return sr

    def _sr_shape(self, lr: Any) -> Tuple[int, ...]:
        return (1, 3, *(self.plan.scale * int(n) for n in lr.shape[2:]))

    def _run_group(self, role: str, windows: Sequence[Window], y: Any, depth_map: Any) -> Any:
        """Return y after a group; what no window needs stays. y itself is not changed."""
        if windows[0].hw == tuple(y.shape[2:]):
            return self._outputs(role, tuple(y.shape), y=y, depth_map=depth_map)
        result = self.arrays.copy(y)
        for batch in _batches(windows):
            hw, corners = batch[0].hw, [window.corner for window in batch]
            given = {
                "y": self.arrays.gather(y, corners, hw, "y"),
                "depth_map": self.arrays.gather(depth_map, corners, hw, "depth_map"),
            }
            done = self._outputs(role, (len(batch), int(y.shape[1]), *hw), **given)
            for number, window in enumerate(batch):
                top, left, h, w = window.tile
                inside_top, inside_left = top - window.corner[0], left - window.corner[1]
                core = done[
                    number : number + 1,
                    :,
                    inside_top : inside_top + h,
                    inside_left : inside_left + w,
                ]
                self.arrays.scatter(core, result, [(top, left)])
        return result

    def _executed_work(
        self, choice: DepthChoice, depth_map: np.ndarray, ms: Dict[str, float]
    ) -> ExecutedWork:
        plan = self.plan
        counts = np.bincount(np.ceil(depth_map).astype(np.int64).ravel(), minlength=plan.blocks + 1)
        pixels = {
            f"to {last} blocks": int(counts[before + (before > 0) : last + 1].sum())
            for before, last in plan.groups()
        }
        plain_macs = plan.macs_px * depth_map.size * self._own
        return ExecutedWork(executed_macs(plan, choice, depth_map.size), plain_macs, ms, pixels)


def _batches(windows: Sequence[Window]) -> Iterator[List[Window]]:
    """Yield windows of one size together."""
    by_size: Dict[Tuple[int, int], List[Window]] = {}
    for window in windows:
        by_size.setdefault(window.hw, []).append(window)
    for (h, w), same in by_size.items():
        size = min(max(BATCH_PX // (h * w), 1), BATCH)
        for first in range(0, len(same), size):
            yield same[first : first + size]


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
