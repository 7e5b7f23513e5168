"""Runs the tiles of an image until a time is used: the smallest depth first, then by gain."""

from __future__ import annotations

from typing import Callable, List

import numpy as np

from sr_deploy.core.quadtree import Quadtree

WAVE = 0.05
"""The share of the time that is left after which the clock is looked at again, about."""
_SLOWEST = 8.0


class AnytimeTiles:
    """Tiles that run in waves, as long as there is time for them.

    Costs are predicted times in ms; while tiles run, they are scaled by what these really took.
    """

    def __init__(
        self,
        tree: Quadtree,
        gains: np.ndarray,
        run: Callable[[np.ndarray], None],
        *,
        workers: int,
        ms_left: Callable[[], float],
    ) -> None:
        """tree: with costs in ms. gains: as in `Quadtree.choose`. run: runs tiles, (N, 5) as in
        `TileChoice`. workers: the tiles that run at once. ms_left: returns the time that is left.
        """
        self._tree, self._gains = tree, gains
        self._run, self._workers, self._ms_left = run, workers, ms_left
        self._spent = self._predicted = 1e-9
        self.executed: List[np.ndarray] = []
        """The tiles that were run, also those that were replaced by deeper ones later."""

    def finish(self, tiles: np.ndarray) -> np.ndarray:
        """Run tiles, (N, 5), those that gain most first; return them with the depths they got.

        Where time runs out, the rest gets the smallest depth. Where it is left, some go deeper.
        """
        tiles = tiles.copy()
        costs, gains = self._tree.by_depth(tiles, self._gains)
        each, depths = np.arange(len(tiles)), tiles[:, 4]
        own, least = costs[depths, each], costs[0]
        shallow = depths == 0
        self._wave(tiles[shallow], float(own[shallow].sum()))
        rate = gains[depths, each] / np.maximum(own - least, 1e-9)
        waiting = np.argsort(np.where(shallow, np.inf, -rate))[: int((~shallow).sum())]
        while len(waiting):
            rest = least[waiting]
            count = self._fitting(own[waiting] - rest, float(rest.sum()))
            if not count:
                break
            now, waiting = waiting[:count], waiting[count:]
            self._wave(tiles[now], float(own[now].sum()))
        tiles[waiting, 4] = 0
        self._wave(tiles[waiting], float(least[waiting].sum()))
        return self._deepened(tiles, costs, gains)

    def _deepened(self, tiles: np.ndarray, costs: np.ndarray, gains: np.ndarray) -> np.ndarray:
        """Run tiles again at larger depths, while there is time for one."""
        each = np.arange(len(tiles))
        while True:
            more = gains - gains[tiles[:, 4], each]
            fits = self._scale * costs * self._workers <= self._ms_left()
            rate = np.where(fits & (more > 0), more / costs, 0)
            deeper = rate.argmax(axis=0)
            order = np.argsort(-rate[deeper, each])[: int((rate.max(axis=0) > 0).sum())]
            spent = costs[deeper, each][order]
            count = self._fitting(spent, 0.0) if len(order) else 0
            if not count:
                return tiles
            now = order[:count]
            tiles[now, 4] = deeper[now]
            self._wave(tiles[now], float(spent[:count].sum()))

    def _fitting(self, costs: np.ndarray, reserved: float) -> int:
        """Return how many of the tiles, in order, make the next wave. reserved: for the rest."""
        left = self._ms_left() / self._scale - reserved
        total = np.maximum(np.cumsum(costs), costs * self._workers)
        wave = max(WAVE * left, float(total[0]))
        return int(np.searchsorted(np.maximum.accumulate(total), min(wave, left), side="right"))

    @property
    def _scale(self) -> float:
        """What the tiles so far took, relative to what was predicted."""
        return min(max(self._spent / self._predicted, 1 / _SLOWEST), _SLOWEST)

    def _wave(self, tiles: np.ndarray, predicted: float) -> None:
        if not len(tiles):
            return
        before = self._ms_left()
        self._run(tiles)
        self._spent += before - self._ms_left()
        self._predicted += predicted
        self.executed.append(tiles.copy())
