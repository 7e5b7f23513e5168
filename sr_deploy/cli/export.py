"""srdeploy export."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import click

from sr_deploy.cli.alias import AliasedOption
from sr_deploy.cli.code_options import code_options
from sr_deploy.cli.output import emit, log
from sr_deploy.cli.tables import emit_table
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import make_output_folder, remove_empty_folders, size_text
from sr_deploy.core.precisions import PRECISIONS
from sr_deploy.core.shipped import MAIN_MODELS
from sr_deploy.core.sizes import parse_hw
from sr_deploy.core.target import load_target, targets_with
from sr_deploy.core.workspace import graphs_folder

Folders = Dict[Optional[str], Path]
"""The folder of the graphs for each target; None: for no target."""


@click.command()
@click.argument("model", required=False)
@click.option(
    "--variants",
    default="all",
    show_default=True,
    help="A list such as d1,d3, or all: those in the paper's table.",
)
@click.option(
    "--size",
    "sizes",
    cls=AliasedOption,
    aliases=["--shape"],
    multiple=True,
    metavar="HxW",
    help="LR size of a static graph; repeatable.",
)
@click.option(
    "--dynamic",
    metavar="MIN:OPT:MAX",
    help="LR sizes of one dynamic graph, such as 16x16:256x256:1024x1024.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Precision of the engine.  [default: the target's own; fp16 without a target]",
)
@click.option(
    "--device",
    metavar="cpu|cuda[:N]",
    help="Where FP16 graphs are run for their check.  "
    "[default: the GPU if ONNX Runtime can use one, else the CPU]",
)
@click.option(
    "--fallback",
    default="",
    metavar="auto|head-tail|NODE,...",
    help="Nodes that FP16 graphs compute in FP32: the fewest that suffice, the first and last "
    "convolution, or these.",
)
@click.option(
    "--calibrate",
    metavar="HR_DIR",
    type=click.Path(exists=True, file_okay=False),
    help="INT8: pictures whose values set the ranges. One half of them measures the loss.",
)
@click.option(
    "--keep",
    default="auto",
    show_default=True,
    metavar="auto|ends|NODE,...|none",
    help="INT8: layers that stay in floating point: the fewest that reach the limit, the first and "
    "last, these, or none.",
)
@click.option(
    "--max-loss-db",
    type=float,
    metavar="DB",
    default=0.1,
    show_default=True,
    help="INT8: PSNR that a graph may lose against FP32. One that loses more is not written.",
)
@click.option(
    "--data",
    metavar="HR_DIR",
    type=click.Path(exists=True, file_okay=False),
    help="INT8: pictures that measure the loss.  [default: one half of --calibrate]",
)
@click.option(
    "--target",
    help="Target of the graphs (see srdeploy targets).  [default: those of this machine, or none "
    "where -o is given]",
)
@click.option(
    "--literal",
    is_flag=True,
    help="Export the network as written, without the exact rewrites that speed it up.",
)
@click.option(
    "--candidates",
    is_flag=True,
    help="Export every form of each network, for build-engine --autotune.",
)
@click.option(
    "--adaptive",
    is_flag=True,
    help="MODEL is a gains head, a router, AdaEDSR or AdaRCAN: export it as an adaptive network, "
    "for --target and --precision, with the options of INT8 except --keep.",
)
@code_options("model")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write to.  [default: engines/graphs/TARGET]",
)
@click.option("--dry-run", is_flag=True, help="List the graphs, and what is there; write nothing.")
def export(
    model: Optional[str],
    output: Optional[Path],
    sizes: Tuple[str, ...],
    dynamic: Optional[str],
    adaptive: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Slice MODEL into variants and export each as a verified ONNX graph.

    MODEL is a checkpoint, code (mynet.py:Net), or a graph of import-onnx. Without it, the best
    shipped x4 models are exported for the targets that this machine can build.
    Every graph is compared with torch in ONNX Runtime on photographs. FP16 graphs are also compared
    with FP32 in emulated half precision, and on a GPU in its own. INT8 graphs are calibrated, and
    their loss in dB is measured. A graph out of tolerance is not written. Graphs that are up to
    date are not exported again.
    """
    _check_sizes(sizes, dynamic)
    if adaptive:
        if model is None or output is None:
            raise click.UsageError("--adaptive needs MODEL and -o")
        if dynamic or dry_run:
            options["dynamic" if dynamic else "dry_run"] = True
        _export_adaptive(model, output, {**options, "sizes": sizes})
        return
    if model is None and options["variants"] != "all":
        raise click.UsageError("--variants is for one MODEL")
    target = options.pop("target")
    folders = _folders(model, target, output, options["precision"])
    options["sizes"] = [dynamic] if dynamic else sizes
    if model is None:  # before torch is imported
        log(f"{', '.join(MAIN_MODELS)} for {' and '.join(map(str, folders))}")
    if dry_run:
        _print_plan(model, folders, options)
        return
    with remove_empty_folders(*folders.values()):
        for folder in folders.values():
            make_output_folder(folder)
        if model is None:
            _export_main_models(folders, options)
        else:
            _export_model(model, folders, options)
    if output is None:
        _say_next(model, target, folders)


def _export_adaptive(model: str, output: Path, options: Dict[str, Any]) -> None:
    target, precision = options.pop("target"), options.pop("precision")
    int8 = {name: options.pop(name) for name in ("calibrate", "data", "max_loss_db")}
    others = [name for name in ("sizes", "dynamic", "dry_run") if options.pop(name, None)]
    others += _given(options)
    if others:
        listed = ", ".join("--" + _option(name) for name in others)
        raise InputError(
            f"--adaptive exports for all sizes, and does not take {listed}",
            hint="it takes --target, --precision, --calibrate, --data, --max-loss-db and -o",
        )
    from sr_deploy.export.part_forms import PlanForm
    from sr_deploy.export.plans import plans_from_model

    form = PlanForm.from_names(target, precision, **int8)
    with remove_empty_folders(output):
        for path in plans_from_model(model, output, form=form, progress=log):
            emit(str(path))
    if form.target is not None:
        log(f"next: srdeploy build-engine {output} --target {form.target.option}")


def _option(name: str) -> str:
    return {"sizes": "size"}.get(name, name).replace("_", "-")


def _check_sizes(sizes: Tuple[str, ...], dynamic: Optional[str]) -> None:
    if sizes and dynamic:
        raise InputError(
            "--size and --dynamic exclude each other",
            hint="export twice, for a static and a dynamic graph",
        )
    if dynamic is not None and dynamic.count(":") != 2:
        raise InputError(
            f"--dynamic '{dynamic}': expected MIN:OPT:MAX, such as 16x16:256x256:1024x1024"
        )
    for size in sizes:
        parse_hw(size)


def _given(options: Dict[str, Any]) -> List[str]:
    """Return the options that do not have their defaults."""
    defaults = {parameter.name: parameter.default for parameter in export.params}
    return [name for name, value in options.items() if value and value != defaults[name]]


def _folders(
    model: Optional[str], target: Optional[str], output: Optional[Path], precision: Optional[str]
) -> Folders:
    if target is not None:
        return {target: output or graphs_folder(load_target(target).name)}
    if model is not None and output is not None:
        return {None: output}
    names = _targets_here(precision)
    return {name: output / name if output else graphs_folder(name) for name in names}


def _targets_here(precision: Optional[str]) -> List[str]:
    """Return the targets of this machine that have engines of a precision."""
    from sr_deploy.runtime.build import target_names_here

    here = target_names_here()
    able = [name for name in here if precision in (None, *load_target(name).precisions)]
    if not able:
        raise InputError(
            f"no target of this machine ({', '.join(here)}) builds {precision} engines",
            hint=f"export for another one with --target: {', '.join(targets_with(str(precision)))}",
        )
    if len(able) < len(here):
        others = [name for name in here if name not in able]
        log(f"left out, since they build no {precision} engines: {', '.join(others)}")
    return able


def _export_main_models(folders: Folders, options: Dict[str, Any]) -> None:
    from sr_deploy.export.defaults import main_jobs, work_text
    from sr_deploy.export.pipeline import ExportOptions, onnx_from_jobs, planned_graphs

    jobs = main_jobs(folders, ExportOptions(**options))
    log(work_text(planned_graphs(jobs)))
    onnx_from_jobs(jobs, progress=log)
    for folder in folders.values():
        emit(str(folder))


def _export_model(model: str, folders: Folders, options: Dict[str, Any]) -> None:
    from sr_deploy.export.pipeline import onnx_from_jobs

    for path in onnx_from_jobs(_jobs(model, folders, options), progress=log):
        emit(str(path))


def _say_next(model: Optional[str], target: Optional[str], folders: Folders) -> None:
    if model is None:
        log("next: srdeploy build-engine" + (f" --target {target}" if target else ""))
        return
    for name, folder in folders.items():
        log(f"next: srdeploy build-engine {folder} --target {name}")


def _jobs(model: str, folders: Folders, options: Dict[str, Any]) -> List[Any]:
    """Return the `ExportJob`s of a model."""
    from sr_deploy.export.pipeline import ExportJob, ExportOptions
    from sr_deploy.export.source import SOURCES
    from sr_deploy.runtime.opener import require_kind

    model, variant, kind = require_kind(model, "export without --adaptive", SOURCES)
    if variant is not None and options["variants"] not in ("all", variant):
        raise InputError(f"the model names variant {variant}, but --variants names others")
    options = {**options, "variants": variant or options["variants"]}
    source = SOURCES[kind].from_text(model)
    return [
        ExportJob(source, folder, ExportOptions(target=target, **options))
        for target, folder in folders.items()
    ]


def _print_plan(model: Optional[str], folders: Folders, options: Dict[str, Any]) -> None:
    from sr_deploy.export.defaults import main_jobs, work_text
    from sr_deploy.export.pipeline import ExportOptions, planned_graphs
    from sr_deploy.results.render import make_table

    if model is None:
        jobs = main_jobs(folders, ExportOptions(**options))
    else:
        jobs = _jobs(model, folders, options)
    graphs = planned_graphs(jobs)
    cells = [
        [str(graph.path), graph.precision, graph.state, size_text(graph.path)] for graph in graphs
    ]
    emit_table(make_table(["graph", "engine", "state", "size"], cells, []))
    todo = sum(graph.to_make for graph in graphs)
    log(work_text(graphs) if model is None else f"{todo} of {len(graphs)} graphs to export")
