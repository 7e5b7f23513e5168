"""srdeploy models, complexity, import-checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, List, Optional

import click

from sr_deploy.cli.output import emit, emit_json, say
from sr_deploy.core.routers import read_router_card, router_name, shipped_routers
from sr_deploy.core.shipped import read_card, shipped_checkpoints
from sr_deploy.core.sizes import hw_text, parse_hw
from sr_deploy.core.spec import check_min_hw
from sr_deploy.results.tables import markdown


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def models(as_json: bool) -> None:
    """List the shipped checkpoints, and the routers with what each chooses between, the smallest first."""
    found: List[Dict[str, Any]] = []
    for path in shipped_checkpoints():
        spec = read_card(path)
        found.append(
            {
                "name": path.stem,
                "arch": spec.arch,
                "scale": spec.scale,
                "variants": list(spec.variants),
                "path": str(path),
            }
        )
    routers: List[Dict[str, Any]] = []
    for path in shipped_routers():
        card = read_router_card(path)
        branches = [f"{b.model}:{b.variant}" for b in card.branches]
        routers.append(
            {
                "name": router_name(path),
                "scale": card.scale,
                "branches": branches,
                "path": str(path),
            }
        )
    if as_json:
        emit_json(found + routers)
        return
    cells = [
        [m["name"], m["arch"], f"x{m['scale']}", " ".join(m["variants"]), m["path"]] for m in found
    ]
    emit("\n".join(markdown(["name", "arch", "scale", "variants", "path"], cells)))
    cells = [[r["name"], f"x{r['scale']}", " ".join(r["branches"]), r["path"]] for r in routers]
    emit("\n" + "\n".join(markdown(["router", "scale", "branches", "path"], cells)))


@click.command()
@click.argument("model")
@click.option(
    "--variant",
    help="A variant, such as d3, c8 or c16-nla; default: the largest, or the paper's own size.",
)
@click.option(
    "--lr", default="256x256", show_default=True, metavar="HxW", help="The LR size counted at."
)
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
    from sr_deploy.nets.checkpoint import load_checkpoint, untrained
    from sr_deploy.nets.complexity import count

    hw = parse_hw(lr)
    bare = untrained(model)
    if bare is not None:
        min_hw, net = bare.architecture.min_hw, bare.network(variant)
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
    emit(f"counter  {counts.counter}; it gives nothing for: {uncounted or '(nothing)'}")


@click.command("import-checkpoint")
@click.argument("kind", metavar="KIND")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write to."
)
@click.option("--variant", help="The size the weights have, where their names do not tell.")
@click.option("--name", help="The checkpoint's name; default: KIND or the file's own.")
@click.option(
    "--value-range",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="The network was trained on 0 to this, 255 say; folded into its weights.",
)
@click.option(
    "--elastic", is_flag=True, help="The weights were trained to be sliced into smaller variants."
)
def import_checkpoint(
    kind: str,
    file: Path,
    output: Path,
    variant: Optional[str],
    name: Optional[str],
    value_range: float,
    elastic: bool,
) -> None:
    """Bring weights in as safetensors with a card.

    KIND is imdeception-ntire2022 or srn-ntire2023 for the official files, or an architecture (asrn, asrn_x4) for a state
    dict whose tensors are named as ours. Pickles are read for their tensors only; code in them is refused.
    """
    from sr_deploy.nets.importers import checkpoint_from_file

    checkpoint = checkpoint_from_file(
        kind, file, output, variant=variant, name=name, elastic=elastic, value_range=value_range
    )
    spec = checkpoint.spec
    say(
        f"{spec.arch} x{spec.scale}, {', '.join(spec.variants)}, {sum(v.numel() for v in checkpoint.weights.values()):,} parameters"
    )
    emit(str(checkpoint.path))
