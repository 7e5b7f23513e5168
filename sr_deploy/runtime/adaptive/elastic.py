"""Elastic networks tile by tile: each tile of an image continues to its own depth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

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
BATCH_PX = 2**15
"""LR pixels per call of a tail, margins included: memory grows with their features."""


class ElasticSession(AdaptiveSession):
    """The start and the tails of an elastic network.

    Each image is covered by tiles of `SIZES` at the depths that gain most by their cost. Without a
    budget, what a multiply-accumulate must gain is the plan's price. Tiles of a large image choose
    by themselves: on multiples of `align_px` they choose the same depths as the whole image,
    unless one of them is cheaper to run as a whole.
    """

    align_px = SIZES[-1]

    def __init__(
        self,
        plan: ElasticPlan,
        opened: OpenParts,
        *,
        budget: Budget = NO_BUDGET,
        arrays: Optional[HostArrays] = None,
    ) -> None:
        """opened: parts by the plan's roles. arrays: moves tiles where the parts run; None: on the
        CPU.

        Raises InputError for a budget that no image can keep.
        """
        plan.check_budget(budget.max_share)
        super().__init__(plan.model, plan.scale, opened.info)
        self.plan, self.budget = plan, budget
        self.levels = tuple(plan.tails)
        self._parts = opened.parts
        self._arrays = arrays or HostArrays()

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
        self._parts = {}
        self._arrays.release()
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
        outputs = self._parts["start"](lr=self._arrays.to_device(x_nchw))
        rows, columns = cells_hw((hw[0], hw[1]))
        deeper = len(self.levels) - 1
        check_outputs("start", outputs, (1, self.plan.channels, *hw), (1, deeper, rows, columns))
        gains = self._arrays.to_host(outputs[1])[0]
        if not np.isfinite(gains).all():
            raise ArtifactError(
                "the predicted gains are not finite",
                hint="check the image for pixels that are not finite, or export the model again",
            )
        return outputs[0], gains

    def _choose(self, hw: HW, gains: np.ndarray) -> TileChoice:
        tree = Quadtree(hw, list(self.plan.tails.values()))
        if self.budget.max_share is None or not self._budget:
            return tree.choose(gains, self.plan.price)
        budget = self.budget.max_share * self._plain_macs(hw) - self.plan.start_macs(hw)
        return tree.within(gains, budget)

    def _end(self, features: Any, choice: TileChoice, ms: Dict[str, float]) -> np.ndarray:
        """Run the tails. ms: gets their times by depth, and that of cutting tiles and joining."""
        scale = self.plan.scale
        h, w = (scale * int(n) for n in features.shape[2:])
        if choice.whole:
            variant = self.levels[int(choice.tiles[0, 4])]
            start = time.perf_counter()
            outputs = self._parts[whole_role(variant)](features=features)
            check_outputs(whole_role(variant), outputs, (1, 3, h, w))
            sr = self._arrays.to_host(outputs[0])
            ms[variant] = _ms_since(start)
            return sr
        target = self._arrays.empty((1, 3, h, w), features)
        ms["tiles"] = 0.0
        for number, corners, hw in self._batches(choice):
            variant = self.levels[number]
            margin = self.plan.tails[variant].margin
            start = time.perf_counter()
            fed = [(top - margin, left - margin) for top, left in corners]
            fed_hw = (hw[0] + 2 * margin, hw[1] + 2 * margin)
            cut = self._arrays.gather(features, fed, fed_hw, "features")
            inside = self._arrays.inside(features, fed, fed_hw, "inside")
            ms["tiles"] += _ms_since(start)
            start = time.perf_counter()
            outputs = self._parts[variant](features=cut, inside=inside)
            shape = (len(corners), 3, scale * hw[0], scale * hw[1])
            check_outputs(variant, outputs, shape)
            ms[variant] = ms.get(variant, 0.0) + _ms_since(start)
            start = time.perf_counter()
            placed = [(scale * top, scale * left) for top, left in corners]
            self._arrays.scatter(outputs[0], target, placed)
            ms["tiles"] += _ms_since(start)
        start = time.perf_counter()
        sr = self._arrays.to_host(target)
        ms["tiles"] += _ms_since(start)
        return sr

    def _batches(self, choice: TileChoice) -> Iterator[Tuple[int, List[Corner], HW]]:
        """Yield tiles of one depth and size together: the depth's number, their corners, (h, w)."""
        groups: Dict[Tuple[int, int, int], List[Corner]] = {}
        for top, left, h, w, number in choice.tiles.tolist():
            groups.setdefault((number, h, w), []).append((top, left))
        margins = [cost.margin for cost in self.plan.tails.values()]
        for (number, h, w), corners in groups.items():
            fed_px = (h + 2 * margins[number]) * (w + 2 * margins[number])
            size = min(max(BATCH_PX // fed_px, 1), BATCH)
            for first in range(0, len(corners), size):
                yield number, corners[first : first + size], (h, w)

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


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
