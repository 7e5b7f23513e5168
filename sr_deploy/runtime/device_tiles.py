"""Runs the tiles of images on a GPU. The results are those of `tiled.run_tiles`, to the last bit.

Each tile is uploaded in the image's own type, and converted, run, clipped and rounded on the
device. Its core comes back in the image's type, through page-locked memory. Copies have streams of
their own. The host waits for a tile after it has queued the next one, be it of the same image or
not, so that a tile is uploaded and another one comes back while the network computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import Session
from sr_deploy.runtime.tiled import NAN_HINT, NAN_OUTPUT, Seams, TiledRun, cut
from sr_deploy.runtime.tiling import Span, TilePlan


@dataclass
class _Image:
    """An image whose tiles are being queued."""

    image: np.ndarray
    out: np.ndarray
    white: float
    white_on_device: Any
    """Dividing by a number would multiply by its reciprocal, which rounds differently."""
    least: Any
    """The least value of the cores so far, or NaN if one is NaN."""


@dataclass
class _Part:
    """The core of a tile that is on its way to its place in `owner.out`."""

    owner: _Image
    host: Any
    arrived: Any
    place: np.ndarray

    def store(self) -> None:
        self.arrived.synchronize()
        self.place[...] = self.host.numpy()


class DeviceTiles:
    """Runs tiles by a session that has `takes_tensors`. Not thread-safe."""

    def __init__(self, session: Session) -> None:
        from sr_deploy.runtime.torch_device import torch_device

        self._session = session
        self._device: Any = torch_device(RunOptions(device=session.place))
        self._part: Optional[_Part] = None
        self.on_tile: Callable[[], object] = lambda: None
        """Called when a tile is queued, after the one before has come back."""

    def start(
        self, plan: TilePlan, image: np.ndarray, out: np.ndarray, *, white: float
    ) -> Callable[[], TiledRun]:
        """Queue an image, (H, W, 3), whose result goes to `out`, (scale*H, scale*W, 3).

        Both have the same dtype, uint8, uint16 or float32; `white` is its value for 1.0. Returns a
        function that waits until `out` is complete, and raises ArtifactError if it contains NaN.
        Raises DeviceMemoryError; the images queued before are not affected.
        """
        import torch

        with self._device.streaming():
            begin, end = self._device.event(), self._device.event()
            begin.record()
            # Made on the device: a copy from the host would wait for all that is queued.
            white_on_device, least = (
                torch.full((), value, device=self._device.where) for value in (white, math.inf)
            )
            queued = _Image(image, out, white, white_on_device, least)
            seams = None if plan.exact else Seams(self._session.scale, keep=torch.clone)
            try:
                for y_span, x_span in _in_order(plan):
                    self._queue_tile(queued, y_span, x_span, seams)
                    self.on_tile()
            except BaseException:
                self._forget(queued)
                raise
            end.record()
            differences = seams.differences if seams is not None else []
            largest = torch.stack([*differences, torch.zeros_like(least)]).amax()
            facts, told = self._device.download(torch.stack([queued.least, largest]))

        def finish() -> TiledRun:
            if self._part is not None and self._part.owner is queued:
                self.drain()
            told.synchronize()
            least, difference = facts.tolist()
            if math.isnan(least):
                raise ArtifactError(NAN_OUTPUT, hint=NAN_HINT)
            ms = begin.elapsed_time(end)
            return TiledRun(ms, timer="device events", seam_difference=difference)

        return finish

    @property
    def host_bytes_per_px(self) -> int:
        """The host's memory for an LR pixel of a tile: its input, its result and the last one's.

        torch rounds page-locked memory up to powers of two.
        """
        return 2 * 4 * 3 * (1 + 2 * self._session.scale**2)  # of float32, at most

    def drain(self) -> None:
        """Store the part that is on its way."""
        part, self._part = self._part, None
        if part is not None:
            part.store()

    def settle(self) -> None:
        """Store the part that is on its way, and free the memory of failed runs."""
        self.drain()
        self._device.release()

    def _queue_tile(
        self, queued: _Image, y_span: Span, x_span: Span, seams: Optional[Seams]
    ) -> None:
        import torch

        s = self._session.scale
        part = self._device.upload(cut(queued.image, y_span, x_span))
        x = part.permute(2, 0, 1)[None].to(torch.float32).contiguous()
        y = self._session.run_tensor(x / queued.white_on_device)
        if seams is not None:
            seams.add(y, y_span, x_span)
        core = y[0, :, y_span.slice_of(y_span.core, s), x_span.slice_of(x_span.core, s)]
        queued.least = torch.minimum(queued.least, core.amin())
        if part.dtype != torch.float32:
            core = (core * queued.white).clamp_(0, queued.white).round_()
        # A copy in any case: `y` is valid until the next run only.
        result = torch.empty((*core.shape[1:], 3), dtype=part.dtype, device=part.device)
        result.copy_(core.permute(1, 2, 0))
        host, arrived = self._device.download(result)
        self.drain()
        (top, bottom), (left, right) = y_span.core, x_span.core
        place = queued.out[top * s : bottom * s, left * s : right * s]
        self._part = _Part(queued, host, arrived, place)

    def _forget(self, queued: _Image) -> None:
        if self._part is not None and self._part.owner is queued:
            self._part = None


def _in_order(plan: TilePlan) -> List[Tuple[Span, Span]]:
    """Return the tiles by their size, since sessions prepare anew for each; seams need rows."""
    tiles = [(y_span, x_span) for y_span in plan.y_spans for x_span in plan.x_spans]
    if plan.exact:
        tiles.sort(key=lambda spans: (spans[0].size, spans[1].size), reverse=True)
    return tiles
