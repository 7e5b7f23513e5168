"""`export --keep`: the layers that an INT8 graph does not quantise.

`auto` finds the fewest with which the graph loses no more than a limit. The noise that a block of
layers causes, quantised with all other layers in floating point, is measured on a few crops. The
noisiest block is halved until it is a single layer: this is the noisiest of all, since noise of
layers adds up and is never negative. So layers are found in the order of their noise, and only as
many as are needed. After the first ones, and wherever the rest of the noise is small enough, the
loss is measured on all crops: these are the points of the curve. The search is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Collection, Dict, List, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import ExportError, did_you_mean
from sr_deploy.core.progress import Advance
from sr_deploy.export.int8.loss import Loss

AUTO, ENDS, NONE = "auto", "ends", "none"
MAX_RUNS = 256
"""Runs on a few crops of one search. When they are used up, whole blocks of layers are kept."""
LEAST_KEPT = 2
"""The curve goes to so many kept layers at least, since it tells what a stricter limit costs."""


@dataclass(frozen=True)
class Graphs:
    """The graphs that a search tries: with any layers in floating point."""

    layers: Tuple[str, ...]
    """Names of the layers that can be quantised, in the graph's order."""
    loss: Callable[[Collection[str]], Loss]
    """Measures the graph with some layers kept, on all crops of the gate."""
    noise: Callable[[Collection[str]], np.ndarray]
    """Measures its noise, `Loss.noise`, on a few crops."""


@dataclass(frozen=True)
class Kept:
    """The layers that are kept, what the graph then loses, and how they were found."""

    layers: Tuple[str, ...]
    loss: Loss
    curve: List[Dict[str, Any]]
    """Measured points: `kept`, `loss_db`, `psnr_db_vs_fp32`, and the `layers` that were added."""
    runs: int = 0
    fewest: bool = True
    """False if the runs were used up before each layer was found to be needed."""


def layers_asked(keep: str, layers: Sequence[str]) -> Tuple[str, ...]:
    """Return the layers of `ends`, `none` or `NODE,NODE`, in the graph's order; of `auto`, none.

    Raises ExportError for a name that is not of these layers.
    """
    if keep in (AUTO, NONE):
        return ()
    if keep == ENDS:
        return tuple(dict.fromkeys((layers[0], layers[-1])))
    names = [name.strip() for name in keep.split(",")]
    for name in names:
        if name not in layers:
            raise ExportError(
                f"--keep: '{name}' is not the name of a layer that would be INT8",
                hint=did_you_mean(name, list(layers))
                or f"give {AUTO}, {ENDS}, {NONE}, or names such as {layers[0]},{layers[-1]}",
            )
    return tuple(name for name in layers if name in names)


def measured_kept(layers: Tuple[str, ...], graphs: Graphs) -> Kept:
    """Return what the graph loses with these layers kept."""
    loss = graphs.loss(layers)
    return Kept(layers, loss, [_point(layers, loss, layers)])


def search_kept(graphs: Graphs, max_loss_db: float, advance: Advance) -> Kept:
    """Find the fewest layers to keep for a loss of `max_loss_db` at most.

    If there are none, the result is the best that was measured, with a higher loss. At least one
    layer is quantised.
    """
    return _KeepSearch(graphs, max_loss_db, advance).result()


class _KeepSearch:
    def __init__(self, graphs: Graphs, max_loss_db: float, advance: Advance) -> None:
        self._graphs, self._limit, self._advance = graphs, max_loss_db, advance
        self._noise: Dict[Tuple[str, ...], float] = {}  # of blocks of layers
        self._losses: Dict[int, Loss] = {}
        self._found: List[str] = []
        self._fewest = True
        self._floor = np.zeros(1)
        self._blocks: List[Tuple[str, ...]] = [graphs.layers]

    def result(self) -> Kept:
        nothing = self._loss(0)
        self._floor = self._graphs.noise(self._graphs.layers)
        unmeasured = 0  # layers found since the last measurement
        before = self._rest()
        while self._blocks and not (self._reached() and len(self._found) >= LEAST_KEPT):
            added = self._noisiest()
            if len(self._found) + len(added) == len(self._graphs.layers):
                break
            self._found += added
            unmeasured += 1
            expected = nothing.loss_db * self._rest() / before if before else 0.0
            first = len(self._found) <= LEAST_KEPT or unmeasured >= len(self._found) // 2
            if first or expected <= self._limit:
                self._loss(len(self._found))
                unmeasured = 0
        if not self._reached():
            self._loss(len(self._found))
        return self._chosen()

    def _chosen(self) -> Kept:
        self._halve_gap()
        enough = [n for n, loss in self._losses.items() if loss.loss_db <= self._limit]
        n = min(enough) if enough else min(self._losses, key=lambda n: self._losses[n].loss_db)
        kept = set(self._found[:n])
        counts = sorted(self._losses)
        curve = [
            _point(self._found[:count], self._losses[count], self._found[before:count])
            for before, count in zip([0, *counts], counts)
        ]
        layers = tuple(name for name in self._graphs.layers if name in kept)
        return Kept(layers, self._losses[n], curve, len(self._noise), self._fewest)

    def _halve_gap(self) -> None:
        """Measure between the last number of layers that was too small, and the first that is not.

        It was passed over since more noise was expected there.
        """
        while self._reached():
            high = min(n for n, loss in self._losses.items() if loss.loss_db <= self._limit)
            low = max((n for n in self._losses if n < high), default=high)
            if high - low < 2:
                return
            self._loss((low + high) // 2)

    def _reached(self) -> bool:
        return any(loss.loss_db <= self._limit for loss in self._losses.values())

    def _loss(self, count: int) -> Loss:
        if count not in self._losses:
            self._losses[count] = self._graphs.loss(self._found[:count])
            self._advance(f"{self._losses[count].loss_db:.3f} dB lost with layers kept: {count}")
        return self._losses[count]

    def _noisiest(self) -> Tuple[str, ...]:
        """Take the noisiest layer out of the blocks; a whole block if the runs are used up."""
        while True:
            block = max(self._blocks, key=self._block_noise)
            self._blocks.remove(block)
            if len(block) == 1:
                return block
            if len(self._noise) >= MAX_RUNS:
                self._fewest = False
                return block
            middle = len(block) // 2
            self._blocks += [block[:middle], block[middle:]]

    def _block_noise(self, block: Tuple[str, ...]) -> float:
        """Return the noise with one block quantised, above that with none."""
        if block not in self._noise:
            kept = [name for name in self._graphs.layers if name not in set(block)]
            noise = self._graphs.noise(kept) - self._floor
            self._noise[block] = max(float(np.mean(np.log10(1 + np.maximum(noise, 0)))), 0.0)
            self._advance()
        return self._noise[block]

    def _rest(self) -> float:
        return sum(self._block_noise(block) for block in self._blocks)


def _point(kept: Collection[str], loss: Loss, added: Sequence[str]) -> Dict[str, Any]:
    return {
        "kept": len(kept),
        "loss_db": round(loss.loss_db, 4),
        "psnr_db_vs_fp32": round(loss.psnr_db_vs_fp32, 2),
        "layers": list(added),
    }
