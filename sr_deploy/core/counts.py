"""`Counts` of a network: parameters, multiply-accumulates, activations and convolutions.

They are counted by two counters of the NTIRE challenges, which are not comparable (see
`nets.complexity`, which counts modules, and `runtime.graph_counts`, which counts ONNX graphs).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Sequence

import numpy as np

from sr_deploy.core.sizes import HW

COUNTERS = ("hooks", "fvcore")
NTIRE_HW = (256, 256)
"""The challenge's LR size."""


@dataclass(frozen=True)
class Counts:
    """The counts of a network at one LR size; `macs` is what NTIRE's tables call FLOPs."""

    params: int
    macs: int
    acts: int
    convs: int
    counter: str
    uncounted: Dict[str, int]
    """The number of calls of each operator that computes but that the counter ignores."""
    uncounted_macs: Dict[str, int] = field(default_factory=dict)
    """Multiply-accumulates of convolutions and matrix products that the counter leaves out, by
    operator; with `macs` they are all that the network has."""


def counts_record(by_counter: Dict[str, Counts], hw: HW) -> Dict[str, Any]:
    """Return the counts by both counters as a manifest has them (see `Manifest.counts`)."""
    hooks, fvcore = (asdict(by_counter[counter]) for counter in COUNTERS)
    size = {} if tuple(hw) == NTIRE_HW else {"hw": list(hw)}
    return {**hooks, "fvcore": fvcore, **size}


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Return fvcore's count: half of the operations that NumPy's best order of products has."""
    arrays = [np.broadcast_to(np.float64(0), tuple(shape)) for shape in shapes]
    report = str(np.einsum_path(equation.replace(" ", ""), *arrays, optimize="optimal")[1])
    line = next(line for line in report.split("\n") if "optimized flop" in line.lower())
    return math.floor(float(line.split(":")[-1]) / 2)
