"""A sweep: many measurements from a plan, each in a process of its own.

A crash, or a cell that cannot be built, becomes a row with its error.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from sr_deploy.bench.evaluate import ImageSet, check_images, image_set
from sr_deploy.core.device import usable_cores
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import make_output_folder
from sr_deploy.core.jsonio import from_dict, read_dataclass
from sr_deploy.core.lifeline import run_with_lifeline, signal_name
from sr_deploy.core.metrics import METRICS
from sr_deploy.core.precisions import GRAPH_DTYPES, PRECISIONS
from sr_deploy.core.run_options import RUN_PRECISIONS, RunOptions
from sr_deploy.core.sizes import hw_text, parse_hw, parse_sizes
from sr_deploy.core.target import load_target
from sr_deploy.results.protocols import DEFAULT_PROTOCOL, get_protocol, time_ms
from sr_deploy.results.rows import BenchmarkRow, append_rows, drop_partial_line, read_rows
from sr_deploy.runtime.opener import NetworkDescription, describe, kind_of

BACKENDS = ("torch", "onnxruntime")
"""Backends that run a checkpoint, or a graph for no target. Engines are requested by target."""


@dataclass(frozen=True)
class SweepPlan:
    """The cells are all combinations of models, variants, shapes, batch, precisions and protocols,
    each on every backend and every target."""

    models: Tuple[str, ...]
    shapes: Tuple[str, ...]
    """LR sizes, `256x512`."""
    variants: Tuple[str, ...] = ("all",)
    batch: Tuple[int, ...] = (1,)
    precisions: Tuple[str, ...] = ("fp32",)
    calibrate: Optional[str] = None
    """The folder of HR pictures that INT8 graphs are calibrated with; only with int8."""
    backends: Tuple[str, ...] = ()
    """torch for checkpoints, onnxruntime for graphs exported for no target."""
    targets: Tuple[str, ...] = ()
    """Target profiles to build engines for."""
    protocols: Tuple[str, ...] = (DEFAULT_PROTOCOL,)
    metric: Optional[str] = None
    threads: Optional[int] = None
    runs: Optional[int] = None

    def metric_of(self, protocol: str) -> str:
        return get_protocol(protocol).metric or self.metric or "y"


@dataclass(frozen=True)
class Cell:
    """One combination. It gives one row."""

    model: str
    """As in the plan; `row.model` is the name in tables."""
    scale: int
    row: BenchmarkRow
    """The row without measured values. Without `input_hw`, images are run in their own sizes."""
    device: Optional[str] = None

    @property
    def shape(self) -> str:
        return hw_text(self.row.input_hw) if self.row.input_hw else ""


def read_plan(path: Path) -> SweepPlan:
    """Read and check a plan. Raises an SrDeployError naming the problem before anything runs."""
    plan = read_dataclass(SweepPlan, path, InputError)
    for key in ("models", "shapes", "variants", "batch", "precisions", "protocols"):
        if not getattr(plan, key):
            raise InputError(f"{path}: {key} is empty; expected at least one")
    if not plan.backends and not plan.targets:
        raise InputError(
            f"{path}: neither backends nor targets; "
            f"expected {' or '.join(BACKENDS)}, or a target (srdeploy targets)"
        )
    for shape in plan.shapes:
        parse_hw(shape)
    for name in plan.targets:
        load_target(name)
    metrics = () if plan.metric is None else (plan.metric,)
    for key, values, choices in (
        ("backends", plan.backends, BACKENDS),
        ("precisions", plan.precisions, PRECISIONS),
        ("metric", metrics, METRICS),
    ):
        for value in values:
            if value not in choices:
                raise InputError(
                    f"{path}: {key} contains '{value}'; expected {' or '.join(choices)}"
                )
    if ("int8" in plan.precisions) != (plan.calibrate is not None):
        raise InputError(
            f"{path}: int8 in precisions and calibrate, the folder of HR pictures that INT8 graphs "
            "are calibrated with, belong together",
            hint="give both, or remove the one",
        )
    for protocol in map(get_protocol, plan.protocols):
        if plan.metric is not None and protocol.metric not in (None, plan.metric):
            raise InputError(
                f"{path}: {protocol.name} scores on {protocol.metric}, not on {plan.metric}",
                hint="remove metric",
            )
    for key, numbers, most in (
        ("batch", plan.batch, 1024),
        ("runs", (plan.runs,), 10000),
        ("threads", (plan.threads,), usable_cores()),
    ):
        for number in numbers:
            if number is not None and not 1 <= number <= most:
                raise InputError(f"{path}: {key} is {number}; expected 1 to {most}")
    return plan


def cells_of(plan: SweepPlan, images: ImageSet, device: Optional[str] = None) -> Dict[str, Cell]:
    """Return the cells of a plan by name. Raises an SrDeployError for an unknown model or variant.

    A name is readable. It changes with the weights, the images (by name and size), the settings,
    and in INT8 with the pictures for calibration.
    """
    pictures = _facts_of(image_set(plan.calibrate), 1) if plan.calibrate else []
    ways = [(backend, "") for backend in plan.backends]
    ways += [(load_target(target).runtime, target) for target in plan.targets]
    cells = {}
    for model in plan.models:
        networks = _describe_model(model, plan.variants)
        files = _facts_of(images, networks[0].scale or 1)
        code = [networks[0].identity] if networks[0].kind == "code" else []
        weights = networks[0].weights_sha256s
        facts = [*weights, *code, files, plan.metric, plan.threads, plan.runs]
        digests = {p: _digest([*facts, *([pictures] if p == "int8" else [])]) for p in PRECISIONS}
        for network, shape, batch, precision, (backend, target), protocol in itertools.product(
            networks, plan.shapes, plan.batch, plan.precisions, ways, plan.protocols
        ):
            any_size = backend == "torch" or network.kind == "router"
            any_size = any_size or _own_graph_accepts(target, shape)
            if get_protocol(protocol).of_images and any_size:
                shape = ""
            way = f"{backend} for {target}" if target else backend
            name = (
                f"{network.name} {shape or 'own sizes'} batch {batch} {precision} {way} "
                f"{protocol}{f' on {device}' if device else ''} #{digests[precision]}"
            )
            row = BenchmarkRow(
                model=network.model,
                variant=network.variant,
                backend=backend,
                target=target,
                precision_asked=precision,
                batch=batch,
                protocol=protocol,
                input_hw=parse_hw(shape) if shape else None,
                cell=name,
            )
            cells[name] = Cell(network.source, network.scale or 1, row, device)
    return cells


def _facts_of(images: ImageSet, scale: int) -> List[Tuple[str, int]]:
    """Return name and size of each file."""
    files = [path for pair in images.pairs(scale) for path in pair if path is not None]
    return [(path.name, path.stat().st_size) for path in files]


def _digest(facts: List[Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def _describe_model(model: str, variants: Sequence[str]) -> List[NetworkDescription]:
    if not model:
        raise InputError("models contains an empty name", hint="give names or paths of models")
    kind = kind_of(model)
    if kind in ("artifact", "plan", "folder"):
        raise InputError(
            f"{model} was exported from a model; a sweep takes models and exports them itself",
            hint="give that model",
        )
    all_variants = kind == "router" or tuple(variants) == ("all",)
    return describe(model, "all" if all_variants else variants)


def rows_from_plan(
    plan: SweepPlan,
    folder: Path,
    *,
    data: str = "",
    lr_data: str = "",
    device: Optional[str] = None,
    progress: Callable[[str], None] = lambda line: None,
) -> List[BenchmarkRow]:
    """Measure the cells that are missing in `folder/rows.jsonl`; return the rows of all cells.

    Each row is appended as soon as it is measured. data: a folder of HR images; empty:
    scikit-image's photographs. lr_data: their LR images; empty: made from HR. device: as in
    `RunOptions`, part of the cells' names. Graphs and engines are written to `folder/artifacts`. A
    failed cell counts as done; to repeat it, remove its line. Raises an SrDeployError if the plan
    is wrong.
    """
    images = image_set(data, lr_data)
    RunOptions(device=device)
    cells = cells_of(plan, images, device)
    # A bad image would fail every cell.
    metrics = {plan.metric_of(protocol) for protocol in plan.protocols}
    scales = {cell.scale for cell in cells.values()}
    for note in images.notes(scales):
        progress(note)
    check_images(images, metrics=metrics, scales=scales)
    images_given = ["--data", data, *(["--lr-data", lr_data] if lr_data else [])]
    make_output_folder(folder)
    file = folder / "rows.jsonl"
    if drop_partial_line(file):
        progress(f"{file}: removed an incomplete last line")
    old_rows = read_rows(file) if file.exists() else []
    rows = {row.cell: row for row in old_rows if row.cell in cells}
    todo = [name for name in cells if name not in rows]
    if rows:
        failed = sum(bool(row.error) for row in rows.values())
        progress(f"{len(rows)} of {len(cells)} cells are already done, {failed} of them failed")
    for number, name in enumerate(todo, 1):
        rows[name] = row = _measure_cell(cells[name], plan, images_given, folder / "artifacts")
        append_rows(file, [row])
        result = f"failed: {row.error}" if row.error else f"{time_ms(row):.2f} ms"
        progress(f"[{number}/{len(todo)}] {name}: {result}")
    return [rows[name] for name in cells]


class _CellError(Exception):
    """The reason why a cell has no measurement."""


def _measure_cell(
    cell: Cell, plan: SweepPlan, images: Sequence[str], artifacts: Path
) -> BenchmarkRow:
    """Export, build and measure by the same commands as a user."""
    row = cell.row
    try:
        if row.batch != 1:
            raise _CellError(f"batch {row.batch}: sessions take one image at a time")
        options = ["--protocol", row.protocol, *images]
        options += ["--device", cell.device] if cell.device else []
        keys = ["metric", "threads"]
        if not get_protocol(row.protocol).of_images:
            options += ["--size", cell.shape]
            keys.append("runs")
        for key in keys:
            if getattr(plan, key) is not None:
                options += [f"--{key}", str(getattr(plan, key))]
        if row.backend == "torch":
            if row.precision_asked not in RUN_PRECISIONS:
                raise _CellError(
                    f"torch runs in {' or '.join(RUN_PRECISIONS)}, not in {row.precision_asked}"
                )
            network = [cell.model, *(["--variants", row.variant] if row.variant else [])]
            network += ["--runtime", "torch"]
            if row.precision_asked != "fp32":
                options += ["--precision", row.precision_asked]
        else:
            network = [_build_artifact(cell, plan.calibrate, artifacts)]
        rows = json.loads(_srdeploy("bench", *network, *options, "--json"))
        if len(rows) != 1:
            raise _CellError(f"{len(rows)} rows for one cell")
        measured = from_dict(BenchmarkRow, rows[0], source="a child's row", error=InputError)
        return replace(measured, error=_one_line(measured.error), cell=row.cell)
    except _CellError as e:
        return replace(row, error=_one_line(str(e)))


def _own_graph_accepts(target: str, shape: str) -> bool:
    """Whether a target's default graph is dynamic and accepts the size, so images need no tiles."""
    if not target:
        return False
    own = parse_sizes(load_target(target).shapes[0])
    return own.dynamic and all(
        low <= n <= high for low, n, high in zip(own.min, parse_hw(shape), own.max)
    )


def _build_artifact(cell: Cell, calibrate: Optional[str], artifacts: Path) -> str:
    """Return the path of the cell's graph, plan or engine."""
    row = cell.row
    if not row.target and row.precision_asked not in GRAPH_DTYPES:
        choices = " or ".join(GRAPH_DTYPES)
        raise _CellError(f"{row.precision_asked} needs a target; graphs for none are in {choices}")
    target = ["--target", row.target] if row.target else []
    output = ["-o", str(artifacts / (Path(row.target).stem or "onnx"))]
    if kind_of(cell.model) == "router":
        if row.target:
            raise _CellError("routers have no engines; the backend onnxruntime runs their graphs")
        if row.precision_asked != "fp32":
            raise _CellError(f"the graphs of routers are in fp32, not in {row.precision_asked}")
        return _srdeploy("export", cell.model, "--adaptive", *output).split("\n")[0]
    size = ["--size", cell.shape]
    if not cell.shape or _own_graph_accepts(row.target, cell.shape):
        size = []
    variants = ["--variants", row.variant] if row.variant else []
    options = [*variants, *size, "--precision", row.precision_asked, *target]
    if row.precision_asked == "int8" and calibrate is not None:
        options += ["--calibrate", calibrate]
    graph = _srdeploy("export", cell.model, *options, *output).split("\n")[0]
    if not row.target:
        return graph
    return _srdeploy("build-engine", graph, *target, *output).split("\n")[0]


def _srdeploy(*arguments: str) -> str:
    """Run a srdeploy command in a child process and return its output. Raises _CellError."""
    command = [sys.executable, "-m", "sr_deploy.cli.child", *arguments]
    done = run_with_lifeline(command)
    if done.returncode == 0:
        return done.stdout
    if done.returncode < 0:
        name = signal_name(-done.returncode)
        raise _CellError(f"srdeploy {arguments[0]} was ended by {name}: the backend crashed")
    error = re.search(r"^error: (.*)", done.stderr, re.M)
    if error:
        raise _CellError(error[1])
    last = ([line for line in done.stderr.splitlines() if line.strip()] or ["no message"])[-1]
    raise _CellError(f"srdeploy {arguments[0]} exited with {done.returncode}: {last}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
