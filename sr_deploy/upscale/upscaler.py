"""`Upscaler`: images of any size through a session, whole or in tiles, within a memory bound."""

from __future__ import annotations

import collections
import functools
import math
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, Optional, Sequence, Tuple, Union

import numpy as np

from sr_deploy.core.cache import key_of
from sr_deploy.core.device import cpu_name
from sr_deploy.core.errors import InputError
from sr_deploy.core.progress import Progress
from sr_deploy.core.session import ExecutedWork, Session
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.fast.opener import describe_one
from sr_deploy.runtime.device_tiles import DeviceTiles
from sr_deploy.runtime.tiled import HostTiles, TiledRun
from sr_deploy.runtime.tiling import TilePlan, plan_tiles, plan_whole, smallest_px
from sr_deploy.upscale.gpu import GpuTiles
from sr_deploy.upscale.memory import (
    PROBE_PX,
    MemoryNeed,
    MemorySharing,
    available_bytes,
    bytes_text,
    keep_need,
    kept_need,
    measure_need,
    peak_bytes,
    resident_bytes,
)

_WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1}
_SMALL_PX = (2 * PROBE_PX) ** 2
"""The LR pixels of the largest probe."""


class Upscaler:
    """Upscales images and keeps a plan for each size. Not thread-safe.

    >>> import numpy as np
    >>> upscaler = sr_deploy.Upscaler("fsrcnn-w16_x4")
    >>> upscaler(np.zeros((24, 32, 3), np.uint8)).shape
    (96, 128, 3)
    """

    def __init__(
        self,
        session: Union[Session, str, Path],
        *,
        tile: Optional[int] = None,
        max_memory: Optional[int] = None,
        identity: str = "",
        sharing: MemorySharing = MemorySharing(),  # noqa: B008 - frozen
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Upscale with a session, or with the model that a text names, as in `sr_deploy.upscale`.

        tile: the largest LR side fed, overlap included. max_memory: the largest resident memory of
        the processes that `sharing` counts, in bytes, and the most of a GPU's memory; None: the
        present one and a quarter of what is available, and most of the GPU's free memory. identity:
        identifies the network's weights. `self.identity` adds the settings that decide the output.
        log: receives what a user should know, once. Raises InputError if `max_memory` is given
        where memory cannot be measured.
        """
        if not isinstance(session, Session):
            network = describe_one(session, progress=log)
            session, identity = network.open(), identity or network.identity
        self.session, self.scale = session, session.scale
        self._network = identity
        inexact_tiles = tile is not None and session.halo_px is None
        self.identity = f"{identity} tile {tile}" if inexact_tiles else identity
        if session.precision != "fp32":
            self.identity += f" in {session.precision}"
        self.max_memory = None if max_memory is None else max_memory // sharing.processes
        self._tiles = DeviceTiles(session) if session.takes_tensors else HostTiles(session)
        self._gpu: Optional[GpuTiles] = None
        if session.place != "cpu":
            self._gpu = GpuTiles(
                session, self._tiles, bound=max_memory, processes=sharing.on_same_gpu, log=log
            )
        self.seam_difference = 0.0
        """The largest difference so far, of 1, between two tiles at their seam."""
        self.estimated_bytes = 0
        """The estimated peak memory of the plans so far. 0 where memory cannot be measured."""
        self.device_ms: Optional[float] = None
        """Time of the last image on the GPU, by its events; None without them."""
        self.tile_progress = Progress()
        """Gets the tiles of each image as steps."""
        self.work: Optional[ExecutedWork] = None
        """The work of an adaptive network on all images so far."""
        self._tile = tile
        self._sharing = sharing
        self._need: Optional[MemoryNeed] = None
        self._measured = self._probed = False
        self._plans: Dict[Tuple[HW, int], TilePlan] = {}
        self._last_plan: Optional[TilePlan] = None
        if max_memory is not None and resident_bytes() is None:
            raise InputError(
                "memory cannot be measured on this system, so a bound on it cannot be kept",
                hint="give a tile size instead",
            )

    def __call__(self, image: Any) -> Any:
        """Upscale an image of any kind, or a list of them, as `sr_deploy.upscale` does."""
        from sr_deploy.upscale.any_image import upscale_any

        return upscale_any(image, self)

    def upscale_rgb(self, image: np.ndarray, *, more_per_px: int = 0) -> np.ndarray:
        """Upscale (H, W, 3) RGB, uint8, uint16 or float32 in 0..1, to (scale*H, scale*W, 3).

        The dtype is kept. Integers are clipped and rounded, float32 is not. more_per_px: bytes per
        pixel of the result that the caller needs in addition, for the bound on memory. Raises
        InputError on other shapes and dtypes, and where the bound cannot be kept.
        """
        return self._start(image, more_per_px)()

    def frames(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the result of each image, as `upscale_rgb` returns it.

        On a GPU, an image is queued before the result of the one before is awaited, if the session
        takes tensors.
        """
        ahead = 1 if self.session.takes_tensors else 0
        waiting: Deque[Callable[[], np.ndarray]] = collections.deque()
        for image in images:
            waiting.append(self._start(image))
            if len(waiting) > ahead:
                yield waiting.popleft()()
        for finish in waiting:
            yield finish()

    @property
    def where(self) -> str:
        """The library and the device that it runs on, and why that is not the GPU."""
        session = self.session
        device = f"{session.device} ({session.place})" if session.device else "the CPU"
        precision = "" if session.precision == "fp32" else f", in {session.precision}"
        if precision and session.psnr_db_vs_fp32 is not None:
            precision += f", {session.psnr_db_vs_fp32:.1f} dB against FP32"
        why = f" ({session.why_cpu})" if session.why_cpu else ""
        return f"{session.backend} on {device}{precision}{why}"

    def close(self) -> None:
        """Release the session's memory."""
        self.session.close()

    def plan(self, hw: HW, *, bytes_per_px: int = 3) -> TilePlan:
        """Return the plan for an image of (h, w), made once per size.

        bytes_per_px: of the image and the result. Raises InputError where the tile size or the
        bound cannot be kept.
        """
        key = (hw, bytes_per_px)
        if key not in self._plans:
            if not self._measured and self._is_small(hw, bytes_per_px):
                return self._plan_tiles(hw, None)
            if not self._measured:
                self._measure()
            resident = resident_bytes()
            if self._need is None or self.max_memory is None or resident is None:
                self._plans[key] = self._plan_tiles(hw, None)
            else:
                result = hw[0] * hw[1] * self.scale**2 * bytes_per_px
                alone = self.must_run_alone(hw, bytes_per_px=bytes_per_px)
                each = result + result // self.scale**2
                queued = 0 if alone else self._sharing.queued_results * each
                needed = resident + (1 + self._sharing.reserved_results) * result + queued
                self._plans[key] = self._plan_within(hw, self._need, self.max_memory, needed)
        return self._plans[key]

    def must_run_alone(self, hw: HW, *, bytes_per_px: int = 3) -> bool:
        """Return whether the caller must not hold other results while one of this size is made."""
        results = (1 + self._sharing.queued_results) * hw[0] * hw[1] * self.scale**2 * bytes_per_px
        return self.max_memory is not None and results > self.max_memory // 2

    def assemble(self, tiles: Sequence[np.ndarray]) -> np.ndarray:
        """Join maps (h, w, ...) in LR pixels, one per tile of the last image, to (H, W, ...)."""
        assert self._last_plan is not None
        out = np.empty((*self._last_plan.hw, *tiles[0].shape[2:]), tiles[0].dtype)
        spans = [(y, x) for y in self._last_plan.y_spans for x in self._last_plan.x_spans]
        for tile, (y, x) in zip(tiles, spans):
            out[slice(*y.core), slice(*x.core)] = tile[y.slice_of(y.core), x.slice_of(x.core)]
        return out

    def describe(self) -> str:
        """Return a line on how the last image was run, and how exact that is."""
        plan = self._last_plan
        if plan is None:
            return "nothing was run"
        exactness = ""
        if plan.exact and not plan.whole:
            exactness = ": equal to the whole image's result"
        elif not plan.exact:
            exactness = ": differs from the whole image's result, "
            exactness += (
                "by an unknown amount, since there is no second tile to compare with"
                if plan.tiles == 1
                else f"by up to {self.seam_difference:.2g} (of 1) between tiles at their seams"
            )
        work = self.session.executed_work()
        return f"{plan}{exactness}" + (f"; {work}" if work is not None else "")

    def memory_report(self) -> str:
        """Return a line on the estimated and the real peak memory, and the bound."""
        on_gpu = "" if self._gpu is None else f"; {self._gpu.report()}"
        peak = peak_bytes()
        if peak is not None and not self._measured:
            return f"memory: peak {bytes_text(peak)}{on_gpu}"
        if not self.estimated_bytes or peak is None or self.max_memory is None:
            return f"memory: cannot be measured on this system{on_gpu}"
        estimated, real, bound = map(bytes_text, (self.estimated_bytes, peak, self.max_memory))
        over = "" if peak <= self.max_memory else ": OVER THE BOUND"
        return f"memory: estimated {estimated}, peak {real}, bound {bound}{over}{on_gpu}"

    def _start(self, image: np.ndarray, more_per_px: int = 0) -> Callable[[], np.ndarray]:
        """Upscale an image, or queue it on the GPU; return a function that waits for its result."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in _WHITE or not image.size:
            raise InputError(
                "expected an (H, W, 3) image of uint8, uint16 or float32, "
                f"got {image.shape} {image.dtype}"
            )
        hw = (image.shape[0], image.shape[1])
        out, wait = self._result_for(image), None
        while wait is None:  # again, in smaller tiles, where the GPU's memory ran out
            plan = self._last_plan = self.plan(hw, bytes_per_px=3 * image.itemsize + more_per_px)
            self.session.reset_work(own=hw[0] * hw[1] / plan.fed_px, fed_px=plan.fed_px)
            tiles = self._gpu or self._tiles
            total = plan.tiles if plan.tiles > 1 else 0
            with self.tile_progress.track("upscaling", total, unit="tiles") as advance:
                self._tiles.on_tile = advance
                wait = tiles.start(plan, image, out, white=_WHITE[image.dtype])
            if wait is None:
                self._plans.clear()
        work = self.session.executed_work()
        if work is not None:
            self.work = work if self.work is None else self.work + work
        return functools.partial(self._finish, wait, out)

    def _finish(self, wait: Callable[[], TiledRun], out: np.ndarray) -> np.ndarray:
        run = wait()
        self.device_ms = run.ms if run.timer == "device events" else None
        self.seam_difference = max(self.seam_difference, run.seam_difference)
        return out

    def _result_for(self, image: np.ndarray) -> np.ndarray:
        h, w = image.shape[:2]
        return np.empty((h * self.scale, w * self.scale, 3), image.dtype)

    def _plan_within(self, hw: HW, need: MemoryNeed, bound: int, needed: int) -> TilePlan:
        """Return a plan whose tiles fit into the memory between `needed` and `bound`."""
        fixed = self.session.fixed_hw is not None
        # A session of one size needs nothing more: the probe has left its memory behind.
        taken = fixed and self._probed
        least = needed + (0 if taken else need.of(smallest_px(hw, self.session)))
        if least > bound:
            raise InputError(
                f"{hw_text(hw)} cannot be upscaled within {bytes_text(bound)}: the result and the "
                f"smallest tile need about {bytes_text(least)}",
                # An estimate: a tenth more.
                hint=f"give at least {-(-least * 11 // 10 // 2**20)}MiB, or a smaller network",
            )
        max_px = None if fixed else need.px_within(bound - needed)
        plan = self._plan_tiles(hw, max_px)
        estimate = needed + (0 if taken else need.of(math.prod(plan.tile_hw)))
        self.estimated_bytes = max(self.estimated_bytes, estimate)
        return plan

    def _plan_tiles(self, hw: HW, max_px: Optional[int]) -> TilePlan:
        """Return a plan whose tiles have at most `max_px`, and fit into the GPU's memory too."""
        on_gpu = None if self._gpu is None else self._gpu.max_px(hw)
        if self.session.fixed_hw is None and on_gpu is not None:
            max_px = on_gpu if max_px is None else min(max_px, on_gpu)
        return plan_tiles(hw, self.session, tile=self._tile, max_px=max_px)

    def _measure(self) -> None:
        """Measure the memory that tiles need, and set the bound if none was given."""
        self._measured = True
        self.session.reset_work(budget=False)
        self.session.take_fixed_memory()
        if self._gpu is not None:  # first: it also loads the libraries, which no pixel needs
            self._gpu.measure()
        if not isinstance(self._tiles, DeviceTiles):
            self._need = self._host_need()
        elif resident_bytes() is not None:
            self._need = MemoryNeed(self._tiles.host_bytes_per_px)
        if self._need is not None:
            self.estimated_bytes = peak_bytes() or 0  # small tiles may need less than the probes
        resident, available = resident_bytes(), available_bytes()
        if self.max_memory is None and resident is not None and available is not None:
            self.max_memory = resident + available // (4 * self._sharing.processes)

    def _is_small(self, hw: HW, bytes_per_px: int) -> bool:
        """Return whether an image takes no more than the probes would, so that none are needed.

        A small image may be resampled to a large one: its result must be small, too.
        """
        small = math.prod(hw) <= _SMALL_PX and math.prod(hw) * bytes_per_px <= 24 * _SMALL_PX
        return self.max_memory is None and small

    def _host_need(self) -> Optional[MemoryNeed]:
        """Return the need of a tile: as measured before, or by probes now."""
        key = self._need_key() if self._network else ""
        need = kept_need(key) if key else None
        if need is None:
            need = measure_need(self.session, self._probe)
            self._probed = True
            if need is not None and key:
                keep_need(key, need)
        return need

    def _need_key(self) -> str:
        """Return what a network's need of memory depends on, for the cache."""
        session = self.session
        how = (session.backend, session.backend_version, session.precision, session.settings)
        where = (session.place, session.device, session.threads, cpu_name())
        return key_of(self._network, session.scale, *how, *where)

    def _probe(self, hw: HW) -> None:
        image = np.zeros((*hw, 3), np.uint8)
        self._tiles.start(plan_whole(hw), image, self._result_for(image), white=255)()
        self.session.run_all_paths(hw)


def upscale_image(
    image: np.ndarray,
    session: Union[Session, str, Path],
    *,
    tile: Optional[int] = None,
    max_memory: Optional[int] = None,
) -> np.ndarray:
    """Upscale one (H, W, 3) RGB image, uint8, uint16 or float32 in 0..1.

    session: open, or a text that names a model, which is opened for this image only. The dtype is
    kept. Integers are clipped and rounded, float32 is not: `sr_deploy.upscale` clips it too.

    >>> import numpy as np
    >>> with sr_deploy.session_of("fsrcnn-w16_x4") as session:
    ...     sr_deploy.upscale_image(np.zeros((24, 32, 3), np.float32), session).shape
    (96, 128, 3)
    """
    upscaler = Upscaler(session, tile=tile, max_memory=max_memory)
    try:
        return upscaler.upscale_rgb(image)
    finally:
        if upscaler.session is not session:  # opened here
            upscaler.close()
