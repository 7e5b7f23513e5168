"""Adaptive networks in INT8: ranges from what their parts are fed, loss of the whole network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Sequence,
    Set,
    Tuple,
    TypeVar,
)

import numpy as np
import onnx

from sr_deploy.core.errors import ExportError, InputError
from sr_deploy.core.parts import AdaptivePlan
from sr_deploy.core.progress import as_progress
from sr_deploy.core.sizes import hw_text
from sr_deploy.export.half import halved
from sr_deploy.export.int8.calibration import Calibration, read_calibration
from sr_deploy.export.int8.loss import Loss, OutputsMeter
from sr_deploy.export.int8.placement import placed, quantisable, ready_to_quantise
from sr_deploy.export.int8.ranges import Ranges, collect_ranges
from sr_deploy.export.part_forms import (
    FP32,
    PlanForm,
    nodes_of_decisions,
    outputs_of_plan,
    save_parts,
)
from sr_deploy.runtime.parts import recorded_inputs

if TYPE_CHECKING:
    from sr_deploy.export.parts import CheckedPart

CROP_HW = (96, 128)
"""The LR size of the crops on which ranges and loss are taken."""
MOST_RUNS = 24
"""Runs of each part that its ranges are taken from."""
P = TypeVar("P", bound=AdaptivePlan)


class _Quantisable(NamedTuple):
    """A part that can be quantised."""

    ready: onnx.ModelProto
    kept: Tuple[str, ...]
    """Layers that only serve decisions."""
    ranges: Mapping[str, Ranges]
    """By method of calibration."""


def int8_graphs(
    plan: P,
    parts: Mapping[str, CheckedPart],
    form: PlanForm,
    folder: Path,
    progress: Callable[[str], None] = lambda line: None,
) -> Tuple[P, Dict[str, onnx.ModelProto]]:
    """Return a plan with the record of its loss, and the graphs, of which some are in INT8.

    Ranges are of the values that occur when the network runs on one half of the pictures' crops;
    the loss of the whole network is measured on the other half. Decisions stay in floating point.
    Where it loses more than `form.max_loss_db`, parts are left in floating point, the one that
    loses most first. Raises ExportError if all would be, InputError without pictures.
    """
    if form.calibrate is None:
        raise InputError(
            "INT8 graphs are calibrated with pictures, and none are given",
            hint="give a folder of HR pictures with --calibrate",
        )
    data = None if form.data is None else Path(form.data)
    calibration = read_calibration(Path(form.calibrate), scale=plan.scale, hw=CROP_HW, data=data)
    for note in calibration.notes:
        progress(note)
    choice = _PartsChoice(plan, parts, form, folder, calibration)
    with as_progress(progress).track("measuring parts in INT8") as advance:
        method, chosen, loss = choice.best(advance)
    if not chosen or not loss.loss_db <= form.max_loss_db:
        raise ExportError(
            f"{plan.file_name}: INT8 loses {loss.loss_db:.4f} dB, the limit is "
            f"{form.max_loss_db:g} dB",
            hint=f"allow more with --max-loss-db {loss.loss_db + 0.01:.2f}, or export it with "
            "--precision fp32",
        )
    record = {
        "psnr_db_vs_fp32": round(loss.psnr_db_vs_fp32, 2),
        "loss_db": round(loss.loss_db, 4),
        "max_loss_db": form.max_loss_db,
        "method": method,
        "parts_in_int8": list(chosen),
        "measured_on": f"{len(calibration.held_out)} crops of {hw_text(calibration.hw)}",
    }
    return replace(plan, checks={**plan.checks, "int8": record}), choice.graphs(method, chosen)


def loss_of_plan(record: Mapping[str, Any]) -> str:
    """Return what an adaptive network in INT8 loses, in words. record: of `checks["int8"]`."""
    loss_db = round(record["loss_db"], 2) + 0.0  # without the sign of a negative zero
    return (
        f"INT8, {record['psnr_db_vs_fp32']:.1f} dB against FP32, {loss_db:.2f} dB lost "
        f"(limit {record['max_loss_db']:.2f}), {len(record['parts_in_int8'])} parts in INT8"
    )


class _PartsChoice:
    """Tries methods of calibration, and which parts are quantised, by the loss of the network."""

    def __init__(
        self,
        plan: AdaptivePlan,
        parts: Mapping[str, CheckedPart],
        form: PlanForm,
        folder: Path,
        calibration: Calibration,
    ) -> None:
        self._plan, self._parts, self._form, self._folder = plan, parts, form, folder
        self._images = [pair.lr for pair in calibration.held_out]
        exact = {role: part.graph for role, part in parts.items()}
        with recorded_inputs(MOST_RUNS) as fed:
            self._outputs(exact, FP32, [pair.lr for pair in calibration.ranges])
        self._meter = OutputsMeter(self._outputs(exact, FP32, self._images), calibration.held_out)
        self._able = {
            role: able
            for role, part in parts.items()
            for able in _able(part, fed.get(role, []), form)
        }

    def best(self, advance: Any) -> Tuple[str, Tuple[str, ...], Loss]:
        """Return the method, the parts in INT8, and the loss."""
        roles = tuple(self._able)
        if not roles:
            raise ExportError(
                f"{self._plan.file_name}: no part can be INT8 for this target",
                hint="export it with --precision fp32",
            )
        methods = list(next(iter(self._able.values())).ranges)
        tried = {method: self._loss(method, roles, advance) for method in methods}
        method = min(tried, key=lambda name: tried[name].loss_db)
        loss, chosen = tried[method], roles
        if loss.loss_db <= self._form.max_loss_db or len(roles) == 1:
            return method, chosen, loss
        alone = {role: self._loss(method, (role,), advance).loss_db for role in roles}
        for worst in sorted(roles, key=lambda role: -alone[role])[:-1]:
            chosen = tuple(role for role in chosen if role != worst)
            loss = self._loss(method, chosen, advance)
            if loss.loss_db <= self._form.max_loss_db:
                break
        return method, chosen, loss

    def graphs(self, method: str, chosen: Sequence[str]) -> Dict[str, onnx.ModelProto]:
        """Return the graphs as they are written, with some parts quantised."""
        return {
            role: self._graph(role, part, method if role in chosen else "")
            for role, part in self._parts.items()
        }

    def _graph(self, role: str, part: CheckedPart, method: str) -> onnx.ModelProto:
        form = self._form
        graph = self._able[role].ready if method else part.graph
        if form.dtype == "fp16":
            plain = graph if method else ready_to_quantise(graph)
            kept = nodes_of_decisions(plain, part.spec.decisions)
            graph = halved(plain, io_dtype=form.end_types(part), fp32_nodes=kept).model
        if not method:
            return graph
        able = self._able[role]
        assert form.target is not None and form.target.int8 is not None
        return placed(graph, able.ranges[method], form.target.int8, kept=able.kept)

    def _loss(self, method: str, chosen: Sequence[str], advance: Any) -> Loss:
        graphs = self.graphs(method, chosen)
        loss = self._meter(self._outputs(graphs, self._form, self._images))
        advance(f"{loss.loss_db:.3f} dB lost by {method}, {len(chosen)} parts in INT8")
        return loss

    def _outputs(
        self,
        graphs: Mapping[str, onnx.ModelProto],
        form: PlanForm,
        images: Sequence[np.ndarray],
    ) -> List[np.ndarray]:
        made = save_parts(form.of(self._plan), self._parts, graphs, self._folder, form)
        return outputs_of_plan(made, self._folder, images)


def _able(
    part: CheckedPart, fed: Sequence[Mapping[str, np.ndarray]], form: PlanForm
) -> List[_Quantisable]:
    """Return what can be quantised of a part; nothing if all of its outputs are decisions."""
    assert form.target is not None and form.target.int8 is not None
    rules, spec = form.target.int8, part.spec
    if set(spec.outputs) <= set(spec.decisions):
        return []
    ready = ready_to_quantise(part.graph)
    layers = quantisable(ready, rules)
    decides: Set[str] = nodes_of_decisions(ready, spec.decisions)
    kept = tuple(name for name in layers if name in decides)
    if len(kept) == len(layers):
        return []
    example = {name: x.numpy() for name, x in zip(spec.inputs, spec.example)}
    return [_Quantisable(ready, kept, collect_ranges(ready, list(fed) or [example], rules))]
