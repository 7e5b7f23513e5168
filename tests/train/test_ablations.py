"""The papers' ablations: which there are, and that each can be trained.

By default each recipe's network takes two steps by its loss. SRDEPLOY_LONG_TESTS=1 also trains each
for 100 steps, which takes half an hour.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.architecture import ElasticNetwork
from sr_deploy.nets.checkpoint import load_checkpoint, save_checkpoint
from sr_deploy.nets.router import classifier, load_router
from sr_deploy.train import recipe as recipe_module
from sr_deploy.train.contrast import Projector, RandomFeatures
from sr_deploy.train.losses import METHODS, LossInputs
from sr_deploy.train.recipe import RECIPES, Recipe, RouterRecipe, load_recipe
from sr_deploy.train.router_losses import TRAINED, ParallelBranches, gumbel_noise, stage_terms
from tests.train.conftest import train_network, train_router, untrained

LONG = pytest.mark.skipif(
    not os.environ.get("SRDEPLOY_LONG_TESTS"), reason="takes half an hour: SRDEPLOY_LONG_TESTS=1"
)
FILES = sorted(Path(recipe_module.__file__).parent.glob("recipes/*/ablations.json"))
ABLATIONS = {file.parent.name: list(json.loads(file.read_text("utf-8"))) for file in FILES}
NAMES = [name for names in ABLATIONS.values() for name in names]
NETWORKS = [name for name in NAMES if isinstance(RECIPES[name], Recipe)]
ROUTERS = [name for name in NAMES if isinstance(RECIPES[name], RouterRecipe)]
MANY_PARAMS = 2_000_000
"""Larger networks take their two steps without numbers, on the meta device."""


def recipes(paper, **fields):
    """Return the ablations of a paper that have these values, by name."""
    chosen = {name: RECIPES[name] for name in ABLATIONS[paper]}
    return {
        name: recipe
        for name, recipe in chosen.items()
        if all(getattr(recipe, key) == value for key, value in fields.items())
    }


def test_asrns_tables_3_and_6_and_figure_12():
    configs = {(r.variant, *sorted(r.config.items())) for r in recipes("asrn", scale=3).values()}
    cases = [("", ("block", f"no-{what}"), ("channels", 64)) for what in ("fusion", "links")]
    cases += [("", ("block", f"no-{what}"), ("channels", 64)) for what in ("shuffle", "residual")]
    other = [("", ("block", name)) for name in ("shufflenet", "res2net")]
    sizes = [(f"d{n}",) for n in (10, 15, 25, 35, 45)]
    assert configs == {*cases, ("", ("channels", 64)), *other, *sizes}
    assert {r.method for r in recipes("asrn", arch="asrn").values()} == {"supervised"}


def test_srns_tables_2_to_4():
    blocks = recipes("srn", steps=135_000).values()
    assert {(r.arch, *r.config.values()) for r in blocks} == {
        (arch, *block)
        for arch in ("srn", "srn-s")
        for block in (("none", True), ("esa-old", True), ("esa", True), ("esa", False))
    }
    rows = recipes("srn", steps=125_000).values()
    assert {(r.arch, r.method, r.teacher) for r in rows} == {
        (arch, *how)
        for arch in ("srn", "srn-s")
        for how in (("supervised", ""), ("supervised", "edsr-x4-3"))
    }
    for r in rows:
        assert (r.loss, r.lr, r.final_lr, r.schedule) == ("l1", 2e-4, 1e-7, "cosine")


def test_cdnsrs_tables_2_to_7():
    """A row that is a recipe of Table I, or of another table, is not there twice."""
    two = [(r.alpha, r.lambda_reg) for n, r in recipes("cdnsr").items() if "alpha-" in n]
    two += [(r.alpha, r.lambda_reg) for n, r in recipes("cdnsr").items() if "-lambda-" in n][:4]
    assert two == [
        *((alpha, 2e-4) for alpha in (0.75, 0.65, 0.55, 0.45)),
        *((0.45, lambda_reg) for lambda_reg in (1e-4, 4e-4, 7e-4, 1e-3)),
    ]
    three = recipes("cdnsr", share=0.8).values()
    assert {(r.branches[0].split("-w")[0], r.network, r.convs) for r in three} == {
        (f"cdnsr-{arch}", *router)
        for arch in ("fsrcnn", "carn-m")
        for router in (*(("module-cl", n) for n in (3, 4, 5, 6)), ("mobilenetv2", 3))
    }
    four = [r for n, r in recipes("cdnsr").items() if "lambda-ct" in n]
    assert [r.lambda_ct for r in four] == [0.0, 1e-4, 1e-2]
    assert {r.share for r in four} == {0.52} and RECIPES["cdnsr-s-fsrcnn-x4-2"].lambda_ct == 1e-3
    five = recipes("cdnsr", negatives=5).values()
    assert {(r.share, r.distillation, r.lambda_ct) for r in five} == {
        (share, loss, 1e-3 if loss == "contrastive" else 1.0)
        for share in (0.75, 0.64, 0.52)
        for loss in ("contrastive", "pixel", "none", "perceptual", "csd")
    }
    six = recipes("cdnsr", distillation="none", negatives=6, stage="distil").values()
    assert {r.follows for r in six} == {"cdnsr-s-carn-m-x4", "cdnsr-s-msrresnet-x4"}
    seven = [r for n, r in recipes("cdnsr").items() if n.endswith("negatives")]
    assert [r.negatives for r in seven] == [2, 4, 6, 8]


def test_adadsrs_table_3_has_the_printed_flops_at_one_number_of_pixels():
    from sr_deploy.nets.complexity import count

    large = RECIPES["edsr-original-256-x2"]
    edsrs = [large, *recipes("adadsr", arch="edsr-original").values()]
    printed = {"b8": 408.23, "b16": 718.41, "b24": 1028.58, "b32": 1338.76}
    pixels = set()
    for r in edsrs:
        with torch.device("meta"):
            net = ARCHITECTURES[r.arch].build(r.scale, Variant.parse(r.variant), r.config)
        macs_px = count(net, (8, 8), counter="fvcore").macs / 64
        pixels.add(round(printed.pop(r.variant) * 1e9 / macs_px))
    assert not printed and max(pixels) - min(pixels) <= 2
    fixed = recipes("adadsr", arch="adaedsr").values()
    assert {r.variant for r in fixed} == {"d8", "d16", "d24", "d32"}
    assert {r.config["scaled"] for r in fixed} == {"none"}


def take_steps(parameters, loss_terms, count=2):
    """Train by a recipe's loss; return the losses."""
    optimiser = torch.optim.Adam(parameters, lr=1e-4)
    losses = []
    for step in range(count):
        optimiser.zero_grad()
        loss = sum(loss_terms(step).values())
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return losses


def side_of(recipe):
    return max(*ARCHITECTURES[recipe.arch].min_hw, 4)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_ablated_network_takes_steps(name):
    recipe, rng = load_recipe(name), np.random.default_rng(0)
    variant = ARCHITECTURES[recipe.arch].parse(recipe.variant or None)
    build = lambda: ElasticNetwork(  # noqa: E731
        ARCHITECTURES[recipe.arch], recipe.scale, variant, recipe.config
    )
    with torch.device("meta"):
        elastic = build()
    device = "meta"
    if sum(p.numel() for p in elastic.net.parameters()) <= MANY_PARAMS:
        elastic, device = build(), "cpu"
    side = side_of(recipe)
    lr = torch.rand(1, 3, side, side, device=device)
    hr = torch.rand(1, 3, recipe.scale * side, recipe.scale * side, device=device)
    taught = torch.rand_like(hr) if recipe.teacher else None
    elastic.net.train()
    inputs = LossInputs(lr, hr, recipe, rng, taught)
    losses = take_steps(
        elastic.net.parameters(), lambda step: METHODS[recipe.method](elastic, inputs)
    )
    assert len(losses) == 2
    if device == "cpu":
        assert all(p.isfinite().all() for p in elastic.net.parameters()) and min(losses) > 0


def small_branches(recipe):
    """Return the architecture of a recipe's branches, and small widths of them."""
    widths = [Variant("w", 4 * number + 4) for number in range(recipe.classes)]
    return RECIPES[recipe.branches[0]].arch, widths


@pytest.mark.parametrize("name", ROUTERS)
def test_an_ablated_router_takes_steps(name):
    recipe, n = load_recipe(name), 9
    torch.manual_seed(0)
    arch, widths = small_branches(recipe)
    networks = [ARCHITECTURES[arch].build(2, width) for width in widths]
    features = RandomFeatures()
    modules = {
        "router": classifier(recipe.router_config, recipe.classes),
        "branches": ParallelBranches(networks),
        "features": features,
        "projector": Projector(features.channels),
    }
    trained = torch.nn.ModuleList(modules[key] for key in TRAINED[recipe.stage]).train()
    lr, hr = torch.rand(n, 3, 4, 4), torch.rand(n, 3, 8, 8)
    costs = [sum(p.numel() for p in net.parameters()) for net in networks]
    noise = gumbel_noise(n, recipe.classes, np.random.default_rng(0))
    losses = take_steps(
        trained.parameters(),
        lambda step: stage_terms(recipe, modules, costs, lr, hr, noise, step),
    )
    assert all(loss.isfinite() for loss in losses)
    assert all(p.isfinite().all() for p in trained.parameters())


@LONG
@pytest.mark.parametrize("name", NETWORKS)
def test_an_ablated_network_trains_for_100_steps(name, images, cache, tmp_path):
    recipe = RECIPES[name]
    side = side_of(recipe)
    short = replace(
        recipe, steps=100, batch_size=1, patch_hr=side * recipe.scale, follows="", valid_every=100
    )
    teacher = None
    if recipe.teacher:
        arch = ARCHITECTURES["edsr"]
        spec = arch.spec(recipe.scale, Variant("b", 1), elastic=False, config={"channels": 4})
        weights = arch.build(recipe.scale, Variant("b", 1), {"channels": 4}).state_dict()
        teacher = str(save_checkpoint(tmp_path, "teacher", spec, weights))
    path = train_network(short, [images], tmp_path, teacher, name="net", cache=cache)
    trained = load_checkpoint(path)
    assert trained.spec.training["steps_done"] == 100
    assert all(v.isfinite().all() for v in trained.weights.values())
    y = trained.network()(torch.rand(1, 3, 16, 17))
    assert y.shape == (1, 3, 16 * recipe.scale, 17 * recipe.scale)


@LONG
@pytest.mark.parametrize("name", ROUTERS)
def test_an_ablated_router_trains_for_100_steps(name, images, cache, tmp_path):
    recipe = RECIPES[name]
    tiny = {"scale": 2, "patch_hr": 8, "overlap": 0, "bank": 64, "valid_every": 100}
    arch, widths = small_branches(recipe)
    start = {"branches": [untrained(tmp_path, arch, str(width)) for width in widths]}
    if recipe.stage != "router":
        first = replace(RECIPES[recipe.follows], **tiny, steps=1, batch_size=2, share=0.0)
        router = train_router(first, [images], tmp_path, name="first", cache=cache, **start)
        start = {"init": str(router)}
    batch = recipe.negatives + 1 if recipe.distils else 2
    short = replace(recipe, **tiny, steps=100, batch_size=batch)
    path = train_router(short, [images], tmp_path, name="net", cache=cache, **start)
    router = load_router(path)
    assert router.spec.training["steps_done"] == 100 and len(router.spec.models) == recipe.classes
    assert router.network()(torch.rand(2, 3, 8, 8)).shape == (2, recipe.classes)
