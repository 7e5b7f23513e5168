"""From an FP32 graph to an INT8 graph that loses no more than was allowed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Collection, Dict, List, Mapping, Optional, Tuple

import onnx

from sr_deploy.core.errors import ExportError
from sr_deploy.core.progress import Advance, as_progress
from sr_deploy.core.sizes import hw_text
from sr_deploy.core.target import Int8Rules
from sr_deploy.export.half import halved
from sr_deploy.export.int8.calibration import Calibration
from sr_deploy.export.int8.corrections import (
    LayerWeights,
    bias_corrections,
    equalised,
    with_weights,
)
from sr_deploy.export.int8.keep import (
    AUTO,
    Graphs,
    Kept,
    layers_asked,
    measured_kept,
    search_kept,
)
from sr_deploy.export.int8.loss import LossMeter
from sr_deploy.export.int8.placement import placed, quantisable, ready_to_quantise
from sr_deploy.export.int8.plan import GraphView
from sr_deploy.export.int8.ranges import Ranges, collect_ranges, with_learnt

LEARNT = "learnt"
"""The method of calibration of a network that was trained for INT8; with a second one for values
whose ranges it did not learn."""
EQUALISATION, BIAS = "equalised", "bias corrected"
_FEW = 4
"""Crops on which the noise of single layers is measured."""


@dataclass(frozen=True)
class Int8Options:
    """How an INT8 graph is made; fields as in `ExportOptions`."""

    rules: Int8Rules
    keep: str = AUTO
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
    """For the manifest's `checks["int8"]`: see `docs/int8.md`."""


def int8_graph(
    fp32: onnx.ModelProto,
    calibration: Calibration,
    options: Int8Options,
    *,
    name: str,
    at_crops: Optional[onnx.ModelProto] = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Int8Graph:
    """Quantise an FP32 graph, and measure what it loses.

    name: of its file, for messages. at_crops: the same graph, with the same names, for the size of
    the calibration's crops, if `fp32` does not take these; all is measured on it. Raises
    ExportError where it cannot be quantised, or if it loses more than `options.max_loss_db`.
    """
    ready = ready_to_quantise(fp32)
    small = ready if at_crops is None else ready_to_quantise(at_crops)
    layers = tuple(quantisable(ready, options.rules))
    if not layers:
        raise ExportError(
            f"{name}: no layer can be INT8 for this target",
            hint="export it with --precision fp32",
        )
    asked = layers_asked(options.keep, layers)
    if len(asked) == len(layers):
        raise ExportError(
            f"{name}: --keep {options.keep} keeps all that could be INT8: {', '.join(asked)}",
            hint="keep fewer, or export it with --precision fp32",
        )
    choice = _Choice(small, calibration, options, asked)
    report = as_progress(progress)
    with report.track("calibrating INT8") as advance:
        chosen, record = choice.best(advance)
    with report.track("measuring layers in INT8") as advance:
        graphs = choice.graphs(chosen, layers)
        if options.keep == AUTO:
            kept = search_kept(graphs, options.max_loss_db, advance)
        else:
            kept = measured_kept(asked, graphs)
    _refuse_loss(kept, options, len(layers), name)
    weighted = chosen.weighted(ready, kept.layers)
    if options.rules.rest == "fp16":
        weighted = halved(weighted, io_dtype=options.io_dtype).model
    model = placed(weighted, chosen.ranges, options.rules, kept=kept.layers)
    counts = [len(layers) - len(kept.layers), _with_weights(ready)]
    record = {**_record(kept, options), "layers": counts, **choice.record(), **record}
    return Int8Graph(model, kept.layers, record)


@dataclass(frozen=True)
class _Quantised:
    """What is needed to quantise a graph of any size."""

    method: str
    ranges: Ranges
    equal: Mapping[str, LayerWeights] = field(default_factory=dict)
    bias: Mapping[str, LayerWeights] = field(default_factory=dict)

    @property
    def corrections(self) -> List[str]:
        done = {EQUALISATION: self.equal, BIAS: self.bias}
        return [name for name, weights in done.items() if weights]

    @property
    def name(self) -> str:
        return ", ".join([self.method, *self.corrections])

    def weighted(self, model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
        """Return the FP32 graph with corrected weights."""
        return with_weights(with_weights(model, self.equal), self.bias, without=kept)

    def graph(
        self, model: onnx.ModelProto, rules: Int8Rules, kept: Collection[str]
    ) -> onnx.ModelProto:
        return placed(self.weighted(model, kept), self.ranges, rules, kept=kept)


class _Choice:
    """Chooses the method of calibration and the corrections by the loss, and measures graphs."""

    def __init__(
        self,
        small: onnx.ModelProto,
        calibration: Calibration,
        options: Int8Options,
        asked: Tuple[str, ...],
    ) -> None:
        self._small, self._options, self._asked = small, options, asked
        self._images = [pair.lr for pair in calibration.ranges]
        held_out = calibration.held_out
        step = max(len(held_out) // _FEW, 1)
        self._few = LossMeter(small, held_out[::step][:_FEW])
        self._held_out = LossMeter(small, held_out)
        self._at = f"{len(held_out)} crops of {hw_text(calibration.hw)}"

    def best(self, advance: Advance) -> Tuple[_Quantised, Dict[str, Any]]:
        """Return the best of the methods and corrections, and the record of all."""
        tried = self._methods(self._small, advance)
        if not self._options.learnt_ranges:  # training has fitted weights to their rounding
            tried.append(self._bias_corrected(tried, advance))
            equal = equalised(self._small, self._images)
            if equal:
                found = self._methods(with_weights(self._small, equal), advance, equal)
                tried += [*found, self._bias_corrected(found, advance)]
        loss_db, best = min(tried, key=lambda item: item[0])
        return best, {
            "method": best.method,
            "corrections": best.corrections,
            "tried_loss_db": {one.name: round(loss, 4) for loss, one in tried},
        }

    def _bias_corrected(
        self, tried: List[Tuple[float, _Quantised]], advance: Advance
    ) -> Tuple[float, _Quantised]:
        """Return the best with corrected biases."""
        _, best = min(tried, key=lambda item: item[0])
        weighted = with_weights(self._small, best.equal)
        bias = bias_corrections(weighted, self._images, self._options.rules)
        return self._measured(replace(best, bias=bias), advance)

    def graphs(self, chosen: _Quantised, layers: Tuple[str, ...]) -> Graphs:
        """Return the graphs among which the layers to keep are searched."""
        rules = self._options.rules
        return Graphs(
            layers,
            loss=lambda kept: self._held_out(chosen.graph(self._small, rules, kept)),
            noise=lambda kept: self._few(chosen.graph(self._small, rules, kept)).noise,
        )

    def record(self) -> Dict[str, Any]:
        return {"psnr_db_fp32": round(self._held_out.psnr_db, 2), "measured_on": self._at}

    def _methods(
        self,
        model: onnx.ModelProto,
        advance: Advance,
        equal: Optional[Mapping[str, LayerWeights]] = None,
    ) -> List[Tuple[float, _Quantised]]:
        """Return the loss of each method of calibration, and what quantises by it."""
        rules, learnt = self._options.rules, self._options.learnt_ranges
        methods = collect_ranges(model, self._images, rules)
        if learnt:
            methods = {
                f"{LEARNT}, {method}": with_learnt(ranges, learnt, model, rules)
                for method, ranges in methods.items()
            }
            first, *others = methods.values()
            if all(ranges == first for ranges in others):  # nothing is left to measure
                methods = {LEARNT: first}
        tried = [_Quantised(method, ranges, equal or {}) for method, ranges in methods.items()]
        return [self._measured(one, advance) for one in tried]

    def _measured(self, one: _Quantised, advance: Advance) -> Tuple[float, _Quantised]:
        model = one.graph(self._small, self._options.rules, self._asked)
        loss_db = self._held_out(model).loss_db
        advance(f"{loss_db:.3f} dB lost by {one.name}")
        return loss_db, one


def loss_text(record: Mapping[str, Any]) -> str:
    """Return what an INT8 graph loses, in words. record: of `Int8Graph`."""
    quantised, layers = record["layers"]
    found = "" if record.get("fewest", True) else " (more may be possible: the search was ended)"
    loss_db = round(record["loss_db"], 2) + 0.0  # without the sign of a negative zero
    return (
        f"INT8, {record['psnr_db_vs_fp32']:.1f} dB against FP32, {loss_db:.2f} dB lost "
        f"(limit {record['max_loss_db']:.2f}), {quantised} of {layers} layers in INT8{found}"
    )


def _refuse_loss(kept: Kept, options: Int8Options, layers: int, name: str) -> None:
    """Raise ExportError if a graph loses more than it may."""
    loss_db, limit = kept.loss.loss_db, options.max_loss_db
    if loss_db <= limit:
        return
    others = (
        f"allow more with --max-loss-db {loss_db + 0.01:.2f}, calibrate with more or with other "
        "pictures, or train the network for INT8"
    )
    auto = options.keep == AUTO
    also = f", also with {len(kept.layers)} of {layers} layers kept" if auto and kept.layers else ""
    raise ExportError(
        f"{name}: INT8 loses {loss_db:.4f} dB{also}; the limit is {limit:g} dB",
        hint=others if auto else f"let --keep auto find the layers to keep; {others}",
    )


def _with_weights(model: onnx.ModelProto) -> int:
    view = GraphView(model)
    return sum(view.has_weights(node) for node in model.graph.node)


def _record(kept: Kept, options: Int8Options) -> Dict[str, Any]:
    found = {"runs": kept.runs, "fewest": kept.fewest} if options.keep == AUTO else {}
    return {
        "psnr_db_vs_fp32": round(kept.loss.psnr_db_vs_fp32, 2),
        "loss_db": round(kept.loss.loss_db, 4),
        "max_loss_db": options.max_loss_db,
        "keep": options.keep,
        "kept": len(kept.layers),
        "curve": kept.curve,
        **found,
    }
