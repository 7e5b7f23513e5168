"""CDNSR: a router chooses a branch for each patch of an image; overlapping patches are blended."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import InputError
from sr_deploy.core.routers import MAX_SHARE, RoutedPlan, patch_spans, read_routed_plan
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import BackendInfo, ExecutedWork
from sr_deploy.core.sizes import hw_text
from sr_deploy.runtime.adaptive.base import AdaptiveOutput, AdaptiveSession, check_outputs
from sr_deploy.runtime.adaptive.tiles import HostArrays
from sr_deploy.runtime.parts import open_parts

Network = Callable[[np.ndarray], np.ndarray]
"""Patches (N, 3, patch, patch) float32 -> (N, classes), or (N, 3, scale*patch, scale*patch)."""
BATCH = 16
"""Patches per call: memory grows with their features."""


class RoutedSession(AdaptiveSession):
    """A router and its branches.

    `max_share` limits the executed work, router and overlaps included, to that share of the work of
    the largest branch on the whole image.
    """

    def __init__(
        self,
        plan: RoutedPlan,
        router: Network,
        branches: Sequence[Network],
        info: BackendInfo,
        *,
        max_share: Optional[float] = None,
    ) -> None:
        """Raises InputError for a budget that no image can keep."""
        plan.check_budget(max_share)
        super().__init__(plan.model, plan.scale, info)
        self.plan, self.max_share = plan, max_share
        if max_share is None:  # a budget holds for each tile separately, so tiles are not exact
            self.halo_px, self.align_px = plan.patch, plan.patch - plan.overlap
        self.router, self.branches = router, branches
        self.levels = tuple(plan.names)

    @classmethod
    def from_plan(
        cls, path: Path, *, max_share: Optional[float] = None, run: RunOptions = DEFAULT_RUN
    ) -> RoutedSession:
        """Open an exported router.

        Raises ArtifactError when the plan or a graph is missing, malformed or changed.
        """
        plan = read_routed_plan(path)
        opened = open_parts(path, plan, run)

        arrays = opened.info.arrays or HostArrays()

        def as_network(part: Callable[..., List[Any]]) -> Network:
            return lambda patches: arrays.to_host(part(lr=patches)[0])

        router, *branches = map(as_network, opened.parts.values())
        return cls(plan, router, branches, opened.info, max_share=max_share)

    def _release(self) -> None:
        del self.router
        self.branches = ()
        super()._release()

    def run_all_paths(self, hw: Tuple[int, int]) -> None:
        for branch in self.branches:
            branch(np.zeros((BATCH, 3, self.plan.patch, self.plan.patch), np.float32))

    def run_adaptive(self, x_nchw: np.ndarray) -> AdaptiveOutput:
        """Upscale (1, 3, H, W) float32 in 0..1, RGB. Images smaller than a patch are mirrored.

        Raises InputError where the image's patches cannot keep the budget.
        """
        plan, clock, side = self.plan, _Stages(), self.plan.patch * self.plan.scale
        h, w = x_nchw.shape[2:]
        below, right = max(plan.patch - h, 0), max(plan.patch - w, 0)
        image = np.pad(x_nchw[0], ((0, 0), (0, below), (0, right)), mode="symmetric")
        blend = _Blend(plan, image.shape[1:])
        patches = np.stack(
            [image[:, t : t + plan.patch, c : c + plan.patch] for t, c in blend.corners]
        )
        clock.lap("cut")
        log_odds = self.router(patches)
        check_outputs(f"the router of {plan.model}", [log_odds], (len(patches), len(plan.names)))
        plain_macs = plan.plain_macs_px * h * w * self._own
        classes = plan.classes(log_odds, self._max_macs((h, w), plain_macs, len(patches)))
        clock.lap("decide")
        clock.ms["blend"] = 0.0
        for number, (name, branch) in enumerate(zip(plan.names, self.branches)):
            members = np.flatnonzero(classes == number)
            clock.ms[name] = 0.0
            for first in range(0, len(members), BATCH):
                batch = members[first : first + BATCH]
                outputs = branch(patches[batch])
                check_outputs(name, [outputs], (len(batch), 3, side, side))
                clock.lap(name)
                for index, output in zip(batch, outputs):
                    blend.add(index, output, number / (len(self.branches) - 1))
                clock.lap("blend")
        image_sr = blend.y[None, :, : h * plan.scale, : w * plan.scale]
        work = _executed_work(plan, classes, clock.ms, plain_macs)
        return AdaptiveOutput(image_sr, blend.decisions[:h, :w], work)

    def _max_macs(self, hw: Tuple[int, int], plain_macs: float, patches: int) -> Optional[float]:
        """Return the budget of an image. Raises InputError if its patches cannot keep it."""
        plan = self.plan
        if self.max_share is None or not self._budget:
            return None
        least = patches * plan.least_macs / plain_macs
        if least > self.max_share:
            raise InputError(
                f"a budget of {self.max_share:.1%} of '{plan.names[-1]}' on the whole image is too "
                f"small for {hw_text(hw)}{' of a tile' if self._own < 1 else ''}: the router and "
                f"'{plan.names[0]}' on its {patches} overlapping patches take {least:.1%}",
                hint=f"give {np.ceil(least * 100):.0f}% or more"
                if least <= MAX_SHARE
                else "omit the budget",
            )
        return self.max_share * plain_macs


class _Blend:
    """The weighted sum of upscaled patches, and the largest decision on each LR pixel."""

    def __init__(self, plan: RoutedPlan, hw: Tuple[int, ...]) -> None:
        self._patch, self._scale = plan.patch, plan.scale
        (tops, rows), (lefts, columns) = (
            patch_spans(n, plan.patch, plan.overlap, plan.blend) for n in hw
        )
        rows, columns = (np.repeat(weights, plan.scale, axis=1) for weights in (rows, columns))
        self.corners = [(top, left) for top in tops for left in lefts]
        self._weights = [(row[:, None], column) for row in rows for column in columns]
        self.y = np.zeros((3, *(n * plan.scale for n in hw)), np.float32)
        self.decisions = np.zeros(hw, np.float32)

    def add(self, index: int, output: np.ndarray, decision: float) -> None:
        """Add patch number `index`, (3, scale*patch, scale*patch); the array is changed."""
        (top, left), (down, across), size = self.corners[index], self._weights[index], self._patch
        output *= down * across
        target = self.y[:, self._scale * top :, self._scale * left :]
        target[:, : self._scale * size, : self._scale * size] += output
        decided = self.decisions[top : top + size, left : left + size]
        np.maximum(decided, decision, out=decided)


class _Stages:
    """Wall time of stages, in ms."""

    def __init__(self) -> None:
        self.ms: Dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to `stage`."""
        now = time.perf_counter()
        self.ms[stage] = self.ms.get(stage, 0.0) + (now - self._start) * 1000
        self._start = now


def _executed_work(
    plan: RoutedPlan, classes: np.ndarray, ms: Dict[str, float], plain_macs: float
) -> ExecutedWork:
    counts = np.bincount(classes, minlength=len(plan.names))
    return ExecutedWork(
        macs=int(counts @ np.array(plan.macs)) + len(classes) * plan.router_macs,
        plain_macs=plain_macs,
        ms=ms,
        pixels={name: int(n) * plan.patch**2 for name, n in zip(plan.names, counts)},
    )
