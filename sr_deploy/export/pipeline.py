"""From a source to verified ONNX graphs with manifests, one for each variant and size."""

from __future__ import annotations

import importlib.metadata
import math
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import onnx

from sr_deploy.core.errors import BuildError, ExportError, InputError, MissingPackageError
from sr_deploy.core.files import make_output_folder
from sr_deploy.core.manifest import (
    UP_TO_DATE,
    Manifest,
    is_up_to_date,
    recorded_command,
    up_to_date_lines,
    write_artifact,
)
from sr_deploy.core.precisions import GRAPH_DTYPES, PRECISIONS
from sr_deploy.core.progress import Progress, as_progress
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.sizes import HW, Sizes, hw_text, parse_sizes, up_to_multiple
from sr_deploy.core.spec import Variant, check_min_hw, network_name
from sr_deploy.core.target import (
    CHANNEL_QUANTISATION,
    HALF_QUANTISATION,
    TargetProfile,
    load_target,
    targets_with,
)
from sr_deploy.core.version import __version__
from sr_deploy.export.checkpoint_source import CheckpointSource
from sr_deploy.export.fallback import Searchable, choose_fp32_nodes
from sr_deploy.export.forms import LITERAL
from sr_deploy.export.half import HalfGraph, halved, plain_graph, precision_of, prepared
from sr_deploy.export.int8.calibration import (
    CROP_HW,
    Calibration,
    read_calibration,
    sample_calibration,
)
from sr_deploy.export.int8.keep import AUTO, ENDS, NONE
from sr_deploy.export.int8.quantise import Int8Graph, Int8Options, int8_graph, loss_text
from sr_deploy.export.layer_norm import reads_layer_norm, split_layer_norms
from sr_deploy.export.opset import EXPORTED
from sr_deploy.export.source import SOURCES, Source, SourceFacts, SourceGraph
from sr_deploy.export.verify import (
    check_half_precision,
    check_sizes,
    compare_with_fp32,
    compare_with_source,
)
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.runtime.opener import require_kind
from sr_deploy.runtime.ort import raw_session
from sr_deploy.runtime.ort_device import OrtDevice, ort_device
from sr_deploy.runtime.preflight import preflight, refuse, summary

DEFAULT_OPSET = 17
LEAST_INT8_PSNR_DB = 20.0
"""Of an INT8 graph against FP32: below it is broken. What it may lose is `ExportOptions`' limit."""


@dataclass(frozen=True)
class ExportOptions:
    """What to export. Raises InputError or TargetError for values that cannot be exported.

    >>> options = sr_deploy.ExportOptions("d1,d3", sizes=["256x512"], target="rtx")
    """

    variants: Union[str, Sequence[str], None] = None
    """`d1,d3` or a list; None or `all`: those of the paper's table."""
    sizes: Sequence[str] = ()
    """LR sizes `256x512`, and ranges `MIN:OPT:MAX` for dynamic graphs; empty: the target's own."""
    precision: Optional[str] = None
    """Of the engine, one of `PRECISIONS`; None: the target's own, `fp16` without a target."""
    target: Optional[str] = None
    """The name or the file of a target profile."""
    literal: bool = False
    """Export the network as it is written, without the exact rewrites of `nets/fuse.py`."""
    candidates: bool = False
    """Export every form of each network (`export/forms.py`), for `tuned_engine_from_onnx`."""
    device: Optional[str] = None
    """Where FP16 graphs are run for their check; None: the GPU if ONNX Runtime can use one."""
    fallback: str = ""
    """Nodes that FP16 graphs compute in FP32: `auto` (the fewest that suffice), `head-tail` or
    `NODE,NODE`; empty: none."""
    calibrate: Optional[str] = None
    """The folder of HR pictures that INT8 graphs are calibrated with."""
    keep: str = "auto"
    """Convolutions that INT8 graphs do not quantise: `auto` (the fewest that reach the limit),
    `ends` (the first and the last), `none`, or `NODE,NODE`."""
    max_loss_db: float = 0.10
    """The PSNR that an INT8 graph may lose against FP32."""
    data: Optional[str] = None
    """The folder of HR pictures on which that loss is measured; None: the half of `calibrate` that
    is not calibrated with."""

    def __post_init__(self) -> None:
        RunOptions(device=self.device)
        if self.literal and self.candidates:
            raise InputError(
                "--literal and --candidates exclude each other",
                hint="the literal network is never the fastest",
            )
        if self.fallback and self.precision not in (None, "fp16"):
            raise InputError(
                "--fallback keeps nodes of an FP16 graph in FP32, but --precision is "
                f"{self.precision}",
                hint="--keep does it for INT8 graphs" if self.precision == "int8" else "omit it",
            )
        if not (math.isfinite(self.max_loss_db) and self.max_loss_db >= 0):
            raise InputError(f"--max-loss-db {self.max_loss_db}: expected 0 dB or more")
        if self.data is not None and self.calibrate is None:
            raise InputError(
                "--data measures INT8 graphs that --calibrate calibrates, and that is not given",
                hint="give both, or --calibrate alone: one half of its pictures measures",
            )
        if not self.keep:
            raise InputError(f"--keep is empty; expected {AUTO}, {ENDS}, {NONE} or NODE,NODE")
        if self.target is None and self.precision not in (None, *PRECISIONS):
            raise InputError(
                f"unknown precision '{self.precision}'; expected {', '.join(PRECISIONS)}"
            )
        for text in self.sizes:
            parse_sizes(text)


@dataclass(frozen=True)
class _Settings:
    """The types and the opset that precision and target lead to."""

    target: Optional[TargetProfile]
    precision: str
    """Of the engine."""
    graph_dtype: str
    io_dtype: str
    opset: int

    @staticmethod
    def from_options(options: ExportOptions) -> _Settings:
        if options.target is None:
            precision = options.precision or "fp16"
            if precision not in GRAPH_DTYPES:
                raise InputError(
                    f"{precision} graphs are made for a target, and none is given",
                    hint=f"give one with --target: {', '.join(targets_with(precision))}",
                )
            _refuse_int8_options(options, precision)
            return _Settings(None, precision, precision, "fp32", DEFAULT_OPSET)
        target = load_target(options.target)
        precision = target.check_precision(options.precision)
        _refuse_int8_options(options, precision)
        if options.fallback and precision == "fp32":
            raise InputError(
                f"--fallback keeps nodes of an FP16 graph in FP32, but graphs for '{target.name}' "
                "are FP32",
                hint="omit --fallback, or give --precision fp16"
                if "fp16" in target.precisions
                else "omit --fallback",
            )
        graph_dtype = target.graph_dtype(precision)
        io_dtype = target.io_dtype if graph_dtype == "fp16" else "fp32"
        opset = min(target.opset, EXPORTED)
        return _Settings(target, precision, graph_dtype, io_dtype, opset)


def _refuse_int8_options(options: ExportOptions, precision: str) -> None:
    """Raise InputError for options of INT8 graphs, if the graphs are of another precision."""
    given = {
        "--calibrate": options.calibrate is not None,
        "--keep": options.keep != AUTO,
        "--max-loss-db": options.max_loss_db != ExportOptions.max_loss_db,
        "--data": options.data is not None,
    }
    names = [name for name in given if given[name]]
    if names and precision != "int8":
        raise InputError(
            f"{' and '.join(names)}: for INT8 graphs only, and these are {precision}",
            hint="give --precision int8, or omit " + " and ".join(names),
        )


@dataclass(frozen=True)
class _GraphTask:
    """One graph to export."""

    source: Source
    variant: Variant
    facts: SourceFacts
    sizes: Sizes
    form: str
    options: ExportOptions
    settings: _Settings
    device: OrtDevice
    calibration: Optional[Calibration] = None
    """Of INT8 graphs."""

    @property
    def file_name(self) -> str:
        form = f".{self.form}" if self.options.candidates else ""
        end = f"{self.settings.precision}{form}" + (".fallback" if self.options.fallback else "")
        return f"{network_name(self.source.name, self.variant)}.{self.sizes}.{end}.onnx"

    @property
    def opset(self) -> int:
        """The opset of the file."""
        settings = self.settings
        if settings.precision != "int8":
            return settings.opset
        half = settings.graph_dtype == "fp16"
        return max(settings.opset, HALF_QUANTISATION if half else CHANNEL_QUANTISATION)

    @property
    def command(self) -> str:
        """The command that exports this graph."""
        target, variant, options = self.settings.target, str(self.variant), self.options
        quoted = {
            "--fallback": options.fallback,
            "--calibrate": options.calibrate,
            "--data": options.data,
            "--keep": options.keep if options.keep != AUTO else "",
        }
        return (
            f"{self.source.command} "
            + (f"--variants {variant} " if variant else "")
            + f"{self.sizes.option} --precision {self.settings.precision}"
            + (f" --target {target.option}" if target else "")
            + (" --literal" if options.literal else "")
            + (" --candidates" if options.candidates else "")
            + "".join(f" {name} {shlex.quote(value)}" for name, value in quoted.items() if value)
            + (f" --max-loss-db {options.max_loss_db:g}" if self.calibration else "")
        )

    def manifest(self) -> Manifest:
        """Return the manifest as far as it is known before the export."""
        source, facts, settings = self.source, self.facts, self.settings
        return Manifest(
            kind="onnx",
            model=source.name,
            variant=str(self.variant),
            arch=facts.arch,
            scale=source.scale,
            min_shape=self.sizes.min,
            opt_shape=self.sizes.opt,
            max_shape=self.sizes.max,
            input_dtype=settings.io_dtype,
            output_dtype=settings.io_dtype,
            precision_asked=settings.precision,
            precision_obtained="",
            target=settings.target.name if settings.target else "",
            parent_sha256=source.parent_sha256,
            command=self.command,
            versions=_versions(settings.target, source.digest, self.calibration),
            opset=self.opset,
            form=self.form if self.options.candidates else "",
            structure=facts.structure,
            halo_px=facts.halo_px,
            align_px=facts.align_px,
            multiple=facts.multiple,
            min_px=facts.min_px,
            degradation=facts.degradation,
        )


def onnx_from_checkpoint(
    model: Union[str, Path, Checkpoint],
    output: Union[str, Path],
    options: Optional[ExportOptions] = None,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Export variants of a model to `output`; return the paths of the graphs.

    >>> options = sr_deploy.ExportOptions(sizes=["64x64"], target="cpu")
    >>> [path.name for path in sr_deploy.onnx_from_checkpoint("fsrcnn-w16_x4", "graphs", options)]
    ['fsrcnn-w16_x4.w16.64x64.fp32.onnx']

    model: a shipped name (`asrn_x4`, `asrn_x4.d1`), the path of a checkpoint or of an imported
    graph, a network's code (`mynet.py:Net`), or a loaded checkpoint. Otherwise as
    `onnx_from_source`.
    """
    options = options or ExportOptions()
    if isinstance(model, Checkpoint):
        return onnx_from_source(CheckpointSource(model), output, options, progress=progress)
    text, variant, kind = require_kind(str(model), "export", SOURCES)
    if variant is not None:
        if options.variants not in (None, "all", variant):
            raise InputError(f"the model names variant {variant}, but the options name others")
        options = replace(options, variants=variant)
    return onnx_from_source(SOURCES[kind].from_text(text), output, options, progress=progress)


@dataclass(frozen=True)
class ExportJob:
    """A source, the folder of its graphs, and what to export."""

    source: Source
    output: Path
    options: ExportOptions = ExportOptions()


@dataclass(frozen=True)
class PlannedGraph:
    """A graph that an export makes or keeps."""

    path: Path
    sizes: str
    """`256x512`, or `MIN:OPT:MAX` of a dynamic graph."""
    precision: str
    """Of the engine."""
    state: str
    """`up to date`, `out of date` (there is another file of that name) or `missing`."""

    @property
    def to_make(self) -> bool:
        return self.state != UP_TO_DATE


def planned_graphs(jobs: Sequence[ExportJob]) -> List[PlannedGraph]:
    """Return the graphs of some exports, and which of them are there. Writes nothing.

    Raises the SrDeployErrors of the jobs' options.
    """
    return [_planned(task, job.output / task.file_name) for job in jobs for task in _tasks(job)]


def _planned(task: _GraphTask, path: Path) -> PlannedGraph:
    state = UP_TO_DATE if is_up_to_date(path, task.manifest()) else "out of date"
    state = state if path.exists() else "missing"
    return PlannedGraph(path, task.sizes.text, task.settings.precision, state)


def onnx_from_source(
    source: Source,
    output: Union[str, Path],
    options: Optional[ExportOptions] = None,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Export variants of a source to `output`; return the paths of the graphs.

    There is one graph for each variant and size (and form, for candidates). Graphs that are up to
    date are not exported again. Raises an SrDeployError. A graph that fails a check is not written;
    finished ones remain.
    """
    job = ExportJob(source, Path(output), options or ExportOptions())
    return onnx_from_jobs([job], progress=progress)


def onnx_from_jobs(
    jobs: Sequence[ExportJob], *, progress: Callable[[str], None] = lambda line: None
) -> List[Path]:
    """Export several sources, or one for several targets; return the paths of all graphs.

    The options of all are checked before the first is exported. Otherwise as `onnx_from_source`.
    """
    tasks = {job.output / task.file_name: task for job in jobs for task in _tasks(job)}
    for job in jobs:
        make_output_folder(job.output)
    todo = [path for path, task in tasks.items() if not is_up_to_date(path, task.manifest())]
    report, done = as_progress(progress), len(tasks) - len(todo)
    for line in up_to_date_lines([path for path in tasks if path not in todo]):
        report(line)
    for line in dict.fromkeys(line for path in todo for line in _notes(tasks[path])):
        report(line)
    with report.track("exporting", len(tasks), done=done) as advance:
        for number, path in enumerate(todo, done + 1):
            advance(path.name, steps=0)
            report(f"[{number}/{len(tasks)}] {_export(tasks[path], path, report)}")
            advance()
    return list(tasks)


def _tasks(job: ExportJob) -> List[_GraphTask]:
    """Return the graphs of a job. Raises SrDeployErrors for options that cannot be exported."""
    source, options = job.source, job.options
    settings = _Settings.from_options(options)
    variants = source.variants(options.variants)
    settings = replace(settings, opset=source.opset(settings.opset))
    ranges = [parse_sizes(text) for text in options.sizes or source.default_sizes(settings.target)]
    for sizes in ranges:
        check_min_hw(sizes.min, source.min_hw, what=source.name)
    device = ort_device(RunOptions(device=options.device))
    calibrations = _calibrations(source, variants, options, settings)
    tasks = [
        _GraphTask(
            source,
            variant,
            source.facts(variant),
            sizes,
            form,
            options,
            settings,
            device,
            calibrations.get(str(variant)),
        )
        for variant in variants
        for sizes in ranges
        for form in _forms(source, variant, options, settings)
    ]
    for task in tasks:
        _check_multiple(task)
    return tasks


def _calibrations(
    source: Source, variants: Sequence[Variant], options: ExportOptions, settings: _Settings
) -> Dict[str, Calibration]:
    """Return the crops for INT8 graphs of each variant; empty for other precisions."""
    if settings.precision != "int8":
        return {}
    for variant in variants:
        quantised = source.facts(variant).quantised
        if quantised:
            raise InputError(
                f"{source.text} is quantised already: {quantised}",
                hint="give the FP32 network that it was made from, or omit --precision int8",
            )
    sizes = {str(variant): source.crop_hw(variant, CROP_HW) for variant in variants}
    trained = all(source.input_ranges(variant) for variant in variants)
    if options.calibrate is None and not trained:
        raise InputError(
            "INT8 graphs are calibrated with pictures, and none are given",
            hint="give a folder of HR pictures with --calibrate",
        )
    how: Dict[str, Any] = {
        "scale": source.scale,
        "degradation": source.facts(variants[0]).degradation,
    }
    if options.calibrate is None:
        read = {hw: sample_calibration(hw=hw, **how) for hw in set(sizes.values())}
    else:
        folder, data = Path(options.calibrate), Path(options.data) if options.data else None
        read = {hw: read_calibration(folder, hw=hw, data=data, **how) for hw in set(sizes.values())}
    return {variant: read[hw] for variant, hw in sizes.items()}


def _notes(task: _GraphTask) -> List[str]:
    """Return lines about the device that FP16 graphs are checked on, where there is a choice, and
    about the pictures that INT8 graphs are calibrated with."""
    if task.calibration is not None:
        return list(task.calibration.notes)
    if task.settings.graph_dtype == "fp16" and task.device.name:
        return [f"FP16 graphs are checked on {task.device.name}"]
    if task.settings.graph_dtype == "fp16" and task.device.why_cpu:
        return [f"FP16 graphs are checked on the CPU: {task.device.why_cpu}"]
    return []


def _check_multiple(task: _GraphTask) -> None:
    multiple = task.facts.multiple
    for hw in (task.sizes.min, task.sizes.opt, task.sizes.max):
        if hw[0] % multiple or hw[1] % multiple:
            nearest = up_to_multiple(hw, multiple)
            raise InputError(
                f"{task.source.name} takes multiples of {multiple} only, not {hw_text(hw)}",
                hint=f"give for example {hw_text(nearest)}; other sizes of images are mirrored up",
            )


def _forms(
    source: Source,
    variant: Variant,
    options: ExportOptions,
    settings: _Settings,
) -> List[str]:
    if options.literal:
        return [LITERAL]
    if options.candidates:
        return source.candidates(variant)
    return [source.default_form(variant, settings.target, settings.precision)]


def _export(task: _GraphTask, path: Path, report: Progress) -> str:
    """Export a graph; return a line about it."""
    manifest, target = task.manifest(), task.settings.target
    source_graph = _source_graph(task, task.sizes)
    graph, fp32_nodes, checks = _checked_graph(task, source_graph, path.name, report)
    manifest = replace(
        manifest,
        precision_obtained=task.facts.quantised or precision_of(graph),
        fp32_nodes=fp32_nodes,
        nodes=len(graph.graph.node),
        checks=checks,
        not_checked=_not_checked(task),
        counts=source_graph.counts,
    )
    _write_properties(graph, manifest)

    def write(temporary: Path) -> Manifest:
        onnx.save(graph, str(temporary))
        if target is None:
            return manifest
        findings = preflight(temporary, target, precision=task.settings.precision)
        try:
            refuse(findings, path.name, target)
        except BuildError as e:
            raise ExportError(e.message, hint=e.hint) from e
        return replace(manifest, checks={**checks, "preflight": summary(findings, target)})

    previous = recorded_command(path)
    replaced = previous and previous != manifest.command
    line = _line(path, write_artifact(path, write), task.source.check_name)
    return f"{line}; replaces the graph of: {previous}" if replaced else line


def _source_graph(task: _GraphTask, sizes: Sizes) -> SourceGraph:
    """Return the source's graph, with operators that the target's parser reads."""
    graph = task.source.graph(task.variant, sizes, task.form, task.settings.opset)
    target = task.settings.target
    if target is None or reads_layer_norm(target):
        return graph
    split = split_layer_norms(graph.model)
    added = len(split.graph.node) - len(graph.model.graph.node)
    report: Dict[str, object] = {"pass": "split-layer-norms", "nodes_added": added}
    return replace(graph, model=split, rewrites=graph.rewrites + ([report] if added else []))


def _checked_graph(
    task: _GraphTask, source_graph: SourceGraph, name: str, report: Progress
) -> Tuple[onnx.ModelProto, Tuple[str, ...], Dict[str, Any]]:
    """Return the graph in its type, its FP32 nodes, and the results of its checks.

    Raises ExportError.
    """
    settings, sizes, fp32 = task.settings, task.sizes, source_graph.model
    session = raw_session(fp32.SerializeToString())
    is_half = settings.graph_dtype == "fp16"
    compared = "the FP32 graph this file was made from" if is_half else "this file"
    checked = check_sizes(sizes, task.facts.multiple)
    fp32_check = compare_with_source(session, task.source, source_graph, checked, name)
    checks: Dict[str, Any] = {
        task.source.check_name: {**fp32_check, "graph": compared},
        "rewrites": source_graph.rewrites,
        "opset": f"every node is of opset {task.opset}",
    }
    graph = fp32
    fp32_nodes: Tuple[str, ...] = ()
    if settings.precision == "fp16":
        half, fallback = _half_graph(task, fp32, session, name)
        checks["fp16"] = check_half_precision(half, session, sizes, name)
        if fallback:
            checks["fp16"]["fallback"] = fallback
        fp32_nodes = half.fp32_nodes
        if is_half:
            graph = half.model
            checks["this_file_vs_fp32_graph"] = compare_with_fp32(
                half.model, session, checked, name, task.device
            )
        elif fp32_nodes:
            graph = plain_graph(fp32)  # the builder is given names of nodes: each has one
    if task.calibration is not None:
        if is_half:
            checks["rest_in_fp16"] = _checked_rest(fp32, session, task, name)
        made = _int8_graph(task, source_graph, name, report)
        checks["int8"] = made.record
        checks["this_file_vs_fp32_graph"] = {
            **compare_with_fp32(
                made.model, session, checked, name, OrtDevice(), least_db=LEAST_INT8_PSNR_DB
            ),
            "precision": "int8",
        }
        return made.model, made.kept, checks
    precision = precision_of(graph)
    mixed = is_half and fp32_nodes and precision.startswith("mixed")
    if precision != settings.graph_dtype and not mixed and not task.facts.quantised:
        raise ExportError(
            f"{name}: the graph's tensors are {precision}, expected {settings.graph_dtype}"
        )
    return graph, fp32_nodes, checks


def _checked_rest(
    fp32: onnx.ModelProto, session: Any, task: _GraphTask, name: str
) -> Dict[str, Any]:
    """Check that what an INT8 graph leaves in FP16 has no overflow there. Raises ExportError."""
    try:
        half = halved(prepared(fp32), io_dtype=task.settings.io_dtype)
        return check_half_precision(half, session, task.sizes, name)
    except ExportError as e:
        raise ExportError(
            f"what INT8 leaves in FP16: {e.message}",
            hint="FP16 graphs can keep nodes in FP32: --precision fp16 --fallback auto",
        ) from e


def _int8_graph(
    task: _GraphTask, source_graph: SourceGraph, name: str, report: Progress
) -> Int8Graph:
    """Return the graph in INT8. It is measured on crops, so also made for their size."""
    target, options, calibration = task.settings.target, task.options, task.calibration
    assert target is not None and target.int8 is not None and calibration is not None
    hw, low, high = calibration.hw, task.sizes.min, task.sizes.max
    inside = all(a <= side <= b for a, side, b in zip(low, hw, high))
    at_crops = None if inside else _source_graph(task, Sizes(hw, hw, hw)).model
    asked = Int8Options(
        target.int8,
        options.keep,
        options.max_loss_db,
        source_graph.learnt_ranges,
        task.settings.io_dtype,
    )
    model = source_graph.model
    return int8_graph(model, calibration, asked, name=name, at_crops=at_crops, progress=report)


def _half_graph(
    task: _GraphTask, fp32: onnx.ModelProto, session: Any, name: str
) -> Tuple[HalfGraph, Dict[str, object]]:
    """Return the graph in FP16, and the record of `--fallback`."""
    plain, io_dtype = prepared(fp32), task.settings.io_dtype

    def at(hw: HW) -> onnx.ModelProto:
        return _source_graph(task, Sizes(hw, hw, hw)).model

    searchable = Searchable(plain, session, task.sizes, task.facts.multiple, io_dtype, at)
    fallback = choose_fp32_nodes(task.options.fallback, searchable, name)
    return halved(plain, io_dtype=io_dtype, fp32_nodes=fallback.nodes), fallback.record


def _not_checked(task: _GraphTask) -> Tuple[str, ...]:
    not_checked = ["the engine's own output: see its manifest"]
    if task.settings.precision == "fp16":
        real = task.settings.graph_dtype == "fp16" and not task.device.is_cpu
        where = f"by other devices than {task.device.name}" if real else "by any device"
        not_checked.append(f"FP16 accumulation {where}: the emulation sums products in FP32")
        if task.sizes.dynamic:
            not_checked.append(f"half precision at other sizes than {hw_text(task.sizes.opt)}")
    return tuple(not_checked)


def _write_properties(graph: onnx.ModelProto, manifest: Manifest) -> None:
    properties = {
        "model": manifest.model,
        "variant": manifest.variant,
        "arch": manifest.arch,
        "scale": str(manifest.scale),
        "precision": manifest.precision_obtained,
        "value_range": "0..1 RGB",
        "weights_sha256": manifest.parent_sha256,
        "made_by": f"srdeploy {__version__}",
    }
    for key, value in properties.items():
        graph.metadata_props.add(key=f"srdeploy.{key}", value=value)


def _versions(
    target: Optional[TargetProfile], card_digest: str, calibration: Optional[Calibration]
) -> Dict[str, str]:
    versions = {"srdeploy": __version__, "card": card_digest}
    if calibration is not None:
        versions["calibration"] = calibration.digest
    if target is not None:
        versions["profile"] = target.digest
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as e:
            if package == "onnxruntime":  # onnxruntime-gpu is another distribution of the module
                import onnxruntime

                versions[package] = onnxruntime.__version__
            else:
                raise MissingPackageError(package, needed_for="export") from e
    return versions


def _line(path: Path, manifest: Manifest, check_name: str) -> str:
    checks: Dict[str, Any] = manifest.checks
    line = (
        f"{path.name}: {manifest.nodes} nodes, opset {manifest.opset}, "
        f"max error {checks[check_name]['max_abs_err']:.1e}"
    )
    if "fp16" in checks:
        line += f", FP16 {checks['fp16']['psnr_db_vs_fp32']:.1f} dB against FP32"
    if "int8" in checks:
        line += f", {loss_text(checks['int8'])}"
    elif manifest.fp32_nodes:
        line += f", {len(manifest.fp32_nodes)} nodes in FP32"
        search = checks["fp16"].get("fallback", {})
        if not search.get("fewest", True):
            line += f" (not the fewest: the search ended after {search['runs']} runs)"
    on_gpu = checks.get("this_file_vs_fp32_graph", {"device": "cpu"})
    if on_gpu["device"] != "cpu":
        line += f" ({min(on_gpu['psnr_db'].values()):.1f} dB on {on_gpu['device']})"
    return line
