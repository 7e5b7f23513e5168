"""srdeploy models, complexity, import-checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.core.errors import InputError
from sr_deploy.core.routers import read_router_card, router_name, shipped_routers
from sr_deploy.core.shipped import read_card, shipped_checkpoints
from sr_deploy.core.sizes import hw_text, parse_hw
from sr_deploy.core.spec import check_min_hw
from sr_deploy.results.render import markdown
from sr_deploy.results.slips import slips_of


@click.command()
@click.argument("text", required=False)
@click.option(
    "--online",
    is_flag=True,
    help="Of the catalogue OpenModelDB: those whose id, author or tags contain TEXT.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="With --online: download the network whose id is TEXT, and import it to this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def models(text: Optional[str], online: bool, output: Optional[Path], as_json: bool) -> None:
    """List the shipped checkpoints, and the shipped routers with their branches, smallest first.

    With --online: list networks of https://openmodeldb.info, or download one and import it, with
    its licence on its card. Needs the packages openmodeldb and spandrel.
    """
    if not online:
        if text is not None or output is not None:
            raise click.UsageError("TEXT and -o need --online")
        _list_shipped(as_json)
    elif output is None:
        _list_online(text or "", as_json)
    elif text is None or as_json:
        raise click.UsageError("-o needs the id of a network, and excludes --json")
    else:
        from sr_deploy.nets.online import checkpoint_from_catalogue

        _finish(checkpoint_from_catalogue(text, output))


def _list_online(text: str, as_json: bool) -> None:
    from sr_deploy.nets.online import find_online

    found = find_online(text)
    if as_json:
        emit_json(found)
        return
    cells = [[m["name"], m["arch"], f"x{m['scale']}", m["author"], m["licence"]] for m in found]
    emit("\n".join(markdown(["name", "arch", "scale", "author", "licence"], cells)))
    log(f"{len(found)} networks; import one with: srdeploy models --online NAME -o DIR")


def _list_shipped(as_json: bool) -> None:
    checkpoints: List[Dict[str, Any]] = []
    for path in shipped_checkpoints():
        spec = read_card(path)
        checkpoints.append(
            {
                "name": path.stem,
                "arch": spec.arch,
                "scale": spec.scale,
                "variants": list(spec.variants),
                "notes": spec.notes,
                "path": str(path),
            }
        )
    routers: List[Dict[str, Any]] = []
    for path in shipped_routers():
        card = read_router_card(path)
        routers.append(
            {
                "name": router_name(path),
                "scale": card.scale,
                "branches": [f"{b.model}:{b.variant}" for b in card.branches],
                "path": str(path),
            }
        )
    if as_json:
        emit_json(checkpoints + routers)
        return
    cells = [
        [m["name"], m["arch"], f"x{m['scale']}", " ".join(m["variants"]), m["path"]]
        for m in checkpoints
    ]
    emit("\n".join(markdown(["name", "arch", "scale", "variants", "path"], cells)))
    emit("".join(f"\n- {m['name']}: {m['notes']}" for m in checkpoints if m["notes"]))
    cells = [[r["name"], f"x{r['scale']}", " ".join(r["branches"]), r["path"]] for r in routers]
    emit("\n" + "\n".join(markdown(["router", "scale", "branches", "path"], cells)))


@click.command()
@click.argument("model")
@click.option(
    "--variant",
    help="A variant such as d3, c8 or c16-nla.  [default: the largest, or the paper's]",
)
@click.option("--lr", default="256x256", show_default=True, metavar="HxW", help="The LR size.")
@click.option(
    "--counter",
    type=click.Choice(["hooks", "fvcore"]),
    default="hooks",
    show_default=True,
    help="hooks: as NTIRE 2022/23 counted. fvcore: as since 2024. Not comparable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def complexity(model: str, variant: Optional[str], lr: str, counter: str, as_json: bool) -> None:
    """Count parameters, multiply-accumulates, activations and convolutions of MODEL."""
    from sr_deploy.nets.checkpoint import load_checkpoint, parse_untrained
    from sr_deploy.nets.complexity import count
    from sr_deploy.runtime.opener import require_checkpoint

    model, named_variant = require_checkpoint(model, "complexity")
    if named_variant is not None and variant not in (None, named_variant):
        raise InputError(f"the model names variant {named_variant}, but --variant is {variant}")
    variant = variant or named_variant
    hw = parse_hw(lr)
    untrained = parse_untrained(model)
    if untrained is not None:
        min_hw, net = untrained.architecture.min_hw, untrained.network(variant)
    else:
        checkpoint = load_checkpoint(model)
        min_hw, net = checkpoint.spec.min_hw, checkpoint.network(variant)
    check_min_hw(hw, min_hw, what=model)
    counts = count(net, hw, counter=counter)
    if as_json:
        emit_json(dataclasses.asdict(counts))
        return
    emit(f"#Params  {counts.params / 1e6:.6f} M")
    emit(f"FLOPs    {counts.macs / 1e9:.4f} G multiply-accumulates at {hw_text(hw)}")
    emit(f"#Acts    {counts.acts / 1e6:.4f} M")
    emit(f"#Conv    {counts.convs}")
    uncounted = ", ".join(f"{calls} {name}" for name, calls in counts.uncounted.items())
    emit(f"counter  {counts.counter}; operators it ignores: {uncounted or 'none'}")
    for name, macs in counts.uncounted_macs.items():
        emit(f"         of {name} it leaves out {macs / 1e9:.4f} G multiply-accumulates")
    if counts.uncounted_macs:
        macs = counts.macs + sum(counts.uncounted_macs.values())
        emit(f"         with them: {macs / 1e9:.4f} G")
    architecture = untrained.architecture.name if untrained else checkpoint.spec.arch
    for slip in slips_of(architecture):
        emit(f"note     {slip}")


@click.command("import-checkpoint")
@click.argument("kind_and_file", metavar="[KIND] FILE", nargs=-1)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write to."
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
    from sr_deploy.nets.importers import checkpoint_from_file

    if not 1 <= len(kind_and_file) <= 2:
        raise click.UsageError(f"expected [KIND] FILE, got {len(kind_and_file)} arguments")
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
    return "\n".join([", ".join(facts), *([spec.notes] if spec.notes else [])])
