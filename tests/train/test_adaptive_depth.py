import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch

from sr_deploy.core.errors import InputError
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.architecture import ElasticNetwork
from sr_deploy.nets.checkpoint import load_checkpoint, save_checkpoint
from sr_deploy.train import losses
from sr_deploy.train.recipe import RECIPES, Recipe, load_recipe
from tests.train.conftest import TINY

ADA = [
    name
    for name, recipe in RECIPES.items()
    if isinstance(recipe, Recipe) and recipe.method == "adaptive-depth"
]
SMALL = {
    "adaedsr": {"channels": 4, "blocks": 2},
    "adarcan": {"width": 16, "groups": 2, "blocks": 2},
}


def shrunk(name, steps, **changes):
    """A recipe with a network, patches and batches that take a moment."""
    recipe = RECIPES[name]
    config = {**recipe.config, **SMALL[recipe.arch]}
    return replace(
        recipe,
        variant="d2",
        config=config,
        steps=steps,
        patch_hr=8 * recipe.scale,
        batch_size=2,
        valid_every=steps,
        follows="",
        **changes,
    )


def test_the_depth_loss_is_equation_7_for_each_sample_and_map_in_float64():
    rng = np.random.default_rng(0)
    depth_map, depth = rng.uniform(0, 16, (3, 2, 4, 5)), np.array([0.0, 8.0, 16.0])
    expected = np.mean(
        [[max(0.0, depth_map[n, g].mean() - depth[n]) for g in range(2)] for n in range(3)]
    )
    found = losses.depth_loss(torch.from_numpy(depth_map), torch.from_numpy(depth))
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert losses.depth_loss(torch.full((1, 1, 2, 2), 3.0), torch.tensor([3.0])) == 0


def elastic(scaled="weight", variant="d2"):
    torch.manual_seed(0)
    return ElasticNetwork(
        ARCHITECTURES["adaedsr"],
        2,
        Variant.parse(variant),
        {"channels": 4, "blocks": 2, "scaled": scaled},
    )


def step(depth, seed=0):
    torch.manual_seed(1)
    lr, hr = torch.rand(4, 3, 6, 6), torch.rand(4, 3, 12, 12)
    return losses.LossInputs(lr, hr, replace(TINY, depth=depth), np.random.default_rng(seed))


def test_the_loss_is_equation_8_at_desired_depths_drawn_from_all():
    net, given = elastic(), step(0.25)
    terms = losses.adaptive_depth(net, given)
    depth = torch.from_numpy(np.random.default_rng(0).uniform(0, 2, 4)).float()
    sr, depth_map = net.net.forward_at(given.lr, depth)
    torch.testing.assert_close(terms["pixel"], (sr - given.hr).abs().mean())
    torch.testing.assert_close(terms["depth"], 0.25 * losses.depth_loss(depth_map, depth))
    assert not torch.equal(losses.adaptive_depth(net, step(0.25, seed=1))["pixel"], terms["pixel"])


def test_an_adapter_of_a_fixed_depth_is_trained_for_its_variant(monkeypatch):
    seen = []
    monkeypatch.setattr(
        losses,
        "depth_loss",
        lambda depth_map, depth: seen.append(depth.tolist()) or depth_map.sum(),
    )
    losses.adaptive_depth(elastic("none", "d1"), step(1.0))
    assert seen == [[1.0] * 4]


def test_the_papers_recipes():
    paper, fixed, rcan = (
        load_recipe("adaedsr-x4"),
        load_recipe("fadaedsr-8-x2"),
        load_recipe("adarcan-x4"),
    )
    assert (paper.steps, paper.batch_size, paper.lr, paper.periods, paper.patch_hr) == (
        800_000,
        16,
        5e-5,
        (200_000,),
        192,
    )
    assert paper.depth == pytest.approx(0.01 / 255)
    assert (fixed.variant, fixed.config["scaled"]) == ("d8", "none")
    assert {f"fadaedsr-{d}-x2" for d in (8, 16, 24, 32)} < set(RECIPES)
    assert (rcan.variant, rcan.follows) == ("d20", "rcan-x4")
    assert [r.elastic for r in (paper, rcan, fixed, load_recipe("rcan-x4"))] == [
        True,
        True,
        False,
        False,
    ], "what takes any desired depth"
    assert all(RECIPES[recipe.follows] for recipe in map(RECIPES.get, ADA) if recipe.follows)


@pytest.mark.parametrize("name", ["adaedsr-x4", "fadaedsr-8-x2", "adarcan-x3"])
def test_it_trains_a_hundred_steps(train, name):
    recipe = shrunk(name, 100, lr=1e-3)
    if recipe.config.get("scaled") == "none":
        recipe = replace(recipe, variant="d1")
    checkpoint = load_checkpoint(train(recipe, seed=3))
    assert checkpoint.spec.training["steps_done"] == 100
    assert (
        checkpoint.spec.training["history"][-1]["loss"]
        < checkpoint.spec.training["history"][0]["loss"]
    )
    image, depth_map = checkpoint.network().forward_at(torch.rand(1, 3, 5, 6), torch.tensor([1.0]))
    assert image.isfinite().all() and 0 <= depth_map.min() <= depth_map.max() <= 2


def backbone(folder, blocks=2, channels=4):
    torch.manual_seed(5)
    architecture = ARCHITECTURES["edsr-original"]
    net = architecture.build(4, Variant("b", blocks), {"channels": channels})
    spec = architecture.spec(4, Variant("b", blocks), elastic=False, config={"channels": channels})
    return save_checkpoint(folder, f"backbone-{blocks}-{channels}", spec, net.state_dict())


def test_it_begins_with_a_trained_backbone(train, tmp_path):
    start = backbone(tmp_path)
    checkpoint = load_checkpoint(train(shrunk("adaedsr-x4", 1, lr=1e-9), init=str(start)))
    assert checkpoint.spec.training["init"] == "backbone-2-4"
    held = checkpoint.network().backbone().state_dict()
    for key, value in load_checkpoint(start).weights.items():
        torch.testing.assert_close(held[key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("blocks, channels", [(3, 4), (1, 4), (2, 5)])
def test_another_backbone_is_refused(train, tmp_path, blocks, channels):
    with pytest.raises(InputError, match="the recipe trains adaedsr d2") as caught:
        train(shrunk("adaedsr-x4", 1), init=str(backbone(tmp_path, blocks, channels)))
    assert "or of edsr-original" in caught.value.hint


def test_a_network_without_an_adapter_is_refused():
    recipe = replace(RECIPES["edsr-original-16-x4"], method="adaptive-depth")
    with pytest.raises(InputError, match="edsr-original has no adapter"):
        recipe.check("mine")
    with pytest.raises(InputError, match="depth >= 0"):
        replace(RECIPES["adaedsr-x4"], depth=-1.0).check("mine")


def test_a_recipe_of_depths_survives_json(tmp_path):
    from sr_deploy.core.jsonio import to_json

    path = tmp_path / "mine.json"
    path.write_text(to_json(dataclasses.asdict(RECIPES["fadaedsr-8-x2"])))
    assert load_recipe(str(path)) == RECIPES["fadaedsr-8-x2"]


def test_mean_depths_are_held_to_the_desired_one_from_both_sides():
    for mean, expected in ((3.0, 0.0), (5.0, (2 / 4) ** 2), (1.0, (2 / 4) ** 2)):
        found = losses.follow_loss(torch.full((2, 1, 3, 3), mean), torch.tensor([3.0]), 4)
        assert found.item() == pytest.approx(expected)
    beyond = torch.full((1, 1, 1, 2), 6.0)  # of four blocks: pulled back, and not enough at once
    assert losses.follow_loss(beyond, torch.tensor([4.0]), 4).item() == pytest.approx((2 / 5) ** 2)


def test_the_best_map_spends_depth_where_it_saves_most_error():
    errors = torch.tensor([[5.0, 2.0, 2.0], [3.0, 2.9, 2.5], [3.0, 3.0, 3.0]]).T.view(1, 3, 1, 3)
    errors = errors / errors.mean()
    assert losses.best_map(errors, 0.4, 2).flatten().tolist() == [1, 0, 0]
    assert losses.best_map(errors, 1.0, 2).flatten().tolist() == [1, 2, 0]
    torch.testing.assert_close(losses.best_map(errors, 1.5, 2).mean(), torch.tensor(1.5))


def test_the_adapter_alone_is_trained(train):
    recipe = shrunk("adaedsr-x4", 3, lr=1e-2, method="adapter", follow=1.0, level=0.01)
    trained = load_checkpoint(train(recipe, seed=3))
    torch.manual_seed(3)
    start = elastic_of(recipe).net.state_dict()
    changed = {k.split(".")[0] for k, v in trained.weights.items() if not torch.equal(v, start[k])}
    assert changed == {"adapter"}


def elastic_of(recipe):
    return ElasticNetwork(ARCHITECTURES["adaedsr"], 4, Variant.parse("d2"), recipe.config)
