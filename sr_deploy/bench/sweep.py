"""A plan of many measurements, each cell in a process of its own: what crashes or cannot be made is a row with its error."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from sr_deploy.bench.evaluate import ImageSet, check_images, image_set
from sr_deploy.core.device import usable_cores
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import make_output_folder
from sr_deploy.core.jsonio import from_dict, read_json
from sr_deploy.core.metrics import METRICS
from sr_deploy.core.sizes import parse_hw, parse_sizes
from sr_deploy.core.target import PRECISIONS, load_target
from sr_deploy.results.protocols import DEFAULT_PROTOCOL, get_protocol, time_ms
from sr_deploy.results.rows import BenchmarkRow, append_rows, drop_partial_line, read_rows
from sr_deploy.runtime.opener import NetworkDescription, describe, kind_of

BACKENDS = ("torch", "onnxruntime")
"""What runs a checkpoint, or a graph for no target, as they are. Engines are named by their target."""
_GRACE_S = 10.0
"""How long a child may take to end by itself after an interrupt."""


@dataclass(frozen=True)
class Plan:
    """The cells are every combination of models, variants, shapes, batch, precisions, and backends with targets in one list."""

    models: Tuple[str, ...]
    shapes: Tuple[str, ...]
    """LR sizes, `256x512`."""
    variants: Tuple[str, ...] = ("all",)
    batch: Tuple[int, ...] = (1,)
    precisions: Tuple[str, ...] = ("fp32",)
    backends: Tuple[str, ...] = ()
    """torch for checkpoints, onnxruntime for graphs that are for no target."""
    targets: Tuple[str, ...] = ()
    """Profiles to build engines for."""
    protocols: Tuple[str, ...] = (DEFAULT_PROTOCOL,)
    metric: Optional[str] = None
    threads: Optional[int] = None
    runs: Optional[int] = None


@dataclass(frozen=True)
class Cell:
    """One combination, which gives one row."""

    model: str
    """As the plan has it."""
    name: str
    """As rows have it."""
    scale: int
    variant: str
    shape: str
    """Empty: the images' own sizes, by a challenge's protocol, where what runs takes them."""
    batch: int
    precision: str
    backend: str
    target: str
    """Empty: the checkpoint or graph itself."""
    protocol: str


def read_plan(path: Path) -> Plan:
    """Read and check a plan. Raises InputError, or another SrDeployError, naming what is wrong before anything runs."""
    plan = from_dict(Plan, read_json(path, InputError), source=path, error=InputError)
    for key in ("models", "shapes", "variants", "batch", "precisions", "protocols"):
        if not getattr(plan, key):
            raise InputError(f"{path}: {key} is empty; expected at least one")
    if not plan.backends and not plan.targets:
        raise InputError(
            f"{path}: neither backends nor targets; expected {' or '.join(BACKENDS)}, or a target (srdeploy targets)"
        )
    for shape in plan.shapes:
        parse_hw(shape)
    metric = () if plan.metric is None else (plan.metric,)
    named = (
        ("backends", plan.backends, BACKENDS),
        ("precisions", plan.precisions, PRECISIONS),
        ("metric", metric, METRICS),
    )
    for key, values, known in named:
        for value in values:
            if value not in known:
                raise InputError(f"{path}: {key} holds '{value}'; expected {' or '.join(known)}")
    for protocol in map(get_protocol, plan.protocols):
        if plan.metric is not None and protocol.metric not in (None, plan.metric):
            raise InputError(
                f"{path}: {protocol.name} scores on {protocol.metric}, not {plan.metric}",
                hint="leave metric out",
            )
    for key, values, most in (
        ("batch", plan.batch, 1024),
        ("runs", (plan.runs,), 10000),
        ("threads", (plan.threads,), usable_cores()),
    ):
        for number in values:
            if number is not None and not 1 <= number <= most:
                raise InputError(f"{path}: {key} is {number}; expected 1 to {most}")
    for name in plan.targets:
        load_target(name)
    return plan


def cells_of(plan: Plan, images: ImageSet) -> Dict[str, Cell]:
    """Return the cells of a plan by name. Raises an SrDeployError when there is no such model, or it does not hold a variant.

    A name is readable, and another one as soon as weights, images (by name and size) or settings are others.
    """
    ways = [(backend, "") for backend in plan.backends] + [
        (load_target(t).runtime, t) for t in plan.targets
    ]
    settings = [
        [(p.name, p.stat().st_size) for p in images.files],
        plan.metric,
        plan.threads,
        plan.runs,
    ]
    cells = {}
    for model in plan.models:
        networks = _describe_model(model, plan.variants)
        weights = networks[0].weights_sha256s
        digest = hashlib.sha256(
            json.dumps([*weights, *settings], sort_keys=True).encode()
        ).hexdigest()[:8]
        axes = (networks, plan.shapes, plan.batch, plan.precisions, ways, plan.protocols)
        for network, shape, batch, precision, (backend, target), protocol in itertools.product(
            *axes
        ):
            way = f"{backend} for {target}" if target else backend
            any_size = (
                backend == "torch" or network.kind == "router" or _own_graph_takes(target, shape)
            )
            if get_protocol(protocol).of_images and any_size:
                shape = ""
            name = f"{network.name} {shape or 'own sizes'} batch {batch} {precision} {way} {protocol} #{digest}"
            cells[name] = Cell(
                network.source,
                network.model,
                network.scale or 1,
                network.variant,
                shape,
                batch,
                precision,
                backend,
                target,
                protocol,
            )
    return cells


def _describe_model(model: str, variants: Sequence[str]) -> List[NetworkDescription]:
    kind = kind_of(model)
    if kind not in ("checkpoint", "router"):
        raise InputError(
            f"{model} was exported from a model; a sweep takes models and makes the rest",
            hint="give that model",
        )
    everything = kind == "router" or tuple(variants) == ("all",)
    return describe(model, "all" if everything else variants)


def rows_from_plan(
    plan: Plan, folder: Path, *, data: str = "", progress: Callable[[str], None] = lambda line: None
) -> List[BenchmarkRow]:
    """Measure the cells that `folder/rows.jsonl` lacks, appending each row at once; return the rows of all cells of the plan.

    data: a folder of HR images; empty: scikit-image's photographs. Graphs and engines lie in `folder/artifacts`. A cell that
    failed counts as done: to try it again, take its line away. Raises an SrDeployError when the plan, not a cell, is wrong.
    """
    images = image_set(data)
    cells = cells_of(plan, images)
    metrics = {
        protocol.metric or plan.metric or "y" for protocol in map(get_protocol, plan.protocols)
    }
    for metric, scale in itertools.product(metrics, {cell.scale for cell in cells.values()}):
        check_images(images, metrics=[metric], scales=[scale])  # a bad image would fail every cell
    make_output_folder(folder)
    file = folder / "rows.jsonl"
    if drop_partial_line(file):
        progress(f"{file}: took away a last line that was written only half")
    rows = {
        row.cell: row for row in (read_rows(file) if file.exists() else []) if row.cell in cells
    }
    todo = [name for name in cells if name not in rows]
    if rows:
        progress(
            f"{len(rows)} of {len(cells)} cells are done already, {sum(bool(r.error) for r in rows.values())} of them failed"
        )
    for number, name in enumerate(todo, 1):
        rows[name] = row = replace(
            _measured(cells[name], plan, data, folder / "artifacts"), cell=name
        )
        append_rows(file, [row])
        progress(
            f"[{number}/{len(todo)}] {name}: "
            + (f"failed: {row.error}" if row.error else f"{time_ms(row):.2f} ms")
        )
    return [rows[name] for name in cells]


class _FailedError(Exception):
    pass


def _measured(cell: Cell, plan: Plan, data: str, artifacts: Path) -> BenchmarkRow:
    """Make what the cell needs and measure it, by the commands a user would give."""
    subject = BenchmarkRow(
        model=cell.name,
        variant=cell.variant,
        backend=cell.backend,
        target=cell.target,
        precision_asked=cell.precision,
        batch=cell.batch,
        protocol=cell.protocol,
        input_hw=parse_hw(cell.shape) if cell.shape else None,
    )
    try:
        if cell.batch != 1:
            raise _FailedError(f"batch {cell.batch}: sessions take one image at a time")
        if cell.backend == "torch" and cell.precision != "fp32":
            raise _FailedError(f"torch runs checkpoints in fp32, not {cell.precision}")
        options = ["--protocol", cell.protocol, "--data", data]
        of_images = get_protocol(cell.protocol).of_images
        options += [] if of_images else ["--lr", cell.shape]
        for key in ("metric", "threads") if of_images else ("metric", "threads", "runs"):
            if getattr(plan, key) is not None:
                options += [f"--{key}", str(getattr(plan, key))]
        chosen = ["--variants", cell.variant] if cell.variant else []
        what = [cell.model, *chosen] if cell.backend == "torch" else [_artifact(cell, artifacts)]
        rows = json.loads(_srdeploy("bench", *what, *options, "--json"))
        row = from_dict(
            BenchmarkRow, rows[0], source="the row of a child process", error=InputError
        )
        return (
            replace(row, error=_one_line(row.error))
            if len(rows) == 1
            else replace(subject, error=f"{len(rows)} rows for one cell")
        )
    except _FailedError as e:
        return replace(subject, error=_one_line(str(e)))


def _own_graph_takes(target: str, shape: str) -> bool:
    """Whether a target's own graph is dynamic and takes the size: then images are scored whole, not in tiles."""
    if not target:
        return False
    own = parse_sizes(load_target(target).shapes[0])
    return own.dynamic and all(
        least <= n <= most for least, n, most in zip(own.min, parse_hw(shape), own.max)
    )


def _artifact(cell: Cell, artifacts: Path) -> str:
    target = ["--target", cell.target] if cell.target else []
    folder = artifacts / (cell.target or "onnx")
    if kind_of(cell.model) == "router":
        if cell.target:
            raise _FailedError(
                "no engines of routers are made: their graphs are run by the backend onnxruntime"
            )
        if cell.precision != "fp32":
            raise _FailedError(f"the graphs of routers are in fp32, not {cell.precision}")
        return _srdeploy("export", cell.model, "--adaptive", "-o", str(folder)).split("\n")[0]
    size = (
        []
        if not cell.shape or _own_graph_takes(cell.target, cell.shape)
        else ["--shape", cell.shape]
    )
    graph = _srdeploy(
        "export",
        cell.model,
        "--variants",
        cell.variant,
        *size,
        "--precision",
        cell.precision,
        *target,
        "-o",
        str(folder),
    ).split("\n")[0]
    if not cell.target:
        return graph
    return _srdeploy("build-engine", graph, *target, "-o", str(folder)).split("\n")[0]


def _srdeploy(*arguments: str) -> str:
    """Run a command of ours in a process of its own and return what it prints. Raises _FailedError with its reason.

    The process ends when this one does: a killed sweep leaves none behind.
    """
    done = _run_on_leash([sys.executable, "-m", "sr_deploy.cli.child", *arguments])
    if done.returncode == 0:
        return done.stdout
    if done.returncode < 0:
        raise _FailedError(
            f"srdeploy {arguments[0]} was ended by {_signal_name(-done.returncode)}: the backend crashed"
        )
    said = re.search(r"^error: (.*)", done.stderr, re.M)
    last = ([line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"])[-1]
    raise _FailedError(
        said[1] if said else f"srdeploy {arguments[0]} ended with {done.returncode}: {last}"
    )


def _run_on_leash(command: Sequence[str]) -> subprocess.CompletedProcess:
    """Run a process whose standard input is closed when this process ends, or is interrupted: `cli/child.py` ends then."""
    read, write = os.pipe()
    with contextlib.closing(os.fdopen(write, "wb")) as leash:
        try:
            child = subprocess.Popen(
                command,
                stdin=read,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
        finally:
            os.close(read)
        with child:
            try:
                out, err = child.communicate()
            except BaseException:
                leash.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_GRACE_S)
                child.kill()
                raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
