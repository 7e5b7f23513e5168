"""srdeploy doctor."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Tuple

import click

from sr_deploy.cli.output import emit, emit_json


@click.command()
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def doctor(files: Tuple[Path, ...], as_json: bool) -> None:
    """Diagnose graphs and engines: integrity, device, versions, differences here, how to rebuild.

    Nothing in them is executed. The exit code is 1 when a file is not intact.
    """
    from sr_deploy.runtime.doctor import diagnose

    diagnoses = [diagnose(file) for file in files]
    if as_json:
        emit_json([dataclasses.asdict(d) for d in diagnoses])
    for d in diagnoses if not as_json else ():
        emit(f"{d.file}\n  {d.what}")
        emit("  intact: yes" if d.whole else f"  intact: no: {d.why_not_whole}")
        for heading, lines in (
            ("for", [d.built_for]),
            ("differs here", d.differs_here),
            ("checked", d.checked),
            ("not checked", d.not_checked),
            ("made by", [d.rebuild]),
        ):
            for line in filter(None, lines):
                emit(f"  {heading}: {line}")
    if not all(d.whole for d in diagnoses):
        sys.exit(1)
