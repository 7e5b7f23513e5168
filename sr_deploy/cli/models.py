"""srdeploy models, import-checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.cli.tables import TEXT, chosen_format, emit_table, format_option
from sr_deploy.results.render import make_table


@click.command()
@click.argument("model", required=False, metavar="[NAME]")
@click.option(
    "--online",
    is_flag=True,
    help="Of the catalogue OpenModelDB: those whose id, author or tags contain NAME.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="With --online: download the network whose id is NAME, and import it to this folder.",
)
@format_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, with all numbers.")
def models(
    model: Optional[str],
    online: bool,
    output: Optional[Path],
    table_format: Optional[str],
    as_json: bool,
) -> None:
    """List the shipped models: scale, variants, PSNR, size, speed and licence. Or one of them.

    A line has the numbers of the first and the last variant that was measured. With NAME, there is
    a line for each variant, and one for each of its precisions that was measured. The last ones are
    routers, which choose a network for each patch. With --online: list networks of
    https://openmodeldb.info, or download one and import it, with its licence on its card. Needs the
    packages openmodeldb and spandrel.
    """
    if not online:
        if output is not None:
            raise click.UsageError("-o needs --online")
        _list_shipped(model, table_format, as_json)
    elif output is None:
        _list_online(model or "", table_format, as_json)
    elif model is None or as_json:
        raise click.UsageError("-o needs the id of a network, and excludes --json")
    else:
        from sr_deploy.nets.online import checkpoint_from_catalogue

        _finish(checkpoint_from_catalogue(model, output))


def _list_online(text: str, table_format: Optional[str], as_json: bool) -> None:
    from sr_deploy.nets.online import find_online

    found = find_online(text)
    if as_json:
        emit_json(found)
        return
    cells = [[m["name"], m["arch"], f"x{m['scale']}", m["author"], m["licence"]] for m in found]
    emit_table(make_table(["name", "arch", "scale", "author", "licence"], cells, []), table_format)
    log(f"{len(found)} networks; import one with: srdeploy models --online NAME -o DIR")


def _list_shipped(name: Optional[str], table_format: Optional[str], as_json: bool) -> None:
    from sr_deploy.results.model_list import (
        models_table,
        precisions_table,
        shipped_model,
        shipped_models,
        variants_table,
    )

    listed = shipped_models() if name is None else [shipped_model(name)]
    if as_json:
        emit_json(listed)
    elif name is not None:
        emit_table(variants_table(listed[0]), table_format)
        in_precisions = precisions_table(listed[0])
        if in_precisions is not None:
            emit("")
            emit_table(in_precisions, table_format)
    else:
        full = chosen_format(table_format) != TEXT
        emit_table(models_table(listed, full=full), table_format)


@click.command("import-checkpoint")
@click.argument("kind_and_file", metavar="[KIND] FILE", nargs=-1)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder to write to.",
)
@click.option("--variant", help="Size of the network, if the weights' names do not show it.")
@click.option("--name", help="Name of the checkpoint.  [default: KIND, or the file's name]")
@click.option(
    "--value-range",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="The network was trained on 0 to this value, such as 255; it is folded into the weights.",
)
@click.option(
    "--elastic", is_flag=True, help="The weights were trained to be sliced into smaller variants."
)
def import_checkpoint(kind_and_file: Tuple[str, ...], output: Path, **options: Any) -> None:
    """Import weights as safetensors with a card.

    FILE is a state dict: a .pth, .pt or .ckpt pickle, or safetensors. Only tensors are read from a
    pickle; code in it is refused. Without KIND, the architecture is recognised by names and shapes
    of the tensors: one of ours, or one that the package spandrel knows (pip install spandrel), such
    as ESRGAN, Compact, SPAN or SwinIR. KIND is an official file's, such as imdeception-ntire2022,
    or an architecture of ours (asrn, asrn_x4).
    """
    if not 1 <= len(kind_and_file) <= 2:
        raise click.UsageError(f"expected [KIND] FILE, got {len(kind_and_file)} arguments")
    from sr_deploy.nets.importers import checkpoint_from_file

    kind = kind_and_file[0] if len(kind_and_file) == 2 else None
    _finish(checkpoint_from_file(kind, Path(kind_and_file[-1]), output, **options))


def _finish(checkpoint: Any) -> None:
    """Measure an imported checkpoint, and print about it."""
    from sr_deploy.runtime.import_checkpoint import with_receptive_field

    checkpoint, field = with_receptive_field(checkpoint)
    spec = checkpoint.spec
    architecture = spec.config["architecture"] if spec.variants == ("",) else spec.arch
    params = sum(value.numel() for value in checkpoint.weights.values())
    facts = [
        f"{architecture} x{spec.scale}",
        *filter(None, spec.variants),
        f"{params:,} parameters",
    ]
    for text in (", ".join(facts), spec.notes, field):
        if text:
            log(text)
    emit(str(checkpoint.path))
