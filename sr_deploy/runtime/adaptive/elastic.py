"""Elastic networks tile by tile: each tile of an image continues to its own depth."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np

from sr_deploy.core.budgets import NO_BUDGET, Budget
from sr_deploy.core.elastic_plan import ElasticPlan, read_elastic_plan, whole_role
from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.parts import OpenParts
from sr_deploy.core.quadtree import SIZES, Quadtree, TileChoice, cells_hw
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import ExecutedWork
from sr_deploy.core.sizes import HW
from sr_deploy.runtime.adaptive.base import AdaptiveOutput, AdaptiveSession, check_outputs
from sr_deploy.runtime.adaptive.tiles import Corner, HostArrays
from sr_deploy.runtime.parts import open_parts

BATCH = 32
"""The most tiles per call."""
WORKER_PX = 10_000
"""LR pixels per call of one thread, margins included: their features stay in its cache."""
DEVICE_PX = 40_000
"""The same where calls take turns."""


@dataclass(frozen=True)
class TileBatch:
    """Tiles of one size that run at one depth in one call."""

    depth: int
    hw: HW
    """LR pixels, without margins."""
    corners: Tuple[Corner, ...]


class ElasticSession(AdaptiveSession):
    """The start and the tails of an elastic network.

    Each image is covered by tiles of `SIZES` at the depths that gain most by their cost. Without a
    budget, what a multiply-accumulate must gain is the plan's price. Tiles of a large image choose
    by themselves: on multiples of `align_px` they choose the same depths as the whole image,
    unless one of them is cheaper to run as a whole.
    """

    align_px = SIZES[-1]

    def __init__(self, plan: ElasticPlan, opened: OpenParts, *, budget: Budget = NO_BUDGET) -> None:
        """opened: parts by the plan's roles.

        Raises InputError for a budget that no image can keep.
        """
        plan.check_budget(budget.max_share)
        super().__init__(plan.model, plan.scale, opened.info)
        self.plan, self.budget = plan, budget
        self.levels = tuple(plan.tails)
        self._parts = opened.parts
        self._workers = TileWorkers(opened.info.workers, self.arrays)

    @classmethod
    def from_plan(
        cls, path: Path, *, budget: Budget = NO_BUDGET, run: RunOptions = DEFAULT_RUN
    ) -> ElasticSession:
        """Open an exported elastic network.

        Raises ArtifactError when the plan or a part is missing, malformed or changed.
        """
        plan = read_elastic_plan(path)
        plan.check_budget(budget.max_share)
        return cls(plan, open_parts(path, plan, run), budget=budget)

    def _release(self) -> None:
        self._workers.release()
        self._parts = {}
        super()._release()

    def run_all_paths(self, hw: Tuple[int, int]) -> None:
        features, gains = self._start(np.zeros((1, 3, *hw), np.float32))
        for choice in Quadtree(hw, list(self.plan.tails.values())).deepest():
            self._end(features, choice, {})

    def run_adaptive(self, x_nchw: np.ndarray) -> AdaptiveOutput:
        """Upscale (1, 3, H, W) float32, 0..1, RGB. Decisions are evenly spaced depths.

        Raises InputError where the image cannot keep the budget.
        """
        hw = (x_nchw.shape[2], x_nchw.shape[3])
        self._check_budget(hw)
        start, ms = time.perf_counter(), {}
        features, gains = self._start(x_nchw)
        ms["start"] = _ms_since(start)
        start = time.perf_counter()
        choice = self._choose(hw, gains)
        ms["choice"] = _ms_since(start)
        sr = self._end(features, choice, ms)
        return AdaptiveOutput(sr, self._decisions(choice, hw), self._executed_work(choice, hw, ms))

    def _start(self, x_nchw: np.ndarray) -> Tuple[Any, np.ndarray]:
        """Return the features, and the gains of each deeper depth in each cell."""
        hw = x_nchw.shape[2:]
        outputs = self._parts["start"](lr=self.arrays.to_device(x_nchw))
        rows, columns = cells_hw((hw[0], hw[1]))
        deeper = len(self.levels) - 1
        check_outputs("start", outputs, (1, self.plan.channels, *hw), (1, deeper, rows, columns))
        gains = self.arrays.to_host(outputs[1])[0]
        if not np.isfinite(gains).all():
            raise ArtifactError(
                "the predicted gains are not finite",
                hint="check the image for pixels that are not finite, or export the model again",
            )
        return outputs[0], gains

    def _choose(self, hw: HW, gains: np.ndarray) -> TileChoice:
        tree = Quadtree(hw, list(self.plan.tails.values()))
        if self.budget.max_share is None or not self._budget:
            if self.plan.price == 0:  # nothing else would keep the work below the plain network's
                return tree.within(gains, float(tree.whole_costs[-1]))
            return tree.choose(gains, self.plan.price)
        budget = self.budget.max_share * self._plain_macs(hw) - self.plan.start_macs(hw)
        return tree.within(gains, budget)

    def _end(self, features: Any, choice: TileChoice, ms: Dict[str, float]) -> np.ndarray:
        """Run the tails. ms: gets their times by depth, and that of cutting tiles and joining."""
        h, w = (self.plan.scale * int(n) for n in features.shape[2:])
        if not choice.whole:
            target = self.arrays.empty((1, 3, h, w), features)
            ms["tiles"] = 0.0
            for times in self._workers.map(
                self._run_batch, self._batches(choice), features, target
            ):
                for stage, each in times.items():
                    ms[stage] = ms.get(stage, 0.0) + each / self._workers.number
            return self.arrays.to_host(target)
        start = time.perf_counter()
        role = whole_role(self.levels[int(choice.tiles[0, 4])])
        outputs = self._parts[role](features=features)
        check_outputs(role, outputs, (1, 3, h, w))
        sr = self.arrays.to_host(outputs[0])
        ms[role] = _ms_since(start)
        return sr

    def _batches(self, choice: TileChoice) -> Iterator[TileBatch]:
        """Yield tiles of one depth and size together, those that take longest first."""
        groups: Dict[Tuple[int, int, int], List[Corner]] = {}
        for top, left, h, w, depth in choice.tiles.tolist():
            groups.setdefault((depth, h, w), []).append((top, left))
        px = WORKER_PX if self._workers.number > 1 else DEVICE_PX
        margins = [cost.margin for cost in self.plan.tails.values()]
        for (depth, h, w), corners in sorted(groups.items(), reverse=True):
            fed_px = (h + 2 * margins[depth]) * (w + 2 * margins[depth])
            size = min(max(px // fed_px, 1), BATCH)
            for first in range(0, len(corners), size):
                yield TileBatch(depth, (h, w), tuple(corners[first : first + size]))

    def _run_batch(
        self, arrays: HostArrays, batch: TileBatch, features: Any, target: Any
    ) -> Dict[str, float]:
        """Run a tail on tiles of the features, and write its output into the target.

        Returns the times of the depth and of cutting and joining.
        """
        start = time.perf_counter()
        variant, scale = self.levels[batch.depth], self.plan.scale
        margin = self.plan.tails[variant].margin
        h, w = (n + 2 * margin for n in batch.hw)
        corners = [(top - margin, left - margin) for top, left in batch.corners]
        fed = arrays.gather(features, corners, (h, w), "features")
        inside = arrays.inside(features, corners, (h, w), "inside")
        cut_ms, start = _ms_since(start), time.perf_counter()
        outputs = self._parts[variant](features=fed, inside=inside)
        shape = (len(corners), 3, scale * batch.hw[0], scale * batch.hw[1])
        check_outputs(variant, outputs, shape)
        tail_ms, start = _ms_since(start), time.perf_counter()
        corners = [(scale * top, scale * left) for top, left in batch.corners]
        arrays.scatter(outputs[0], target, corners)
        return {variant: tail_ms, "tiles": cut_ms + _ms_since(start)}

    def _check_budget(self, hw: HW) -> None:
        if self._budget:
            self.plan.check_budget(self.budget.max_share, hw, self._own)

    def _plain_macs(self, hw: HW) -> float:
        return self.plan.plain_macs_px * hw[0] * hw[1] * self._own

    def _decisions(self, choice: TileChoice, hw: HW) -> np.ndarray:
        return (choice.depth_map(hw) / (len(self.levels) - 1)).astype(np.float32)

    def _executed_work(self, choice: TileChoice, hw: HW, ms: Dict[str, float]) -> ExecutedWork:
        macs = self.plan.start_macs(hw) + round(choice.cost)
        pixels = dict(zip(self.levels, choice.pixels(len(self.levels))))
        return ExecutedWork(macs, self._plain_macs(hw), ms, pixels)


class TileWorkers:
    """Threads that run batches of tiles, each with arrays of its own; one is the caller's."""

    def __init__(self, number: int, arrays: HostArrays) -> None:
        """arrays: used where there is one thread."""
        self.number = number
        self._arrays, self._of_thread = arrays, threading.local()
        self._pool: Optional[ThreadPoolExecutor] = None
        self._all: List[HostArrays] = []

    def map(self, run: Any, batches: Iterable[TileBatch], *maps: Any) -> Iterator[Any]:
        """Yield `run(arrays, batch, *maps)` of each batch, in order."""
        if self.number == 1:
            return (run(self._arrays, batch, *maps) for batch in batches)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.number, thread_name_prefix="tiles")
        return self._pool.map(lambda batch: run(self._own_arrays(), batch, *maps), batches)

    def release(self) -> None:
        """End the threads and free their memory."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        for arrays in self._all:
            arrays.release()

    def _own_arrays(self) -> HostArrays:
        arrays = getattr(self._of_thread, "arrays", None)
        if arrays is None:
            arrays = self._of_thread.arrays = HostArrays()
            self._all.append(arrays)
        return arrays


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
