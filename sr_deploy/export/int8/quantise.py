"""From an FP32 graph to an INT8 graph that loses no more than was allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import numpy as np
import onnx

from sr_deploy.core.images import rgb_from_nchw
from sr_deploy.core.metrics import border_px, psnr_db, psnr_unit
from sr_deploy.core.target import Int8Rules
from sr_deploy.export.half import halved
from sr_deploy.export.int8.calibration import Calibration
from sr_deploy.export.int8.placement import placed, quantisable, ready_to_quantise
from sr_deploy.export.int8.ranges import collect_ranges, with_learnt
from sr_deploy.runtime.ort import raw_session


@dataclass(frozen=True)
class Int8Options:
    """How an INT8 graph is made; fields as in `ExportOptions`."""

    rules: Int8Rules
    keep: str = "auto"
    max_loss_db: float = 0.10
    learnt_ranges: Optional[Mapping[str, Tuple[float, float]]] = None
    """Of a network trained for INT8, by the names of its convolutions' nodes; see `SourceGraph`."""
    io_dtype: str = "fp32"
    """Of the input and output, where the rest is FP16."""


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
    at_crops: Optional[onnx.ModelProto] = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Int8Graph:
    """Quantise an FP32 graph.

    name: of its file, for messages. at_crops: the same graph, with the same names, for the size of
    the calibration's crops, if `fp32` does not take these; all is measured on it. Raises
    ExportError.
    """
    rules = options.rules
    ready = ready_to_quantise(fp32)
    measured = ready if at_crops is None else ready_to_quantise(at_crops)
    layers = quantisable(ready, rules)
    kept = {layers[0], layers[-1]} if options.keep == "ends" and layers else set()
    if options.keep not in ("auto", "ends", "none"):
        kept = set(options.keep.split(","))
    reference = raw_session(measured.SerializeToString())
    found = {}
    for method, ranges in collect_ranges(
        measured, [pair.lr for pair in calibration.ranges], rules
    ).items():
        ranges = with_learnt(ranges, options.learnt_ranges or {}, measured, rules)
        model = placed(measured, ranges, rules, kept=kept)
        found[method] = (*_loss(model, reference, calibration), ranges)
    method = min(found, key=lambda key: found[key][0])
    loss_db, psnr, ranges = found[method]
    if rules.rest == "fp16":
        ready = halved(ready, io_dtype=options.io_dtype).model
    record = {
        "psnr_db_vs_fp32": round(psnr, 2),
        "loss_db": round(loss_db, 3),
        "max_loss_db": options.max_loss_db,
        "method": method,
        "layers": [len(layers) - len(kept), len(layers)],
    }
    in_order = tuple(layer for layer in layers if layer in kept)
    return Int8Graph(placed(ready, ranges, rules, kept=kept), in_order, record)


def _loss(model: onnx.ModelProto, reference: Any, calibration: Calibration) -> Tuple[float, float]:
    """Return the loss in dB against ground truth, and the PSNR against FP32."""
    session = raw_session(model.SerializeToString())
    losses, psnrs = [], []
    for pair in calibration.held_out:
        y, fp32 = (s.run(None, {"lr": pair.lr})[0] for s in (session, reference))
        border = border_px("rgb", pair.hr.shape[0] // pair.lr.shape[2])
        a, b = (psnr_db(rgb_from_nchw(v), pair.hr, metric="rgb", border=border) for v in (fp32, y))
        losses.append(a - b)
        psnrs.append(psnr_unit(y, fp32))
    return float(np.mean(losses)), float(np.mean(psnrs))
