import pytest

from sr_deploy.nets import ARCHITECTURES
from sr_deploy.train.recipes import RECIPES


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_name_what_exists(name):
    recipe = RECIPES[name]
    assert recipe.scale in ARCHITECTURES[recipe.arch].scales
    assert recipe.method in ("asrn-full", "sandwich") and recipe.loss in ("l1", "l2", "charbonnier")
    assert recipe.steps > 0 and recipe.patch_lr > 0 and recipe.batch_size > 0 and 0 < recipe.ema < 1
