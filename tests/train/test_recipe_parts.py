from __future__ import annotations

import pytest

from sr_deploy.train.recipe import RECIPES, GainsRecipe, RouterRecipe
from sr_deploy.train.recipe_parts import counts_of_recipe

WITH_PARTS = {n: r for n, r in RECIPES.items() if isinstance(r, (RouterRecipe, GainsRecipe))}


@pytest.mark.parametrize("name", [name for name in WITH_PARTS if "rcan" not in name])
def test_a_recipe_has_all_that_it_chooses_between(name):
    recipe = WITH_PARTS[name]
    chooser, *chosen = counts_of_recipe(recipe)
    is_gains = isinstance(recipe, GainsRecipe)
    assert chooser == ("gains" if is_gains else "router")
    assert len(chosen) == (len(recipe.depths) if is_gains else recipe.classes)


def test_later_stages_have_the_branches_of_the_first():
    first, third = (counts_of_recipe(RECIPES[f"cdnsr-m-carn-m-x4{n}"]) for n in ("", "-3"))
    assert list(first) == list(third)
    assert first["router"]() == third["router"]()


def test_a_gains_head_chooses_between_depths():
    counts = counts_of_recipe(RECIPES["elastic-asrn-x4-gains"], (32, 32))
    assert [name.partition(".")[2] for name in counts] == ["", "d1", "d2", "d3", "d4", "d5"]
    gains, one = counts["gains"](), counts["asrn-x4-small-2.d1"]()
    assert (gains["params"], one["params"], one["hw"]) == (4393, 86_339, [32, 32])
