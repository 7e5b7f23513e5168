"""`Upscaler`: images of any size and type through a session, whole or in tiles."""

from __future__ import annotations

import math
from typing import Dict, Iterable, Iterator, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.session import Session, Spent
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.runtime.tiled import run_tiles
from sr_deploy.runtime.tiling import TilePlan, plan_tiles, plan_whole, smallest_px
from sr_deploy.upscale.memory import (
    Need,
    available_bytes,
    bytes_text,
    need_of,
    peak_bytes,
    resident_bytes,
)

_LARGEST = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1}


class Upscaler:
    """Upscale images, planned once per size. Use it from one thread at a time."""

    def __init__(
        self,
        session: Session,
        *,
        tile: Optional[int] = None,
        max_memory: Optional[int] = None,
        identity: str = "",
        beside: int = 0,
        held: int = 0,
    ) -> None:
        """tile: the largest LR side fed, halo included. max_memory: bytes of resident memory of the process, at most.

        max_memory None: a quarter of what is available beside what the process has. identity: what is told of the network's
        weights; `self.identity` adds what else decides the output. beside: how many more images and results the caller may
        hold while one is run (see `alone`). held: how many results' memory the caller takes in any case, an encoder's.
        Raises InputError when memory cannot be measured here and a bound is given.
        """
        self.session, self.scale = session, session.scale
        self.identity = (
            identity if tile is None or session.halo_px is not None else f"{identity} tile {tile}"
        )
        self.max_memory = max_memory
        self.difference = 0.0
        """The largest difference so far, of 0..1, between two tiles on the same pixels beside a seam; 0 where tiling is exact."""
        self.estimate = 0
        """The most bytes that the plans made so far may take, as estimated; 0 where memory is unknown."""
        self.spent: Optional[Spent] = None
        """What a network that decides how much it computes did for all images so far."""
        self._tile, self._beside, self._held = tile, beside, held
        self._need: Optional[Need] = None
        self._plans: Dict[Tuple[HW, int], TilePlan] = {}
        self._last: Optional[TilePlan] = None
        if max_memory is not None and resident_bytes() is None:
            raise InputError(
                "memory cannot be measured on this system, so no bound can be kept",
                hint="give a tile size instead",
            )

    def __call__(self, image: np.ndarray, *, more_per_px: int = 0) -> np.ndarray:
        """Upscale (H, W, 3) RGB, uint8, uint16 or float32 in 0..1, to (scale*H, scale*W, 3) of the same dtype.

        Integers are clipped and rounded; float32 is what the network gives. more_per_px: bytes that the caller needs for each
        pixel of the result beside it (to write alpha, say), for the memory bound. Raises InputError on other shapes and types, or
        where tile or memory bound cannot be kept.
        """
        if (
            image.ndim != 3
            or image.shape[2] != 3
            or image.dtype not in _LARGEST
            or 0 in image.shape
        ):
            raise InputError(
                f"expected an (H, W, 3) image of uint8, uint16 or float32, got {image.shape} {image.dtype}"
            )
        plan = self._last = self.plan(
            (image.shape[0], image.shape[1]), bytes_per_px=3 * image.itemsize + more_per_px
        )
        self.session.begin()
        upscaled = self._run(image, plan)
        spent = self.session.spent()
        if spent is not None:
            self.spent = spent if self.spent is None else self.spent + spent
        return upscaled

    def _run(self, image: np.ndarray, plan: TilePlan) -> np.ndarray:
        s = self.scale
        out = np.empty((plan.hw[0] * s, plan.hw[1] * s, 3), image.dtype)
        run = run_tiles(self.session, plan, image, out, to_input=_network_input, store=_store)
        self.difference = max(self.difference, run.seam_difference)
        return out

    def frames(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield each image upscaled, with the same guarantees."""
        for image in images:
            yield self(image)

    def plan(self, hw: HW, *, bytes_per_px: int = 3) -> TilePlan:
        """Return how an image of (h, w) is run. Raises InputError where tile or memory bound cannot be kept.

        bytes_per_px: of the result, and of the image. A plan is made once per size, of the memory there is at that time.
        """
        key = (hw, bytes_per_px)
        if key not in self._plans:
            if self._need is None:
                self._measure()
            resident = resident_bytes()
            if self._need is None or self.max_memory is None or resident is None:
                self._plans[key] = plan_tiles(hw, self.session, tile=self._tile)
            else:
                result = hw[0] * hw[1] * self.scale**2 * bytes_per_px
                beside = 0 if self.alone(hw, bytes_per_px=bytes_per_px) else self._beside
                taken = (
                    resident
                    + (1 + self._held) * result
                    + beside * (result + result // self.scale**2)
                )
                self._plans[key] = self._plan_within(hw, self.max_memory, taken)
        return self._plans[key]

    def alone(self, hw: HW, *, bytes_per_px: int = 3) -> bool:
        """Tell whether an image is so large against the memory bound that the caller must hold no other results beside it."""
        results = (1 + self._beside) * hw[0] * hw[1] * self.scale**2 * bytes_per_px
        return self.max_memory is not None and results > self.max_memory // 2

    def _plan_within(self, hw: HW, bound: int, taken: int) -> TilePlan:
        assert self._need is not None
        smallest = self._tiles_need(smallest_px(hw, self.session))
        if taken + smallest > bound:
            raise InputError(
                f"{hw_text(hw)} cannot be upscaled within {bytes_text(bound)}: with its result and the smallest tile this process "
                f"needs about {bytes_text(taken + smallest)}",
                hint=f"give at least {-(-(taken + smallest) // 2**20)}MiB, or a smaller network",
            )
        fixed = self.session.fixed_hw is not None
        plan = plan_tiles(
            hw,
            self.session,
            tile=self._tile,
            max_px=None if fixed else self._need.px_within(bound - taken),
        )
        self.estimate = max(self.estimate, taken + self._tiles_need(math.prod(plan.tile_hw)))
        return plan

    def _tiles_need(self, px: int) -> int:
        """What feeding `px` takes; nothing more for a session of one size, whose memory the probe left behind."""
        return 0 if self._need is None or self.session.fixed_hw is not None else self._need.of(px)

    def _measure(self) -> None:
        """Learn what tiles need, and the bound where none was given."""
        self._need = need_of(self.session, self._probe)
        if self._need is not None:
            self.estimate = peak_bytes() or 0  # small tiles may take less than the probes did
        resident, available = resident_bytes(), available_bytes()
        if self.max_memory is None and resident is not None and available is not None:
            self.max_memory = resident + available // 4

    def _probe(self, hw: HW) -> None:
        self._run(np.zeros((*hw, 3), np.uint8), plan_whole(hw))
        self.session.exercise(hw)

    def describe(self) -> str:
        """Say how the last image was run, and how exact that is."""
        if self._last is None:
            return "nothing was run"
        spent = self.session.spent()
        return self._how(self._last) + (f"; {spent}" if spent is not None else "")

    def assembled(self, tiles: Sequence[np.ndarray]) -> np.ndarray:
        """Return one (H, W, ...) array of those, (h, w, ...), that belong to the tiles of the last image, in the order they were run."""
        assert self._last is not None
        out = np.empty((*self._last.hw, *tiles[0].shape[2:]), tiles[0].dtype)
        spans = [(row, column) for row in self._last.y_spans for column in self._last.x_spans]
        for tile, (row, column) in zip(tiles, spans):
            core = tile[row.core_start - row.start : row.core_stop - row.start]
            kept = core[:, column.core_start - column.start : column.core_stop - column.start]
            out[row.core_start : row.core_stop, column.core_start : column.core_stop] = kept
        return out

    def _how(self, plan: TilePlan) -> str:
        if plan.exact:
            return f"{plan}: as the whole image" if not plan.whole else str(plan)
        if plan.tiles == 1:
            return f"{plan}: not the whole image's result, and there is no second tile to measure that by"
        return f"{plan}: not the whole image's result; beside the seams two tiles differ by {self.difference:.2g} of 1 at most"

    def receipt(self) -> str:
        """Say what memory was estimated and taken at its peak, against the bound."""
        peak = peak_bytes()
        if not self.estimate or peak is None or self.max_memory is None:
            return "memory: cannot be measured on this system"
        over = "" if peak <= self.max_memory else ": OVER THE BOUND"
        texts = (bytes_text(n) for n in (self.estimate, peak, self.max_memory))
        return "memory: estimated {}, peak {}, bound {}".format(*texts) + over


def upscale_image(
    image: np.ndarray,
    session: Session,
    *,
    tile: Optional[int] = None,
    max_memory: Optional[int] = None,
) -> np.ndarray:
    """Upscale one (H, W, 3) RGB image of uint8, uint16 or float32 in 0..1 (see `Upscaler`, which also takes many)."""
    return Upscaler(session, tile=tile, max_memory=max_memory)(image)


def _network_input(part: np.ndarray) -> np.ndarray:
    """Convert (h, w, 3) of the image's dtype to (1, 3, h, w) float32, 0..1."""
    x = np.ascontiguousarray(part.transpose(2, 0, 1)[None], dtype=np.float32)
    return x if part.dtype == np.float32 else x / np.float32(_LARGEST[part.dtype])


def _store(core: np.ndarray, place: np.ndarray) -> None:
    """Write (3, h, w) float32 into (h, w, 3) of the image's dtype. Raises ArtifactError on values that are no numbers."""
    if np.isnan(core.min()):
        raise ArtifactError(
            "the network returned values that are no numbers",
            hint="does it overflow in half precision? use FP32",
        )
    if place.dtype == np.float32:
        place[...] = core.transpose(1, 2, 0)
        return
    largest = np.float32(_LARGEST[place.dtype])
    for channel in range(3):  # all three at once take twice as long, and three times the memory
        values = core[channel] * largest
        np.clip(values, 0, largest, out=values)
        np.rint(values, out=values)
        place[:, :, channel] = values
