"""srdeploy selftest."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.cli.progress import terminal_progress


@click.command()
@click.option("--target", default="", help="Check only engines of this target.")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default="selftest",
    show_default=True,
    help="Folder. Started again with the same one, it goes on: what passed is kept.",
)
@click.option(
    "--minutes",
    type=float,
    default=8.0,
    show_default=True,
    help="Time for the checks. Those that do not fit are listed as not run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def selftest(target: str, output: Path, minutes: float, as_json: bool) -> None:
    """Prove this machine: build, run and measure the shipped networks in every way it has.

    Prints pass, fail or skip for each check with the reason, and writes a page and an archive
    that can be sent (see adopt). Uses no network. The exit code is 1 if a check failed.
    """
    from sr_deploy.selftest.archive import prove
    from sr_deploy.selftest.runner import Selftest, SelftestOptions
    from sr_deploy.selftest.summary import as_dict, table

    def show(tested: Selftest) -> None:
        if as_json:
            emit_json(as_dict(tested))
        else:
            emit(table(tested))

    try:
        tested = prove(SelftestOptions(target, output, minutes), terminal_progress, show)
    except KeyboardInterrupt:
        log(f"interrupted; the same command goes on with what is in {output}")
        raise
    if tested.count("fail"):
        sys.exit(1)
