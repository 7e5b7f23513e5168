"""srdeploy models, complexity, import-checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import click

from sr_deploy.cli.alias import AliasedOption
from sr_deploy.cli.code_options import code_options
from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.cli.progress import terminal_progress
from sr_deploy.cli.tables import TEXT, chosen_format, emit_table, format_option
from sr_deploy.core.counts import COUNTERS, NTIRE_HW, Counts
from sr_deploy.core.errors import InputError
from sr_deploy.core.sizes import HW, hw_text, parse_hw, up_to_multiple
from sr_deploy.core.spec import check_min_hw
from sr_deploy.results.render import make_table
from sr_deploy.results.slips import slips_of


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


@click.command()
@click.argument("model")
@click.option(
    "--variants",
    cls=AliasedOption,
    aliases=["--variant"],
    help="One such as d3, c8 or c16-nla, a list such as d1,d3, or all.  "
    "[default: the largest, or the paper's]",
)
@click.option(
    "--size",
    cls=AliasedOption,
    aliases=["--lr"],
    metavar="HxW",
    help="The LR size.  [default: 256x256, or the only size that the file takes]",
)
@click.option(
    "--counter",
    type=click.Choice(COUNTERS),
    default="hooks",
    show_default=True,
    help="hooks: as NTIRE 2022/23 counted. fvcore: as since 2024. Not comparable.",
)
@code_options("model")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def complexity(
    model: str, variants: Optional[str], size: Optional[str], counter: str, as_json: bool
) -> None:
    """Count parameters, multiply-accumulates, activations and convolutions of MODEL.

    MODEL is a checkpoint, an architecture at a scale (asrn_x4), code, an ONNX graph with or without
    a manifest, or an engine. A graph is counted node by node. Several variants are printed as a
    table.
    """
    hw = NTIRE_HW if size is None else parse_hw(size)
    if variants is not None and (variants == "all" or "," in variants):
        _emit_counts_of_several(model, variants, hw, counter, as_json)
        return
    record, architecture = _counted(model, variants, hw)
    shown = _counts_by(counter, record, model)
    hw = tuple(record.get("hw", NTIRE_HW))
    deployed = record.get("deployed", {}).get(counter, shown)
    if as_json:
        extra = {"hw": hw, "deployed": deployed}
        emit_json({**shown, **{k: v for k, v in extra.items() if v not in (shown, NTIRE_HW)}})
        return
    _emit_counts(Counts(**shown), hw_text(hw))
    if deployed != shown:
        emit(f"deployed {_one_line(deployed)}")
    for slip in slips_of(architecture):
        emit(f"note     {slip}")


def _counts_by(counter: str, record: Dict[str, Any], model: str) -> Dict[str, Any]:
    counts = record if counter == "hooks" else record.get(counter)
    if not counts:
        raise InputError(
            f"{model} has no counts by {counter}",
            hint="count the checkpoints or graphs that it consists of, or was made from",
        )
    return {f.name: counts.get(f.name, {}) for f in dataclasses.fields(Counts)}


def _emit_counts_of_several(model: str, variants: str, hw: HW, counter: str, as_json: bool) -> None:
    from sr_deploy.runtime.opener import describe

    names = [network.variant for network in describe(model, variants, untrained=True)]
    counted = []
    with terminal_progress.track("counting", len(names)) as advance:
        for name in names:
            record, _ = _counted(model, name, hw)
            hw = tuple(record.get("hw", NTIRE_HW))
            counted.append({"variant": name, "hw": hw, **_counts_by(counter, record, model)})
            advance(name)
    if as_json:
        emit_json(counted)
        return
    cells = [
        [
            c["variant"],
            f"{c['params'] / 1e6:.3f}",
            f"{c['macs'] / 1e9:.2f}",
            f"{c['acts'] / 1e6:.2f}",
            str(c["convs"]),
        ]
        for c in counted
    ]
    headings = ["variant", "#Params [M]", "FLOPs [G]", "#Acts [M]", "#Conv"]
    notes = [f"{model}, multiply-accumulates at {hw_text(hw)}, counter {counter}"]
    emit_table(make_table(headings, cells, notes))


def _counted(model: str, variant: Optional[str], hw: HW) -> Tuple[Dict[str, Any], str]:
    """Return the counts of a network at an LR size, as in a manifest, and its architecture."""
    from sr_deploy.runtime.opener import describe_one, kind_of, split_variant

    source, named = split_variant(model)
    if named is not None and variant not in (None, named):
        raise InputError(f"the model names variant {named}, but --variants is {variant}")
    if kind_of(source) != "checkpoint":
        network = describe_one(source, variant or named)
        return network.counts(hw), "" if network.manifest is None else network.manifest.arch
    from sr_deploy.nets.checkpoint import load_checkpoint, parse_untrained
    from sr_deploy.nets.complexity import count_record

    untrained = parse_untrained(source)
    if untrained is not None:
        check_min_hw(hw, untrained.architecture.min_hw, what=source)
        return count_record(untrained.network(variant or named), hw), untrained.architecture.name
    checkpoint = load_checkpoint(source)
    spec, net = checkpoint.spec, checkpoint.network(variant or named)
    check_min_hw(hw, spec.min_hw, what=checkpoint.name)
    return count_record(net, up_to_multiple(hw, spec.multiple)), spec.arch


def _emit_counts(counts: Counts, size: str) -> None:
    emit(f"#Params  {counts.params / 1e6:.6f} M")
    emit(f"FLOPs    {counts.macs / 1e9:.4f} G multiply-accumulates at {size}")
    emit(f"#Acts    {counts.acts / 1e6:.4f} M")
    emit(f"#Conv    {counts.convs}")
    uncounted = ", ".join(f"{calls} {name}" for name, calls in counts.uncounted.items())
    emit(f"counter  {counts.counter}; operators it ignores: {uncounted or 'none'}")
    for name, macs in counts.uncounted_macs.items():
        emit(f"         of {name} it leaves out {macs / 1e9:.4f} G multiply-accumulates")
    if counts.uncounted_macs:
        macs = counts.macs + sum(counts.uncounted_macs.values())
        emit(f"         with them: {macs / 1e9:.4f} G")


def _one_line(counts: Dict[str, Any]) -> str:
    params, macs, acts = counts["params"] / 1e6, counts["macs"] / 1e9, counts["acts"] / 1e6
    return f"{params:.6f} M, {macs:.4f} G, {acts:.4f} M, {counts['convs']}: of the graph that runs"


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
