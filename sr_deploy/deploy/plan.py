"""What a deployment would do, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

from sr_deploy.bench.evaluate import image_set
from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.errors import MissingPackageError, SrDeployError, how_to_install
from sr_deploy.core.shipped import MAIN_MODELS
from sr_deploy.core.sizes import hw_text
from sr_deploy.core.spec import network_name
from sr_deploy.core.target import LOCAL_RUNTIMES
from sr_deploy.deploy.deployment import planned_deployment
from sr_deploy.deploy.options import DeployOptions
from sr_deploy.deploy.parts import GRAPHS, Model, export_jobs
from sr_deploy.deploy.record import DeployRecord
from sr_deploy.runtime.build import why_not_here
from sr_deploy.runtime.opener import describe
from sr_deploy.runtime.readiness import why_not_run


def plan_lines(
    model: Optional[str], folder: Union[str, Path, None], options: DeployOptions
) -> List[str]:
    """Return a line for each step. Arguments and errors as of `deployment_from_model`."""
    named, place, record = planned_deployment(model, folder, options)
    profile, sizes = options.profile, options.graph_sizes or ", ".join(options.profile.shapes)
    networks, size = _networks(named, record, place / GRAPHS)
    there = len(list((place / GRAPHS).glob("*.onnx")))
    images = image_set(options.data)
    kept = f"; {there} are there, and kept if they are up to date" if there else ""
    runs = not why_not_here(profile)[0] and not why_not_run(profile)
    number = len(networks) * len(options.precisions)
    of = f"{number} network(s) on {len(images.files)} image(s) ({images.name})"
    return [
        f"{named.name} for {profile.title}, into {place}",
        f"graphs:  {_graphs(networks, options)}, LR {sizes}{kept}",
        *([f"size:    {size}"] if size else []),
        f"engines: {_engines(options)}",
        f"rows:    {'time, memory and PSNR' if runs else 'PSNR only, on this CPU,'} of {of}",
        f"choice:  {_rule(options, timed=runs)}",
        *_export_work(named, place, options),
        "report:  report.html, README.md, rows.jsonl",
        "nothing was written",
    ]


def _networks(model: Model, record: Optional[DeployRecord], graphs: Path) -> Tuple[List[str], str]:
    """Return the names of the networks, and their parameters and work as far as known."""
    try:
        described = describe(model.source, model.variant or "all")
    except MissingPackageError:
        if record is None:
            raise
        names = [describe(graphs / name)[0].name for name in record.graphs]
        return list(dict.fromkeys(names)), ""
    names = [network_name(network.model, network.variant) for network in described]
    try:
        counts = [network.counts() for network in described]
        params = [count["params"] / 1e6 for count in counts]
        macs = [count["macs"] / 1e9 for count in counts]
    except (SrDeployError, KeyError):
        return names, ""
    hw = hw_text(counts[0].get("hw", NTIRE_HW))
    work = f"{_span(macs)} G multiply-accumulates at {hw}"
    return names, f"{_span(params)} M parameters, {work}"


def _graphs(networks: Sequence[str], options: DeployOptions) -> str:
    """Return how many graphs of which networks there will be, and in which precisions."""
    precisions, listed = options.precisions, ", ".join(networks)
    if not options.precision:
        return f"{len(networks)} ({listed})"
    text = f"{len(networks) * len(precisions)} ({listed}, in {' and '.join(precisions)}"
    return f"{text}, calibrated with {options.calibrate})" if options.calibrate else f"{text})"


def _span(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(f"{value:.3g}" for value in (min(values), max(values))))


def _export_work(model: Model, place: Path, options: DeployOptions) -> List[str]:
    """Return the time and memory of the export, where they are known: for the main models."""
    if model.source not in MAIN_MODELS or options.size or "int8" in options.precisions:
        return []
    try:
        from sr_deploy.export.defaults import work_text
        from sr_deploy.export.pipeline import planned_graphs

        graphs = planned_graphs(export_jobs(model, place / GRAPHS, options))
    except (ImportError, MissingPackageError):
        return []
    return [f"work:    {work_text(graphs)}"]


def _engines(options: DeployOptions) -> str:
    profile = options.profile
    if options.on:
        return f"built and timed on {options.on}"
    why_not = why_not_here(profile)[0]
    if not why_not:
        reason = why_not_run(profile)
        return "built here" + (f", but not run: {reason}" if reason else " and timed here")
    if profile.runtime in LOCAL_RUNTIMES:
        return f"not built here: {why_not}"
    text = "a bundle to build them elsewhere, as this machine cannot"
    if profile.runtime == "tensorrt-rtx":  # it builds without a GPU
        text += f"; to build here: {how_to_install('tensorrt_rtx')}"
    return text


def _rule(options: DeployOptions, *, timed: bool) -> str:
    limit_ms, text = options.time_limit_ms, options.limits_text
    if limit_ms is not None and not timed:
        return f"none before the engines are timed on the target: {text} is a limit of the time"
    if limit_ms is not None:
        return f"the highest PSNR within {text}"
    if options.min_psnr is not None:
        return f"the {'fastest' if timed else 'fewest multiply-accumulates'} within {text}"
    return "the highest PSNR, as no limit is given"
