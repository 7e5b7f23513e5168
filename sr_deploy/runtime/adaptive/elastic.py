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
from sr_deploy.core.files import write_text
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.parts import OpenParts
from sr_deploy.core.quadtree import (
    RATED,
    SIZES,
    TileChoice,
    TileRates,
    cells_hw,
    least_rates,
)
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.session import ExecutedWork
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.runtime.adaptive.anytime import AnytimeTiles
from sr_deploy.runtime.adaptive.base import AdaptiveOutput, AdaptiveSession, check_outputs
from sr_deploy.runtime.adaptive.tiles import Corner, HostArrays, Places
from sr_deploy.runtime.parts import open_parts

BATCH = 32
"""The most tiles per call."""
WORKER_PX = 10_000
"""LR pixels per call of one thread, margins included: their features stay in its cache."""
DEVICE_PX = 40_000
"""The same where calls take turns."""
TIMED_PX = 256
"""Side of the photograph on which parts are timed, in LR pixels."""
TIMED_RUNS = 3
TIMED_PASSES = 4
"""How often all parts are timed in turn for a plan; the least times count."""
T = TypeVar("T")


@dataclass(frozen=True)
class TileBatch:
    """Tiles of one size that run at one depth in one call."""

    depth: int
    hw: HW
    """LR pixels, without margins."""
    corners: Tuple[Corner, ...]


class ElasticSession(AdaptiveSession):
    """The parts of an elastic network, or of a router with branches by tiles.

    Each image is covered by tiles of `SIZES` at the depths that gain most by their cost. Without a
    budget, what a multiply-accumulate must gain is the plan's price. Of an image that is too large
    for the memory, one piece after the other is fed. Each chooses by itself. Gains are relative to
    the error of what is fed, so a piece may choose other depths than the whole image would there.
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
        # Timed for the first image, not now: probes of the memory must find that free.
        self._rates: Optional[TileRates] = None

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

    def take_fixed_memory(self) -> None:
        side, depth = SIZES[-1], len(self.levels) - 1
        x = np.zeros((1, 3, side, side), np.float32)
        features, target, half = self._features(x, {}), self._target(x), side // 2
        largest = [(0, 0, side, side, depth)] * self._workers.number  # one for each thread
        four = [(y, x, half, half, depth) for y in (0, half) for x in (0, half)]
        for tiles in (largest, four):
            self._run_tiles(features, np.array(tiles), target, {})

    def run_all_paths(self, hw: Tuple[int, int]) -> None:
        x = np.zeros((1, 3, *hw), np.float32)
        self._gains(x)
        for choice in self.plan.quadtree(hw).deepest():
            self._run_choice(x, choice, {})

    def run_adaptive(self, x_nchw: np.ndarray) -> AdaptiveOutput:
        """Upscale (1, 3, H, W) float32, 0..1, RGB. Decisions are evenly spaced depths.

        Raises InputError where the image cannot keep the budget.
        """
        ms: Dict[str, float] = {}
        hw = (x_nchw.shape[2], x_nchw.shape[3])
        self._check_budget(hw)
        began = self._clock()
        gains = self._gains(x_nchw)
        if self.budget.max_ms is not None and self._budget:
            end = began + self.budget.max_ms * self._share_of_time(hw) / 1000
            sr, choice = self._run_in_time(x_nchw, gains, end, ms)
        else:
            choice = self._choose(hw, gains)
            ms["choice"] = self._ms_since(began)
            sr = self._run_choice(x_nchw, choice, ms)
        return AdaptiveOutput(sr, self._decisions(choice, hw), self._executed_work(choice, hw, ms))

    def _gains(self, x_nchw: np.ndarray) -> np.ndarray:
        """Return the gains of each deeper depth in each cell."""
        outputs = self._parts["gains"](lr=self.arrays.to_device(x_nchw))
        rows, columns = cells_hw((x_nchw.shape[2], x_nchw.shape[3]))
        check_outputs("gains", outputs, (1, len(self.levels) - 1, rows, columns))
        gains = self.arrays.to_host(outputs[0])[0]
        if not np.isfinite(gains).all():
            raise ArtifactError(
                "the predicted gains are not finite",
                hint="check the image for pixels that are not finite, or export the model again",
            )
        return gains

    def _features(self, x_nchw: np.ndarray, ms: Dict[str, float]) -> Any:
        """Return what the tails of tiles continue from."""
        x = self.arrays.to_device(x_nchw)
        if not self.plan.has_start:
            return x
        start = self._clock()
        outputs = self._parts["start"](lr=x)
        check_outputs("start", outputs, (1, self.plan.channels, *x_nchw.shape[2:]))
        ms["start"] = self._ms_since(start)
        return outputs[0]

    def _choose(self, hw: HW, gains: np.ndarray) -> TileChoice:
        """Return the tiles by the budget of work, or by the price of a multiply-accumulate.

        Without a budget, a multiply-accumulate that takes longer costs more, where the plan has
        the rates of this backend. Tiles never cost more than the largest depth on the whole image.
        """
        tree = self.plan.quadtree(hw)
        if self.budget.max_share is not None and self._budget:
            macs = self.budget.max_share * self._plain_macs(hw) - self.plan.gains_macs_of(hw)
            return tree.within(gains, macs)
        rates = self.plan.rates.get(self.backend)
        if rates is not None:
            tree = self.plan.quadtree(hw, rates.as_macs)
        choice, most = tree.choose(gains, self.plan.price), float(tree.whole_costs[-1])
        return choice if choice.cost <= most else tree.within(gains, most)

    def _run_in_time(
        self, x_nchw: np.ndarray, gains: np.ndarray, end: float, ms: Dict[str, float]
    ) -> Tuple[np.ndarray, TileChoice]:
        """Run what gains most until the clock shows `end`; return the image, and what was run."""
        start = self._clock()
        hw = (x_nchw.shape[2], x_nchw.shape[3])
        tree = self.plan.quadtree(hw, self._known_rates())
        choice = tree.within(gains, (end - start) * 1000)
        ms["choice"] = self._ms_since(start)
        if choice.whole:
            return self._run_choice(x_nchw, choice, ms), choice
        features, target = self._features(x_nchw, ms), self._target(x_nchw)
        ms["tiles"] = 0.0
        run = AnytimeTiles(
            tree,
            gains,
            lambda tiles: self._run_tiles(features, tiles, target, ms),
            workers=self._workers.number,
            ms_left=lambda: (end - self._clock()) * 1000,
        )
        tiles = run.finish(choice.tiles)
        again = sum(map(self._tiles_macs, run.executed)) - self._tiles_macs(tiles)
        return self.arrays.to_host(target), TileChoice(tiles, 0.0, 0.0, again=again)

    def _tiles_macs(self, tiles: np.ndarray) -> float:
        h, w, depths = tiles[:, 2:].T
        costs = np.stack([cost.of(h, w) for cost in self.plan.tails.values()])
        return float(costs[depths, np.arange(len(tiles))].sum())

    def _known_rates(self) -> TileRates:
        if self._rates is None:
            self._rates = self._timed_rates()
        return self._rates

    def _timed_rates(self) -> TileRates:
        """Time the start, each tail in tiles of each size, and each network on the whole image."""
        x = nchw_from_rgb(sample_lr((TIMED_PX, TIMED_PX), count=1)[0])
        start_ms, features = self._least_ms(lambda: self._features(x, {}))
        target, px = self._target(x), TIMED_PX**2
        ms_of_mac: Dict[str, List[float]] = {name: [] for name in RATED}
        for depth, cost in enumerate(self.plan.tails.values()):
            for side in SIZES:
                sides = range(0, TIMED_PX, side)
                tiles = np.array([(y, x, side, side, depth) for y in sides for x in sides])
                run = functools.partial(self._run_tiles, features, tiles, target, {})
                ms_of_mac[str(side)].append(self._least_ms(run)[0] / self._tiles_macs(tiles))
            whole = functools.partial(self._run_whole, x, depth, {})
            ms_of_mac[RATED[-1]].append(self._least_ms(whole)[0] / (cost.whole_px * px))
        return TileRates(start_ms / px, {name: tuple(row) for name, row in ms_of_mac.items()})

    def _least_ms(self, run: Callable[[], T]) -> Tuple[float, T]:
        """Return the least time of some runs, and the result of the last."""
        times = []
        for _ in range(TIMED_RUNS):
            start = self._clock()
            result = run()
            times.append(self._ms_since(start))
        return min(times), result

    def _run_choice(
        self, x_nchw: np.ndarray, choice: TileChoice, ms: Dict[str, float]
    ) -> np.ndarray:
        """Run what was chosen. ms: gets the times of the parts, and that of moving tiles."""
        if choice.whole:
            return self._run_whole(x_nchw, int(choice.tiles[0, 4]), ms)
        features, target = self._features(x_nchw, ms), self._target(x_nchw)
        ms["tiles"] = 0.0
        self._run_tiles(features, choice.tiles, target, ms)
        return self.arrays.to_host(target)

    def _target(self, x_nchw: np.ndarray) -> Any:
        """Return the memory of the result."""
        h, w = (self.plan.scale * n for n in x_nchw.shape[2:])
        return self.arrays.empty((1, 3, h, w), self.arrays.to_device(x_nchw[:, :, :1, :1]))

    def _run_whole(self, x_nchw: np.ndarray, depth: int, ms: Dict[str, float]) -> np.ndarray:
        start, role = self._clock(), whole_role(self.levels[depth])
        outputs = self._parts[role](lr=self.arrays.to_device(x_nchw))
        check_outputs(role, outputs, (1, 3, *(self.plan.scale * n for n in x_nchw.shape[2:])))
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
        arrays.scatter(outputs[0], target, Places(corners))
        return {variant: tail_ms, "tiles": cut_ms + self._ms_since(start)}

    def _check_budget(self, hw: HW) -> None:
        if not self._budget:
            return
        self.plan.check_budget(self.budget.max_share, hw, self._own)
        if self.budget.max_ms is None:
            return
        share = self._share_of_time(hw)
        least = self.plan.quadtree(hw, self._known_rates()).whole_costs[0] / share
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
        """Return the work of a choice. ms: the times of its stages."""
        costs = list(self.plan.tails.values())
        if choice.whole:
            macs = float(costs[int(choice.tiles[0, 4])].whole_px * hw[0] * hw[1])
        else:
            macs = self.plan.start_macs_px * hw[0] * hw[1] + self._tiles_macs(choice.tiles)
            macs += choice.again
        pixels = dict(zip(self.levels, choice.pixels(len(self.levels))))
        return ExecutedWork(
            round(macs) + self.plan.gains_macs_of(hw), self._plain_macs(hw), ms, pixels
        )


def record_rates(path: Path, run: RunOptions = DEFAULT_RUN) -> None:
    """Time the parts of the plan at `path` here, and write the times into it.

    By them, later runs of that backend choose between tiles and the whole image.
    """
    plan, session = read_elastic_plan(path), ElasticSession.from_plan(path, run=run)
    with session:
        passes = [session._timed_rates() for _ in range(TIMED_PASSES)]
        rates = {**plan.rates, session.backend: least_rates(passes)}
    write_text(path, to_json(replace(plan, rates=rates)))


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
