"""The branches of a router: loaded by name, sorted by cost, and saved with the router."""

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
from sr_deploy.train.recipe import RouterRecipe
from sr_deploy.train.router_losses import TRAINED


@dataclass(frozen=True)
class RouterBranch:
    """A variant of a checkpoint, and its multiply-accumulates on one patch as exported.

    cost: in the recipe's counting.
    """

    checkpoint: Checkpoint
    variant: Variant
    macs: int
    cost: int

    def __str__(self) -> str:
        return f"{self.checkpoint.name}:{self.variant}"

    @property
    def weights_sha256(self) -> str:
        return self.checkpoint.spec.weights_sha256


def load_branch(text: str, recipe: RouterRecipe) -> RouterBranch:
    """Load a branch from `MODEL` or `MODEL:VARIANT`."""
    match = re.fullmatch(r"(.+):([a-z][0-9]+(?:-[a-z]+)*)", text)
    checkpoint = load_checkpoint(match[1] if match else text)
    variant = checkpoint.spec.variant(match[2] if match else None)
    return branch_of(checkpoint, variant, recipe)


def branch_of(checkpoint: Checkpoint, variant: Variant, recipe: RouterRecipe) -> RouterBranch:
    """Return a branch with its costs on one patch of the recipe.

    Its multiply-accumulates are fvcore's count of the fused network, which takes FSRCNN's
    transposed convolution at the resolution of its input: that is the executed work. The paper
    counts it at the resolution of the output, and the network as trained.
    """
    checkpoint.spec.check_input(recipe.patch_hw)
    network = checkpoint.network(str(variant))
    macs = cost = count(fuse_network(network)[0], recipe.patch_hw, counter="fvcore").macs
    if recipe.counting == "paper":
        cost = count(network, recipe.patch_hw, counter="hooks").macs
    return RouterBranch(checkpoint, variant, macs, cost)


def sort_branches(
    branches: Sequence[RouterBranch], recipe: RouterRecipe, name: str
) -> List[RouterBranch]:
    """Return the branches, smallest first. Raises InputError when they do not fit together."""
    check_scales([b.checkpoint for b in branches], recipe.scale, name)
    if recipe.stage != "router" and len({b.weights_sha256 for b in branches}) < len(branches):
        raise InputError(
            f"branches of '{name}' are slices of one checkpoint; they cannot be trained separately",
            hint="such branches work with recipes of the stage 'router' only",
        )
    by_cost = sorted(branches, key=lambda b: b.macs)
    for smaller, larger in zip(by_cost, by_cost[1:]):
        if smaller.macs == larger.macs:
            raise InputError(
                f"the branches {smaller} and {larger} cost the same: {smaller.macs} MACs",
                hint="choose branches of different sizes",
            )
    return by_cost


def branch_paths(
    branches: Sequence[RouterBranch], recipe: RouterRecipe, output: Path, name: str, *, resume: bool
) -> List[Path]:
    """Return the final path of each branch. Raises InputError to protect another checkpoint.

    Trained branches are new files. Others are copied beside the router, unless they are shipped.
    """
    checksums: Dict[Path, str] = {}
    paths = []
    for number, branch in enumerate(branches, 1):
        source, checksum = branch.checkpoint.path, branch.weights_sha256
        assert source is not None
        if "branches" in TRAINED[recipe.stage]:
            path = output / f"{name}-{number}.safetensors"
            usable = resume or not path.is_file()
        else:
            path = source if source in shipped_checkpoints() else output / source.name
            usable = not path.is_file() or sha256_of(path) == checksum
        if not usable:
            raise InputError(
                f"another checkpoint of this name exists: {path}",
                hint="choose another --name or -o",
            )
        if checksums.setdefault(path, checksum) != checksum:
            raise InputError(
                f"two branches have the name '{path.stem}', and both are saved beside the router",
                hint="rename one of them",
            )
        paths.append(path)
    return paths


def with_weights(branch: RouterBranch, weights: Dict[str, Any]) -> Checkpoint:
    """Return the checkpoint of the branch with new weights; unchanged if there are none."""
    if not weights:
        return branch.checkpoint
    spec = dataclasses.replace(branch.checkpoint.spec, variants=(str(branch.variant),))
    return Checkpoint(branch.checkpoint.name, spec, weights)


def save_branch(checkpoint: Checkpoint, path: Path, card: Dict[str, Any]) -> Checkpoint:
    """Save a trained branch; copy one that was not trained if it is not there yet."""
    if checkpoint.path is None:
        spec = dataclasses.replace(checkpoint.spec, **card)
        return load_checkpoint(save_checkpoint(path.parent, path.stem, spec, checkpoint.weights))
    if not path.is_file():
        copy_checkpoint(checkpoint, path.parent)
    return checkpoint
