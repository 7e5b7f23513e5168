"""Upscaling on a GPU: how large its tiles may be, and what happens when its memory runs out."""

from __future__ import annotations

import math
from typing import Callable, List, Optional, Union

import numpy as np

from sr_deploy.core.errors import DeviceMemoryError, InputError
from sr_deploy.core.session import PeakMemory, Session
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.runtime.device_tiles import DeviceTiles
from sr_deploy.runtime.tiled import HostTiles, TiledRun
from sr_deploy.runtime.tiling import TilePlan, plan_whole, smallest_px
from sr_deploy.upscale.memory import MemoryNeed, bytes_text

FREE_SHARE = 0.75
"""Part of the GPU's free memory that is used where no bound is given."""
_PROBE_PX = 128
_TILE_BYTES = 2**32
"""The most memory for a tile: none of its tensors has 2**31 elements then, which cuDNN refuses."""
_HINT = "end other programs on the GPU, use a smaller network, or give --device cpu"


class GpuTiles:
    """Runs plans on a session's GPU, in tiles that fit a bound on the memory there.

    A tile's need is the rise of the peak from one probe to a larger one, per pixel, times `MARGIN`.
    """

    def __init__(
        self,
        session: Session,
        tiles: Union[DeviceTiles, HostTiles],
        *,
        bound: Optional[int],
        processes: int,
        log: Callable[[str], None],
    ) -> None:
        """bound: in bytes, of the network, its tiles and images together; None: FREE_SHARE of the
        free memory. processes: how many share it. log: receives that the memory ran out, once.
        """
        self._session, self._log = session, log
        self._tiles = tiles
        self._processes = processes
        self._hint = _HINT if bound is None else f"raise --max-memory, {_HINT}"
        self.bound = None if bound is None else bound // processes
        self._base = 0
        """Of the network itself."""
        self._need: Optional[MemoryNeed] = None
        """None until it is measured, and where it cannot be."""
        self._most_px: Optional[int] = None
        """Known when the memory ran out."""
        self._told = False
        self._estimate = 0

    def start(
        self, plan: TilePlan, image: np.ndarray, out: np.ndarray, *, white: float
    ) -> Optional[Callable[[], TiledRun]]:
        """Queue an image, and return a function that waits for its result (see `DeviceTiles`).

        Returns None where the memory ran out; plans for smaller tiles are to be made then. Raises
        DeviceMemoryError if there are none.
        """
        self._estimate = max(self._estimate, self._needed(math.prod(plan.tile_hw)))
        try:
            return self._tiles.start(plan, image, out, white=white)
        except DeviceMemoryError as e:
            reason = e.message
        # The exception is gone, and with it the tensors of the failed run.
        self._tiles.settle()
        px, least = math.prod(plan.tile_hw), smallest_px(plan.hw, self._session)
        if self._session.fixed_hw is not None or px <= least:
            raise DeviceMemoryError(
                f"{reason}; a tile of {hw_text(plan.tile_hw)} is the smallest for this network",
                hint=_HINT,
            )
        self._most_px = max(px // 2, least)
        if not self._told:
            self._told = True
            self._log(f"{reason}: going on with smaller tiles")
        return None

    def max_px(self, hw: HW) -> Optional[int]:
        """Return how many LR pixels a tile of an image of (h, w) may have; None: no bound is known.

        Raises InputError if the bound leaves no room for the smallest tile.
        """
        least = smallest_px(hw, self._session)
        most = None if self._most_px is None else max(self._most_px, least)
        if self._need is None or self.bound is None:
            return most
        needed = self._needed(least)
        if needed > self.bound:
            raise InputError(
                f"{hw_text(hw)} cannot be upscaled within {bytes_text(self.bound)} of "
                f"{self._session.device}: the network and its smallest tile need about "
                f"{bytes_text(needed)}",
                hint=self._hint,
            )
        px = self._need.px_within(min(self.bound - self._base, _TILE_BYTES))
        return px if most is None else min(px, most)

    def measure(self) -> None:
        """Measure the need of the network and its tiles, and set the bound if none is given.

        Where the session does not tell its memory, tiles are limited only after it ran out.
        """
        session = self._session
        sides = (_PROBE_PX, 2 * _PROBE_PX)
        sizes = list(dict.fromkeys(session.nearest_hw((side, side)) for side in sides))
        peaks: List[PeakMemory] = []
        for hw in sizes:
            session.reset_peak_memory()
            finished = self._probe(hw) and self._probe(hw)  # the first run may choose kernels
            peak = session.peak_memory() if finished else None
            if peak is None:
                break
            peaks.append(peak)
        if not peaks:
            return
        px, taken = [h * w for h, w in sizes], [peak.mib * 2**20 for peak in peaks]
        if len(taken) < len(px):  # as if all that the smaller one took were for its pixels
            self._need = MemoryNeed(taken[0] / px[0])
        else:
            rise = (taken[-1] - taken[0]) / max(px[-1] - px[0], 1)
            self._need = MemoryNeed(max(rise, 1.0))
            self._base = int(max(taken[-1] - self._need.bytes_per_px * px[-1], 0))
        free_mib = peaks[-1].free_mib
        if self.bound is None and free_mib is not None:
            self.bound = self._base + int(FREE_SHARE * free_mib * 2**20) // self._processes

    def report(self) -> str:
        """Return a line on the estimated and the real peak, and the bound."""
        peak = self._session.peak_memory()
        if peak is None:
            return "GPU memory: unknown"
        real = peak.mib * 2**20
        if self.bound is None:
            return f"GPU memory: peak {bytes_text(real)}"
        over = "" if real <= self.bound else ": OVER THE BOUND"
        amounts = ", ".join(
            f"{what} {bytes_text(n)}"
            for what, n in (("estimated", self._estimate), ("peak", real), ("bound", self.bound))
        )
        return f"GPU memory: {amounts}{over}"

    def _needed(self, px: int) -> int:
        return self._base + (0 if self._need is None else self._need.of(px))

    def _probe(self, hw: HW) -> bool:
        """Run a black image whole, by all paths; return whether the memory sufficed."""
        s = self._session.scale
        out = np.empty((s * hw[0], s * hw[1], 3), np.uint8)
        finish = self.start(plan_whole(hw), np.zeros((*hw, 3), np.uint8), out, white=255)
        if finish is None:
            return False
        finish()
        try:
            self._session.run_all_paths(hw)
        except DeviceMemoryError:
            return False
        return True
