"""Counts of what recipes of routers and gains heads train or choose between."""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict, Optional, Union, cast

import torch
from torch import nn

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.sizes import HW
from sr_deploy.core.spec import network_name
from sr_deploy.nets.complexity import count_record
from sr_deploy.nets.gains import GainsHead
from sr_deploy.nets.router import classifier
from sr_deploy.train.recipe import RECIPES, GainsRecipe, Recipe, RouterRecipe


def counts_of_recipe(
    recipe: Union[RouterRecipe, GainsRecipe], hw: Optional[HW] = None
) -> Dict[str, Callable[[], Dict[str, Any]]]:
    """Return what counts the router or the gains head of a recipe, and each network it chooses.

    A count is as a manifest has it. The branches of a router are those of the first recipe that it
    follows; those of a gains head, the depths of the network that it follows.
    hw: the LR size; None: a patch of a router, 256x256 for a gains head.
    """
    with torch.device("meta"):
        if isinstance(recipe, GainsRecipe):
            head = GainsHead(depths=len(recipe.depths) - 1, hidden=recipe.hidden)
            chooser: Dict[str, nn.Module] = {"gains": head}
            usual_hw = NTIRE_HW
        else:
            chooser = {"router": classifier(recipe.router_config, recipe.classes)}
            usual_hw = recipe.patch_hw
    networks = {**chooser, **_chosen(recipe)}
    return {
        name: functools.partial(count_record, net, hw or usual_hw) for name, net in networks.items()
    }


def _chosen(recipe: Union[RouterRecipe, GainsRecipe]) -> Dict[str, nn.Module]:
    """Return the branches or depths by name, without numbers."""
    if isinstance(recipe, RouterRecipe) and recipe.branches:
        return {name: cast(Recipe, RECIPES[name]).build() for name in recipe.branches}
    followed = RECIPES[recipe.follows]
    if isinstance(recipe, GainsRecipe) and isinstance(followed, Recipe):
        return {network_name(recipe.follows, d): followed.build(d) for d in recipe.depths}
    return _chosen(cast(RouterRecipe, followed))
