"""Elastic networks tile by tile: each tile of an image continues to its own depth."""

from __future__ import annotations

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, TypeVar

import numpy as np

from sr_deploy.core.budgets import NO_BUDGET, Budget
from sr_deploy.core.elastic_plan import ElasticPlan, read_elastic_plan, whole_role
from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.parts import OpenParts
from sr_deploy.core.quadtree import SIZES, Quadtree, TileChoice, cells_hw
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import ExecutedWork
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.runtime.adaptive.anytime import AnytimeTiles
from sr_deploy.runtime.adaptive.base import AdaptiveOutput, AdaptiveSession, check_outputs
from sr_deploy.runtime.adaptive.tiles import Corner, HostArrays
from sr_deploy.runtime.parts import open_parts

BATCH = 32
"""The most tiles per call."""
WORKER_PX = 10_000
"""LR pixels per call of one thread, margins included: their features stay in its cache."""
DEVICE_PX = 40_000
"""The same where calls take turns."""


TIMED_PX = 256
"""Side of the noise on which parts are timed, in LR pixels."""
TIMED_RUNS = 3
T = TypeVar("T")


@dataclass(frozen=True)
class TileRates:
    """What the parts take on this machine."""

    start_ms_px: float
    """Of the start, per LR pixel."""
    ms_of_mac: np.ndarray
    """(sizes + 1, depths): of the tails per multiply-accumulate, in tiles of each size and on a
    whole image."""


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
    _clock = staticmethod(time.perf_counter)

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
        self._rates: Optional[TileRates] = None
        if budget.max_ms is not None:
            self._rates = self._timed_rates()

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
        began, ms = self._clock(), {}
        hw = (x_nchw.shape[2], x_nchw.shape[3])
        self._check_budget(hw)
        features, gains = self._start(x_nchw)
        ms["start"] = self._ms_since(began)
        if self.budget.max_ms is not None and self._budget:
            end = began + self.budget.max_ms * self._share_of_time(hw) / 1000
            sr, choice = self._end_in_time(features, gains, end, ms)
        else:
            start = self._clock()
            choice = self._choose(hw, gains)
            ms["choice"] = self._ms_since(start)
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

    def _end_in_time(
        self, features: Any, gains: np.ndarray, end: float, ms: Dict[str, float]
    ) -> Tuple[np.ndarray, TileChoice]:
        """Run what gains most until the clock shows `end`; return the image, and what was run."""
        start, rates = self._clock(), self._known_rates()
        hw = (int(features.shape[2]), int(features.shape[3]))
        tree = Quadtree(hw, list(self.plan.tails.values()), rates.ms_of_mac)
        choice = tree.within(gains, (end - start) * 1000)
        ms["choice"] = self._ms_since(start)
        if choice.whole:
            macs = list(self.plan.tails.values())[int(choice.tiles[0, 4])].whole_px * hw[0] * hw[1]
            return self._end(features, choice, ms), replace(choice, cost=macs)
        target = self.arrays.empty(
            (1, 3, self.plan.scale * hw[0], self.plan.scale * hw[1]), features
        )
        ms["tiles"] = 0.0
        run = AnytimeTiles(
            tree,
            gains,
            lambda tiles: self._run_tiles(features, tiles, target, ms),
            workers=self._workers.number,
            ms_left=lambda: (end - self._clock()) * 1000,
        )
        tiles = run.finish(choice.tiles)
        cost = sum(map(self._tiles_macs, run.executed))
        return self.arrays.to_host(target), TileChoice(tiles, cost, 0.0)

    def _tiles_macs(self, tiles: np.ndarray) -> float:
        h, w, depths = tiles[:, 2:].T
        costs = np.stack([cost.of(h, w) for cost in self.plan.tails.values()])
        return float(costs[depths, np.arange(len(tiles))].sum())

    def _known_rates(self) -> TileRates:
        if self._rates is None:
            self._rates = self._timed_rates()
        return self._rates

    def _timed_rates(self) -> TileRates:
        """Time the start and each tail on noise: in tiles of each size, and on a whole image."""
        lr = np.random.default_rng(0).random((1, 3, TIMED_PX, TIMED_PX), dtype=np.float32)
        whole, costs = TIMED_PX**2, list(self.plan.tails.values())
        start_ms, (features, _) = self._least_ms(lambda: self._start(lr))
        ms_of_mac = np.ones((len(SIZES) + 1, len(costs)))
        for depth, cost in enumerate(costs):
            for level, side in enumerate(SIZES):
                sides = range(0, SIZES[-1], side)
                tiles = np.array([(y, x, side, side, depth) for y in sides for x in sides])
                run = functools.partial(self._end, features, TileChoice(tiles, 0.0, 0.0), {})
                ms_of_mac[level, depth] = self._least_ms(run)[0] / self._tiles_macs(tiles)
            choice = TileChoice(np.array([[0, 0, 0, 0, depth]]), 0.0, 0.0, whole=True)
            run = functools.partial(self._end, features, choice, {})
            ms_of_mac[-1, depth] = self._least_ms(run)[0] / (cost.whole_px * whole)
        return TileRates(start_ms / whole, ms_of_mac)

    def _least_ms(self, run: Callable[[], T]) -> Tuple[float, T]:
        """Return the least time of some runs, and the result of the last."""
        times = []
        for _ in range(TIMED_RUNS):
            start = self._clock()
            result = run()
            times.append(self._ms_since(start))
        return min(times), result

    def _end(self, features: Any, choice: TileChoice, ms: Dict[str, float]) -> np.ndarray:
        """Run the tails. ms: gets their times by depth, and that of cutting tiles and joining."""
        h, w = (self.plan.scale * int(n) for n in features.shape[2:])
        if not choice.whole:
            target = self.arrays.empty((1, 3, h, w), features)
            ms["tiles"] = 0.0
            self._run_tiles(features, choice.tiles, target, ms)
            return self.arrays.to_host(target)
        start = time.perf_counter()
        role = whole_role(self.levels[int(choice.tiles[0, 4])])
        outputs = self._parts[role](features=features)
        check_outputs(role, outputs, (1, 3, h, w))
        sr = self.arrays.to_host(outputs[0])
        ms[role] = self._ms_since(start)
        return sr

    def _run_tiles(
        self, features: Any, tiles: np.ndarray, target: Any, ms: Dict[str, float]
    ) -> None:
        batches = self._batches(tiles)
        for times in self._workers.map(self._run_batch, batches, features, target):
            for stage, each in times.items():
                ms[stage] = ms.get(stage, 0.0) + each / self._workers.number

    def _batches(self, tiles: np.ndarray) -> Iterator[TileBatch]:
        """Yield tiles of one depth and size together, those that take longest first."""
        groups: Dict[Tuple[int, int, int], List[Corner]] = {}
        for top, left, h, w, depth in tiles.tolist():
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
        start = self._clock()
        variant, scale = self.levels[batch.depth], self.plan.scale
        margin = self.plan.tails[variant].margin
        h, w = (n + 2 * margin for n in batch.hw)
        corners = [(top - margin, left - margin) for top, left in batch.corners]
        fed = arrays.gather(features, corners, (h, w), "features")
        inside = arrays.inside(features, corners, (h, w), "inside")
        cut_ms, start = self._ms_since(start), self._clock()
        outputs = self._parts[variant](features=fed, inside=inside)
        shape = (len(corners), 3, scale * batch.hw[0], scale * batch.hw[1])
        check_outputs(variant, outputs, shape)
        tail_ms, start = self._ms_since(start), self._clock()
        corners = [(scale * top, scale * left) for top, left in batch.corners]
        arrays.scatter(outputs[0], target, corners)
        return {variant: tail_ms, "tiles": cut_ms + self._ms_since(start)}

    def _check_budget(self, hw: HW) -> None:
        if not self._budget:
            return
        self.plan.check_budget(self.budget.max_share, hw, self._own)
        if self.budget.max_ms is None:
            return
        rates, share = self._known_rates(), self._share_of_time(hw)
        smallest = next(iter(self.plan.tails.values()))
        ms_px = rates.start_ms_px + smallest.whole_px * rates.ms_of_mac[-1, 0]
        least = ms_px * hw[0] * hw[1] / share
        if least > self.budget.max_ms:
            raise InputError(
                f"a time of {self.budget.max_ms:g} ms is too short for {hw_text(hw)}"
                f"{' in tiles' if share < 1 else ''}: '{self.plan.names[0]}' everywhere takes "
                f"about {least:.0f} ms here",
                hint=f"give {np.ceil(least * 1.2):.0f} ms or more",
            )

    def _share_of_time(self, hw: HW) -> float:
        """Return the share of an image's time that a tile of it has."""
        return 1.0 if self._fed_px is None else hw[0] * hw[1] / self._fed_px

    def _ms_since(self, start: float) -> float:
        return (self._clock() - start) * 1000

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
