"""A gains head from nothing, on small images."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from doubles.branches import small_branches

from sr_deploy.core.errors import InputError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture
from sr_deploy.nets.asrn import ASRN_ARCHITECTURE
from sr_deploy.nets.checkpoint import load_checkpoint, save_checkpoint
from sr_deploy.nets.gains import GainsHead, load_gains
from sr_deploy.nets.routed_tiles import branches_modules
from sr_deploy.nets.router import load_router
from sr_deploy.train.gains_trainer import gains_from_images, gains_terms
from sr_deploy.train.options import TrainOptions
from sr_deploy.train.recipe import RECIPES, GainsRecipe, load_recipe
from tests.train.conftest import write_images

SMALL = GainsRecipe(
    depths=("d1", "d2"),
    scale=2,
    steps=4,
    patch_hr=64,
    batch_size=4,
    lr=1e-2,
    schedule="constant",
    resized=(1.0, 1.5),
    hidden=4,
    share=0.8,
    ema=0.5,
    valid_every=2,
)


def save_network(folder, name="net_x2", architecture: Architecture = ASRN_ARCHITECTURE):
    torch.manual_seed(0)
    largest = Variant("d", 2)
    weights = architecture.build(2, largest).state_dict()
    return save_checkpoint(folder, name, architecture.spec(2, largest, elastic=True), weights)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, a checkpoint, and a cache of what is computed once."""
    folder = tmp_path_factory.mktemp("gains")
    write_images(folder / "hr", [(64, 130), (70, 64), (128, 64)])
    save_network(folder)
    return folder


def train(place, output, recipe=SMALL, **options):
    defaults = {"name": "e_x2", "init": str(place / "net_x2.safetensors"), "cache": place / "cache"}
    defaults["folders"] = place / "hr"
    return gains_from_images(recipe, TrainOptions(output=output, **{**defaults, **options}))


@pytest.fixture(scope="module")
def whole(place):
    lines = []
    path = train(place, place / "whole", valid=place / "hr", licence="CC0", log=lines.append)
    return path, lines


def test_a_head_and_its_card(place, whole):
    path, lines = whole
    assert path.name == "e_x2.gains.safetensors"
    gains = load_gains(path)
    spec = gains.spec
    assert (spec.model, spec.scale, spec.variants) == ("net_x2", 2, ("d1", "d2"))
    assert spec.model_sha256 == load_checkpoint(place / "net_x2.safetensors").spec.weights_sha256
    assert spec.config == {"hidden": 4} and spec.price > 0 and spec.licence == "CC0"
    assert spec.training["steps_done"] == 4 and spec.training["images"] == 3
    assert gains.network()(torch.rand(1, 3, 40, 40)).shape == (1, 1, 2, 2)
    assert any("the same with gains" in line for line in lines)
    assert any("of the largest depth's work" in line for line in lines)


def test_a_stopped_run_continues_to_the_same_weights(place, whole, tmp_path):
    train(place, tmp_path, steps=4, budget_s=0.0)
    assert load_gains(tmp_path / "e_x2.gains.safetensors").spec.training["steps_done"] == 1
    path = train(place, tmp_path, resume=True)
    assert load_gains(path).spec.weights_sha256 == load_gains(whole[0]).spec.weights_sha256
    assert load_gains(path).spec.price == load_gains(whole[0]).spec.price


def test_what_a_run_refuses(place, tmp_path):
    def refused(message, recipe=SMALL, **options):
        with pytest.raises(InputError, match=message):
            train(place, tmp_path / "refused", recipe, **options)

    refused("trains a gains head for a checkpoint", init=None)
    refused("makes LR images of several sizes itself", lr_folders=[place / "hr"])
    refused("'net_x2' is x2; the recipe is for x4", replace(SMALL, scale=4, patch_hr=128))
    refused(
        "the depths d2, d1 of 'net_x2' cannot be chosen from", replace(SMALL, depths=("d2", "d1"))
    )
    one = write_images(tmp_path / "one", [(64, 64)])
    refused("1 images are too few", replace(SMALL, resized=(1.0,)), folders=one)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"patch_hr": 32}, "expected patch_hr 64, the side of a cell; got patch_hr 32"),
        ({"depths": ("d1",)}, "expected at least two depths"),
        ({"resized": (0.01,)}, "expected factors from 0.1 to 10"),
        ({"share": 1.0}, "expected a share between 0 and 1"),
        ({"hidden": 0}, "1 to 4096 hidden channels"),
    ],
)
def test_recipes_that_cannot_be(change, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL, **change).check("mine.json")


def test_a_recipe_of_ones_own_is_told_by_its_depths(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(asdict(SMALL)))
    assert load_recipe(str(path)) == SMALL
    shipped = RECIPES["elastic-asrn-x4-gains"]
    assert isinstance(shipped, GainsRecipe) and shipped.follows in RECIPES


def test_a_head_learns_sizes_and_what_part_of_a_change_is_gained():
    torch.manual_seed(0)
    head = GainsHead(depths=1, hidden=8)
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    level = torch.rand(64, 1) * 4 - 2  # cells of small and large differences
    statistics = torch.cat([level, torch.zeros(64, 29)], 1)[:, :, None, None]
    change = level.exp()
    error = 10 * change
    targets = torch.cat([change, error, error - 0.4 * change], dim=1)
    for _ in range(200):
        loss = sum(gains_terms(head, statistics, targets).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        seen_error, seen_change, worth = (p.flatten(1) for p in head.predict(statistics))
    np.testing.assert_allclose(seen_change, change, rtol=0.2)
    np.testing.assert_allclose(seen_error, error, rtol=0.3)
    np.testing.assert_allclose(worth, 0.4, atol=0.1)


@pytest.fixture(scope="module")
def branches(place):
    return small_branches(place)


def test_a_router_of_the_same_branches_that_predicts_their_gains(place, branches, tmp_path):
    recipe = replace(SMALL, depths=("w2", "w4", "w8"))
    path = train(place, tmp_path, recipe, init=str(branches.path), name="gains_x2")
    router = load_router(path)
    assert path.name == "gains_x2.router.safetensors" and isinstance(router.network(), GainsHead)
    spec = router.spec
    assert (spec.patch_hw, spec.overlap, spec.blend) == ((32, 32), 0, "none")
    assert spec.price >= 0 and spec.weights_sha256s == branches.spec.weights_sha256s
    assert router.branch_networks()  # they lie beside it
    plan, modules = branches_modules(router)
    assert list(modules) == plan.roles() and plan.gains_macs == spec.router_macs > 0
    assert modules["gains"](torch.rand(1, 3, 40, 70)).shape == (1, 2, 2, 3)


def test_a_router_of_other_branches_is_refused(place, branches, tmp_path):
    with pytest.raises(InputError, match="chooses between w2, w4, w8 at x2; the recipe is for d1"):
        train(place, tmp_path, init=str(branches.path))
