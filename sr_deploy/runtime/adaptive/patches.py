"""CDNSR: an image's patches, each through the branch that a router chooses for it, blended where they overlap."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.routers import RoutedPlan, read_routed_plan, spans
from sr_deploy.core.session import Spent
from sr_deploy.runtime.adaptive.base import Adapted, AdaptiveSession
from sr_deploy.runtime.ort import OnnxParts

Network = Callable[[np.ndarray], np.ndarray]
"""Patches (N, 3, patch, patch) float32 -> (N, classes), or (N, 3, scale*patch, scale*patch)."""
BATCH = 16
"""Patches a call: their features are what takes memory."""


class RoutedSession(AdaptiveSession):
    """A router and its branches. `max_share` bounds what is executed of the largest branch on all patches."""

    def __init__(
        self,
        plan: RoutedPlan,
        router: Network,
        branches: Sequence[Network],
        *,
        max_share: Optional[float] = None,
        backend: str,
        backend_version: str,
        threads: int,
    ) -> None:
        """Raises InputError for a budget below the smallest branch."""
        plan.check_budget(max_share)
        super().__init__(
            name=plan.model,
            scale=plan.scale,
            backend=backend,
            backend_version=backend_version,
            threads=threads,
        )
        self.plan, self.max_share = plan, max_share
        if max_share is None:  # a budget is kept on each tile by itself
            self.halo_px, self.align_px = plan.patch, plan.patch - plan.overlap
        self.router, self.branches = router, branches

    @classmethod
    def from_plan(cls, path: Path, *, max_share: Optional[float] = None) -> RoutedSession:
        """Open an exported router. Raises ArtifactError when the plan or a graph is missing, malformed or changed."""
        plan = read_routed_plan(path)
        plan.check_budget(max_share)
        graphs = OnnxParts(path, plan.graphs)
        classify, *upscale = [
            lambda patches, part=part: part(lr=patches)[0] for part in graphs.parts
        ]  # type: ignore[misc]
        return cls(
            plan,
            classify,
            upscale,
            max_share=max_share,
            backend="onnxruntime",
            backend_version=graphs.version,
            threads=graphs.threads,
        )

    def exercise(self, hw: Tuple[int, int]) -> None:
        for branch in self.branches:
            branch(np.zeros((BATCH, 3, self.plan.patch, self.plan.patch), np.float32))

    def adapted(self, x_nchw: np.ndarray) -> Adapted:
        """Upscale (1, 3, H, W) float32, 0..1, RGB; an image smaller than a patch is mirrored."""
        plan, start = self.plan, time.perf_counter()
        ms: Dict[str, float] = {}
        h, w = x_nchw.shape[2:]
        more = [(0, 0), (0, 0), (0, max(plan.patch - h, 0)), (0, max(plan.patch - w, 0))]
        image = np.pad(x_nchw, more, mode="symmetric")[0]
        (tops, down), (lefts, across) = (
            spans(n, plan.patch, plan.overlap) for n in image.shape[1:]
        )
        down, across = (
            np.repeat(down, plan.scale, axis=1)[..., None],
            np.repeat(across, plan.scale, axis=1),
        )
        corners = [(top, left) for top in tops for left in lefts]
        patches = np.stack([image[:, t : t + plan.patch, c : c + plan.patch] for t, c in corners])
        start = _lap(ms, "cut", start)
        log_odds = self.router(patches)
        if log_odds.shape != (len(patches), len(plan.names)):
            told = f"{log_odds.shape[-1]} classes apart, and there are {len(plan.names)} branches"
            raise ArtifactError(f"the router of {plan.model} tells {told}", hint="export it again")
        classes = plan.classes(log_odds, self.max_share)
        start = _lap(ms, "decide", start)
        y = np.zeros((3, *(n * plan.scale for n in image.shape[1:])), np.float32)
        decisions = np.zeros(image.shape[1:], np.float32)
        ms["blend"] = 0.0
        for number, (name, branch) in enumerate(zip(plan.names, self.branches)):
            mine = np.flatnonzero(classes == number)
            blending = 0.0
            for first in range(0, len(mine), BATCH):
                chosen = mine[first : first + BATCH]
                results = branch(patches[chosen])
                begun = time.perf_counter()
                for i, result in zip(chosen, results):
                    top, left = corners[i]
                    size = plan.scale * plan.patch
                    place = y[:, plan.scale * top :, plan.scale * left :][:, :size, :size]
                    result *= down[i // len(lefts)] * across[i % len(lefts)]
                    place += result
                    inside = decisions[top : top + plan.patch, left : left + plan.patch]
                    np.maximum(inside, number / (len(self.branches) - 1), out=inside)
                blending += (time.perf_counter() - begun) * 1000
            start = _lap(ms, name, start)
            ms[name] -= blending
            ms["blend"] += blending
        counts = np.bincount(classes, minlength=len(plan.names))
        spent = Spent(
            macs=int(counts @ np.array(plan.macs)) + len(classes) * plan.router_macs,
            most_macs=len(classes) * plan.macs[-1],
            ms=ms,
            pixels={name: int(n) * plan.patch**2 for name, n in zip(plan.names, counts)},
        )
        return Adapted(y[None, :, : h * plan.scale, : w * plan.scale], decisions[:h, :w], spent)


def _lap(ms: Dict[str, float], stage: str, start: float) -> float:
    """Note a stage's time since `start`; return the time now."""
    now = time.perf_counter()
    ms[stage] = (now - start) * 1000
    return now
