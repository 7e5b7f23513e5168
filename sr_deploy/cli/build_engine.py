"""srdeploy targets and build-engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Tuple

import click

from sr_deploy.cli.output import emit, emit_json, say
from sr_deploy.core.tables import markdown
from sr_deploy.core.target import load_target, target_names


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of whole profiles.")
def targets(as_json: bool) -> None:
    """List the target profiles, and why one cannot be built here."""
    from sr_deploy.runtime import BACKENDS

    profiles = [load_target(name) for name in target_names()]
    reasons = [BACKENDS[p.runtime]().why_unavailable(p) for p in profiles]
    if as_json:
        emit_json([{**dataclasses.asdict(p), "why_unavailable": reason} for p, reason in zip(profiles, reasons)])
        return
    cells = []
    for p, reason in zip(profiles, reasons):
        runtime = f"{p.runtime} {p.runtime_versions}"
        here = "no (*)" if reason else "yes"
        cells.append([p.name, p.title, runtime, ", ".join(p.precisions), str(p.opset), " ".join(p.shapes), here])
    emit("\n".join(markdown(["target", "what", "runtime", "precisions", "opset", "LR sizes", "builds here"], cells)))
    for profile, reason in zip(profiles, reasons):
        if reason:
            emit(f"* {profile.name}: {reason}")


@click.command("build-engine")
@click.argument("graphs", nargs=-1, required=True, metavar="ONNX|DIR...")
@click.option("--target", required=True, help="What to build for (srdeploy targets).")
@click.option("--sm", "capabilities", type=int, multiple=True, metavar="SM",
              help="GPU generation for the target rtx, 89 for 8.9; may be repeated. Turing, 75, only when named.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to write to.  [default: engines/built/TARGET]")
def build_engine(graphs: Tuple[str, ...], target: str, capabilities: Tuple[int, ...], output: Path) -> None:
    """Build an engine for a target from each graph.

    The manifest beside each engine says what precision was asked for and what was obtained, and what was not checked.
    """
    from sr_deploy.runtime.build import engine_from_onnx

    folder = output or Path("engines") / "built" / target
    for path in engine_from_onnx(list(graphs), folder, target=target, compute_capabilities=capabilities or None, progress=say):
        emit(str(path))
