"""The choice of tiles and depths: where an image is computed deeper, by predicted gains and costs.

The cells of an image are the leaves of quadtrees: four tiles of one size make one of the next. Each
node is one tile at one depth, or its four children, whichever has the least `price * cost - gain`.
The whole image may also be one tile. Costs are multiply-accumulates, or times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.sizes import HW

SIZES = (32, 64, 128)
"""Sides of tiles in LR pixels; the first is that of a cell, each next one is its double."""
_WHOLE = "whole"
RATED = (*map(str, SIZES), _WHOLE)
"""What is timed: tiles of each size, and the whole image."""
_PRECISION = 1.001
"""The quotient of two prices between which none is searched."""
_NEAR = 0.995
"""The share of a budget at which the search for a price ends."""


@dataclass(frozen=True)
class TailCost:
    """The margin of a tail, and its multiply-accumulates: `px*h*w + side*(h + w) + corner`.

    h, w: of the tile in LR pixels, without its margins, whose work is in `side` and `corner`.
    """

    margin: int
    """LR pixels that a tile needs on each side."""
    px: int
    side: int
    corner: int
    whole_px: int
    """Multiply-accumulates per LR pixel on the whole image, which has no margins."""

    def of(self, h: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Return the costs of tiles of these heights and widths."""
        return np.asarray(self.px * h * w + self.side * (h + w) + self.corner)


@dataclass(frozen=True)
class TileRates:
    """What the parts take with one runtime on one machine."""

    start_ms_px: float
    """Of the start, per LR pixel of the image."""
    ms_of_mac: Dict[str, Tuple[float, ...]]
    """Of each depth per multiply-accumulate: in tiles of a size, `64`, and on the `whole` image."""

    @property
    def as_macs(self) -> TileRates:
        """The same in units of a multiply-accumulate of the largest network on a whole image."""
        unit = self.ms_of_mac[_WHOLE][-1]
        rows = {
            name: tuple(rate / unit for rate in rates) for name, rates in self.ms_of_mac.items()
        }
        return TileRates(self.start_ms_px / unit, rows)

    @property
    def table(self) -> np.ndarray:
        """The rates as Quadtree takes them, (sizes + 1, depths)."""
        return np.array([self.ms_of_mac[name] for name in RATED])


def least_rates(rates: Sequence[TileRates]) -> TileRates:
    """Return the smallest of each rate."""
    tables = [each.ms_of_mac for each in rates]
    least = {name: tuple(map(min, zip(*(table[name] for table in tables)))) for name in RATED}
    return TileRates(min(each.start_ms_px for each in rates), least)


@dataclass(frozen=True)
class TileChoice:
    """The tiles of an image, which cover it, or its depth where it is run as a whole."""

    tiles: np.ndarray
    """(N, 5) int64: top, left, height, width in LR pixels, and the number of the depth."""
    cost: float
    """Of all tiles and what they start from, or of the whole image."""
    gain: float
    whole: bool = False
    again: float = 0.0
    """The multiply-accumulates of tiles that were run and then replaced by deeper ones."""

    def depth_map(self, hw: HW) -> np.ndarray:
        """Return the number of the depth at each pixel, (H, W) int64."""
        depths = np.zeros(hw, np.int64)
        for top, left, h, w, depth in self.tiles.tolist():
            depths[top : top + h, left : left + w] = depth
        return depths

    def pixels(self, depths: int) -> List[int]:
        """Return the LR pixels of each depth."""
        areas = self.tiles[:, 2] * self.tiles[:, 3]
        counts = np.bincount(self.tiles[:, 4], areas, minlength=depths)
        return [int(n) for n in counts]


@dataclass(frozen=True)
class _Split:
    """The depth of each node, and which nodes are split, by size from the cells on."""

    depths: Tuple[np.ndarray, ...]
    splits: Tuple[np.ndarray, ...]
    """Without one for the cells, which cannot be split."""
    cost: float
    gain: float


class Quadtree:
    """The possible tiles of an image of `hw`, with their costs at each depth."""

    def __init__(
        self,
        hw: HW,
        costs: Sequence[TailCost],
        rates: Optional[np.ndarray] = None,
        start_px: float = 0.0,
    ) -> None:
        """costs: of each depth. rates: what a multiply-accumulate costs, (sizes + 1, depths), in
        tiles of each size and in the whole image; None: 1. start_px: what tiles cost beside that,
        per pixel of the image.
        """
        self.hw = hw
        self._start_cost = start_px * hw[0] * hw[1]
        self._sides = [tuple(_sides(n, size) for n in hw) for size in SIZES]
        if rates is None:
            rates = np.ones((len(SIZES) + 1, len(costs)))
        self._costs = [
            np.stack([cost.of(h[:, None], w) * rate for cost, rate in zip(costs, rates[level])])
            for level, (h, w) in enumerate(self._sides)
        ]
        whole_px = np.array([cost.whole_px for cost in costs])
        self.whole_costs = whole_px * rates[-1] * hw[0] * hw[1]
        """Of each depth."""

    def choose(self, gains: np.ndarray, price: float) -> TileChoice:
        """Return the tiles with the least `price * cost - gain`.

        gains: (depths - 1, rows, columns), of the deeper depths in each cell.
        """
        by_size = _gains_by_size(gains)
        whole_gains = by_size[0].sum(axis=(1, 2))
        values = price * self.whole_costs - whole_gains
        split = self._split(by_size, price)
        if values.min() <= price * split.cost - split.gain:
            return self._whole(int(values.argmin()), whole_gains)
        return self._tiles(split)

    def within(self, gains: np.ndarray, budget: float) -> TileChoice:
        """Return the tiles that gain most among those that cost at most `budget`.

        The smallest depth everywhere if all cost more. Nothing is spent that gains nothing.
        """
        by_size = _gains_by_size(gains)
        whole_gains = by_size[0].sum(axis=(1, 2))
        fitting = np.flatnonzero(self.whole_costs <= budget)
        number = int(fitting[whole_gains[fitting].argmax()]) if len(fitting) else 0
        split = self._split_within(by_size, budget)
        tiles = None if split is None else self._filled(self._tiles(split), by_size, budget)
        if tiles is None or tiles.gain <= whole_gains[number]:
            return self._whole(number, whole_gains)
        return tiles

    def deepest(self) -> Tuple[TileChoice, TileChoice]:
        """Return the largest depth everywhere, on the whole image and in the largest tiles."""
        whole = np.zeros(len(self.whole_costs))
        number = len(whole) - 1
        tiles = np.array(
            [
                [top, left, h, w, number]
                for top, h in zip(range(0, self.hw[0], SIZES[-1]), self._sides[-1][0])
                for left, w in zip(range(0, self.hw[1], SIZES[-1]), self._sides[-1][1])
            ]
        )
        cost = self._start_cost + float(self._costs[-1][number].sum())
        return self._whole(number, whole), TileChoice(tiles, cost, 0.0)

    def _split_within(self, by_size: List[np.ndarray], budget: float) -> Optional[_Split]:
        """Return the tiles of the least price that cost at most `budget`; None if none do.

        The price is searched between one at which only gains count and one at which costs do.
        """
        least = min(float(cost.min()) for cost in self._costs)
        largest = max(float(np.abs(gain).max()) for gain in by_size)
        high = max(largest, 1e-30) / least * 1e3
        low = high * 1e-12
        best = self._split(by_size, low)
        if best.cost <= budget:
            return best
        best = self._split(by_size, high)
        if best.cost > budget:
            return None
        while high > low * _PRECISION and best.cost < _NEAR * budget:
            middle = (low * high) ** 0.5
            found = self._split(by_size, middle)
            if found.cost > budget:
                low = middle
            else:
                high, best = middle, found
        return best

    def _split(self, by_size: List[np.ndarray], price: float) -> _Split:
        """Return the tiles with the least `price * cost - gain`, if the whole image is none."""
        depths, splits = [], []
        below: Optional[np.ndarray] = None
        for gain, costs in zip(by_size, self._costs):
            values = price * costs - gain
            depth = values.argmin(axis=0)
            best = np.stack([np.take_along_axis(a, depth[None], 0)[0] for a in (values, costs)])
            if below is not None:
                four = _sum_of_four(below)
                split = four[0] < best[0]
                best = np.where(split, four, best)
                splits.append(split)
            depths.append(depth)
            below = best
        assert below is not None
        value, cost = below.sum(axis=(1, 2)).tolist()
        return _Split(tuple(depths), tuple(splits), self._start_cost + cost, price * cost - value)

    def _filled(self, choice: TileChoice, by_size: List[np.ndarray], budget: float) -> TileChoice:
        """Spend what is left of a budget on larger depths of single tiles, the best first."""
        costs, gains = self._by_depth(choice.tiles, by_size)
        each = np.arange(len(choice.tiles))
        numbers, left = choice.tiles[:, 4].copy(), budget - choice.cost
        while True:
            extra, more = costs - costs[numbers, each], gains - gains[numbers, each]
            useful = (extra > 0) & (extra <= left) & (more > 0)
            if not useful.any():
                break
            rate = np.where(useful, more / np.where(useful, extra, 1), 0)
            deeper = rate.argmax(axis=0)
            order = np.argsort(-rate[deeper, each])
            order = order[rate[deeper, each][order] > 0]
            spent = np.cumsum(extra[deeper, each][order])
            bought = order[spent <= left]
            numbers[bought] = deeper[bought]
            left -= float(spent[len(bought) - 1])
        tiles = np.column_stack([choice.tiles[:, :4], numbers])
        return TileChoice(tiles, budget - left, float(gains[numbers, each].sum()))

    def by_depth(self, tiles: np.ndarray, gains: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return what tiles cost and gain at each depth: two arrays (depths, N)."""
        return self._by_depth(tiles, _gains_by_size(gains))

    def _by_depth(
        self, tiles: np.ndarray, by_size: List[np.ndarray]
    ) -> Tuple[np.ndarray, np.ndarray]:
        level = np.searchsorted(SIZES, tiles[:, 2:4].max(axis=1))
        costs, gains = (np.empty((len(self.whole_costs), len(level))) for _ in range(2))
        for i, (of_size, gain) in enumerate(zip(self._costs, by_size)):
            here = np.flatnonzero(level == i)
            row, column = (tiles[here, :2] // SIZES[i]).T
            costs[:, here], gains[:, here] = of_size[:, row, column], gain[:, row, column]
        return costs, gains

    def _whole(self, depth: int, whole_gains: np.ndarray) -> TileChoice:
        tiles = np.array([[0, 0, *self.hw, depth]], np.int64)
        return TileChoice(
            tiles, float(self.whole_costs[depth]), float(whole_gains[depth]), whole=True
        )

    def _tiles(self, split: _Split) -> TileChoice:
        """Return the tiles that are not split, the largest first."""
        found = []
        here = np.ones(split.depths[-1].shape, bool)
        for level in reversed(range(len(SIZES))):
            divided = split.splits[level - 1] if level else np.zeros(here.shape, bool)
            rows, columns = np.nonzero(here & ~divided)
            (h, w), side = self._sides[level], SIZES[level]
            depths = split.depths[level][rows, columns]
            columns_of = (rows * side, columns * side, h[rows], w[columns], depths)
            found.append(np.stack(columns_of, axis=1))
            if level:
                below = split.depths[level - 1].shape
                here = (here & divided).repeat(2, axis=0).repeat(2, axis=1)
                here = here[: below[0], : below[1]]
        return TileChoice(np.concatenate(found), split.cost, split.gain)


def _gains_by_size(gains: np.ndarray) -> List[np.ndarray]:
    """Return the gains of all depths in the tiles of each size, (depths, rows, columns)."""
    zero = np.zeros((1, *gains.shape[1:]))
    by_size = [np.concatenate([zero, gains.astype(np.float64)])]
    for _ in SIZES[1:]:
        by_size.append(_sum_of_four(by_size[-1]))
    return by_size


def cells_hw(hw: HW) -> Tuple[int, int]:
    """Return the rows and columns of cells of an image."""
    return -(-hw[0] // SIZES[0]), -(-hw[1] // SIZES[0])


def _sides(n: int, size: int) -> np.ndarray:
    """Return the sides of the tiles along an axis of n pixels; the last one may be smaller."""
    sides = np.full(-(-n // size), size, np.int64)
    sides[-1] = n - size * (len(sides) - 1)
    return sides


def _sum_of_four(values: np.ndarray) -> np.ndarray:
    """Return the sums of 2x2 neighbours, (..., rows, columns) -> (..., ceil(rows / 2), ...)."""
    for axis in (-2, -1):
        starts = np.arange(0, values.shape[axis], 2)
        values = np.add.reduceat(values, starts, axis=axis)
    return values
