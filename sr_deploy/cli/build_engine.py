"""srdeploy targets, build-engine and adopt."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Optional, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, say
from sr_deploy.core.target import load_target, target_names
from sr_deploy.results.render import markdown


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of whole profiles.")
def targets(as_json: bool) -> None:
    """List the target profiles, and why one cannot be built here."""
    from sr_deploy.runtime.build import why_not_here

    profiles = [load_target(name) for name in target_names()]
    reasons = [why_not_here(p)[0] for p in profiles]
    if as_json:
        emit_json(
            [
                {**dataclasses.asdict(p), "why_unavailable": reason}
                for p, reason in zip(profiles, reasons)
            ]
        )
        return
    cells = []
    for p, reason in zip(profiles, reasons):
        runtime = f"{p.runtime} {p.runtime_versions}"
        here = "no (*)" if reason else "yes"
        cells.append(
            [
                p.name,
                p.title,
                runtime,
                ", ".join(p.precisions),
                str(p.opset),
                " ".join(p.shapes),
                here,
            ]
        )
    emit(
        "\n".join(
            markdown(
                ["target", "what", "runtime", "precisions", "opset", "LR sizes", "builds here"],
                cells,
            )
        )
    )
    for profile, reason in zip(profiles, reasons):
        if reason:
            emit(f"* {profile.name}: {reason}")


@click.command("build-engine")
@click.argument("graphs", nargs=-1, required=True, metavar="ONNX|DIR...")
@click.option("--target", required=True, help="What to build for (srdeploy targets).")
@click.option(
    "--on",
    metavar="ssh://USER@HOST[:PORT]",
    default="",
    help="Build on this board, by its own trtexec.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="FILE.tar",
    help="Write what builds them on a machine with sh and trtexec only (see adopt).",
)
@click.option(
    "--autotune",
    is_flag=True,
    help="Time all forms (export --candidates) on the target; keep each network's fastest.",
)
@click.option(
    "--sm",
    "capabilities",
    type=int,
    multiple=True,
    metavar="SM",
    help="GPU generation for the target rtx, 89 for 8.9; may be repeated. Turing, 75, only when named.",
)
@click.option(
    "--dla",
    type=click.IntRange(min=0),
    metavar="CORE",
    help="Run on this DLA core; the GPU takes what it cannot.",
)
@click.option(
    "--fallback",
    default="",
    metavar="head-tail|NODE,NODE",
    help="What an FP16 engine computes in FP32.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write to.  [default: engines/built/TARGET]",
)
def build_engine(
    graphs: Tuple[str, ...],
    target: str,
    on: str,
    bundle: Optional[Path],
    autotune: bool,
    capabilities: Tuple[int, ...],
    dla: Optional[int],
    fallback: str,
    output: Optional[Path],
) -> None:
    """Build an engine for a target from each graph: here, on a board (--on), or by hand (--bundle, then adopt).

    The manifest beside each engine says what precision was asked for and what was obtained, and what was not checked.
    """
    from sr_deploy.runtime.build import bundle_from_onnx, engine_from_onnx

    if bundle is not None:
        if on or autotune or capabilities or output is not None:
            raise click.UsageError(
                "--bundle goes with --target, --dla and --fallback only: adopt takes -o"
            )
        emit(
            str(
                bundle_from_onnx(
                    list(graphs), bundle, target=target, dla=dla, fallback=fallback, progress=say
                )
            )
        )
        return
    if autotune:
        if capabilities or dla is not None or fallback:
            raise click.UsageError("--autotune goes with --target, --on and -o only")
        from sr_deploy.runtime.autotune import tuned_engine_from_onnx

        for path in tuned_engine_from_onnx(
            list(graphs), output or _default_folder(target), target=target, on=on, progress=say
        ):
            emit(str(path))
        return
    paths = engine_from_onnx(
        list(graphs),
        output or _default_folder(target),
        target=target,
        compute_capabilities=capabilities,
        dla=dla,
        fallback=fallback,
        on=on,
        progress=say,
    )
    for path in paths:
        emit(str(path))


@click.command()
@click.argument("result", metavar="RESULT.tar", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write to.  [default: engines/built/TARGET]",
)
def adopt(result: Path, output: Optional[Path]) -> None:
    """Take back what a bundle's build.sh made, check it, and write engines with their manifests."""
    from sr_deploy.runtime.boards.job import engines_from_result, target_of_result

    for path in engines_from_result(
        result, output or _default_folder(target_of_result(result)), progress=say
    ):
        emit(str(path))


def _default_folder(target: str) -> Path:
    return Path("engines") / "built" / target
