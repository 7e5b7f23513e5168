"""Measures how far the outputs of a network depend on their surroundings, for exact tiles.

Two images of one size that differ only beyond a cut give bit-identical outputs where the network
does not reach across it. How far outputs differ is the reach. Up to `_FAINT` pixels away all counts
that changes a bit, also of images with values far above 1, which show dependences that drown in the
rounding of usual ones. Farther away only changes above `_ROUNDING` count: a single bit goes on
through hundreds of layers, and tiles would be many times larger for nothing. Images are strips.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from typing import Callable, Dict, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import one_line
from sr_deploy.core.session import Session, SizeContract
from sr_deploy.core.sizes import HW, common_multiple, hw_text
from sr_deploy.runtime.tiled import run_tiles
from sr_deploy.runtime.tiling import plan_tiles, plan_whole, smallest_tile

Network = Callable[[np.ndarray], np.ndarray]
"""(1, 3, H, W) float32 RGB in 0..1 -> (1, 3, scale*H, scale*W) float."""

EXACT = 1e-4
"""The largest difference of tiles that are called exact, relative to the range of the outputs."""
ALIGNED = 1e-5
"""The same for tiles that are on the network's grid: rounding, and nothing else."""
_THICKNESSES = (16, 32, 64)
"""The short side of the strips; the next one where a network does not run at one."""
_THIN, _MANY_RUNS = 8, 300
"""The short side for networks of which so many runs at the first size would take too long."""
_SHORTEST, _LONGEST = 64, 2048
_FAR, _FAR_BUDGET = 512, 0.2
"""A length at which cheap networks are tried as well. From it on, an influence that does not fade
is called one of the whole image."""
_GRIDS = (1, 2, 4, 8, 16, 32, 64, 12, 24, 48, 96, 20, 40, 80, 28, 56, 112, 36, 72, 60, 120, 128)
"""The alignments to try. Those that hold are the multiples of the smallest."""
_DRAWS = (("noise", "more noise"), ("black", "extremes"), ("photograph", "noise"))
"""The images before and beyond a cut. Several, since a ReLU may be closed in one of them."""
_LOUD = {"loud": 1e6, "louder": 1e12, "loudest": 1e30}
_LOUD_DRAWS = (("noise", "loud"), ("black", "louder"), ("black", "loudest"))
_FAINT, _ROUNDING = 112, 4e-6
"""Beyond so many pixels, dependences count only if they change outputs by this part of their range,
a thousandth of an 8-bit step."""
_SIDE_2D, _BUDGET_2D = 128, 0.2
"""The largest side of a picture that is tiled, and its share of the time left; else strips are."""


@dataclass(frozen=True)
class FieldReport:
    """How far outputs depend on their surroundings, in LR pixels, and how that was found."""

    halo_px: Optional[int]
    """Tiles are exact this far from their edges; None: they are not, or it is unknown."""
    align_px: int
    """`halo_px` holds for tiles that start and end on multiples of this, or at the border."""
    difference: Optional[float]
    """The largest difference of a tile from the whole image (or from another tile, where a graph
    takes one size only), relative to the range of the outputs; None: nothing was compared."""
    how: str
    """What was measured, or why `halo_px` is None, as a sentence without its full stop."""

    @property
    def exact(self) -> bool:
        return self.halo_px is not None

    def __str__(self) -> str:
        if self.halo_px is None:
            return f"tiles are not exact: {self.how}"
        grid = f" on multiples of {self.align_px}" if self.align_px > 1 else ""
        return f"tiles{grid} are exact {self.halo_px} px from their edges: {self.how}"


def measure_field(
    run: Network, *, scale: int, sizes: SizeContract, budget_s: float = 60.0
) -> FieldReport:
    """Measure how far the outputs of a network depend on their surroundings.

    run: the network. sizes: the LR sizes that it takes (`min_hw`, `max_hw`, `multiple`); it is run
    at no others. budget_s: about the longest time to take; cheap networks take a second. The same
    network gives the same report unless the time runs out. Raises nothing of the network's: where
    it fails, the report says so.
    """
    measurement = _Measurement(_TimedNetwork(run, scale, budget_s), scale, sizes)
    try:
        return measurement.report()
    except _UnmeasuredError as e:
        return FieldReport(None, measurement.align, measurement.difference, str(e))


class _UnmeasuredError(Exception):
    """Why there is no measure."""


class _TimedNetwork:
    """Runs the network within a time."""

    def __init__(self, network: Network, scale: int, budget_s: float) -> None:
        self._network, self._scale, self._budget_s = network, scale, budget_s
        self._ends_at = time.monotonic() + budget_s
        self._last: Tuple[int, float] = (1, 0.0)
        """The pixels of the largest run, and its seconds."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Run. Raises _UnmeasuredError where the network fails or the time is not enough."""
        hw = x.shape[2], x.shape[3]
        if not self.affords(hw[0] * hw[1]):
            raise _UnmeasuredError(
                f"more than {self._budget_s:g} s would be needed to measure more"
            )
        start = time.monotonic()
        try:
            y = np.asarray(self._network(np.ascontiguousarray(x, np.float32)))
        except Exception as e:  # the networks of users raise anything
            raise _UnmeasuredError(f"it does not run at {hw_text(hw)}: {one_line(e)}") from e
        seconds = time.monotonic() - start
        if hw[0] * hw[1] >= self._last[0]:
            self._last = (hw[0] * hw[1], seconds)
        expected = (1, 3, self._scale * hw[0], self._scale * hw[1])
        if y.shape != expected:
            raise _UnmeasuredError(f"at {hw_text(hw)} the output is {y.shape}, expected {expected}")
        if not np.isfinite(y).all():
            raise _UnmeasuredError(f"at {hw_text(hw)} outputs are not finite")
        return y

    def affords(self, pixels: int, *, runs: float = 1, share: float = 1.0) -> bool:
        """Return whether `runs` of this many pixels fit into a share of the time left."""
        last_px, last_s = self._last
        more = pixels / last_px
        expected_s = last_s * (more * more if more > 1 else more)  # attention is quadratic
        return runs * expected_s <= share * (self._ends_at - time.monotonic())


class _Measurement:
    def __init__(self, runs: _TimedNetwork, scale: int, sizes: SizeContract) -> None:
        self._runs, self._scale, self._sizes = runs, scale, sizes
        self.align = sizes.multiple
        self.difference: Optional[float] = None
        self._thickness = _THICKNESSES[0]
        self._bases: Dict[Tuple[int, int, int, str], np.ndarray] = {}
        self._against, self._too_little = "the whole image", ""

    def report(self) -> FieldReport:
        self._choose_thickness()
        lengths = [self._long_enough(axis) for axis in (0, 1)]
        for axis in (0, 1):
            lengths[axis] = self._find_grid(axis, lengths[axis])
        halo = max(self._halo(axis, lengths[axis]) for axis in (0, 1))
        self._verify(halo)
        assert self.difference is not None
        strips = " and ".join(hw_text(self._strip_hw(axis, lengths[axis])) for axis in (0, 1))
        how = f"measured at {strips}; they differ from {self._against} by {self.difference:.1g}"
        if halo >= _FAINT:
            how += "; less than a thousandth of an 8-bit step may reach further"
        return FieldReport(halo, self.align, self.difference, how)

    def _choose_thickness(self) -> None:
        """Find the short side at which the network runs, and that it does so reproducibly."""
        for thickness in _THICKNESSES:
            try:
                self._try_thickness(thickness)
                break
            except _UnmeasuredError:
                if thickness == _THICKNESSES[-1]:
                    raise
        if not self._runs.affords(_SHORTEST * thickness, runs=_MANY_RUNS):
            try:
                self._try_thickness(_THIN)
            except _UnmeasuredError:
                self._thickness = thickness

    def _try_thickness(self, thickness: int) -> None:
        self._thickness, length = thickness, self._legal(_SHORTEST, 1)
        first = self._cached(1, length, "noise")
        second = self._run(1, self._pattern(1, length, "noise"))
        if (first != second).any():
            raise _UnmeasuredError("two runs of the same image differ")

    def _long_enough(self, axis: int) -> int:
        """Return a length of strips in which the influence of a cut ends before the border."""
        length = self._legal(_SHORTEST, axis)
        while True:
            reach = self._reach(axis, length, self._cut(length, self.align))
            far = self._legal(_FAR, axis)
            if reach <= self._room(length):
                if far <= length or not self._reaches_further(axis, length, far):
                    return length
                length = far
                continue
            longer = self._legal(2 * length, axis)
            if longer <= length:
                size = hw_text(self._strip_hw(axis, length))
                raise _UnmeasuredError(
                    f"at {size}, its largest size, outputs depend on all of the image"
                )
            if length >= _FAR and self._is_flat(axis, length):
                raise _UnmeasuredError("its outputs depend on the whole image")
            if length >= _LONGEST:
                raise _UnmeasuredError(f"outputs still depend on pixels {reach} px away")
            try:
                self._reach(axis, longer, self._cut(longer, self.align))
            except _UnmeasuredError as e:
                raise _UnmeasuredError(f"outputs depend on pixels {reach} px away, and {e}") from e
            length = longer

    def _reaches_further(self, axis: int, length: int, far: int) -> bool:
        """Return whether a longer strip shows a dependence that `length` has no place for.

        Dilated convolutions may pass over all that is close. Not tried where it would take long.
        """
        if not self._runs.affords(far * self._thickness, runs=3, share=_FAR_BUDGET):
            return False
        cut = self._cut(far, self.align)
        return self._reach_of(_DRAWS[0], axis, far, cut) > self._room(length)

    def _find_grid(self, axis: int, length: int) -> int:
        """Find the smallest alignment, a multiple of the one so far; return the length needed."""
        known = self.align
        for grid in _GRIDS:
            grid = common_multiple(grid, known)
            length = self._length_for_grid(axis, length, grid)
            if self._agrees(axis, length, grid):
                break
        else:
            if self._too_little:
                raise _UnmeasuredError(f"{self._too_little}, there is too little to compare")
            raise _UnmeasuredError(
                f"its tiles differ from {self._against}, by {self.difference:.1g} of the range, "
                f"wherever they start"
            )
        self.align = self._smallest_grid(axis, length, grid, known)
        return length

    def _smallest_grid(self, axis: int, length: int, grid: int, known: int) -> int:
        """Return the smallest divisor of a grid that holds, and that `known` divides."""
        for prime in (2, 3, 5, 7):
            while grid % (prime * known) == 0 and self._agrees(axis, length, grid // prime):
                grid //= prime
        return grid

    def _length_for_grid(self, axis: int, length: int, grid: int) -> int:
        """Return a length at which tiles that start at `grid` have enough to compare."""
        while length < _LONGEST:
            reach = self._reach(axis, length, self._cut(length, grid))
            if reach <= self._room(length) and grid + 2 * reach + max(grid, 8) <= length:
                break
            longer = self._legal(2 * length, axis)
            if longer <= length:
                break
            length = longer
        return length

    def _agrees(self, axis: int, length: int, grid: int) -> bool:
        """Return whether a tile that starts at `grid` gives the whole image's outputs inside.

        It ends where the image ends. Where the network does not take the smaller size, two tiles of
        one size are compared on what they share.
        """
        s = self._scale
        reach = self._reach(axis, length, self._cut(length, grid))
        if self._legal(length - grid, axis) == length - grid:
            image = self._pattern(axis, length, "photograph")
            whole = self._cached(axis, length, "photograph")
            tile = self._run(axis, image[..., grid:])
            stop = length
        else:
            self._against = "each other"
            image = self._pattern(axis, length + grid, "photograph")
            whole, tile = (self._run(axis, x) for x in (image[..., :length], image[..., grid:]))
            stop = length - reach
        start = grid + reach
        if start + max(grid, 8) > stop:
            self._too_little = f"at {hw_text(self._strip_hw(axis, length))}, its largest size"
            return False
        inside, tile = whole[..., s * start : s * stop], tile[..., s * reach : s * (stop - grid)]
        difference = _difference(tile, inside, whole)
        if self.difference is None or difference < self.difference:
            self.difference = difference
        return difference <= max(ALIGNED, _rounding(whole))

    def _halo(self, axis: int, length: int) -> int:
        """Return the largest reach of cuts on the grid."""
        cut = self._cut(length, self.align)
        reach = self._reach(axis, length, cut)
        if cut + self.align < length and self._affords_more(length):
            reach = max(reach, self._reach(axis, length, cut + self.align))
        return max(reach, *(self._faint_reach(axis, length, draw) for draw in _LOUD_DRAWS))

    def _affords_more(self, length: int) -> bool:
        return self._runs.affords(length * self._thickness, runs=3, share=0.5)

    def _faint_reach(self, axis: int, length: int, draw: Tuple[str, str]) -> int:
        """Return the reach that values far above 1 show; 0 where they show nothing."""
        while True:
            try:
                cut = self._cut(length, self.align)
                reach = self._reach_of(draw, axis, length, cut)
            except _UnmeasuredError:  # they overflow, in FP16 for example
                return 0
            if reach <= self._room(length):
                return min(reach, _FAINT)
            longer = self._legal(2 * length, axis)
            if longer <= length or self._room(length) >= _FAINT:
                return 0
            length = longer

    def _verify(self, halo: int) -> None:
        """Compare the tiles of the planner with the whole image; give up if they differ."""
        session = _MeasuredSession(self._runs, self._scale, self._sizes, halo, self.align)
        if session.fixed_hw is not None:
            return
        tile = max(smallest_tile(session, axis) for axis in (0, 1))
        side = tile + 2 * self.align + 5
        hw: HW = (side, side)
        shapes = [hw]
        if side > _SIDE_2D or not self._runs.affords(side * side, runs=10, share=_BUDGET_2D):
            shapes = [(self._thickness, side), (side, self._thickness)]
        for hw in shapes:
            hw = session.nearest_hw(hw)
            image = _photograph(np.random.default_rng(9), hw)[0].transpose(1, 2, 0)
            whole, tiled = (self._tiled(session, image, tile=t) for t in (None, tile))
            difference = _difference(tiled, whole, whole)
            self.difference = max(self.difference or 0.0, difference)
            if difference > max(EXACT, _rounding(whole)):
                raise _UnmeasuredError(
                    f"tiles of {tile} differ from the whole image by {difference:.1g} of the range"
                )

    def _tiled(self, session: Session, image: np.ndarray, tile: Optional[int]) -> np.ndarray:
        hw = image.shape[0], image.shape[1]
        plan = plan_whole(hw) if tile is None else plan_tiles(hw, session, tile=tile)
        out = np.empty((self._scale * hw[0], self._scale * hw[1], 3), np.float32)

        def store(core: np.ndarray, place: np.ndarray) -> None:
            place[...] = core.transpose(1, 2, 0)

        def to_input(part: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(part.transpose(2, 0, 1)[None])

        run_tiles(session, plan, image, out, to_input=to_input, store=store)
        return out

    def _reach(self, axis: int, length: int, cut: int) -> int:
        """Return how many LR pixels beyond a cut outputs differ, the most of both directions."""
        reach = 0
        for number, draw in enumerate(_DRAWS):
            if reach <= self._room(length) and (number == 0 or self._affords_more(length)):
                reach = max(reach, self._reach_of(draw, axis, length, cut))
        return reach

    def _reach_of(self, draw: Tuple[str, str], axis: int, length: int, cut: int) -> int:
        before, after = draw
        image = self._pattern(axis, length, before).copy()
        image[..., cut:] = self._pattern(axis, length, after)[..., cut:]
        mixed = self._cached(axis, length, f"{before}|{cut}|{after}", image)
        changes = [
            np.abs(self._cached(axis, length, kind) - mixed).max(axis=(0, 1, 2))
            for kind in (before, after)
        ]
        reach = self._extent(changes, cut, least=0)
        if reach > _FAINT:
            least = _ROUNDING * (float(mixed.max()) - float(mixed.min()))
            reach = max(self._extent(changes, cut, least), _FAINT)
        return reach

    def _extent(self, changes: Sequence[np.ndarray], cut: int, least: float) -> int:
        """Return how many LR pixels beyond a cut changes above `least` reach, to either side."""
        left, right = (np.flatnonzero(change > least) // self._scale for change in changes)
        return max(
            cut - int(left[0]) if left.size else 0, int(right[-1]) + 1 - cut if right.size else 0
        )

    def _is_flat(self, axis: int, length: int) -> bool:
        """Return whether the influence of a cut is as large far from it as closer to it."""
        cut = self._cut(length, self.align)
        self._reach_of(_DRAWS[1], axis, length, cut)
        mixed = self._cached(axis, length, f"black|{cut}|extremes")
        changed = np.abs(self._cached(axis, length, "black") - mixed).max(axis=(0, 1, 2))
        far = changed[: self._scale * length // 8].mean()
        close = changed[self._scale * length // 4 : self._scale * 3 * length // 8].mean()
        return bool(far > close / 2)

    def _cached(
        self, axis: int, length: int, kind: str, image: Optional[np.ndarray] = None
    ) -> np.ndarray:
        key = (axis, length, self._thickness, kind)
        if key not in self._bases:
            x = self._pattern(axis, length, kind) if image is None else image
            self._bases[key] = self._run(axis, x)
        return self._bases[key]

    def _run(self, axis: int, x: np.ndarray) -> np.ndarray:
        """Run on a strip along the last axis, which is `axis` of the network's images."""
        return self._runs(x) if axis == 1 else self._runs(x.swapaxes(2, 3)).swapaxes(2, 3)

    def _pattern(self, axis: int, length: int, kind: str) -> np.ndarray:
        """Return a strip (1, 3, thickness, length) of a kind, the same each time."""
        hw = (self._legal(self._thickness, 1 - axis), length)
        rng = np.random.default_rng(zlib.crc32(kind.encode()))
        if kind == "black":
            return np.zeros((1, 3, *hw), np.float32)
        if kind == "extremes":
            return rng.integers(0, 2, (1, 3, *hw)).astype(np.float32)
        if kind == "photograph":
            return _photograph(rng, hw)
        noise = rng.random((1, 3, *hw), np.float32)
        return noise * np.float32(_LOUD.get(kind, 1))

    def _strip_hw(self, axis: int, length: int) -> HW:
        other = self._legal(self._thickness, 1 - axis)
        return (other, length) if axis == 1 else (length, other)

    def _legal(self, side: int, axis: int) -> int:
        """Return the side nearest to one, not below it where possible, that the network takes."""
        sizes, multiple = self._sizes, self._sizes.multiple
        if sizes.max_hw is not None and sizes.max_hw[axis] == sizes.min_hw[axis]:
            return sizes.min_hw[axis]
        legal = -(-max(side, sizes.min_hw[axis]) // multiple) * multiple
        if sizes.max_hw is None:
            return legal
        return min(legal, sizes.max_hw[axis] // multiple * multiple)

    def _cut(self, length: int, grid: int) -> int:
        """Return the multiple of `grid` that is nearest to the middle of a strip."""
        return max(round(length / 2 / grid), 1) * grid

    def _room(self, length: int) -> int:
        return length // 2 - max(4, length // 16)


class _MeasuredSession(Session):
    """The network as a session, for the planner of tiles."""

    backend, backend_version, precision = "measured", "", "fp32"

    def __init__(
        self, runs: _TimedNetwork, scale: int, sizes: SizeContract, halo_px: int, align_px: int
    ) -> None:
        self._runs, self.scale = runs, scale
        self.min_hw, self.max_hw, self.multiple = sizes.min_hw, sizes.max_hw, sizes.multiple
        self.halo_px, self.align_px = halo_px, align_px

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        return self._runs(x_nchw)


def _photograph(rng: np.random.Generator, hw: HW) -> np.ndarray:
    """Return (1, 3, H, W) in 0..1 with areas and edges of all sizes, as photographs have."""
    out = np.zeros((3, *hw), np.float32)
    for size in (1, 2, 4, 8, 16, 32):
        cells = rng.random((3, -(-hw[0] // size), -(-hw[1] // size)), np.float32) - 0.5
        out += size**0.5 / 8 * cells.repeat(size, 1).repeat(size, 2)[:, : hw[0], : hw[1]]
    return np.clip(out + 0.5, 0, 1)[None]


def _difference(a: np.ndarray, b: np.ndarray, whole: np.ndarray) -> float:
    """Return the largest difference relative to the range of the whole image's values."""
    span = float(whole.max()) - float(whole.min())
    largest = float(np.abs(a.astype(np.float64) - b).max())
    return largest / (span or 1.0)


def _rounding(y: np.ndarray) -> float:
    """Return the difference that rounding may make where outputs are 8-bit or FP16, else 0."""
    span = float(y.max()) - float(y.min()) or 1.0
    steps = y * np.float32(255)
    if np.abs(np.rint(steps) - steps).max() < 1e-3 and span > 1 / 255:
        return 1.01 / 255 / span
    if (y.astype(np.float16) == y).all():
        return float(np.abs(y).max()) * 4 / 1024 / span
    return 0.0
