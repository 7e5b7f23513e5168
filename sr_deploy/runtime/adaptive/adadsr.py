"""AdaDSR: each pixel passes as many blocks of an AdaEDSR or AdaRCAN as its depth maps say."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from sr_deploy.core.depth_plan import (
    ADAPTER_PX,
    WHOLE_ABOVE,
    WHOLE_ABOVE_REORDERED,
    BlockGroup,
    DepthChoice,
    DepthPlan,
    Window,
    choose_windows,
    end_role,
    executed_macs,
    group_depths,
    plain_macs,
    reach_px,
    read_depth_plan,
)
from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.parts import OpenParts
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import ExecutedWork
from sr_deploy.core.spec import check_desired_depth
from sr_deploy.runtime.adaptive.base import AdaptiveOutput, AdaptiveSession, check_outputs
from sr_deploy.runtime.adaptive.tiles import Places, written
from sr_deploy.runtime.parts import open_parts

BATCH = 8
"""The most windows per call."""
BATCH_PX = 2**14
"""LR pixels per call, unless a single window has more: memory grows with their features."""
Groups = Sequence[Tuple[BlockGroup, Sequence[Window]]]
"""Groups of blocks that some pixels reach, with their windows."""


class AdaDSR(AdaptiveSession):
    """A network that skips blocks. `depth`, in 0..blocks, may be changed between runs."""

    def __init__(self, plan: DepthPlan, opened: OpenParts, *, depth: Optional[float]) -> None:
        """opened: parts by the plan's roles. depth: None for half of all blocks.

        Raises VariantError for a depth that the plan does not have.
        """
        super().__init__(plan.model, plan.scale, opened.info)
        self.plan, self.depth = plan, plan.desired_depth(depth)
        blocks = (plan.blocks * i / 4 for i in range(5))
        where = f" (mean of {plan.maps} groups)" if plan.attends else ""
        self.levels = tuple(f"{n:g} blocks{where}" for n in blocks)
        self._parts = opened.parts
        reorders = plan.attends and opened.info.backend == "openvino"
        self._whole_above = WHOLE_ABOVE_REORDERED if reorders else WHOLE_ABOVE
        # Channel attention averages over the whole image.
        self.halo_px = None if plan.attends else reach_px(plan.blocks) + ADAPTER_PX
        self.min_hw = (2, 2)  # torch exports free sizes from 2 on

    @classmethod
    def from_plan(
        cls,
        path: Union[str, Path],
        *,
        depth: Optional[float] = None,
        run: RunOptions = DEFAULT_RUN,
    ) -> AdaDSR:
        """Open an exported AdaDSR.

        Raises ArtifactError when the plan or a part is missing, malformed or changed.
        """
        plan = read_depth_plan(Path(path))
        return cls(plan, open_parts(Path(path), plan, run), depth=depth)

    def run_all_paths(self, hw: Tuple[int, int]) -> None:
        lr = self.arrays.to_device(np.zeros((1, 3, *hw), np.float32))
        self._map(lr)
        deepest = np.full((1, self.plan.maps, *hw), self.plan.blocks, np.float32)
        self._whole(lr, self.arrays.to_device(deepest))
        self._by_groups(lr, deepest, choose_windows(self.plan, deepest[0]), {})

    def run_adaptive(self, x_nchw: np.ndarray) -> AdaptiveOutput:
        """Upscale (1, 3, H, W) float32, 0..1, RGB. Decisions are depths as shares of all blocks.

        Of several maps they are the mean.
        """
        plan, start = self.plan, time.perf_counter()
        check_desired_depth(self.depth, plan.blocks)
        lr, ms = self.arrays.to_device(x_nchw), {}
        map_there = self._map(lr)
        depth_maps = self.arrays.to_host(map_there)
        if not ((depth_maps >= 0) & (depth_maps <= plan.blocks)).all():  # nor are NaNs
            raise ArtifactError(
                f"the depth map has values that are not in 0..{plan.blocks}",
                hint="check the image for pixels that are not finite, or export the model again",
            )
        choice = choose_windows(plan, depth_maps[0], self._whole_above)
        ms["map"] = _ms_since(start)
        if choice.whole:
            start = time.perf_counter()
            sr = self._whole(lr, map_there)
            ms["whole"] = _ms_since(start)
        else:
            sr = self._by_groups(lr, depth_maps, choice, ms)
        mean_map = depth_maps[0].mean(axis=0)
        work = self._executed_work(choice, mean_map, ms)
        return AdaptiveOutput(sr, mean_map / plan.blocks, work)

    def _release(self) -> None:
        self._parts = {}
        super()._release()

    def _outputs(self, role: str, *shapes: Tuple[int, ...], **inputs: Any) -> Any:
        """Run a part; return its output, or all. Raises ArtifactError for other shapes."""
        outputs = self._parts[role](**inputs)
        check_outputs(role, outputs, *shapes)
        return outputs[0] if len(shapes) == 1 else outputs

    def _map(self, lr: Any) -> Any:
        depth = self.arrays.to_device(np.array([self.depth], np.float32))
        return self._outputs("map", (1, self.plan.maps, *lr.shape[2:]), lr=lr, depth=depth)

    def _whole(self, lr: Any, depth_map: Any) -> np.ndarray:
        sr = self._outputs("whole", self._sr_shape(lr), lr=lr, depth_map=depth_map)
        return self.arrays.to_host(sr)

    def _by_groups(
        self, lr: Any, depth_maps: np.ndarray, choice: DepthChoice, ms: Dict[str, float]
    ) -> np.ndarray:
        """Run the groups of blocks on their windows. ms: gets the time of each stage."""
        start = time.perf_counter()
        features = self._outputs("head", (1, -1, *lr.shape[2:]), lr=lr)
        ms["head"], y = _ms_since(start), features
        deepen = self._attended_groups if self.plan.attends else self._plain_groups
        for number in range(self.plan.maps):
            groups = [
                (group, windows)
                for group, windows in zip(self.plan.groups(), choice.groups)
                if windows and group.map == number
            ]
            y = deepen(number, groups, y, depth_maps[:, number : number + 1], ms)
        start = time.perf_counter()
        sr = self._outputs("end", self._sr_shape(lr), y=y, features=features)
        sr = self.arrays.to_host(sr)
        ms["end"] = _ms_since(start)
        return sr

    def _sr_shape(self, lr: Any) -> Tuple[int, ...]:
        return (1, 3, *(self.plan.scale * int(n) for n in lr.shape[2:]))

    def _plain_groups(
        self, number: int, groups: Groups, y: Any, depth_map: np.ndarray, ms: Dict[str, float]
    ) -> Any:
        """Return y after groups of blocks."""
        map_there = self.arrays.to_device(depth_map)
        for group, windows in groups:
            start = time.perf_counter()
            y = self._run_group(group.role, windows, y, map_there)
            ms[f"to {group.last}"] = _ms_since(start)
        return y

    def _run_group(self, role: str, windows: Sequence[Window], y: Any, depth_map: Any) -> Any:
        """Return y after a group; what no window needs stays. y itself is not changed."""
        if windows[0].hw == tuple(y.shape[2:]):
            return self._outputs(role, tuple(y.shape), y=y, depth_map=depth_map)
        result = self.arrays.copy(y)
        for batch in _batches(windows):
            hw, places = batch[0].hw, _places(batch)
            given = {
                "y": self.arrays.gather(y, places.corners, hw, "y"),
                "depth_map": self.arrays.gather(depth_map, places.corners, hw, "depth_map"),
            }
            done = self._outputs(role, (len(batch), int(y.shape[1]), *hw), **given)
            self.arrays.scatter(done, result, places)
        return result

    def _attended_groups(
        self, number: int, groups: Groups, y: Any, depth_map: np.ndarray, ms: Dict[str, float]
    ) -> Any:
        """Return y after a residual group, whose blocks have channel attention."""
        start, before = time.perf_counter(), y
        if groups:
            y = self.arrays.copy(y)
        for group, windows in groups:
            self._add_block(group, windows, y, depth_map)
        y = self._outputs(end_role(number), tuple(y.shape), y=y, start=before)
        ms[f"group {number + 1}"] = _ms_since(start)
        return y

    def _add_block(
        self, group: BlockGroup, windows: Sequence[Window], y: Any, depth_map: np.ndarray
    ) -> None:
        """Add a block with channel attention to y: all windows, their means, then the sum."""
        channels, done = int(y.shape[1]), []
        total = np.zeros((1, channels, 1, 1))
        for batch in _batches(windows):
            hw, places = batch[0].hw, _places(batch)
            whole = hw == tuple(y.shape[2:])
            masked, mean = self._outputs(
                group.role,
                (len(batch), channels, *hw),
                (len(batch), channels, 1, 1),
                y=y if whole else self.arrays.gather(y, places.corners, hw, "y"),
                depth_map=self.arrays.to_device(_without_margins(batch, depth_map)),
            )
            means = self.arrays.to_host(mean).astype(np.float64)
            total += hw[0] * hw[1] * means.sum(axis=0, keepdims=True)
            done.append((masked, places))
        mean = (total / depth_map.size).astype(np.float32)
        blocks = self.plan.maps * self.plan.blocks
        factors = self._outputs("factors", (1, blocks, channels), mean=self.arrays.to_device(mean))
        own = group.map * self.plan.blocks + group.before
        weights = self.arrays.to_host(factors)[:, own].reshape(mean.shape)
        for masked, places in done:
            self.arrays.add(masked, y, places, weights, self._parts["add"])

    def _executed_work(
        self, choice: DepthChoice, depth_map: np.ndarray, ms: Dict[str, float]
    ) -> ExecutedWork:
        plan = self.plan
        counts = np.bincount(np.ceil(depth_map).astype(np.int64).ravel(), minlength=plan.blocks + 1)
        depths = group_depths(plan.blocks)
        pixels = {
            f"to {last} blocks": int(counts[before + (before > 0) : last + 1].sum())
            for before, last in zip((0, *depths), depths)
        }
        plain = plain_macs(plan, depth_map.size) * self._own
        return ExecutedWork(executed_macs(plan, choice, depth_map.size), plain, ms, pixels)


def _places(windows: Sequence[Window]) -> Places:
    return Places([w.corner for w in windows], [w.tile for w in windows])


def _without_margins(windows: Sequence[Window], depth_map: np.ndarray) -> np.ndarray:
    """Return the depths in windows of one size, (N, 1, h, w), zero outside of their tiles.

    So a block is zero there, and its means are those of the tiles.
    """
    depths = np.zeros((len(windows), 1, *windows[0].hw), depth_map.dtype)
    for i, inside, there in written(depths, depth_map, _places(windows)):
        depths[i][inside] = depth_map[0][there]
    return depths


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
