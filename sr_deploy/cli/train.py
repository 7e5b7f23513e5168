"""srdeploy train and recipes."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Dict, Optional, Tuple

import click

from sr_deploy.cli.output import emit, emit_json, say
from sr_deploy.core.errors import InputError


@click.command()
@click.argument("names", nargs=-1, metavar="[RECIPE]...")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON: one recipe's fields, or an object of several, by name.",
)
def recipes(names: Tuple[str, ...], as_json: bool) -> None:
    """List the training recipes, or show all that fixes some of them and where it comes from.

    A recipe of your own is a JSON file: save what --json NAME prints, and change it.
    """
    from sr_deploy.train.recipes import RECIPES, recipe_named
    from sr_deploy.train.routed_recipes import ROUTED_RECIPES, is_routed, routed_recipe_named

    if names:
        shown = {
            name: routed_recipe_named(name) if is_routed(name) else recipe_named(name)
            for name in names
        }
    else:
        shown = {**RECIPES, **ROUTED_RECIPES}
    if as_json:
        fields = {name: dataclasses.asdict(recipe) for name, recipe in shown.items()}
        emit_json(fields[names[0]] if len(names) == 1 else fields)
    elif names:
        for name, recipe in shown.items():
            emit(name)
            for field, value in dataclasses.asdict(recipe).items():
                if value not in ("", 0, {}, ()):
                    emit(
                        f"  {field}: {', '.join(map(str, value)) if isinstance(value, tuple) else value}"
                    )
    else:
        width = max(map(len, shown))
        for name, recipe in shown.items():
            then = f", after {recipe.follows}" if recipe.follows else ""
            what = recipe.method if name in RECIPES else f"router, stage {recipe.stage}"
            emit(
                f"{name:<{width}}  {what}, {recipe.steps:,} steps of {recipe.batch_size} x HR {recipe.patch_hr}{then}"
            )


@click.command()
@click.argument("recipe")
@click.option(
    "--data",
    "folders",
    multiple=True,
    required=True,
    metavar="HR_DIR",
    help="Folder of HR images; may be repeated.",
)
@click.option(
    "--lr",
    "lr_folders",
    multiple=True,
    metavar="LR_DIR",
    help="Folder of its LR images, one for each --data.  [default: LR is made by the recipe's degradation]",
)
@click.option(
    "--valid",
    metavar="HR_DIR",
    help="Folder of HR images to validate on; keeps the best weights too.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    help="Folder for the checkpoint, its state, logs and decoded images.",
)
@click.option("--name", help="The checkpoint's name.  [default: the recipe's]")
@click.option("--resume", is_flag=True, help="Go on with the run of that name.")
@click.option("--init", metavar="MODEL", help="Start from this checkpoint's weights.")
@click.option(
    "--teacher", metavar="MODEL", help="The checkpoint to learn from, for recipes that distil."
)
@click.option(
    "--judge",
    metavar="MODEL",
    help="The checkpoint that tells how difficult patches are, for recipes of one class of them.",
)
@click.option(
    "--branch",
    "branches",
    multiple=True,
    metavar="MODEL[:VARIANT]",
    help="What a router chooses between: give one for each class.",
)
@click.option(
    "--vgg",
    metavar="FILE",
    help="torchvision's VGG-19 weights, for branches that teach each other.  [default: a substitute]",
)
@click.option("--budget", metavar="TIME", help="Stop cleanly after 90s, 10m or 2h.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    help="GPUs, or processes on a CPU.  [default: all GPUs, or what torchrun started]",
)
@click.option(
    "--accumulate",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Micro-batches a step, to save memory.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that cut patches.  [default: 0 on a CPU, 4 on a GPU]",
)
@click.option(
    "--cache", help="Folder for decoded images, 3 bytes a pixel.  [default: OUTPUT/cache]"
)
@click.option(
    "--strict",
    is_flag=True,
    help="Refuse images that are damaged or too small, instead of leaving them out.",
)
@click.option(
    "--licence", default="", help="Terms of the weights, for the card; --resume keeps them."
)
@click.option(
    "--trained-on",
    default="",
    help="The images, in words, for the card.  [default: the folders' names]",
)
def train(
    recipe: str,
    folders: Tuple[str, ...],
    lr_folders: Tuple[str, ...],
    valid: Optional[str],
    output: str,
    name: Optional[str],
    resume: bool,
    init: Optional[str],
    teacher: Optional[str],
    judge: Optional[str],
    branches: Tuple[str, ...],
    vgg: Optional[str],
    budget: Optional[str],
    seed: int,
    devices: Optional[int],
    accumulate: int,
    workers: Optional[int],
    cache: Optional[str],
    strict: bool,
    licence: str,
    trained_on: str,
) -> None:
    """Train a checkpoint by RECIPE (see: srdeploy recipes), a name or a .json file.

    A run that was stopped, by --budget, Ctrl-C or a crash, goes on with --resume.
    """
    from sr_deploy.train.processes import is_first_process
    from sr_deploy.train.routed_recipes import is_routed

    options: Dict[str, Any] = {
        "name": name,
        "lr_folders": lr_folders,
        "valid": valid,
        "init": init,
        "resume": resume,
        "seed": seed,
        "budget_s": _seconds(budget),
        "devices": devices or 0,
        "accumulate": accumulate,
        "workers": workers,
        "cache": cache,
        "strict": strict,
        "licence": licence,
        "trained_on": trained_on,
        "log": say,
    }
    if is_routed(recipe):
        _refuse("trains a router", teacher=teacher, judge=judge)
        from sr_deploy.train.router_trainer import router_from_images

        path = router_from_images(recipe, folders, output, branches=branches, vgg=vgg, **options)
    else:
        _refuse("trains one network", branch=branches, vgg=vgg)
        from sr_deploy.train.trainer import checkpoint_from_images

        path = checkpoint_from_images(
            recipe, folders, output, teacher=teacher, judge=judge, **options
        )
    if is_first_process():
        emit(str(path))


def _refuse(why: str, **options: object) -> None:
    for option, value in options.items():
        if value:
            raise InputError(f"this recipe {why}", hint=f"leave --{option} out")


def _seconds(budget: Optional[str]) -> float:
    if budget is None:
        return math.inf
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget)
    if match is None:
        raise InputError(f"'{budget}' is not a time; expected 90s, 10m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
