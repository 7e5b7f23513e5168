"""srdeploy train and recipes."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Callable, Iterator, Optional, Tuple

import click

from sr_deploy.cli.alias import AliasedOption
from sr_deploy.cli.output import emit, emit_json, log
from sr_deploy.core.errors import InputError


@click.command()
@click.argument("recipe", nargs=-1, metavar="[RECIPE]...")
@click.option(
    "--for",
    "machine",
    type=click.Choice(["cpu", "gpu"]),
    help="List those that end in hours on one or two CPU cores, or the others.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON: the fields of one recipe, or an object of several by name.",
)
def recipes(recipe: Tuple[str, ...], machine: Optional[str], as_json: bool) -> None:
    """List the training recipes, or show all fields of those named, with their sources.

    Notes in brackets are no fields: what all runs do, and where the paper does otherwise.

    A recipe of your own is a JSON file: save the output of --json NAME and change it, or write
    {"extends": "NAME"} and the fields that differ.
    """
    from sr_deploy.train.recipe import load_recipe, recipe_groups

    if recipe and machine:
        raise click.UsageError("--for lists recipes; give it, or names")
    groups = recipe_groups(machine or "")
    listed = {name: one for group in groups.values() for name, one in group.items()}
    shown = {name: load_recipe(name) for name in recipe} or listed
    if as_json:
        values = [dataclasses.asdict(one) for one in shown.values()]
        emit_json(values[0] if len(recipe) == 1 else dict(zip(shown, values)))
    elif recipe:
        for name, one in shown.items():
            emit(name)
            for line in _field_lines(one):
                emit(f"  {line}")
    else:
        for title, group in groups.items():
            emit(title)
            width = max(map(len, group))
            for name, one in group.items():
                emit(f"  {name:<{width}}  {_summary(one)}")


def _field_lines(recipe: Any) -> Iterator[str]:
    for field, value in dataclasses.asdict(recipe).items():
        if value not in ("", 0, {}, ()):
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            yield f"{field}: {text}"
    for subject, note in recipe.notes().items():
        yield f"({subject}: {note})"


def _summary(recipe: Any) -> str:
    from sr_deploy.train.recipe import Recipe, RouterRecipe

    if isinstance(recipe, Recipe):
        kind = recipe.method
    elif isinstance(recipe, RouterRecipe):
        kind = f"router, stage {recipe.stage}"
    else:
        kind = f"gains of {', '.join(recipe.depths)}"
    size = f"{recipe.steps:,} steps of {recipe.batch_size} x HR {recipe.patch_hr}"
    return f"{kind}, {size}" + (f", after {recipe.follows}" if recipe.follows else "")


_RUN_OPTIONS = [  # the fields of TrainOptions
    click.option(
        "--data",
        "folders",
        multiple=True,
        required=True,
        metavar="HR_DIR",
        help="Folder of HR images; repeatable.",
    ),
    click.option(
        "--lr-data",
        "lr_folders",
        cls=AliasedOption,
        aliases=["--lr"],
        multiple=True,
        metavar="LR_DIR",
        help="Folder of LR images, one for each --data.  [default: made from HR]",
    ),
    click.option(
        "--valid",
        metavar="HR_DIR",
        help="Folder of HR images to validate on; the best weights are saved too.",
    ),
    click.option(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="Folder for the checkpoint, its state, logs and decoded images.",
    ),
    click.option("--name", help="Name of the checkpoint.  [default: the recipe's]"),
    click.option("--resume", is_flag=True, help="Continue the run of this name."),
    click.option("--init", metavar="MODEL", help="Start from the weights of a checkpoint."),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Seed of the initial weights and the patches.",
    ),
    click.option(
        "--devices",
        type=click.IntRange(min=1),
        help="GPUs, or processes on a CPU.  [default: all GPUs, or those of torchrun]",
    ),
    click.option(
        "--accumulate",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Micro-batches per step, to save memory.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=0),
        help="Processes that cut patches.  [default: 0 on a CPU, 4 on a GPU]",
    ),
    click.option(
        "--cache",
        metavar="DIR",
        help="Folder for decoded images, 3 bytes per pixel.  [default: OUTPUT/cache]",
    ),
    click.option(
        "--strict",
        is_flag=True,
        help="Fail on damaged or too small images instead of skipping them.",
    ),
    click.option(
        "--licence",
        default="",
        help="Terms of the weights, for the card; --resume keeps them.",
    ),
    click.option(
        "--trained-on",
        default="",
        help="Description of the images, for the card.  [default: the folders' names]",
    ),
]


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("recipe")
@_run_options
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Number of steps, at whose end the schedule ends; --resume keeps it.  [default: the "
    "recipe's, or as many as fit in --budget]",
)
@click.option(
    "--budget",
    metavar="TIME",
    help="Time for the run, such as 90s, 10m or 2h: a schedule that ends with the last step gets "
    "as many steps as fit. With --steps, --resume, --all-steps or another schedule: stop after "
    "this time.",
)
@click.option(
    "--teacher",
    metavar="MODEL",
    help="A checkpoint whose output is learned too, beside the HR images; recipes that distil need "
    "one.",
)
@click.option(
    "--judge",
    metavar="MODEL",
    help="The checkpoint that measures the difficulty of patches, for recipes that train on one "
    "class of difficulty.",
)
@click.option(
    "--branch",
    "branches",
    multiple=True,
    metavar="MODEL[:VARIANT]",
    help="A network that the router chooses between; give one for each class.",
)
@click.option(
    "--vgg",
    metavar="FILE",
    help="torchvision's VGG-19 weights, to distil between branches.  [default: a substitute]",
)
@click.option(
    "--all-steps",
    is_flag=True,
    help="Train the recipes that this one follows first, each under its own name; --resume "
    "continues where they stopped.",
)
def train(
    recipe: str,
    budget: Optional[str],
    teacher: Optional[str],
    judge: Optional[str],
    branches: Tuple[str, ...],
    vgg: Optional[str],
    all_steps: bool,
    **run_options: Any,
) -> None:
    """Train a checkpoint by RECIPE, a name (see srdeploy recipes) or a .json file.

    A run that was stopped by --budget, Ctrl-C or a crash continues with --resume, to the number of
    steps that it began with.

    With --all-steps, --branch gives the checkpoints that the branches of a router start from.
    """
    from sr_deploy.train.options import TrainOptions
    from sr_deploy.train.processes import is_first_process
    from sr_deploy.train.recipe import GainsRecipe, RouterRecipe, load_recipe

    devices = run_options.pop("devices") or 0
    options = TrainOptions(budget_s=_seconds(budget), devices=devices, log=log, **run_options)
    if all_steps:
        from sr_deploy.train.all_steps import GivenModels, train_all_steps

        path = train_all_steps(recipe, options, GivenModels(judge, branches, teacher, vgg))
    elif isinstance(load_recipe(recipe), RouterRecipe):
        _refuse("trains a router", teacher=teacher, judge=judge)
        from sr_deploy.train.router_trainer import router_from_images

        path = router_from_images(recipe, options, branches=branches, vgg=vgg)
    elif isinstance(load_recipe(recipe), GainsRecipe):
        _refuse("trains a gains head", teacher=teacher, judge=judge, branch=branches, vgg=vgg)
        from sr_deploy.train.gains_trainer import gains_from_images

        path = gains_from_images(recipe, options)
    else:
        _refuse("trains one network", branch=branches, vgg=vgg)
        from sr_deploy.train.trainer import checkpoint_from_images

        path = checkpoint_from_images(recipe, options, teacher=teacher, judge=judge)
    if is_first_process():
        emit(str(path))


def _refuse(reason: str, **options: object) -> None:
    for option, value in options.items():
        if value:
            raise InputError(f"this recipe {reason}", hint=f"remove --{option}")


def _seconds(budget: Optional[str]) -> float:
    if budget is None:
        return math.inf
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget)
    if match is None:
        raise InputError(f"'{budget}' is not a time; expected 90s, 10m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
