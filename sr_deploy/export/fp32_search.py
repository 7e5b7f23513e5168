"""`--fallback auto`: the fewest nodes that must compute in FP32 for a graph to work in FP16.

Nodes whose results exceed FP16, and the nodes that read these, are necessary. The others are found
by bisection. The error that a block of nodes causes, with everything else in FP32, is measured in
emulated half precision; the block of the largest error is halved, until single nodes are left.
Errors of blocks add up, so nodes are taken in the order of their errors until the rest is small
enough. Nodes that turn out to be unnecessary are then left out. The search is deterministic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Dict, FrozenSet, Iterable, List, Optional, Sequence, Set, Tuple

import numpy as np
import onnx

from sr_deploy.core.errors import ExportError
from sr_deploy.core.metrics import MIN_FP16_PSNR_DB, psnr_unit
from sr_deploy.export.emulation import HalfReport, Overflow, check_half, run_half
from sr_deploy.export.half import WeightRangeError, halved, nodes_of_image
from sr_deploy.runtime.graph_nodes import all_nodes
from sr_deploy.runtime.graph_types import FP16_MAX

MAX_RUNS = 128
"""Emulated runs of one search. When they are used up, whole blocks are kept in FP32."""
_ALLOWED = 10 ** (-MIN_FP16_PSNR_DB / 10)


@dataclass(frozen=True)
class Fp32Nodes:
    """The nodes to keep in FP32, and how they were found."""

    nodes: Tuple[str, ...]
    psnr_db_without: Optional[float]
    """With all nodes in FP16 but those of `start` and those whose weights exceed FP16; None: the
    output is not finite."""
    psnr_db_with: float
    runs: int
    fewest: bool
    """Whether each node was found to be needed; False if the runs were used up before."""
    overflows: Tuple[Overflow, ...] = ()
    """Where values overflow without these nodes."""


def search_fp32_nodes(
    plain: onnx.ModelProto,
    images: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    *,
    io_dtype: str,
    start: Iterable[str] = (),
) -> Fp32Nodes:
    """Find the nodes of a prepared FP32 graph that must compute in FP32.

    images: (1, 3, H, W) float32; references: their FP32 outputs; start: nodes that are known to be
    needed. Raises ExportError if the output is wrong even with all nodes in FP32.
    """
    return _Bisection(plain, list(images), list(references), io_dtype, set(start)).result()


class _OutOfRunsError(Exception):
    """All runs are used up."""


class _Bisection:
    """One search."""

    def __init__(
        self,
        plain: onnx.ModelProto,
        images: List[np.ndarray],
        references: List[np.ndarray],
        io_dtype: str,
        start: Set[str],
    ) -> None:
        self._plain, self._io_dtype = plain, io_dtype
        self._images, self._references = images, references
        self._order = [node.name for node in nodes_of_image(plain)]
        self._names = [node.name for node in all_nodes(plain.graph)]
        self._needed = start
        self._reports: Dict[FrozenSet[str], HalfReport] = {}
        self._runs = 0

    def result(self) -> Fp32Nodes:
        without = self._without_any()
        psnr_db = without.psnr_db
        chosen: List[str] = []
        fewest = True
        if self._report(self._needed).problems():
            self._add_overflowing()
        if self._report(self._needed).problems():
            self._refuse_hopeless()
            try:
                chosen = self._pruned(self._noisiest())
            except _OutOfRunsError as e:
                chosen, fewest = list(e.args[0]), False
        kept = self._needed | set(chosen)
        return Fp32Nodes(
            tuple(name for name in self._names if name in kept),
            round(psnr_db, 2) if math.isfinite(psnr_db) else None,
            round(self._reports[frozenset(kept)].psnr_db, 2),
            self._runs,
            fewest,
            without.overflows,
        )

    def _without_any(self) -> HalfReport:
        """Return the report with as few nodes in FP32 as can be converted."""
        try:
            return self._report(self._needed)
        except WeightRangeError as e:
            self._needed |= set(e.nodes)
            return self._report(self._needed)

    def _add_overflowing(self) -> None:
        """Need the nodes whose exact results exceed FP16, their readers, and those that square."""
        half = halved(self._plain, io_dtype=self._io_dtype, fp32_nodes=self._needed).model
        _, peaks = run_half(half, self._images, rounding=False)
        beyond = {t for t, peak in peaks.items() if FP16_MAX < peak < math.inf}
        for node in half.graph.node:
            if node.name in self._names and beyond.intersection([*node.input, *node.output]):
                self._needed.add(node.name)
        while True:
            inside = {o.node for o in self._report(self._needed).overflows if o.inside}
            if inside <= self._needed:
                return
            self._needed |= inside

    def _refuse_hopeless(self) -> None:
        problems = self._report(self._needed | set(self._order)).problems()
        if problems:
            raise ExportError(
                f"even with all nodes in FP32 it fails, by {self._io_dtype.upper()} at its ends "
                f"alone: {'; '.join(problems)}",
                hint="export it with --precision fp32",
            )

    def _noisiest(self) -> Tuple[List[str], Dict[str, float]]:
        """Return nodes that suffice, and their errors."""
        blocks: List[Tuple[float, List[str]]] = []
        rest = [name for name in self._order if name not in self._needed]
        blocks.append((self._error(rest), rest))
        errors: Dict[str, float] = {}
        while blocks:
            blocks.sort(key=lambda block: (-block[0], self._order.index(block[1][0])))
            if errors and sum(error for error, _ in blocks) <= _ALLOWED:
                if not self._report(self._needed | set(errors)).problems():
                    return list(errors), errors
            if self._runs >= MAX_RUNS:
                raise _OutOfRunsError(self._whole_blocks(list(errors), blocks))
            error, names = blocks.pop(0)
            if len(names) == 1:
                errors[names[0]] = error
                continue
            middle = len(names) // 2
            blocks += [(self._error(half), half) for half in (names[:middle], names[middle:])]
        return list(errors), errors

    def _whole_blocks(self, chosen: List[str], blocks: List[Tuple[float, List[str]]]) -> List[str]:
        """Return nodes that suffice after the runs are used up: blocks are taken whole."""
        for _, names in blocks:
            chosen = chosen + names
            if not self._report(self._needed | set(chosen)).problems():
                break
        return chosen

    def _pruned(self, found: Tuple[List[str], Dict[str, float]]) -> List[str]:
        """Leave out nodes without which the graph works, those of the smallest errors first."""
        chosen, errors = found
        for name in sorted(chosen, key=lambda name: (errors[name], self._order.index(name))):
            if len(chosen) == 1:
                break
            if self._runs >= MAX_RUNS:
                raise _OutOfRunsError(chosen)
            fewer = [other for other in chosen if other != name]
            if not self._report(self._needed | set(fewer)).problems():
                chosen = fewer
        return chosen

    def _error(self, block: List[str]) -> float:
        """Return the squared error with one block in FP16 and all other nodes in FP32."""
        kept = (set(self._order) - set(block)) | self._needed
        half = halved(self._plain, io_dtype=self._io_dtype, fp32_nodes=kept).model
        self._runs += 1
        (y,), _ = run_half(half, self._images[:1], watch=False)
        psnr_db = psnr_unit(y, self._references[0])
        return math.inf if math.isnan(psnr_db) else float(10 ** (-psnr_db / 10))

    def _report(self, fp32_nodes: Set[str]) -> HalfReport:
        key = frozenset(fp32_nodes)
        if key not in self._reports:
            half = halved(self._plain, io_dtype=self._io_dtype, fp32_nodes=key).model
            self._runs += 1
            self._reports[key] = check_half(half, self._images, self._references)
        return self._reports[key]
