"""How an image is cut into tiles: cores that partition it, each fed with the surroundings its network depends on.

Tiled equals whole when every core pixel is at least `halo_px` from an edge of its tile that is no border of the image, and
tiles start and end on multiples of `align_px` or at the border. Where a session's sizes do not allow that the plan says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.core.session import Session
from sr_deploy.core.sizes import HW, hw_text

OVERLAP_PX = 16
"""On each side of a seam, of tiles whose network depends on the whole image, or on nobody knows what."""


@dataclass(frozen=True)
class Span:
    """One axis of a tile, in LR pixels of the image: what is fed, and the core of it that is kept.

    A tile larger than the image starts before it or stops after it; those pixels are mirrored.
    """

    start: int
    stop: int
    core_start: int
    core_stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """How an image of `hw` LR pixels is run."""

    hw: HW
    rows: Tuple[Span, ...]
    columns: Tuple[Span, ...]
    exact: bool
    """Whether the result is what the whole image would give."""

    @property
    def whole(self) -> bool:
        return len(self.rows) == len(self.columns) == 1 and self.tile_hw == self.hw

    @property
    def tile_hw(self) -> HW:
        """The largest size fed."""
        return max(s.size for s in self.rows), max(s.size for s in self.columns)

    @property
    def fed_px(self) -> int:
        """How many LR pixels are fed in all."""
        return sum(s.size for s in self.rows) * sum(s.size for s in self.columns)

    def __str__(self) -> str:
        if self.whole:
            return f"{hw_text(self.hw)} whole"
        if len(self.rows) == len(self.columns) == 1:
            return f"{hw_text(self.hw)} mirrored to {hw_text(self.tile_hw)}"
        return f"{hw_text(self.hw)} in {len(self.rows)}x{len(self.columns)} tiles of at most {hw_text(self.tile_hw)}"


def smallest_tile(session: Session, axis: int) -> int:
    """Return the smallest side of a tile, halo included, that a session can be cut into exactly (or at all, without a halo)."""
    overlap = OVERLAP_PX if session.halo_px is None else session.halo_px
    least = 2 * overlap + session.align_px
    return _up(max(least, session.min_hw[axis]), session.align_px)


def plan_tiles(
    hw: HW, session: Session, *, tile: Optional[int] = None, max_px: Optional[int] = None
) -> Plan:
    """Return the plan with the least work that feeds at most `tile` LR pixels a side and `max_px` in all at once.

    An image that fits is run whole. Raises InputError when `tile` or `max_px` leaves no room for what an output depends on.
    """
    limits = [_limit(session, i, hw[i], tile) for i in (0, 1)]
    best: Optional[Plan] = None
    for height in _sides(hw[0], session, 0, limits[0]):
        width = limits[1] if max_px is None else min(limits[1], max_px // height)
        if width < min(hw[1], smallest_tile(session, 1)) and session.fixed_hw is None:
            continue
        rows, rows_exact = _spans(hw[0], session, 0, height)
        columns, columns_exact = _spans(hw[1], session, 1, width)
        plan = Plan(
            hw, rows, columns, rows_exact and columns_exact and _known(session, rows, columns)
        )
        if max_px is not None and math.prod(plan.tile_hw) > max_px:
            continue
        if best is None or (plan.fed_px, len(plan.rows) * len(plan.columns)) < (
            best.fed_px,
            len(best.rows) * len(best.columns),
        ):
            best = plan
    if best is None:
        smallest = smallest_px(hw, session)
        raise InputError(
            f"no tile of at most {max_px} LR pixels holds what an output depends on: the smallest has {smallest}"
        )
    return best


def smallest_px(hw: HW, session: Session) -> int:
    """Return how many LR pixels the smallest tile of an image of `hw` has."""
    if session.fixed_hw is not None:
        return math.prod(session.fixed_hw)
    return math.prod(max(min(hw[i], smallest_tile(session, i)), session.min_hw[i]) for i in (0, 1))


def _limit(session: Session, axis: int, n: int, tile: Optional[int]) -> int:
    """The largest side of a tile."""
    if session.fixed_hw is not None:
        if tile is not None and tile not in session.fixed_hw:
            raise InputError(
                f"this graph takes {hw_text(session.fixed_hw)} only, not tiles of {tile}",
                hint="leave the tile size out",
            )
        return session.fixed_hw[axis]
    limit = session.max_hw[axis] if session.max_hw is not None else max(n, session.min_hw[axis])
    if tile is None:
        return limit
    smallest = smallest_tile(session, axis)
    if tile < min(smallest, max(n, session.min_hw[axis])):
        halo = (
            f"{session.halo_px} pixels round each output"
            if session.halo_px is not None
            else f"{OVERLAP_PX} pixels of overlap"
        )
        raise InputError(
            f"tiles of {tile} are too small for this network: the smallest is {smallest}, for {halo}",
            hint=f"give {smallest}",
        )
    return min(limit, tile)


def _sides(n: int, session: Session, axis: int, limit: int) -> List[int]:
    """Heights worth trying: the whole, and the largest of each number of tiles."""
    if session.fixed_hw is not None:
        return [limit]
    found = {limit}
    smallest = smallest_tile(session, axis)
    for count in range(1, 1 + n):
        side = limit if count == 1 else _balanced(n, session, count, smallest)
        found.add(max(min(limit, side), session.min_hw[axis]))
        if side <= smallest:
            break
    return sorted(found, reverse=True)


def _spans(n: int, session: Session, axis: int, limit: int) -> Tuple[Tuple[Span, ...], bool]:
    """The tiles of one axis, none longer than `limit`, and whether they are exact."""
    least, halo, align = session.min_hw[axis], session.halo_px, session.align_px
    if least <= n <= limit:
        return (Span(0, n, 0, n),), True
    if n < least:
        if halo is None or n < 2 * halo or n % align or least % align:
            return (Span(0, least, 0, n),), False
        return _seamed(
            [(0, least), (n - least, n)], n
        ), True  # twice, so that each border of the image is a border of a tile
    overlap, exact = _overlap(session, limit)
    if session.fixed_hw is not None:
        side = limit
        exact = exact and side % align == (n - side) % align == 0
    else:
        side = limit - limit % align if limit >= align else limit
        side = (
            _balanced(
                n,
                session,
                _count(n, side, _step(side, overlap, align)),
                max(2 * overlap + align, least),
            )
            if exact
            else side
        )
    step = _step(side, overlap, align)
    starts = [i * step for i in range(_count(n, side, step))]
    if session.fixed_hw is not None or align == 1:
        starts[-1] = n - side
    else:
        starts[-1] = min(starts[-1], (n - least) // align * align)
    return _seamed([(start, min(start + side, n)) for start in starts], n), exact


def _overlap(session: Session, limit: int) -> Tuple[int, bool]:
    """How far tiles reach over their seams, and whether that is as far as the network does."""
    if session.halo_px is not None and 2 * session.halo_px + session.align_px <= limit:
        return session.halo_px, True
    return min(OVERLAP_PX if session.halo_px is None else session.halo_px, limit // 4), False


def _balanced(n: int, session: Session, count: int, smallest: int) -> int:
    """The smallest side with which `count` tiles cover n."""
    overlap = OVERLAP_PX if session.halo_px is None else session.halo_px
    align = session.align_px
    side = _up(max(smallest, -(-(n + 2 * overlap * (count - 1)) // count)), align)
    while (count - 1) * _step(side, overlap, align) + side < n:
        side += align
    return side


def _step(side: int, overlap: int, align: int) -> int:
    step = side - 2 * overlap
    return max(step - step % align, 1)


def _count(n: int, side: int, step: int) -> int:
    return 1 + -(-(n - side) // step)


def _seamed(fed: Sequence[Tuple[int, int]], n: int) -> Tuple[Span, ...]:
    """Put the seams in the middle of what neighbours share."""
    seams = [0, *((a[1] + b[0]) // 2 for a, b in zip(fed, fed[1:])), n]
    return tuple(
        Span(start, stop, low, high) for (start, stop), low, high in zip(fed, seams, seams[1:])
    )


def _known(session: Session, rows: Sequence[Span], columns: Sequence[Span]) -> bool:
    return (
        session.halo_px is not None or len(rows) == len(columns) == 1
    )  # of which `_spans` has judged


def _up(n: int, align: int) -> int:
    return -(-n // align) * align
