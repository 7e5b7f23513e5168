"""The networks that a router is trained for: chosen by name, ordered by cost, and written beside it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import sha256_of
from sr_deploy.core.shipped import shipped_checkpoints
from sr_deploy.core.spec import Variant
from sr_deploy.nets.checkpoint import Checkpoint, copy_checkpoint, load_checkpoint, save_checkpoint
from sr_deploy.nets.complexity import count
from sr_deploy.nets.fuse import fuse_network
from sr_deploy.nets.router import check_scales
from sr_deploy.train.routed_recipes import RoutedRecipe
from sr_deploy.train.stages import TRAINED


@dataclass(frozen=True)
class Chosen:
    """A branch: a variant of a checkpoint, and its multiply-accumulates on one patch, as it is exported."""

    checkpoint: Checkpoint
    variant: Variant
    macs: int


def chosen_branch(text: str, recipe: RoutedRecipe) -> Chosen:
    """Load what `MODEL` or `MODEL:VARIANT` names.

    Its cost is what it executes: fvcore's count, which takes FSRCNN's transposed convolution at its input's resolution. The
    paper's, at the output's, would have it four times as dear beside the rest as it is.
    """
    match = re.fullmatch(r"(.+):([a-z][0-9]+(?:-[a-z]+)*)", text)
    checkpoint = load_checkpoint(match[1] if match else text)
    variant = checkpoint.spec.variant(match[2] if match else None)
    checkpoint.spec.check_input(recipe.patch_hw)
    faster, _ = fuse_network(checkpoint.network(str(variant)))
    return Chosen(checkpoint, variant, count(faster, recipe.patch_hw, counter="fvcore").macs)


def ordered(chosen: Sequence[Chosen], recipe: RoutedRecipe, name: str) -> List[Chosen]:
    """Return the branches from the smallest to the largest. Raises InputError when they cannot go together."""
    check_scales([c.checkpoint for c in chosen], recipe.scale, name)
    shared = len({c.checkpoint.spec.weights_sha256 for c in chosen}) < len(chosen)
    if shared and recipe.stage != "router":
        raise InputError(
            f"branches of '{name}' are slices of one checkpoint, which are not trained apart from each other",
            hint="a router of such branches is trained by recipes of the stage 'router' alone",
        )
    by_cost = sorted(chosen, key=lambda c: c.macs)
    for smaller, larger in zip(by_cost, by_cost[1:]):
        if smaller.macs == larger.macs:
            raise InputError(
                f"the branches {smaller.checkpoint.name}:{smaller.variant} and {larger.checkpoint.name}:{larger.variant} "
                "cost the same",
                hint="choose branches of different sizes",
            )
    return by_cost


def branch_paths(
    chosen: Sequence[Chosen], recipe: RoutedRecipe, output: Path, name: str, *, resume: bool
) -> List[Path]:
    """Return where each branch is found in the end. Raises InputError when another checkpoint is there, or is to be."""
    paths: Dict[Path, str] = {}
    found = []
    for number, c in enumerate(chosen, 1):
        held = c.checkpoint.path
        assert held is not None
        trains = "branches" in TRAINED[recipe.stage]
        path = (
            output / f"{name}-{number}.safetensors"
            if trains
            else held
            if held in shipped_checkpoints()
            else output / held.name
        )
        if path.is_file() and not (
            resume if trains else sha256_of(path) == c.checkpoint.spec.weights_sha256
        ):
            raise InputError(
                f"there is another checkpoint of that name: {path}",
                hint="give another --name or -o",
            )
        if (
            paths.setdefault(path, c.checkpoint.spec.weights_sha256)
            != c.checkpoint.spec.weights_sha256
        ):
            raise InputError(
                f"two branches are called '{path.stem}', and both are to lie beside the router",
                hint="rename one of them",
            )
        found.append(path)
    return found


def with_weights(chosen: Chosen, weights: dict) -> Checkpoint:
    """The branch with the weights it has now; none: it is not trained."""
    if not weights:
        return chosen.checkpoint
    spec = dataclasses.replace(chosen.checkpoint.spec, variants=(str(chosen.variant),))
    return Checkpoint(chosen.checkpoint.name, spec, weights)


def written(checkpoint: Checkpoint, path: Path, card: Dict[str, Any]) -> Checkpoint:
    """Save a branch that was trained; copy one that was not to where it is not yet."""
    if checkpoint.path is None:
        return load_checkpoint(
            save_checkpoint(
                path.parent,
                path.stem,
                dataclasses.replace(checkpoint.spec, **card),
                checkpoint.weights,
            )
        )
    if not path.is_file():
        copy_checkpoint(checkpoint, path.parent)
    return checkpoint
