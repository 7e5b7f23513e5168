"""srdeploy doctor."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Tuple

import click

from sr_deploy.cli.output import emit, emit_json
from sr_deploy.core.errors import InputError


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE...]", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object, or a list of files.")
def doctor(files: Tuple[Path, ...], as_json: bool) -> None:
    """Diagnose this machine or, with FILE, graphs and engines.

    This machine: its libraries, which of them can use the GPU and why others cannot. The exit code
    is 1 when there is a problem. Files: integrity, device, versions, differences here, how to
    rebuild; nothing in them is executed. The exit code is 1 when a file is not intact.
    """
    healthy = _diagnose_files(files, as_json) if files else _diagnose_machine(as_json)
    if not healthy:
        sys.exit(1)


def _diagnose_machine(as_json: bool) -> bool:
    from sr_deploy.runtime.environment import environment

    found = environment()
    if as_json:
        emit_json(dataclasses.asdict(found))
        return not found.problems
    emit(f"srdeploy {found.version}, {found.python}\n{found.cpu}")
    facts = ", ".join(f"{key} {value}" for key, value in found.board.items())
    emit(f"reported by the system: {facts or 'nothing'}")
    for library, state in found.uses_gpu.items():
        emit(f"GPU in {library}: {state}")
    emit("packages: " + ", ".join(f"{name} {v}" for name, v in found.packages.items()))
    for problem in found.problems:
        emit(f"problem: {problem.what}\n  hint: {problem.hint}")
    if not found.problems:
        emit("no problem found")
    return not found.problems


def _diagnose_files(files: Tuple[Path, ...], as_json: bool) -> bool:
    from sr_deploy.runtime.doctor import diagnose

    diagnoses, missing = [], []
    for file in files:
        try:
            diagnoses.append(diagnose(file))
        except InputError as e:
            missing.append(e)
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
    if missing:  # after what is known of the others
        raise InputError("; ".join(e.message for e in missing), hint=missing[0].hint)
    return all(d.whole for d in diagnoses)
