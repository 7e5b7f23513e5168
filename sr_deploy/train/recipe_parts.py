"""The networks that recipes of routers and gains heads train or choose between, untrained."""

from __future__ import annotations

from typing import Dict, Union

import torch
from torch import nn

from sr_deploy.nets.gains import GainsHead
from sr_deploy.nets.router import classifier
from sr_deploy.train.recipe import RECIPES, GainsRecipe, Recipe, RouterRecipe


def networks_of(recipe: Union[RouterRecipe, GainsRecipe]) -> Dict[str, nn.Module]:
    """Return the router and the branches that its recipe names, or the gains head, by name.

    They are without numbers, on the meta device.
    """
    with torch.device("meta"):
        if isinstance(recipe, GainsRecipe):
            return {"gains": GainsHead(depths=len(recipe.depths) - 1, hidden=recipe.hidden)}
        networks: Dict[str, nn.Module] = {
            "router": classifier(recipe.router_config, recipe.classes)
        }
    for name in recipe.branches:
        branch = RECIPES[name]
        assert isinstance(branch, Recipe)
        networks[name] = branch.build()
    return networks
