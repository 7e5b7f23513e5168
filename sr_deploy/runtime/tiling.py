"""Plan how an image is cut into tiles.

The cores of the tiles partition the image. Each tile also covers the surroundings that its core
depends on. The tiled result equals that of the whole image if every core pixel is at least
`halo_px` away from the edges of its tile that are not image borders, and if tiles start and end on
multiples of `align_px` or at image borders. `TilePlan.exact` tells whether this holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.core.session import Session
from sr_deploy.core.sizes import HW, common_multiple, hw_text

OVERLAP_PX = 16
"""Overlap on each side of a seam for networks without a (known) halo."""


@dataclass(frozen=True)
class Span:
    """One axis of a tile, in LR pixels of the image: the range fed, and the core that is kept.

    The fed range may reach beyond the image. Those pixels are mirrored.
    """

    start: int
    stop: int
    core_start: int
    core_stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def core(self) -> Tuple[int, int]:
        return self.core_start, self.core_stop

    def slice_of(self, pixels: Tuple[int, int], scale: int = 1) -> slice:
        """Return the slice of the tile's output that holds a range of LR pixels of the image."""
        return slice((pixels[0] - self.start) * scale, (pixels[1] - self.start) * scale)


@dataclass(frozen=True)
class TilePlan:
    """The tiles of an image of `hw` LR pixels: all pairs of a vertical and a horizontal span."""

    hw: HW
    y_spans: Tuple[Span, ...]
    x_spans: Tuple[Span, ...]
    exact: bool  # whether the result equals that of the whole image

    @property
    def whole(self) -> bool:
        return self.tiles == 1 and self.tile_hw == self.hw

    @property
    def tiles(self) -> int:
        return len(self.y_spans) * len(self.x_spans)

    @property
    def tile_hw(self) -> HW:
        """The largest height and width fed."""
        return max(s.size for s in self.y_spans), max(s.size for s in self.x_spans)

    @property
    def fed_px(self) -> int:
        """The number of LR pixels fed, over all tiles."""
        return sum(s.size for s in self.y_spans) * sum(s.size for s in self.x_spans)

    def __str__(self) -> str:
        image, tile = hw_text(self.hw), hw_text(self.tile_hw)
        if self.whole:
            return f"{image} whole"
        if self.tiles == 1:
            return f"{image} mirrored to {tile}"
        return f"{image} in {len(self.y_spans)}x{len(self.x_spans)} tiles of at most {tile}"


def plan_whole(hw: HW) -> TilePlan:
    """Return the plan that runs an image in one piece."""
    return TilePlan(hw, (Span(0, hw[0], 0, hw[0]),), (Span(0, hw[1], 0, hw[1]),), exact=True)


def plan_tiles(
    hw: HW,
    session: Session,
    *,
    tile: Optional[int] = None,
    max_px: Optional[int] = None,
) -> TilePlan:
    """Return the plan with the least work. An image that fits is run whole.

    tile: the largest side fed, in LR pixels. max_px: the most LR pixels fed at once. Raises
    InputError if `tile` or `max_px` leaves no room for the surroundings that an output depends on.
    """
    fits = max_px is None or math.prod(hw) <= max_px
    if tile is None and fits and session.nearest_hw(hw) == tuple(hw):
        return plan_whole(hw)  # without asking for the receptive field, which may be measured
    limits = [_largest_side(session, axis, hw[axis], tile) for axis in (0, 1)]
    # No tile is larger than the image, and `max_px` bounds what is fed.
    limits = [max(min(limits[i], hw[i]), session.min_hw[i]) for i in (0, 1)]
    y, x = (_Axis.of(session, i, hw[i], limits[i]) for i in (0, 1))
    plans = []
    for height in y.candidate_sides():
        width = x.limit if max_px is None or x.fixed else min(x.limit, max_px // height)
        if width < min(x.size, x.smallest_tile, x.limit):
            continue
        y_spans, y_exact = y.spans(height)
        x_spans, x_exact = x.spans(width)
        # Without a halo only a single tile can be exact, which `spans` has checked.
        exact = y_exact and x_exact and (y.halo is not None or len(y_spans) == len(x_spans) == 1)
        plan = TilePlan(hw, y_spans, x_spans, exact)
        if max_px is None or math.prod(plan.tile_hw) <= max_px:
            plans.append(plan)
    if not plans:
        raise InputError(
            f"tiles of at most {max_px} LR pixels are too small for this network: "
            f"the smallest has {smallest_px(hw, session)}"
        )
    return min(plans, key=lambda plan: (plan.fed_px, plan.tiles))


def smallest_tile(session: Session, axis: int) -> int:
    """Return the smallest side, overlap included, of tiles that do not cover the image."""
    return _Axis.of(session, axis, 1, 1).smallest_tile


def smallest_px(hw: HW, session: Session) -> int:
    """Return the number of LR pixels of the smallest tile for an image of `hw`."""
    most = session.max_hw or hw
    sides = (min(hw[i], smallest_tile(session, i), most[i]) for i in (0, 1))
    return math.prod(max(side, session.min_hw[i]) for i, side in enumerate(sides))


def _largest_side(session: Session, axis: int, size: int, tile: Optional[int]) -> int:
    """Return the largest side of a tile for an image side of `size`."""
    least = session.min_hw[axis]
    limit = max(size, least) if session.max_hw is None else session.max_hw[axis]
    if tile is None:
        return limit
    if session.max_hw is not None and limit == least:
        if tile < limit if session.fixed_hw is None else tile not in session.fixed_hw:
            only = f"a {('height', 'width')[axis]} of {limit}"
            raise InputError(
                f"this graph takes {hw_text(session.fixed_hw) if session.fixed_hw else only} only, "
                f"not tiles of {tile}",
                hint="do not give a tile size",
            )
        return limit
    smallest = smallest_tile(session, axis)
    if session.max_hw is not None:
        smallest = min(smallest, limit)
    if tile < min(smallest, max(size, least)):
        overlap = (
            f"{OVERLAP_PX} pixels of overlap"
            if session.halo_px is None
            else f"{session.halo_px} pixels around each output"
        )
        raise InputError(
            f"tiles of {tile} are too small for this network: the smallest is {smallest}, "
            f"for {overlap}",
            hint=f"give {smallest}",
        )
    return min(limit, tile)


@dataclass(frozen=True)
class _Axis:
    """One axis of an image, and the tile sides that a session takes along it."""

    size: int
    least: int
    shortest: int
    """The shortest tile that ends where the image does: the session mirrors both in the same way
    up to its multiple."""
    limit: int
    fixed: bool
    halo: Optional[int]
    align: int

    @classmethod
    def of(cls, session: Session, axis: int, size: int, limit: int) -> _Axis:
        least = session.min_hw[axis]
        fixed = session.max_hw is not None and session.max_hw[axis] == least
        align = common_multiple(session.align_px, session.multiple)
        shortest = max(least, session.multiple - 1)
        return cls(size, least, shortest, limit, fixed, session.halo_px, align)

    @property
    def overlap(self) -> int:
        return OVERLAP_PX if self.halo is None else self.halo

    @property
    def smallest_tile(self) -> int:
        return self._round_up(max(2 * self.overlap + self.align, self.shortest + self.align - 1))

    def candidate_sides(self) -> List[int]:
        """Return the tile sides to try, largest first: the limit, and one per number of tiles."""
        if self.fixed:
            return [self.limit]
        sides = set()
        for count in range(1, 1 + self.size):
            side = self.limit if count == 1 else self._balanced_side(count)
            sides.add(max(min(self.limit, side), self.least))
            if side <= self.smallest_tile:
                break
        return sorted(sides, reverse=True)

    def spans(self, limit: int) -> Tuple[Tuple[Span, ...], bool]:
        """Return spans of tiles no longer than `limit`, and whether they are exact on this axis."""
        n, align = self.size, self.align
        if self.least <= n <= limit:
            return (Span(0, n, 0, n),), True
        if n < self.least:
            return self._small_image_spans()
        overlap, exact = self._overlap_within(limit)
        if self.fixed:
            side = limit
            exact = exact and side % align == (n - side) % align == 0
        else:
            side = limit - limit % align
            if side < max(self.least, 1):
                side, exact = limit, False
            if exact:
                count = _count(n, side, self._step(side, overlap))
                side = min(side, self._balanced_side(count))
        step = self._step(side, overlap)
        starts = [i * step for i in range(_count(n, side, step))]
        if self.fixed or align == 1:
            starts[-1] = n - side
        else:
            starts[-1] = min(starts[-1], (n - self.shortest) // align * align)
            if n - starts[-1] > side:  # no place on the grid is close enough to the border
                starts[-1], exact = n - side, False
        return _with_seams([(start, min(start + side, n)) for start in starts], n), exact

    def _small_image_spans(self) -> Tuple[Tuple[Span, ...], bool]:
        """Return spans for an image smaller than the smallest input."""
        n, least = self.size, self.least
        on_grid = n % self.align == least % self.align == 0
        if self.halo is None or n < 2 * self.halo or not on_grid:
            return (Span(0, least, 0, n),), False
        # Twice, so that each border of the image is a border of a tile.
        return _with_seams([(0, least), (n - least, n)], n), True

    def _overlap_within(self, limit: int) -> Tuple[int, bool]:
        """Return the overlap of tiles of at most `limit`, and whether it covers the halo."""
        if self.halo is not None and 2 * self.overlap + self.align <= limit:
            return self.halo, True
        return min(self.overlap, limit // 4), False

    def _balanced_side(self, count: int) -> int:
        """Return the smallest side with which `count` tiles cover the image."""
        n = self.size
        covering = -(-(n + 2 * self.overlap * (count - 1)) // count)
        side = self._round_up(max(self.smallest_tile, covering))
        while (count - 1) * self._step(side, self.overlap) + side < n:
            side += self.align
        return side

    def _step(self, side: int, overlap: int) -> int:
        step = side - 2 * overlap
        return max(step - step % self.align, 1)

    def _round_up(self, n: int) -> int:
        return -(-n // self.align) * self.align


def _count(n: int, side: int, step: int) -> int:
    return 1 + -(-(n - side) // step)


def _with_seams(fed: Sequence[Tuple[int, int]], n: int) -> Tuple[Span, ...]:
    """Return spans with seams in the middle of the pixels that neighbours share."""
    seams = [0, *((a[1] + b[0]) // 2 for a, b in zip(fed, fed[1:])), n]
    return tuple(Span(*ends, low, high) for ends, low, high in zip(fed, seams, seams[1:]))
