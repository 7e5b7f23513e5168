"""The graphs of an adaptive network's parts in the form that a target takes, and their checks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple, TypeVar

import numpy as np
import onnx

from sr_deploy.core.errors import (
    ArtifactError,
    BuildError,
    CannotRunHereError,
    ExportError,
    InputError,
)
from sr_deploy.core.files import sha256_of
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.metrics import MIN_FP16_PSNR_DB, psnr_unit
from sr_deploy.core.parts import AdaptivePlan, PlanPart
from sr_deploy.core.run_options import CPU_RUN
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.core.target import TargetProfile, load_target
from sr_deploy.export import opset as opsets
from sr_deploy.export.emulation import check_half_runs, half_emulation
from sr_deploy.export.half import HalfGraph, halved, prepared
from sr_deploy.runtime.graph_nodes import opset_of
from sr_deploy.runtime.opener.plan import PlanKind
from sr_deploy.runtime.ort import raw_session
from sr_deploy.runtime.preflight import preflight, refuse

if TYPE_CHECKING:
    from sr_deploy.export.parts import CheckedPart

OPSET = 17
"""The newest that TensorRT 8.5 reads."""
CHECKED_HW: HW = (136, 200)
"""The LR size of the photographs on which a precision is compared with FP32."""
CHECK_IMAGES = 2
P = TypeVar("P", bound=AdaptivePlan)


@dataclass(frozen=True)
class PlanForm:
    """What the graphs of a plan are made for."""

    target: Optional[TargetProfile] = None
    precision: str = "fp32"
    """The precision of the engines."""
    calibrate: Optional[str] = None
    """A folder of HR pictures, for INT8."""
    data: Optional[str] = None
    """A folder of HR pictures that measure the loss; None: one half of `calibrate`."""
    max_loss_db: float = 0.1
    """PSNR that INT8 may lose against FP32."""

    @classmethod
    def from_names(cls, target: Optional[str], precision: Optional[str], **int8: Any) -> PlanForm:
        """Return the form for a target, in its default precision for None; without a target FP32.

        int8: fields of INT8. Raises TargetError for an unknown target, or a precision that it does
        not have, InputError for INT8 without a target or its fields in another precision.
        """
        profile = None if target is None else load_target(target)
        asked = precision or "fp32" if profile is None else profile.check_precision(precision)
        if asked == "int8" and profile is None:
            raise InputError(
                "INT8 graphs follow the rules of a target, and none is given",
                hint="give one with --target",
            )
        if asked != "int8" and (int8.get("calibrate") or int8.get("data")):
            raise InputError(
                f"--calibrate and --data are for INT8, not for {asked}",
                hint="give --precision int8, or omit them",
            )
        return cls(profile, asked, **int8)

    @property
    def opset(self) -> int:
        return OPSET if self.target is None else min(OPSET, self.target.opset)

    @property
    def dtype(self) -> str:
        """The type of the graphs' tensors."""
        if self.target is not None:
            return self.target.graph_dtype(self.precision)
        return "fp16" if self.precision == "fp16" else "fp32"

    @property
    def precision_of_rest(self) -> str:
        """The precision of parts that are not quantised."""
        return self.dtype if self.precision == "int8" else self.precision

    def of(self, plan: P) -> P:
        """Return a plan with its target and precision."""
        target = "" if self.target is None else self.target.name
        return replace(plan, target=target, precision=self.precision)

    def end_types(self, part: CheckedPart) -> Dict[str, str]:
        """Return the type of each input and output of a part."""
        names = (*part.spec.inputs, *part.spec.outputs)
        return {n: "fp32" if n in part.spec.decisions else self.dtype for n in names}


FP32 = PlanForm()


def save_parts(
    plan: P,
    parts: Mapping[str, CheckedPart],
    graphs: Mapping[str, onnx.ModelProto],
    folder: Path,
    form: PlanForm,
) -> P:
    """Write graphs by role, and the plan, which is returned. Raises ExportError.

    The graphs are of the types that `form` gives to the ends of the parts.
    """
    saved: Dict[str, PlanPart] = {}
    for role, part in parts.items():
        path, spec = folder / plan.graph_name(role), part.spec
        graph, opset = graphs[role], form.opset
        quantised = any(node.op_type == "DequantizeLinear" for node in graph.graph.node)
        if quantised:
            opset = opset_of(graph)
        else:
            graph = opsets.lower(graph, opset)
        opsets.check(graph, opset)
        onnx.save(graph, str(path))
        _check_parser(path, form, "int8" if quantised else form.precision_of_rest)
        ends = form.end_types(part)
        saved[role] = PlanPart(
            path.name,
            sha256_of(path),
            spec.inputs,
            spec.outputs,
            spec.sizes,
            form.dtype,
            {name: dtype for name, dtype in ends.items() if dtype != "fp32"},
            opset,
            quantised,
        )
    plan = replace(plan, parts=saved)
    (folder / plan.file_name).write_text(to_json(plan), encoding="utf-8")
    return plan


def _check_parser(path: Path, form: PlanForm, precision: str) -> None:
    """Raise ExportError where the target's parser does not read a graph."""
    if form.target is None:
        return
    try:
        findings = preflight(path, form.target, precision=precision, part=True)
        refuse(findings, path.name, form.target)
    except BuildError as e:
        raise ExportError(e.message, hint=e.hint) from e


def half_graphs(
    plan: P, parts: Mapping[str, CheckedPart], form: PlanForm, folder: Path
) -> Tuple[P, Dict[str, onnx.ModelProto]]:
    """Return a plan with its checks in half precision, and the graphs: FP16, or FP32 for weakly
    typed builders.

    Each part is run in emulated half precision, and so is the whole network on photographs, which
    is compared with FP32. folder: for temporary files. Raises ExportError.
    """
    halves = {role: _half_graph(plan.graph_name(role), part, form) for role, part in parts.items()}
    emulated = {role: half_emulation(h.model, watch=False)[0] for role, h in halves.items()}
    exact = {role: part.graph for role, part in parts.items()}
    is_half = form.dtype == "fp16"
    runs = {"fp32": (exact, FP32), "emulated": (emulated, FP32)}
    if is_half:  # by ONNX Runtime, which computes them in FP32 on the CPU
        runs["as written"] = ({role: half.model for role, half in halves.items()}, form)
    images = [nchw_from_rgb(rgb) for rgb in sample_lr(CHECKED_HW, count=CHECK_IMAGES)]
    outputs: Dict[str, List[np.ndarray]] = {}
    for name, (graphs, of) in runs.items():
        place = folder / name
        place.mkdir()
        made = save_parts(of.of(plan), parts, graphs, place, of)
        outputs[name] = outputs_of_plan(made, place, images)
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    least: Dict[str, float] = {}
    for name, found in outputs.items():
        least[name] = min(map(psnr_unit, found, outputs["fp32"]))
        if not least[name] >= MIN_FP16_PSNR_DB:
            raise ExportError(
                f"{plan.file_name}: {least[name]:.1f} dB against FP32 on photographs at "
                f"{hw_text(CHECKED_HW)} ({name}), expected at least {MIN_FP16_PSNR_DB:.0f}",
                hint="export it with --precision fp32",
            )
    fp32_nodes = {role: list(half.fp32_nodes) for role, half in halves.items() if half.fp32_nodes}
    record: Dict[str, Any] = {
        "psnr_db_vs_fp32": round(least["emulated"], 2),
        "at": hw_text(CHECKED_HW),
        "images": CHECK_IMAGES,
        "fp32_nodes": fp32_nodes,
    }
    if is_half:
        record["this_file_psnr_db"] = round(least["as written"], 2)
    graphs = {role: half.model for role, half in halves.items()} if is_half else exact
    return replace(plan, checks={**plan.checks, "fp16": record}), graphs


def _half_graph(name: str, part: CheckedPart, form: PlanForm) -> HalfGraph:
    """Return a part in FP16. Raises ExportError when a tensor overflows on its example."""
    spec, plain = part.spec, prepared(part.graph)
    kept = nodes_of_decisions(plain, spec.decisions)
    ends = replace(form, target=None, precision="fp16").end_types(part)
    half = halved(plain, io_dtype=ends, fp32_nodes=kept)
    feeds = {name: x.numpy() for name, x in zip(spec.inputs, spec.example)}
    references = raw_session(part.graph.SerializeToString()).run(None, feeds)
    report = check_half_runs(half.model, [feeds], [references])
    problems = replace(report, psnr_db=float("inf")).problems()  # it is of no image
    if problems:
        raise ExportError(
            f"{name} fails in half precision: {'; '.join(problems)}",
            hint="export it with --precision fp32",
        )
    return half


def nodes_of_decisions(graph: onnx.ModelProto, decisions: Tuple[str, ...]) -> Set[str]:
    """Return the nodes that serve decisions only; none where a part has no other outputs."""
    outputs = [value.name for value in graph.graph.output]
    others = {name for name in outputs if name not in decisions}
    if not others:
        return set()
    return _makers(graph, set(outputs)) - _makers(graph, others)


def _makers(graph: onnx.ModelProto, values: Set[str]) -> Set[str]:
    """Return the names of the nodes that values depend on."""
    needed, found = set(values), set()
    for node in reversed(graph.graph.node):
        if needed.intersection(node.output):
            found.add(node.name)
            needed.update(node.input)
    return found


def outputs_of_plan(
    plan: AdaptivePlan, folder: Path, images: Sequence[np.ndarray]
) -> List[np.ndarray]:
    """Run the plan in a folder on images, (1, 3, H, W) float32 each. Raises ExportError."""
    (network, *_) = PlanKind().describe(str(folder / plan.file_name), None, False)
    try:
        with network.open(CPU_RUN) as session:
            return list(map(session.run, images))
    except (ArtifactError, CannotRunHereError) as e:
        raise ExportError(f"{plan.file_name}: {e.message}", hint=e.hint) from e
