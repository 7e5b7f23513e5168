"""srdeploy targets, build-engine and adopt."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import tempfile
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.cli.tables import TEXT, chosen_format, emit_table, format_option
from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.files import make_output_folder, remove_empty_folders, size_text
from sr_deploy.core.manifest import UP_TO_DATE, manifest_path, parse_manifest
from sr_deploy.core.session import BuildOptions
from sr_deploy.core.target import TargetProfile, load_target, target_names
from sr_deploy.core.workspace import engines_folder, graphs_folder
from sr_deploy.results.render import Table, make_table

_output = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write to.  [default: engines/built/TARGET]",
)


@click.command()
@format_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of complete profiles.")
def targets(table_format: Optional[str], as_json: bool) -> None:
    """List the target profiles, and for which this machine can build engines.

    In Markdown the table has all columns, with the reason where it cannot build.
    """
    from sr_deploy.runtime.build import why_not_here

    profiles = [(p, why_not_here(p)[0]) for p in map(load_target, target_names())]
    if as_json:
        emit_json([{**dataclasses.asdict(p), "why_unavailable": reason} for p, reason in profiles])
        return
    form = chosen_format(table_format)
    emit_table(_short_table(profiles) if form == TEXT else _full_table(profiles), form)


def _short_table(profiles: Sequence[Tuple[TargetProfile, str]]) -> Table:
    """Return the targets as a terminal shows them. The runtime is a column, not part of `what`."""
    headings = ["target", "what", "builds here", "runtime", "precisions"]
    cells = [
        [
            *(p.name, p.title.partition(", through")[0], "no" if reason else "yes"),
            *(f"{p.runtime} {p.runtime_versions}", ", ".join(p.precisions)),
        ]
        for p, reason in profiles
    ]
    notes = ["Jetson boards: build-engine builds over SSH (--on), or writes a bundle (--bundle)"]
    return make_table(headings, cells, [*notes, "what each target needs: srdeploy doctor"])


def _full_table(profiles: Sequence[Tuple[TargetProfile, str]]) -> Table:
    headings = ["target", "what", "runtime", "precisions", "opset", "LR sizes", "builds here"]
    cells = [
        [
            *(p.name, p.title, f"{p.runtime} {p.runtime_versions}", ", ".join(p.precisions)),
            *(str(p.opset), " ".join(p.shapes), "no" if reason else "yes"),
        ]
        for p, reason in profiles
    ]
    notes = [f"{p.name}: {reason}" for p, reason in profiles if reason]
    return make_table(headings, cells, notes)


@click.command("build-engine")
@click.argument("graphs", nargs=-1, metavar="[ONNX|DIR...]")
@click.option(
    "--target",
    help="Target to build for (see srdeploy targets).  [default, without graphs: those of this "
    "machine]",
)
@click.option(
    "--on",
    metavar="ssh://USER@HOST[:PORT]",
    default="",
    help="Build on this board, with its own trtexec.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="FILE.tar",
    help="Write a tar file that builds the engines where only sh and trtexec exist (see adopt).",
)
@click.option(
    "--autotune",
    is_flag=True,
    help="Time all forms (export --candidates) on the target; keep each network's fastest.",
)
@click.option(
    "--sm",
    "compute_capabilities",
    type=int,
    multiple=True,
    metavar="SM",
    help="GPU generation for the target rtx, 89 for 8.9; repeatable. "
    "Turing, 75, is built only when named.",
)
@click.option(
    "--dla",
    type=click.IntRange(min=0),
    metavar="CORE",
    help="Run on this DLA core, with fallback to the GPU.",
)
@click.option(
    "--fallback",
    default="",
    metavar="head-tail|NODE,NODE",
    help="Nodes that an FP16 engine computes in FP32.",
)
@click.option(
    "--no-cublas-cudnn",
    is_flag=True,
    help="Build without kernels of cuBLAS and cuDNN, for machines that lack these libraries.",
)
@_output
@click.option("--dry-run", is_flag=True, help="List the engines, and what is there; write nothing.")
def build_engine(
    graphs: Tuple[str, ...],
    target: Optional[str],
    autotune: bool,
    output: Optional[Path],
    dry_run: bool,
    on: str,
    bundle: Optional[Path],
    **build_options: Any,
) -> None:
    """Build an engine for a target from each graph: here, on a board (--on), or by hand (--bundle,
    then adopt).

    Without graphs, those in engines/graphs/TARGET are taken, after the best shipped x4 models were
    exported to it. Where this machine cannot build them, the bundle is written instead. A graph of
    import-onnx is first exported for the target, in its default sizes. Each engine's manifest
    records the precision requested and obtained, the checks, and what was not checked.
    """
    where = _Where(on, bundle, output, autotune, BuildOptions(**build_options))
    where.check()
    if target is None and (graphs or where != _Where()):
        raise click.UsageError("Missing option '--target'.")
    if autotune and (dry_run or not graphs):
        raise click.UsageError("--autotune needs graphs of export --candidates, and no --dry-run")
    targets = [target] if target else _targets_here()
    for name in targets:
        if dry_run:
            _print_plan(name, graphs, where)
        elif graphs:
            _build_from_graphs(name, graphs, where)
        else:
            _build_from_workspace(name, where)
    if output is None and not dry_run and any(_builds(name, where) for name in targets):
        log("next: srdeploy bench")


@dataclasses.dataclass(frozen=True)
class _Where:
    """Where engines are built and written to, and how."""

    on: str = ""
    bundle: Optional[Path] = None
    output: Optional[Path] = None
    autotune: bool = False
    options: BuildOptions = BuildOptions()

    def check(self) -> None:
        """Raise UsageError for options that exclude each other."""
        others = self.on or self.autotune or self.options.compute_capabilities or self.output
        if self.bundle is not None and others:
            raise click.UsageError(
                "--bundle takes --target, --dla, --fallback and --no-cublas-cudnn only: "
                "adopt takes -o"
            )
        if self.autotune and self.options != BuildOptions():
            raise click.UsageError("--autotune takes --target, --on and -o only")

    def folder(self, target: str) -> Path:
        return self.output or engines_folder(load_target(target).name)

    def bundle_file(self, target: str) -> Path:
        name = load_target(target).name
        return self.bundle or self.folder(target) / f"{name}.tar"


def _targets_here() -> List[str]:
    from sr_deploy.runtime.build import target_names_here

    names = target_names_here()
    log(f"targets of this machine: {', '.join(names)}")
    return names


def _builds(target: str, where: _Where) -> bool:
    """Return whether engines are built, not a bundle."""
    return where.bundle is None and (bool(where.on) or not _why_not_here(target))


def _why_not_here(target: str) -> str:
    from sr_deploy.runtime.build import why_not_here

    return why_not_here(load_target(target))[0]


def _build_from_graphs(target: str, graphs: Sequence[str], where: _Where) -> None:
    from sr_deploy.runtime.build import check_builds_here

    if where.bundle is not None:
        with tempfile.TemporaryDirectory() as temporary:
            files = _exported(graphs, target, Path(temporary), candidates=False)
            _write_bundle(target, files, where)
        return
    folder = where.folder(target)
    here = None if where.on else functools.partial(check_builds_here, load_target(target))
    files = _exported(graphs, target, folder / "graphs", candidates=where.autotune, check=here)
    for path in _build(target, files, where):
        emit(str(path))


def _build(target: str, files: Sequence[Path], where: _Where) -> List[Path]:
    from sr_deploy.runtime.autotune import tuned_engine_from_onnx
    from sr_deploy.runtime.build import engine_from_onnx

    given: Any = {"target": target, "on": where.on, "progress": log}
    if where.autotune:
        return tuned_engine_from_onnx(files, where.folder(target), **given)
    return engine_from_onnx(files, where.folder(target), options=where.options, **given)


def _build_from_workspace(target: str, where: _Where) -> None:
    from sr_deploy.deploy.workspace import graphs_of_target
    from sr_deploy.runtime.build import bundles, check_builds_here

    profile, builds = load_target(target), _builds(target, where)
    log(f"{profile.name}, {profile.title}: from the graphs in {graphs_folder(profile.name)}")
    if not builds and (where.options.compute_capabilities or not bundles(profile)):
        check_builds_here(profile)
    out = where.folder(target) if where.bundle is None else where.bundle.parent
    with remove_empty_folders(out):
        make_output_folder(out)  # before graphs are exported
        files = graphs_of_target(target, log).files(log)
        if not builds:
            _write_bundle(target, files, where)
            return
        _build(target, files, where)
        emit(str(out))


def _write_bundle(target: str, files: Sequence[Path], where: _Where) -> None:
    from sr_deploy.runtime.boards.job import bundle_folder
    from sr_deploy.runtime.build import bundle_from_onnx

    file = where.bundle_file(target)
    bundle_from_onnx(files, file, target=target, options=where.options, progress=log)
    emit(str(file))
    folder, quoted = bundle_folder(file), shlex.quote(str(file))
    if where.bundle is None:
        needs = _why_not_here(target).split(":")[0]  # TensorRT; srdeploy targets tells all
        log(f"nothing was built: {needs}, which this machine lacks")
    log(f"{file} builds the engines where they run, with sh and trtexec only. Next:")
    log(
        f"  scp {quoted} USER@BOARD: && ssh USER@BOARD 'tar xf {file.name} && sh {folder}/build.sh'"
    )
    log(f"  scp USER@BOARD:{folder}/result.tar . && srdeploy adopt result.tar")
    if where.bundle is None:
        log(f"or, over SSH: srdeploy build-engine --target {target} --on ssh://USER@BOARD")


def _print_plan(target: str, graphs: Sequence[str], where: _Where) -> None:
    """Print a table of the engines that would be built."""
    from sr_deploy.deploy.workspace import TargetGraphs, graphs_of_target
    from sr_deploy.runtime.build import build_inputs, planned_engines

    if graphs:
        files = [file for found in build_inputs(graphs) for file in found]
        imported = tuple(file for file in files if _is_imported(file))
        plan = TargetGraphs(target, tuple(f for f in files if f not in imported), imported)
    else:
        plan = graphs_of_target(target, log)
    given: Any = {"target": target, "options": where.options}
    engines = planned_engines(plan.present, where.folder(target), **given) if plan.present else []
    cells = [[str(e.graph), "up to date", e.state, size_text(e.path)] for e in engines]
    cells += [[str(graph), "to be exported", "missing", ""] for graph in plan.missing]
    emit_table(make_table(["graph", "graph is", "engine is", "size"], cells, []))
    todo = len(plan.missing) + sum(engine.state != UP_TO_DATE for engine in engines)
    for line in filter(None, [plan.work, f"{todo} of {len(cells)} engines to build"]):
        log(line)
    if not _builds(target, where):
        reason = f": this machine cannot build them: {_why_not_here(target)}"
        file = where.bundle_file(target)
        log(f"a bundle would be written, {file}" + (reason if where.bundle is None else ""))


def _exported(
    graphs: Sequence[str],
    target: str,
    folder: Path,
    *,
    candidates: bool,
    check: Optional[Callable[[], None]] = None,
) -> List[Path]:
    """Return the graphs, imported ones as exported for the target to `folder`.

    check: called before anything is exported.
    """
    from sr_deploy.runtime.build import build_inputs

    plain, plans = build_inputs(graphs)
    files: List[Path] = []
    for file in plain:
        if not _is_imported(file):
            files.append(file)
            continue
        if check is not None:
            check()
        from sr_deploy.export.pipeline import ExportOptions, onnx_from_source
        from sr_deploy.export.source import SOURCES

        options = ExportOptions(target=target, candidates=candidates)
        source = SOURCES["artifact"].from_text(str(file))
        files += onnx_from_source(source, folder, options, progress=log)
    return [*files, *plans]


def _is_imported(file: Path) -> bool:
    """Return whether a graph is of import-onnx, for no target."""
    try:
        return parse_manifest(manifest_path(file)).interface is not None
    except ArtifactError:  # the build says what is wrong
        return False


@click.command()
@click.argument("result", metavar="RESULT.tar|SELFTEST.tar.gz", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write to.  [default: engines/built/TARGET; of a self-test benchmarks/devices]",
)
def adopt(result: Path, output: Optional[Path]) -> None:
    """Check what came from another machine, and write it.

    RESULT.tar is the result of a bundle's build.sh: its engines are written with their manifests.
    SELFTEST.tar.gz is the archive of selftest: its rows, results and manifests are written to
    DEVICE/DATE.
    """
    from sr_deploy.runtime.boards.result import engines_from_result, target_of_result
    from sr_deploy.selftest.archive import adopt_selftest, is_selftest

    if is_selftest(result):
        emit(str(adopt_selftest(result, output or Path("benchmarks") / "devices")))
        return
    folder = output or engines_folder(target_of_result(result))
    for path in engines_from_result(result, folder, progress=log):
        emit(str(path))
    if output is None:
        log("next: srdeploy bench")
