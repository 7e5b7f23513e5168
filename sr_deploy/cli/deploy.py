"""srdeploy deploy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

import click

from sr_deploy.cli.code_options import code_options
from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.cli.progress import terminal_progress
from sr_deploy.cli.tables import TEXT, emit_rows, terminal_width
from sr_deploy.core.errors import InputError


@click.command()
@click.argument("model", required=False)
@click.option("--target", required=True, help="Where it runs (see srdeploy targets).")
@click.option(
    "--fps", type=float, metavar="N", help="Frames per second that the chosen variant must hold."
)
@click.option("--max-ms", type=float, metavar="MS", help="Maximum time of a frame, with copies.")
@click.option(
    "--min-psnr",
    type=float,
    metavar="DB",
    help="Minimum PSNR. As the only limit it chooses the fastest variant.",
)
@click.option(
    "--precision",
    default="",
    metavar="NAMES",
    help="Precisions of the engines, such as fp32,int8: the choice is among all.  "
    "[default: the target's own]",
)
@click.option(
    "--calibrate",
    default="",
    metavar="HR_DIR",
    help="Folder of HR images that INT8 graphs are calibrated with, if training did not.",
)
@click.option(
    "--size", metavar="HxW", help="LR size of a frame.  [default: that of the target's profile]"
)
@click.option(
    "--data",
    default="",
    metavar="HR_DIR",
    help="Folder of HR images for the PSNR.  [default: scikit-image's photographs]",
)
@click.option(
    "--on",
    metavar="ssh://USER@HOST[:PORT]",
    default="",
    help="Build and time on this board, with its own trtexec.",
)
@code_options("model")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write to.  [default: MODEL-TARGET]",
)
@click.option("--dry-run", is_flag=True, help="Print what would be done; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def deploy(
    model: Optional[str], output: Optional[Path], dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Make one folder with all that a target needs: graphs, engines, rows, the choice, the report.

    MODEL is a shipped name, a checkpoint, an imported graph or code (mynet.py:Net).  [default: that
    of the folder, else asrn_x4]
    All its variants are built and measured, in each --precision. A limit chooses the best within
    it; without one, that of the highest PSNR is chosen. Where the engines cannot be built here, the
    folder has a bundle for the board. The same command goes on after a kill, after adopt, and on
    the target itself.
    """
    from sr_deploy.deploy.deployment import deployment_from_model
    from sr_deploy.deploy.options import DeployOptions
    from sr_deploy.deploy.plan import plan_lines

    chosen = DeployOptions(**options)
    if dry_run:
        for line in plan_lines(model, output, chosen):
            emit(line)
        return
    made = deployment_from_model(model, output, chosen, progress=terminal_progress)
    if as_json:
        use = {"folder": str(made.folder), "use": made.use}
        emit_json({**use, **dataclasses.asdict(made.record)})
    else:
        _print(made)
    if made.hint:
        raise InputError(
            f"no variant was chosen: {made.record.why}",
            hint=f"{made.hint}; all else is in {made.folder}",
        )


def _print(made: Any) -> None:
    from sr_deploy.results.screen import fill

    record, width = made.record, terminal_width()
    emit("")
    emit_rows(made.rows, TEXT, kept=made.folder / "rows.jsonl")
    emit("")
    if record.chosen:
        emit(fill(f"chosen: {record.chosen}: {record.why}", width))
    elif not made.hint:
        emit(fill(f"not chosen yet: {record.why}", width))
    for remark in record.remarks:
        log(fill(f"  {remark}", width))
    pages = [made.folder / name for name in ("README.md", record.report) if name]
    emit(f"folder: {made.folder} (read {' and '.join(page.name for page in pages)})")
    if record.next:
        emit("next, for the times on the target:")
        for number, command in enumerate(record.next, 1):
            emit(f"  {number}. {command}")
    if made.use:
        emit(f"{'then ' if record.next else ''}use it: {made.use}")
