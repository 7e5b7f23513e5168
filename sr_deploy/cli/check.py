"""srdeploy check."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Optional, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.manifest import manifest_path, parse_manifest
from sr_deploy.core.precisions import PRECISIONS
from sr_deploy.core.target import TargetProfile, load_target
from sr_deploy.core.workspace import graphs_folder


@click.command()
@click.argument("graphs", nargs=-1, metavar="[ONNX|DIR]...")
@click.option("--target", required=True, help="Target to check for (see srdeploy targets).")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Precision of the engines.  [default: the graph's manifest, else the target's]",
)
@click.option("--dla", is_flag=True, help="Check for the deep-learning accelerator of a Jetson.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of findings.")
def check(
    graphs: Tuple[str, ...], target: str, precision: Optional[str], dla: bool, as_json: bool
) -> None:
    """List what a target would refuse, misread or change in each graph. Builds nothing.

    Without graphs, those that export wrote for the target to engines/graphs are checked. Graphs
    that no session can serve are errors, for every target.

    Any ONNX file can be checked, with or without a manifest. The exit code is 1 when there is an
    error.
    """
    from sr_deploy.runtime.build import onnx_files
    from sr_deploy.runtime.graph_check import check_graph

    profile = load_target(target)
    default = profile.check_precision(precision)
    files = onnx_files(graphs or [_exported_for(profile.name)])
    asked = {file: precision or _asked(file, profile) or default for file in files}
    findings = [
        (file, finding)
        for file in files
        for finding in check_graph(file, profile, precision=asked[file], dla=dla)
    ]
    if as_json:
        emit_json([{"graph": str(file), **dataclasses.asdict(f)} for file, f in findings])
    for file, f in findings if not as_json else ():
        name = f"{file.name}: " if len(files) > 1 else ""
        emit(f"{name}{f.severity}: {f.where}: {f.what}; {f.hint}")
    errors = sum(f.severity == "error" for _, f in findings)
    counts = f"{_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}"
    precisions = " and ".join(sorted(set(asked.values())))
    log(f"{_count(len(files), 'graph')} for {target}, {precisions}: {counts}")
    if errors:
        sys.exit(1)


def _asked(graph: Path, target: TargetProfile) -> str:
    """Return the precision that a graph was exported for; empty if that is unknown."""
    try:
        asked = parse_manifest(manifest_path(graph)).precision_asked
    except (ArtifactError, OSError):
        return ""
    return asked if asked in target.precisions else ""


def _exported_for(target: str) -> str:
    folder = graphs_folder(target)
    if not folder.is_dir():
        raise InputError(
            f"no graphs are given, and there is no folder {folder}",
            hint=f"give some, or write them with: srdeploy export asrn_x4 --target {target}",
        )
    return str(folder)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
