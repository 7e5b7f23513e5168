"""srdeploy train and recipes."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Optional, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, say
from sr_deploy.core.errors import InputError, nearest


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def recipes(as_json: bool) -> None:
    """List the training recipes."""
    from sr_deploy.train.recipes import RECIPES

    if as_json:
        emit_json({name: dataclasses.asdict(recipe) for name, recipe in RECIPES.items()})
        return
    for name, recipe in RECIPES.items():
        emit(f"{name}: " + ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(recipe).items()))


@click.command()
@click.argument("recipe")
@click.option("--data", "folders", multiple=True, required=True, metavar="HR_DIR", type=click.Path(path_type=Path),
              help="Folder of HR images; may be repeated.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the checkpoint and its state.")
@click.option("--name", help="The checkpoint's name; default: the recipe's.")
@click.option("--init", metavar="MODEL", help="Start from this checkpoint's weights.")
@click.option("--budget", metavar="TIME", help="Stop cleanly after 90s, 10m or 2h; the same command goes on later.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--licence", default="", help="Terms of the weights, for the card.")
@click.option("--trained-on", default="", help="The images, in words, for the card.")
def train(
    recipe: str, folders: Tuple[Path, ...], output: Path, name: Optional[str], init: Optional[str], budget: Optional[str],
    seed: int, licence: str, trained_on: str,
) -> None:  # fmt: skip
    """Train a checkpoint by RECIPE. An interrupted run is gone on with by the same command."""
    from sr_deploy.train.loop import checkpoint_from_images
    from sr_deploy.train.recipes import RECIPES

    if recipe not in RECIPES:
        raise InputError(f"unknown recipe '{recipe}'; known are {', '.join(RECIPES)}", hint=nearest(recipe, RECIPES))
    path = checkpoint_from_images(
        RECIPES[recipe],
        folders,
        output,
        name=name or recipe,
        init=init,
        seed=seed,
        budget_s=_seconds(budget),
        licence=licence,
        trained_on=trained_on or ", ".join(f.resolve().name for f in folders),
        log=say,
    )
    emit(str(path))


def _seconds(budget: Optional[str]) -> float:
    if budget is None:
        return math.inf
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget)
    if match is None:
        raise InputError(f"'{budget}' is not a time; expected 90s, 10m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
