"""srdeploy demo."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from pathlib import Path
from typing import Any, Iterator, List

import click

from sr_deploy.cli.output import emit, log
from sr_deploy.core.errors import InputError, MissingPackageError, SrDeployError


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="srdeploy-demo",
    show_default=True,
    help="A new folder to write to.",
)
def demo(output: Path) -> None:
    """Show everything on pictures and a clip that it makes itself: about a minute on two cores.

    Upscales, compares, exports, builds engines for the targets of this machine, measures them,
    selects one and writes the report. Each step prints the command that it runs, to be copied.
    Works offline. Prints what it wrote.
    """
    from sr_deploy.deploy.demo import demo_results, demo_steps, make_media
    from sr_deploy.runtime.build import targets_here

    started = time.monotonic()
    media = make_media(output)
    log(f"pictures and a clip of two seconds are in {output}")
    if media.no_clip:
        log(f"without the clip: {media.no_clip}")
    failed: List[str] = []
    with _in_folder(output):
        click.secho(f"\n$ cd {shlex.quote(str(output))}", bold=True, err=True)
        for step in demo_steps(media, [profile.name for profile in targets_here()]):
            click.secho(f"\n# {step.title}", fg="cyan", err=True)
            click.secho(f"$ {step}", bold=True, err=True)
            if not os.path.exists(step.needs or "."):
                log(f"left out: there is no {step.needs}")
                continue
            problem = _problem_of(step.words)
            failed += [f"{step}: {problem}"] if problem else []
    log(f"\nThis was the demo, {time.monotonic() - started:.0f} s. It wrote:")
    made = [(str(path), what) for path, what in demo_results(output)]
    for path, what in made:
        emit(f"{path:<{max(len(p) for p, _ in made)}}  {what}")
    log(
        "\nnext, with your own:\n"
        "  srdeploy upscale photo.jpg                  # a picture, a folder, a video\n"
        "  srdeploy models                             # the networks that are included\n"
        "  srdeploy deploy asrn_x4 --target xavier     # one folder for a board, or for rtx"
    )
    if failed:
        raise InputError(f"not every step worked: {failed[0]}", hint="see the lines above")


def _problem_of(words: Any) -> str:
    """Run a command as `srdeploy` does. Return what went wrong; a missing package is only told."""
    from sr_deploy.cli.main import main

    name, *arguments = words
    try:
        with click.Context(main) as context:
            command = main.get_command(context, name)
        assert command is not None
        command.main(arguments, prog_name=f"srdeploy {name}", standalone_mode=False)
    except ImportError as e:
        if e.name is None or e.name.startswith("sr_deploy"):
            raise
        hint = MissingPackageError(e.name.split(".")[0], needed_for=name).hint
        log(f"left out: {e.name} is not installed; {hint}")
    except MissingPackageError as e:
        log(f"left out: {e.message}; {e.hint}")
    except SrDeployError as e:
        log(f"error: {e.message}" + (f"\nhint: {e.hint}" if e.hint else ""))
        return e.message
    return ""


@contextlib.contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(str(folder))
    try:
        yield
    finally:
        os.chdir(before)
