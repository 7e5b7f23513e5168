"""srdeploy export."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Tuple

import click

from sr_deploy.cli.code_options import code_options
from sr_deploy.cli.output import emit, log
from sr_deploy.core.errors import InputError
from sr_deploy.core.sizes import parse_hw


@click.command()
@click.argument("model")
@click.option(
    "--variants",
    default="all",
    show_default=True,
    help="A list such as d1,d3, or all: those in the paper's table.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="HxW",
    help="LR size of a static graph; repeatable.",
)
@click.option(
    "--dynamic",
    metavar="MIN:OPT:MAX",
    help="LR sizes of one dynamic graph, such as 16x16:256x256:1024x1024.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    help="Precision of the engine.  [default: fp16; fp32 for the target cpu]",
)
@click.option(
    "--device",
    metavar="cpu|cuda[:N]",
    help="Where FP16 graphs are run for their check.  "
    "[default: the GPU if ONNX Runtime can use one, else the CPU]",
)
@click.option(
    "--fallback",
    default="",
    metavar="auto|head-tail|NODE,...",
    help="Nodes that FP16 graphs compute in FP32: the fewest that suffice, the first and last "
    "convolution, or these.",
)
@click.option("--target", help="Target of the graphs (see srdeploy targets).")
@click.option(
    "--literal",
    is_flag=True,
    help="Export the network as written, without the exact rewrites that speed it up.",
)
@click.option(
    "--candidates",
    is_flag=True,
    help="Export every form of each network, for build-engine --autotune.",
)
@click.option(
    "--adaptive",
    is_flag=True,
    help="MODEL is a router or an AdaEDSR: export it as an adaptive network.",
)
@code_options("model")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write to."
)
def export(
    model: str,
    output: Path,
    shapes: Tuple[str, ...],
    dynamic: Optional[str],
    adaptive: bool,
    **options: Any,
) -> None:
    """Slice MODEL into variants and export each as a verified ONNX graph.

    MODEL is a checkpoint, code (mynet.py:Net), or a graph of import-onnx.
    Every graph is compared with torch in ONNX Runtime on photographs. FP16 graphs are also compared
    with FP32 in emulated half precision, and on a GPU in its own. A graph out of tolerance is not
    written. Graphs that are up to date are not exported again.
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
        if shapes or dynamic or options.pop("variants") != "all" or any(options.values()):
            raise InputError(
                "--adaptive exports in FP32 for all sizes, for ONNX Runtime: "
                "it takes no option but -o",
                hint="omit the other options",
            )
        from sr_deploy.export.plans import plans_from_model

        paths = plans_from_model(model, output, progress=log)
    else:
        from sr_deploy.export.pipeline import ExportOptions, onnx_from_source
        from sr_deploy.export.source import SOURCES
        from sr_deploy.runtime.opener import require_kind

        model, variant, kind = require_kind(model, "export without --adaptive", SOURCES)
        if variant is not None and options["variants"] not in ("all", variant):
            raise InputError(f"the model names variant {variant}, but --variants names others")
        options["variants"] = variant or options["variants"]
        sizes = [dynamic] if dynamic else shapes
        source = SOURCES[kind].from_text(model)
        paths = onnx_from_source(
            source, output, ExportOptions(sizes=sizes, **options), progress=log
        )
    for path in paths:
        emit(str(path))
