"""From an FP32 graph to an INT8 graph that loses no more than was allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import onnx

from sr_deploy.core.target import Int8Rules
from sr_deploy.export.int8.calibration import Calibration


@dataclass(frozen=True)
class Int8Options:
    """How an INT8 graph is made; fields as in `ExportOptions`."""

    rules: Int8Rules
    keep: str = "auto"
    max_loss_db: float = 0.10
    learnt_ranges: Optional[Mapping[str, Tuple[float, float]]] = None
    """Of a network trained for INT8, by the names of its convolutions' nodes; see `SourceGraph`."""


@dataclass(frozen=True)
class Int8Graph:
    """An INT8 graph, and how it was found."""

    model: onnx.ModelProto
    kept: Tuple[str, ...]
    """Nodes with weights that are not quantised."""
    record: Dict[str, Any]
    """For the manifest's `checks["int8"]`: `psnr_db_vs_fp32`, `loss_db`, `max_loss_db`, `method`,
    `layers` (quantised, of how many), `curve` (layers kept against dB)."""


def int8_graph(
    fp32: onnx.ModelProto,
    calibration: Calibration,
    options: Int8Options,
    *,
    name: str,
    progress: Callable[[str], None] = lambda line: None,
) -> Int8Graph:
    """Quantise an FP32 graph. name: of its file, for messages. Raises ExportError."""
    raise NotImplementedError
