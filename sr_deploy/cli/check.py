"""srdeploy check."""

from __future__ import annotations

import dataclasses
import sys
from typing import Optional, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, say
from sr_deploy.core.target import load_target


@click.command()
@click.argument("graphs", nargs=-1, required=True, metavar="ONNX|DIR...")
@click.option("--target", required=True, help="Whose parser would read them (srdeploy targets).")
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16"]), help="The engine's; default: the target's."
)
@click.option("--dla", is_flag=True, help="Ask for the deep-learning accelerator of a Jetson.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of findings.")
def check(
    graphs: Tuple[str, ...], target: str, precision: Optional[str], dla: bool, as_json: bool
) -> None:
    """Say what a target's parser would refuse, misread or change in each graph, without building anything.

    Any ONNX file will do, with a manifest or without. The exit code is 1 when there is an error.
    """
    from sr_deploy.runtime.build import onnx_files
    from sr_deploy.runtime.preflight import preflight

    profile = load_target(target)
    wanted = profile.check_precision(precision)
    files = onnx_files(list(graphs))
    found = [
        (file, finding)
        for file in files
        for finding in preflight(file, profile, precision=wanted, dla=dla)
    ]
    if as_json:
        emit_json([{"graph": str(file), **dataclasses.asdict(finding)} for file, finding in found])
    else:
        for file, f in found:
            emit(
                (f"{file.name}: " if len(files) > 1 else "")
                + f"{f.severity}: {f.where}: {f.what}; {f.hint}"
            )
    errors = sum(f.severity == "error" for _, f in found)
    say(
        f"{_count(len(files), 'graph')} for {target}, {wanted}: {_count(errors, 'error')}, {_count(len(found) - errors, 'warning')}"
    )
    if errors:
        sys.exit(1)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
