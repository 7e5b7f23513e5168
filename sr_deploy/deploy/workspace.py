"""The graphs and engines in the current folder's `engines/`, which commands take by default.

`export`, `build-engine` and `bench` use these functions where they are given no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from sr_deploy.core.errors import MissingPackageError, SrDeployError
from sr_deploy.core.files import files_with_suffix
from sr_deploy.core.manifest import Manifest, manifest_path, parse_manifest
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.target import LOCAL_RUNTIMES, load_target
from sr_deploy.core.workspace import BUILT, GRAPHS, engines_folder, graphs_folder
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.build import SUFFIX, engine_stem, why_not_built_from
from sr_deploy.runtime.opener import describe

Log = Callable[[str], None]
_BUILD = "srdeploy build-engine --target"


@dataclass(frozen=True)
class TargetGraphs:
    """The graphs in `engines/graphs` that a target's engines are built from."""

    target: str
    """The target's name or file."""
    present: Tuple[Path, ...]
    """Those that are there and up to date, and those that others than the main models are of."""
    missing: Tuple[Path, ...] = ()
    """Those of the main models that are missing or out of date."""
    work: str = ""
    """How many are to be exported, and about how long that takes."""

    def files(self, progress: Log = lambda line: None) -> List[Path]:
        """Export what is missing; return the paths of all. Raises an SrDeployError."""
        if self.missing:
            from sr_deploy.export.pipeline import onnx_from_jobs

            progress(self.work)
            onnx_from_jobs(_main_jobs(self.target), progress=progress)
        return [*self.present, *self.missing]


def graphs_of_target(target: str, progress: Log = lambda line: None) -> TargetGraphs:
    """Look for the graphs of a target: those of the main models, and others in its folder.

    target: its name or file. progress: receives a line about each graph that is left out, and one
    where this machine cannot export, which then takes what is there. Raises MissingPackageError if
    nothing is.
    """
    try:
        jobs = _main_jobs(target)
    except MissingPackageError as e:
        present = _others(target, set(), progress)
        if not present:
            e.hint += (
                f"; or make them on another machine: srdeploy export --target {target}, and copy "
                f"its {GRAPHS} here"
            )
            raise
        progress(f"{e.message}: only the graphs that are there are taken")
        return TargetGraphs(target, tuple(present))
    from sr_deploy.export.defaults import work_text
    from sr_deploy.export.pipeline import planned_graphs

    planned = planned_graphs(jobs)
    others = _others(target, {graph.path for graph in planned}, progress)
    return TargetGraphs(
        target,
        (*(graph.path for graph in planned if not graph.to_make), *others),
        tuple(graph.path for graph in planned if graph.to_make),
        work_text(planned),
    )


def _main_jobs(target: str) -> Any:
    try:
        from sr_deploy.export.defaults import main_jobs
    except ImportError as e:
        package = (e.name or "torch").split(".")[0]
        raise MissingPackageError(package, needed_for="exporting graphs", cause=e) from e
    return main_jobs({target: graphs_folder(load_target(target).name)})


def _others(target: str, known: Set[Path], progress: Log) -> List[Path]:
    """Return the other graphs in the target's folder that its engines can be built from."""
    profile, usable = load_target(target), []
    folder = graphs_folder(profile.name)
    for file in files_with_suffix(folder, ".onnx") if folder.is_dir() else []:
        if file in known:
            continue
        reason = why_not_built_from(file, profile)
        if reason:
            progress(f"left out: {file}: {_without_path(reason, file)}")
        else:
            usable.append(file)
    return usable


@dataclass(frozen=True)
class Found:
    """What `engines/` has that can be measured here."""

    networks: Tuple[Path, ...]
    left_out: Tuple[str, ...]
    """A line for each folder and reason."""


def measurable_here(run: RunOptions = DEFAULT_RUN) -> Found:
    """Return the engines, and the graphs without one, in `engines/` that this machine can run.

    Of engines from a board, its own times are taken. Graphs are run if their engines are of ONNX
    Runtime, too. Each network is opened once.
    """
    networks: List[Path] = []
    reasons: Dict[Tuple[Path, str], int] = {}
    built: Dict[str, str] = {}
    """By target and name of each engine that can run: its graph's SHA-256."""
    for file in [*_files(BUILT, SUFFIX), *_files(GRAPHS, ".onnx")]:
        if file.suffix == SUFFIX:
            manifest, reason = _openable(file, run)
            if manifest is not None:
                built[f"{file.parent.name}/{file.stem}"] = manifest.parent_sha256
        else:
            manifest, reason = _graph_openable(file, run, built)
        if manifest is not None:
            networks.append(file)
        elif reason:
            reasons[file.parent, reason] = reasons.get((file.parent, reason), 0) + 1
    lines = [f"{n} in {folder}: {reason}" for (folder, reason), n in reasons.items()]
    return Found(tuple(networks), tuple(lines))


def _files(folder: Path, suffix: str) -> List[Path]:
    """Return the artifacts of all targets."""
    targets = sorted(path for path in folder.glob("*") if path.is_dir())
    return [file for target in targets for file in files_with_suffix(target, suffix)]


def _openable(file: Path, run: RunOptions) -> Tuple[Optional[Manifest], str]:
    """Return the manifest of a network that can be measured here, or why it cannot."""
    try:
        (network,) = describe(file)
        manifest = network.manifest
        if manifest is None:
            return None, "they have no manifests"
        if "latency_ms" not in manifest.build:  # a board has measured the others
            network.open(run).close()
    except SrDeployError as e:
        return None, _without_path(e.message, file)
    return manifest, ""


def _graph_openable(
    file: Path, run: RunOptions, built: Dict[str, str]
) -> Tuple[Optional[Manifest], str]:
    """Return the manifest of a graph, or why it is not measured: "" if its engine is."""
    try:
        manifest = parse_manifest(manifest_path(file))
        name = engine_stem(manifest)
        engine = built.get(f"{file.parent.name}/{name}")
        if engine == manifest.sha256:
            return None, ""
        if engine is not None:
            return None, f"changed since their engines were built: {_BUILD} {file.parent.name}"
        target = load_target(manifest.target or file.parent.name)
    except SrDeployError as e:
        return None, _without_path(e.message, file)
    if target.runtime not in LOCAL_RUNTIMES:
        if (engines_folder(target.name) / f"{name}{SUFFIX}").is_file():
            return None, ""  # why that cannot be measured is said
        return None, f"only engines of them can be measured: {_BUILD} {target.option}"
    reason = BACKENDS[target.runtime]().why_no_device(target)
    return (None, reason) if reason else _openable(file, run)


def _without_path(reason: str, file: Path) -> str:
    """Return a reason that is the same for all files that it holds for."""
    return reason.replace(str(file), "it").replace(file.name, "it")
