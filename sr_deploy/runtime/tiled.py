"""Run a session over the tiles of a plan, and measure their differences at the seams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.session import Session
from sr_deploy.runtime.tiling import Span, TilePlan

NAN_OUTPUT, NAN_HINT = "the network's output contains NaN", "try an FP32 network"


@dataclass
class TiledRun:
    """The measurements of one image, summed over its tiles."""

    ms: float = 0.0
    copies_ms: Optional[float] = None
    timer: str = ""
    seam_difference: float = 0.0
    """The largest difference of two tiles' values along their seam. 0 for exact plans."""


def run_tiles(
    session: Session,
    plan: TilePlan,
    image: np.ndarray,
    out: np.ndarray,
    *,
    to_input: Callable[[np.ndarray], np.ndarray],
    store: Callable[[np.ndarray, np.ndarray], None],
    on_tile: Callable[[], object] = lambda: None,
) -> TiledRun:
    """Upscale `image` (H, W, C) into `out` (scale*H, scale*W, C), tile by tile.

    to_input: converts a part of the image, (h, w, C), to the session's input, (1, 3, h, w) float32.
    store: writes the core of an output, (3, h, w) float32, into its part of `out`, (h, w, C).
    on_tile: called after each tile.
    """
    run = TiledRun()
    s = session.scale
    seams = None if plan.exact else Seams(s, keep=np.copy)

    def run_tile(y_span: Span, x_span: Span) -> None:
        # A function, so that no array of a tile stays in memory beside those of the next one.
        timed = session.run_timed(to_input(cut(image, y_span, x_span)))
        run.ms, run.timer = run.ms + timed.ms, timed.timer
        if timed.copies_ms is not None:
            run.copies_ms = (run.copies_ms or 0.0) + timed.copies_ms
        (top, bottom), (left, right) = y_span.core, x_span.core
        store(
            timed.y[0, :, y_span.slice_of(y_span.core, s), x_span.slice_of(x_span.core, s)],
            out[top * s : bottom * s, left * s : right * s],
        )
        if seams is not None:
            seams.add(timed.y, y_span, x_span)

    for y_span in plan.y_spans:
        for x_span in plan.x_spans:
            run_tile(y_span, x_span)
            on_tile()
    run.seam_difference = 0.0 if seams is None else max(map(float, seams.differences), default=0.0)
    return run


class HostTiles:
    """Runs tiles of pictures through the host's memory; `DeviceTiles` keeps them on a GPU."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.on_tile: Callable[[], object] = lambda: None
        """Called after each tile."""

    def start(
        self, plan: TilePlan, image: np.ndarray, out: np.ndarray, *, white: float
    ) -> Callable[[], TiledRun]:
        """Upscale an image, (H, W, 3), into `out`, (scale*H, scale*W, 3), of the same dtype.

        The dtype is uint8, uint16 or float32; `white` is its value for 1.0. Integers are clipped
        and rounded. Returns a function that returns the measurements. Raises ArtifactError on NaN.
        """

        def to_input(part: np.ndarray) -> np.ndarray:
            x = np.ascontiguousarray(part.transpose(2, 0, 1)[None], dtype=np.float32)
            return x if part.dtype == np.float32 else x / np.float32(white)

        def store(core: np.ndarray, place: np.ndarray) -> None:
            if np.isnan(core.min()):
                raise ArtifactError(NAN_OUTPUT, hint=NAN_HINT)
            if place.dtype == np.float32:
                place[...] = core.transpose(1, 2, 0)
                return
            for channel in range(3):  # all at once take twice the time, three times the memory
                values = core[channel] * np.float32(white)
                np.clip(values, 0, np.float32(white), out=values)
                np.rint(values, out=values)
                place[:, :, channel] = values

        run = run_tiles(
            self._session, plan, image, out, to_input=to_input, store=store, on_tile=self.on_tile
        )
        return lambda: run

    def settle(self) -> None:
        """Free the memory of failed runs."""


def cut(image: np.ndarray, y_span: Span, x_span: Span) -> np.ndarray:
    """Return the part of an (H, W, C) image that a tile covers, mirrored beyond its borders."""
    h, w = image.shape[:2]
    if y_span.start < 0 or y_span.stop > h or x_span.start < 0 or x_span.stop > w:
        return image[_mirrored(y_span, h)][:, _mirrored(x_span, w)]
    return image[y_span.start : y_span.stop, x_span.start : x_span.stop]


def _mirrored(span: Span, n: int) -> np.ndarray:
    position = np.arange(span.start, span.stop) % (2 * n)
    return np.where(position < n, position, 2 * n - 1 - position)


class Seams:
    """Compares neighbouring tiles on the two LR pixels that meet at their seam, along the cores."""

    def __init__(self, scale: int, *, keep: Callable[[Any], Any]) -> None:
        """keep: copies an array, or a tensor if the outputs are tensors."""
        self.differences: List[Any] = []
        """The largest difference along each seam: numbers, or tensors that may not be ready."""
        self._scale, self._keep = scale, keep
        self._left: Any = None
        self._above: Dict[int, Any] = {}

    def add(self, y: Any, y_span: Span, x_span: Span) -> None:
        """Compare a tile, (1, 3, h, w), with its left and upper neighbours. They come by rows."""
        rows, columns = y_span.core, x_span.core

        def strip(rows: Tuple[int, int], columns: Tuple[int, int]) -> Any:
            s = self._scale
            return y[:, :, y_span.slice_of(rows, s), x_span.slice_of(columns, s)]

        if columns[0] > 0 and self._left is not None:
            self._compare(self._left, strip(rows, _around(columns[0])))
        if rows[0] > 0:
            self._compare(self._above[columns[0]], strip(_around(rows[0]), columns))
        self._left = self._keep(strip(rows, _around(columns[1])))
        self._above[columns[0]] = self._keep(strip(_around(rows[1]), columns))

    def _compare(self, a: Any, b: Any) -> None:
        self.differences.append(abs(a - b).max())


def _around(seam: int) -> Tuple[int, int]:
    return seam - 1, seam + 1
