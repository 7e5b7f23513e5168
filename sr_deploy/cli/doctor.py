"""srdeploy doctor."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterable, Tuple

import click

from sr_deploy.cli.output import emit, emit_json
from sr_deploy.core.device import cpu_name, python_and_os
from sr_deploy.core.errors import InputError
from sr_deploy.core.version import __version__

WIDTH = 100


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE...]", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object, or a list of files.")
def doctor(files: Tuple[Path, ...], as_json: bool) -> None:
    """Check this machine or, with FILE, graphs and engines.

    This machine: its GPU, libraries, disk, and per target whether it is ready or what to type. The
    exit code is 1 when there is a problem; a target that needs other hardware is none.
    Files: integrity, device, versions, differences here, how to rebuild; nothing in them is
    executed. The exit code is 1 when a file is not intact.
    """
    healthy = _diagnose_files(files, as_json) if files else _diagnose_machine(as_json)
    if not healthy:
        sys.exit(1)


def _diagnose_machine(as_json: bool) -> bool:
    if not as_json:
        emit(f"srdeploy {__version__}, {python_and_os()}\n{cpu_name()}")
    from sr_deploy.runtime.environment import environment
    from sr_deploy.runtime.readiness import libraries, places, target_states

    found = environment()
    if as_json:
        parts: Dict[str, Iterable[Any]] = {
            "libraries": libraries(),
            "folders": places(),
            "targets": target_states(),
        }
        listed = {key: [dataclasses.asdict(part) for part in v] for key, v in parts.items()}
        emit_json({**dataclasses.asdict(found), **listed})
        return not found.problems
    emit(_machine(found.board))
    emit("\nlibraries")
    for library in libraries():
        head = f"  {library.name:<17} {library.version or '-':<13} "
        _emit_wrapped(head, library.state)
        if library.hint:
            emit(" " * len(head) + library.hint)
    emit("\ndisk")
    for place in places():
        used = "" if place.used_mib is None else f", {place.used_mib:g} MiB used"
        _emit_wrapped(f"  {place.name:<17} ", f"{place.free_gib:g} GiB free{used}, {place.path}")
    emit("\ntargets")
    states = []
    for target in target_states():
        states.append(target.state)
        _emit_target(target)
    if "by bundle" in states:
        emit("  by bundle: the command writes a tar file that builds there; over SSH instead:")
        emit("  srdeploy build-engine --target TARGET --on ssh://USER@BOARD")
    for problem in found.problems:
        emit(f"\nproblem: {problem.what}\n  hint: {problem.hint}")
    if not found.problems:
        emit("\nno problem found")
    return not found.problems


def _machine(board: Any) -> str:
    """Return what the system reports of the board, its GPU and its memory."""
    known = dict(board)
    gpu = known.pop("gpu", "")
    memory = known.pop("memory_mib", 0)
    lines = [f"{memory / 1024:.1f} GiB memory"] if memory else []
    lines.append(f"GPU: {gpu}" if gpu else "no NVIDIA GPU is reported")
    if known:
        facts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in known.items())
        lines.append(f"reported by the system: {facts}")
    return "\n".join(lines)


def _emit_target(target: Any) -> None:
    head = f"  {target.name:<14} {target.state:<12} "
    line = f"{head}{target.command:<38}" + (f"  ({target.why})" if target.why else "")
    if target.command and len(line) <= WIDTH:
        emit(line.rstrip())
        return
    if target.command:
        emit(head + target.command)
        head = " " * len(head)
    _emit_wrapped(head, target.why)


def _emit_wrapped(head: str, text: str) -> None:
    """Print a line of the width of a terminal, and the rest of the text below its beginning."""
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
    emit("\n".join(lines))


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
