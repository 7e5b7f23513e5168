"""srdeploy complexity."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

import click

from sr_deploy.cli.alias import AliasedOption
from sr_deploy.cli.code_options import code_options
from sr_deploy.cli.output import emit, emit_json
from sr_deploy.cli.progress import terminal_progress
from sr_deploy.cli.tables import emit_table
from sr_deploy.core.counts import COUNTERS, NTIRE_HW, Counts
from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.core.shipped import shipped_checkpoints
from sr_deploy.core.sizes import HW, hw_text, parse_hw, up_to_multiple
from sr_deploy.core.spec import check_min_hw
from sr_deploy.results.render import make_table
from sr_deploy.results.slips import slips_of

_COLUMNS: Dict[str, Tuple[Tuple[str, ...], Tuple[Tuple[float, int], ...]]] = {
    "variant": (("#Params [M]", "FLOPs [G]", "#Acts [M]"), ((1e6, 3), (1e9, 2), (1e6, 2))),
    "part": (("#Params [K]", "FLOPs [M]", "#Acts [M]"), ((1e3, 3), (1e6, 3), (1e6, 3))),
}
"""The columns of a table of variants or of parts, with the unit and the digits of each."""
_WITH_PARTS = ("router", "gains", "plan")
"""Kinds of networks that choose between others, or are in several files."""


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
    help="The LR size.  [default: 256x256, the only size that the file takes, or a router's patch]",
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

    MODEL is a checkpoint, an architecture at a scale (asrn_x4), a recipe (adaedsr-x4, see srdeploy
    recipes), code, an ONNX graph with or without a manifest, or an engine. A graph is counted node
    by node. Several variants are printed as a table. So are the parts of a router, of a gains head
    and of a plan of graphs: each by itself, on a whole image or a router's patch.
    """
    hw = None if size is None else parse_hw(size)
    several = variants is not None and (variants == "all" or "," in variants)
    parts = _parts(model, variants, hw)
    if parts is not None:
        _emit_several(model, "part", parts, counter, as_json)
    elif several:
        _emit_several(model, "variant", _variants(model, variants, hw), counter, as_json)
    else:
        _emit_one(model, variants, hw, counter, as_json)


def _emit_one(
    model: str, variant: Optional[str], hw: Optional[HW], counter: str, as_json: bool
) -> None:
    record, architecture = _counted(model, variant, hw or NTIRE_HW)
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


_Records = Dict[str, Callable[[], Dict[str, Any]]]
"""What counts each variant or part, by its name."""


def _parts(model: str, variants: Optional[str], hw: Optional[HW]) -> Optional[_Records]:
    """Return the parts of what consists of several networks; None for a single one."""
    from sr_deploy.runtime.opener import kind_of, split_variant

    source, named = split_variant(model)
    recipe = _recipe(source)
    with_parts = recipe is not None and not hasattr(recipe, "arch")
    if kind_of(source) not in _WITH_PARTS and not with_parts:
        return None
    if variants or named:
        raise InputError(f"'{source}' has parts and no variants", hint="omit --variants")
    if with_parts:
        from sr_deploy.train.recipe_parts import counts_of_recipe

        return counts_of_recipe(recipe, hw)
    from sr_deploy.runtime.opener.part_counts import counts_of_parts

    return counts_of_parts(source, hw)


def _variants(model: str, variants: Optional[str], hw: Optional[HW]) -> _Records:
    from sr_deploy.runtime.opener import describe, split_variant

    recipe = _recipe(split_variant(model)[0])
    if recipe is None:
        names = [network.variant for network in describe(model, variants, untrained=True)]
    else:
        names = recipe.variants(variants)
    return {
        name: lambda name=name: _counted(model, name, hw or NTIRE_HW)[0]  # type: ignore[misc]
        for name in names
    }


def _emit_several(model: str, what: str, records: _Records, counter: str, as_json: bool) -> None:
    counted = []
    with terminal_progress.track("counting", len(records)) as advance:
        for name, count in records.items():
            record = count()
            hw = tuple(record.get("hw", NTIRE_HW))
            counted.append({what: name, "hw": hw, **_counts_by(counter, record, model)})
            advance(name)
    if as_json:
        emit_json(counted)
        return
    headings, units = _COLUMNS[what]
    keys = ("params", "macs", "acts")
    cells = [
        [c[what], *(f"{c[key] / unit:.{digits}f}" for key, (unit, digits) in zip(keys, units))]
        + [str(c["convs"])]
        for c in counted
    ]
    sizes = " and ".join(dict.fromkeys(hw_text(c["hw"]) for c in counted))
    notes = [f"{model}, multiply-accumulates at {sizes}, counter {counter}"]
    emit_table(make_table([what, *headings, "#Conv"], cells, notes))


def _recipe(source: str) -> Any:
    """Return the recipe of this name; None for a file, a checkpoint, an architecture or code.

    Raises InputError for a name of nothing.
    """
    from sr_deploy.runtime.opener import kind_of

    shipped = [path.stem for path in shipped_checkpoints()]
    is_file = bool(Path(source).suffix) or Path(source).exists()
    if kind_of(source) != "checkpoint" or source in shipped or is_file:
        return None
    from sr_deploy.nets.checkpoint import parse_untrained

    if parse_untrained(source) is not None:
        return None
    from sr_deploy.train.recipe import RECIPES

    if source not in RECIPES:
        raise InputError(
            f"there is no model '{source}', and no recipe of that name",
            hint=did_you_mean(source, [*shipped, *RECIPES])
            or "srdeploy models and srdeploy recipes list the names",
        )
    return RECIPES[source]


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

    recipe = _recipe(source)
    if recipe is not None:
        network = recipe.build(variant or named)
        check_min_hw(hw, recipe.card.min_hw, what=source)
        return count_record(network, hw), recipe.arch
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
