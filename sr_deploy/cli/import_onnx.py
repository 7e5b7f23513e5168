"""srdeploy import-onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sr_deploy.cli.alias import AliasedOption
from sr_deploy.cli.output import emit, log
from sr_deploy.cli.progress import terminal_progress


@click.command("import-onnx")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--scale", type=click.IntRange(1, 16), help="What it enlarges by.  [default: found]")
@click.option(
    "--output-name", "output", metavar="NAME", help="Which of several outputs is the image."
)
@click.option("--name", help="Name of the model.  [default: the file's]")
@click.option("--variant", default="", help="Which variant of the model it is, such as w16.")
@click.option(
    "--value-range",
    metavar="LOW:HIGH",
    help="Values of black and white, such as 255 or -1:1; 0:1,-1:1 for another output.  "
    "[default: found with photographs]",
)
@click.option("--bgr", is_flag=True, help="Its colours are in the order blue, green, red.")
@click.option("--simplify", is_flag=True, help="Write it as onnxslim simplifies it.")
@click.option(
    "-o",
    "--output",
    "folder",
    cls=AliasedOption,
    aliases=["--output-dir"],
    metavar="DIR",
    default=".",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder to write to.",
)
def import_onnx(file: Path, folder: Path, **options: Any) -> None:
    """Import an ONNX super-resolution network of any origin: describe it, beside an unchanged copy.

    FILE takes and gives one image, RGB or luma, in any layout and range of values, as FP32, FP16 or
    uint8. It is run to find its scale, sizes and values. The other commands take the copy.
    """
    from sr_deploy.core.interface import values_text
    from sr_deploy.core.sizes import Sizes
    from sr_deploy.runtime.import_onnx import ImportOptions, graph_from_file

    with terminal_progress.track("running it to find its scale, sizes and values"):
        imported = graph_from_file(file, folder, ImportOptions(**options))
    manifest = imported.manifest
    interface = manifest.interface
    assert interface is not None
    sizes = Sizes(
        *((hw[0], hw[1]) for hw in (manifest.min_shape, manifest.opt_shape, manifest.max_shape))
    )
    ends = (interface.input, interface.output)
    multiples = f", multiples of {manifest.multiple}" if manifest.multiple > 1 else ""
    lr = f"LR {sizes}{multiples}"
    log(f"{manifest.model}: x{manifest.scale}, {lr}, {manifest.precision_obtained}")
    log(f"opset {manifest.opset}, {manifest.nodes} nodes")
    for what, end in zip(("input", "output"), ends):
        colours = "luma" if interface.colours == "y" else interface.colours.upper()
        log(f"{what}: {end.layout.upper()} {colours} {end.dtype}, {values_text(end.values)}")
    for note in imported.notes:
        log(f"not checked: {note}")
    emit(str(imported.path))
