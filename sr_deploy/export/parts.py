"""Parts of adaptive networks as checked graphs, and the plan that lists them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, TypeVar

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from sr_deploy.core.errors import ExportError
from sr_deploy.core.files import make_output_folder
from sr_deploy.core.parts import AdaptivePlan, publish_parts, size_of
from sr_deploy.export.graph import dynamic_dims, export_module
from sr_deploy.export.part_forms import FP32, OPSET, PlanForm, half_graphs, save_parts
from sr_deploy.export.part_int8 import int8_graphs, loss_of_plan
from sr_deploy.runtime.ort import raw_session

MAX_ABS_ERR = 1e-4
"""Allowed difference from torch, for images in 0..1, depths in blocks and log-odds."""
BATCH_SIZES = (1, 8, 64)
"""The smallest, usual and largest batch of tiles or patches."""
SIDE_SIZES = (2, 256, 1024)
"""The same of an image's height and width in LR pixels. torch exports free sizes from 2 on."""

P = TypeVar("P", bound=AdaptivePlan)
Shape = Tuple[Any, ...]


@dataclass(frozen=True)
class PartSpec:
    """A module, and the tensors that it takes and gives; shapes and sizes as in `PlanPart`."""

    net: nn.Module
    example: Tuple[Tensor, ...]
    """Its inputs in order. Named dimensions must be at least 2."""
    inputs: Dict[str, Shape]
    outputs: Dict[str, Shape]
    sizes: Dict[str, Tuple[int, int, int]] = field(default_factory=dict)
    """Of the dimensions that the inputs name."""
    reference: Optional[nn.Module] = None
    """The module to compare the graph with, if it is not `net`."""
    decisions: Tuple[str, ...] = ()
    """Inputs and outputs that decide what is computed. They stay in FP32, with the nodes that serve
    nothing else, unless the part has no other outputs."""


@dataclass(frozen=True)
class CheckedPart:
    """A part's FP32 graph, and its largest absolute difference from torch in ONNX Runtime."""

    graph: onnx.ModelProto
    spec: PartSpec
    max_abs_err: float


def checked_part(spec: PartSpec) -> CheckedPart:
    """Export a part, and compare its graph with torch on the example.

    Raises ExportError when the export fails, or the tensors are not those of `spec`; a difference
    from torch is only returned.
    """
    dims = {name: dynamic_dims(*_named(shape)) for name, shape in spec.inputs.items()}
    outputs = list(spec.outputs)
    graph = export_module(spec.net, spec.example, inputs=dims, outputs=outputs, opset=OPSET)
    _name_dims(graph, spec)
    with torch.no_grad():
        expected = (spec.reference or spec.net)(*spec.example)
    feeds = {name: x.numpy() for name, x in zip(spec.inputs, spec.example)}
    results = raw_session(graph.SerializeToString()).run(None, feeds)
    expected = expected if isinstance(expected, tuple) else (expected,)
    _check_shapes(spec, results)
    errors = [float(np.abs(y - e.numpy()).max()) for y, e in zip(results, expected)]
    return CheckedPart(graph, spec, max(errors))


def write_plan(
    plan: P,
    parts: Mapping[str, CheckedPart],
    folder: Path,
    form: PlanForm = FP32,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the graphs of a plan, by role, and the plan; return its path.

    form: the target and precision that they are made for. Raises ExportError when a graph differs
    from torch, or loses too much in the precision, in which case nothing is written.
    """
    for role, part in parts.items():
        if not part.max_abs_err <= MAX_ABS_ERR:
            raise ExportError(
                f"{plan.graph_name(role)}: ONNX Runtime differs from torch by "
                f"{part.max_abs_err:.2g}, expected at most {MAX_ABS_ERR:g}"
            )
    errors = {role: part.max_abs_err for role, part in parts.items()}
    made = form.of(replace(plan, checks={"max_abs_err_vs_torch": errors}))
    make_output_folder(folder)
    with tempfile.TemporaryDirectory(dir=str(folder), prefix=".partial-") as temporary:
        place = Path(temporary)
        if form.precision == "fp16":
            made, graphs = half_graphs(made, parts, form, place)
            progress(f"{made.file_name}: FP16, {made.psnr_db_vs_fp32:.1f} dB against FP32")
        elif form.precision == "int8":
            made, graphs = int8_graphs(made, parts, form, place, progress)
            progress(f"{made.file_name}: {loss_of_plan(made.checks['int8'])}")
        else:
            graphs = {role: part.graph for role, part in parts.items()}
        made = save_parts(made, parts, graphs, place, form)
        publish_parts(place, folder, made)
    return folder / made.file_name


def _named(shape: Shape) -> Tuple[int, ...]:
    return tuple(i for i, n in enumerate(shape) if isinstance(n, str))


def _name_dims(graph: onnx.ModelProto, spec: PartSpec) -> None:
    """Give the free dimensions of the graph's ends the names of the plan."""
    for values, shapes in ((graph.graph.input, spec.inputs), (graph.graph.output, spec.outputs)):
        for value, shape in zip(values, shapes.values()):
            for dim, n in zip(value.type.tensor_type.shape.dim, shape):
                dim.Clear()
                if isinstance(n, int):
                    dim.dim_value = n
                elif "*" not in n:
                    dim.dim_param = n


def _check_shapes(spec: PartSpec, results: Sequence[np.ndarray]) -> None:
    """Raise ExportError unless the tensors of a run have the shapes of a part."""
    sizes: Dict[str, int] = {}
    given = [tuple(x.shape) for x in spec.example]
    found = [tuple(y.shape) for y in results]
    for shape, got in zip(spec.inputs.values(), given):
        sizes.update({n: size for n, size in zip(shape, got) if isinstance(n, str)})
    for name, shape, got in zip(
        (*spec.inputs, *spec.outputs),
        (*spec.inputs.values(), *spec.outputs.values()),
        (*given, *found),
    ):
        expected = [size_of(n, sizes) for n in shape]
        if len(shape) != len(got) or any(n not in (None, m) for n, m in zip(expected, got)):
            raise ExportError(f"the tensor {name} is {got}, expected {shape} with {sizes}")
