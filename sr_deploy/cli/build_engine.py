"""srdeploy targets, build-engine and adopt."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.cli.tables import TEXT, chosen_format, emit_table, format_option
from sr_deploy.core.session import BuildOptions
from sr_deploy.core.target import TargetProfile, load_target, target_names
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
@click.argument("graphs", nargs=-1, required=True, metavar="ONNX|DIR...")
@click.option("--target", required=True, help="Target to build for (see srdeploy targets).")
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
def build_engine(
    graphs: Tuple[str, ...],
    target: str,
    on: str,
    bundle: Optional[Path],
    autotune: bool,
    output: Optional[Path],
    **build_options: Any,
) -> None:
    """Build an engine for a target from each graph: here, on a board (--on), or by hand (--bundle,
    then adopt).

    A graph of import-onnx is first exported for the target, in its default sizes. Each engine's
    manifest records the precision requested and obtained, the checks, and what was not checked.
    """
    from sr_deploy.core.target import load_target
    from sr_deploy.runtime.autotune import tuned_engine_from_onnx
    from sr_deploy.runtime.build import bundle_from_onnx, check_builds_here, engine_from_onnx

    options = BuildOptions(**build_options)
    if bundle is not None:
        if on or autotune or options.compute_capabilities or output is not None:
            raise click.UsageError(
                "--bundle takes --target, --dla, --fallback and --no-cublas-cudnn only: "
                "adopt takes -o"
            )
        with tempfile.TemporaryDirectory() as temporary:
            files = _exported(graphs, target, Path(temporary), candidates=False)
            emit(str(bundle_from_onnx(files, bundle, target=target, options=options, progress=log)))
        return
    if autotune and options != BuildOptions():
        raise click.UsageError("--autotune takes --target, --on and -o only")
    profile = load_target(target)
    folder = output or _default_folder(profile.name)
    here = None if on else functools.partial(check_builds_here, profile)
    files = _exported(graphs, target, folder / "graphs", candidates=autotune, check=here)
    if autotune:
        paths = tuned_engine_from_onnx(files, folder, target=target, on=on, progress=log)
    else:
        paths = engine_from_onnx(files, folder, target=target, options=options, on=on, progress=log)
    for path in paths:
        emit(str(path))


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
    from sr_deploy.core.errors import ArtifactError
    from sr_deploy.core.manifest import manifest_path, parse_manifest
    from sr_deploy.runtime.build import onnx_files

    files: List[Path] = []
    for file in onnx_files(graphs):
        try:
            imported = parse_manifest(manifest_path(file)).interface is not None
        except ArtifactError:  # the build says what is wrong
            imported = False
        if not imported:
            files.append(file)
            continue
        if check is not None:
            check()
        from sr_deploy.export.pipeline import ExportOptions, onnx_from_source
        from sr_deploy.export.source import SOURCES

        options = ExportOptions(target=target, candidates=candidates)
        source = SOURCES["artifact"].from_text(str(file))
        files += onnx_from_source(source, folder, options, progress=log)
    return files


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
    folder = output or _default_folder(target_of_result(result))
    for path in engines_from_result(result, folder, progress=log):
        emit(str(path))


def _default_folder(target: str) -> Path:
    return Path("engines") / "built" / target
