"""The networks that recipes of routers and gains heads train or choose between, untrained."""

from __future__ import annotations

from typing import Dict, Union

import torch
from torch import nn

from sr_deploy.nets.gains import GainsHead
from sr_deploy.nets.router import classifier
from sr_deploy.train.recipe import RECIPES, GainsRecipe, Recipe, RouterRecipe


def networks_of(recipe: Union[RouterRecipe, GainsRecipe]) -> Dict[str, nn.Module]:
    """Return the router or the gains head of a recipe and what it chooses between, by name.

    They are without numbers, on the meta device. The branches of a router are those of the first
    recipe that it follows; those of a gains head, the depths of the network that it follows.
    """
    if isinstance(recipe, GainsRecipe):
        with torch.device("meta"):
            head = GainsHead(depths=len(recipe.depths) - 1, hidden=recipe.hidden)
        return {"gains": head, **_chosen_by_gains(recipe)}
    with torch.device("meta"):
        router = classifier(recipe.router_config, recipe.classes)
    return {"router": router, **_branches(recipe)}


def _branches(recipe: RouterRecipe) -> Dict[str, nn.Module]:
    followed = RECIPES.get(recipe.follows)
    if not recipe.branches and isinstance(followed, RouterRecipe):
        return _branches(followed)
    trained = {name: RECIPES[name] for name in recipe.branches}
    return {name: r.build() for name, r in trained.items() if isinstance(r, Recipe)}


def _chosen_by_gains(recipe: GainsRecipe) -> Dict[str, nn.Module]:
    followed = RECIPES.get(recipe.follows)
    if isinstance(followed, RouterRecipe):
        return _branches(followed)
    if isinstance(followed, Recipe):
        return {f"{recipe.follows}.{depth}": followed.build(depth) for depth in recipe.depths}
    return {}
