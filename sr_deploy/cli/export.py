"""srdeploy export."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import click

from sr_deploy.cli.output import emit, say
from sr_deploy.core.errors import InputError
from sr_deploy.core.sizes import parse_hw


@click.command()
@click.argument("model")
@click.option(
    "--variants",
    default="all",
    show_default=True,
    help="all (those of the paper's table), or a list: d1,d3.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="HxW",
    help="LR size of a static graph; may be repeated.",
)
@click.option(
    "--dynamic",
    metavar="MIN:OPT:MAX",
    help="LR sizes of one dynamic graph, such as 16x16:256x256:1024x1024.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    help="The engine's; default: fp16, fp32 for the target cpu.",
)
@click.option("--target", help="The target the graphs are for (srdeploy targets).")
@click.option(
    "--literal",
    is_flag=True,
    help="Export the network as written, without the exact rewrites that make it faster.",
)
@click.option(
    "--candidates",
    is_flag=True,
    help="Export every form of each network, for build-engine --autotune.",
)
@click.option(
    "--adaptive",
    is_flag=True,
    help="MODEL is a router, or an AdaEDSR: graphs that compute more where the image needs it.",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write to."
)
def export(
    model: str,
    variants: str,
    shapes: Tuple[str, ...],
    dynamic: Optional[str],
    precision: Optional[str],
    target: Optional[str],
    literal: bool,
    candidates: bool,
    adaptive: bool,
    output: Path,
) -> None:
    """Slice MODEL into variants and export each as a verified ONNX graph.

    Every graph is compared with torch in onnxruntime, FP16 ones also in real half precision, on real photographs; one that
    is out of tolerance is not written. Graphs that are up to date are left as they are.
    """
    if shapes and dynamic:
        raise InputError(
            "--shape and --dynamic exclude each other",
            hint="export twice, for a static and a dynamic graph",
        )
    if dynamic is not None and dynamic.count(":") != 2:
        raise InputError(
            f"--dynamic '{dynamic}': expected MIN:OPT:MAX, such as 16x16:256x256:1024x1024"
        )
    for shape in shapes:
        parse_hw(shape)
    if adaptive:
        if variants != "all" or shapes or dynamic or precision or target or literal or candidates:
            raise InputError(
                "--adaptive exports for every size, in FP32, for ONNX Runtime: it takes -o alone",
                hint="leave the others out",
            )
        from sr_deploy.export.plans import plans_from_model

        for path in plans_from_model(model, output, progress=say):
            emit(str(path))
        return
    from sr_deploy.export.pipeline import onnx_from_checkpoint

    paths = onnx_from_checkpoint(
        model,
        output,
        variants=variants,
        sizes=[dynamic] if dynamic else shapes,
        precision=precision,
        target=target,
        literal=literal,
        candidates=candidates,
        progress=say,
    )
    for path in paths:
        emit(str(path))
