"""CDNSR's four steps from nothing, on small images."""

import json
from dataclasses import replace

import pytest
import torch

from sr_deploy.core.errors import CheckpointError, InputError, SrDeployError
from sr_deploy.nets.checkpoint import load_checkpoint
from sr_deploy.nets.router import load_router
from sr_deploy.train.recipe import RECIPES, RouterRecipe, load_recipe
from tests.train.conftest import TINY, TINY_ROUTER, train_network, train_router, untrained

ROUTED = replace(TINY_ROUTER, batch_size=8, alpha=0.5, valid_every=2, ema=0.9)
WIDTHS = ("w2", "w4", "w8")
ROUTER_RECIPES = {name: r for name, r in RECIPES.items() if isinstance(r, RouterRecipe)}


def branch(folder, images, cache, width, classes=3, scale=2):
    """Step one: train a branch on the patches of its class of difficulty."""
    easy = replace(
        TINY,
        arch="fsrcnn",
        variant=width,
        method="supervised",
        psd=0.0,
        elastic=False,
        scale=scale,
        patch_hr=8 * scale,
        steps=3,
        difficulty=(WIDTHS.index(width) + 1, classes),
        judge="net",
    )
    judge = folder / "net.safetensors"
    return str(train_network(easy, [images], folder, name=width, cache=cache, judge=str(judge)))


@pytest.fixture(scope="module")
def steps(images, cache, tmp_path_factory):
    """All four steps: the folder of each, and the routers' paths."""
    first = tmp_path_factory.mktemp("first")
    judge = replace(
        TINY,
        arch="msrresnet",
        variant="w4",
        method="supervised",
        psd=0.0,
        elastic=False,
        steps=2,
        patch_hr=16,
    )
    train_network(judge, [images], first, name="net", cache=cache)
    branches = [branch(first, images, cache, width) for width in WIDTHS]
    paths, before = [], None
    for stage in ("router", "distil", "joint"):
        recipe = replace(
            ROUTED,
            stage=stage,
            distillation="none" if stage == "router" else "contrastive",
            negatives=2,
        )
        start = {"branches": branches} if before is None else {"init": str(before)}
        before = train_router(
            recipe,
            [images],
            tmp_path_factory.mktemp(stage),
            name="net",
            cache=cache,
            valid=images,
            licence="CC0",
            **start,
        )
        paths.append(before)
    return branches, paths


def test_each_branch_is_trained_on_its_class_of_difficulty(steps, images, cache, tmp_path):
    lines = []
    recipe = replace(
        TINY,
        arch="fsrcnn",
        variant="w2",
        method="supervised",
        psd=0.0,
        elastic=False,
        steps=1,
        patch_hr=16,
        difficulty=(3, 3),
    )
    judge = steps[0][2]
    path = train_network(
        recipe, [images], tmp_path, name="hard", cache=cache, judge=judge, log=lines.append
    )
    assert any("class 3 of 3" in line for line in lines)
    card = load_checkpoint(path).spec.training
    assert card["difficulty"] == [3, 3] and card["judged_by"] == "w8 (fsrcnn w8)"


def test_a_router_is_trained_and_its_branches_do_not_change(steps):
    branches, (path, _, _) = steps
    router = load_router(path)
    assert router.spec.models == WIDTHS and router.spec.variants == WIDTHS
    assert list(router.spec.macs) == sorted(router.spec.macs) and router.spec.router_macs > 0
    assert router.spec.training["steps_done"] == 4 and router.spec.licence == "CC0"
    for given, held in zip(branches, router.checkpoints()):
        assert held.path.parent == path.parent, (
            "a branch that is not shipped lies beside the router"
        )
        assert held.spec == load_checkpoint(given).spec


def test_branches_learn_with_a_frozen_router_and_then_jointly(steps):
    _, (first, second, third) = steps
    a, b, c = (load_router(p) for p in (first, second, third))
    assert all(torch.equal(a.weights[k], b.weights[k]) for k in a.weights)
    assert not all(torch.equal(b.weights[k], c.weights[k]) for k in a.weights)
    assert (
        b.spec.models == ("net-1", "net-2", "net-3") and b.spec.training["features"] == "random-64"
    )
    for before, after in ((a, b), (b, c)):
        pairs = zip(
            before.checkpoints(), after.checkpoints()
        )  # the largest branch does not change if no patch uses it
        assert any(not torch.equal(x.weights[k], y.weights[k]) for x, y in pairs for k in x.weights)
    assert (
        b.spec.training["init"] == "net" and b.spec.training["init_sha256"] == a.spec.weights_sha256
    )
    assert all(net(torch.rand(1, 3, 8, 8)).shape == (1, 3, 16, 16) for net in c.branch_networks())


def test_a_resumed_run_equals_an_uninterrupted_one(steps, images, cache, tmp_path):
    branches, (path, _, _) = steps
    options = {
        "name": "net",
        "cache": cache,
        "branches": branches,
        "valid": images,
        "licence": "CC0",
    }
    train_router(ROUTED, [images], tmp_path, steps=4, budget_s=0.0, **options)
    assert load_router(tmp_path / path.name).spec.training["steps_done"] == 1
    resumed = train_router(ROUTED, [images], tmp_path, resume=True, **options)
    whole = load_router(path).weights
    assert all(torch.equal(whole[k], v) for k, v in load_router(resumed).weights.items())


def test_a_router_learns_from_errors_that_are_computed_once(steps, images, cache, tmp_path):
    recipe = replace(ROUTED, objective="labels", softness=1.5, bank=64, target_db=0.5, steps=30)
    options = {"name": "net", "cache": tmp_path / "cache", "branches": steps[0]}
    train_router(recipe, [images], tmp_path, steps=30, budget_s=0.0, **options)
    (bank,) = (tmp_path / "cache").glob("bank-*.pt")
    made = bank.stat().st_mtime_ns
    router = load_router(train_router(recipe, [images], tmp_path, resume=True, **options))
    assert bank.stat().st_mtime_ns == made
    told = router.spec.training["calibrated"]
    assert told["lost_db"] == 0.5 and 0 < told["share_of_plain"] <= 2
    whole = load_router(train_router(recipe, [images], tmp_path / "whole", **options))
    assert all(torch.equal(router.weights[k], v) for k, v in whole.weights.items())


def test_depths_of_one_elastic_checkpoint_are_branches_too(whole, images, cache, tmp_path):
    elastic = str(whole[1])
    recipe = replace(ROUTED, classes=2)
    path = train_router(
        recipe,
        [images],
        tmp_path,
        name="depths",
        cache=cache,
        branches=[f"{elastic}:d2", f"{elastic}:d1"],
    )
    router = load_router(path)
    assert router.spec.models == ("net", "net") and router.spec.variants == ("d1", "d2")
    with pytest.raises(InputError, match="slices of one checkpoint"):
        train_router(
            replace(recipe, stage="joint"),
            [images],
            tmp_path / "joint",
            name="depths",
            cache=cache,
            init=str(path),
        )


def test_networks_of_several_kinds_are_trained_together_a_slice_of_an_elastic_one_too(
    whole, images, cache, tmp_path
):
    names = [
        untrained(tmp_path, "fsrcnn", "w4"),
        untrained(tmp_path, "msrresnet", "w4"),
        f"{whole[1]}:d1",
    ]
    made = [{"branches": names}, {"init": str(tmp_path / "first" / "net.router.safetensors")}]
    for stage, start, folder in zip(("router", "joint"), made, ("first", "second")):
        recipe = replace(ROUTED, stage=stage, steps=1)
        path = train_router(recipe, [images], tmp_path / folder, name="net", cache=cache, **start)
    router = load_router(path)
    assert router.spec.models == ("net-1", "net-2", "net-3") and sorted(router.spec.variants) == [
        "d1",
        "w4",
        "w4",
    ]
    assert sorted(c.spec.arch for c in router.checkpoints()) == ["asrn", "fsrcnn", "msrresnet"]
    assert all(
        c.spec.variants == (variant,)
        for c, variant in zip(router.checkpoints(), router.spec.variants)
    )
    assert all(
        net(torch.rand(1, 3, 8, 8)).shape == (1, 3, 16, 16) for net in router.branch_networks()
    )


@pytest.mark.parametrize(
    "stage, file", [("router", "w4.safetensors"), ("distil", "other-2.safetensors")]
)
def test_another_checkpoint_is_not_written_over(steps, images, cache, tmp_path, stage, file):
    branches, (path, _, _) = steps
    start = {"branches": branches} if stage == "router" else {"init": str(path)}
    (tmp_path / file).write_bytes(b"another's")
    with pytest.raises(InputError, match=f"another checkpoint of this name exists: .*{file}"):
        train_router(
            replace(ROUTED, stage=stage), [images], tmp_path, name="other", cache=cache, **start
        )
    assert [p.name for p in tmp_path.iterdir()] == [file]


def test_two_branches_cannot_have_the_same_name(images, cache, tmp_path):
    names = []
    for folder, width in (("a", "w4"), ("b", "w8")):
        (tmp_path / folder).mkdir()
        names.append(untrained(tmp_path / folder, "fsrcnn", width, name="net"))
    with pytest.raises(InputError, match="two branches have the name 'net'"):
        train_router(
            replace(ROUTED, classes=2),
            [images],
            tmp_path / "out",
            name="router",
            cache=cache,
            branches=names,
        )


def test_unusable_branches_and_initial_routers_are_refused(steps, whole, images, cache, tmp_path):
    branches, (path, _, _) = steps

    def refused(match, recipe=ROUTED, error=InputError, **options):
        with pytest.raises(error, match=match):
            train_router(recipe, [images], tmp_path / "out", name="net", cache=cache, **options)
        assert not (tmp_path / "out").exists()

    refused("2 branches; the recipe trains a router for 3 classes", branches=branches[:2])
    refused("trains a new router", branches=branches, init=str(path))
    refused("starts from a router", recipe=replace(ROUTED, stage="joint"))
    refused(
        "which has its branches",
        recipe=replace(ROUTED, stage="joint"),
        init=str(path),
        branches=branches,
    )
    refused(
        "for 3 classes; the recipe is for 4",
        recipe=replace(ROUTED, stage="joint", classes=4),
        init=str(path),
    )
    refused(
        "same scale: 'w2' is x2, expected x3",
        recipe=replace(ROUTED, scale=3, patch_hr=24),
        branches=branches,
    )
    refused("cost the same", branches=[branches[0], branches[0], branches[1]])
    refused("does not compare features", branches=branches, vgg="vgg.pth")
    refused("no variant 'd7'", error=SrDeployError, branches=[f"{whole[1]}:d7", *branches[:2]])


def test_a_router_with_changed_or_missing_branches(steps, tmp_path):
    _, (path, _, _) = steps
    for file in path.parent.glob("*.*"):
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    router = load_router(tmp_path / path.name)
    (tmp_path / "w4.safetensors").write_bytes((tmp_path / "w2.safetensors").read_bytes())
    (tmp_path / "w4.json").write_bytes((tmp_path / "w2.json").read_bytes())
    with pytest.raises(CheckpointError, match="trained with other weights of 'w4'"):
        router.checkpoints()
    (tmp_path / "w4.safetensors").unlink()
    with pytest.raises(InputError, match="chooses between w2, w4, w8, but 'w4' was not found"):
        router.checkpoints()


@pytest.mark.parametrize("name", list(ROUTER_RECIPES))
def test_every_recipe_can_be_run_and_says_where_it_comes_from(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.source
    if recipe.stage == "router":
        assert len(recipe.branches) == recipe.classes and set(recipe.branches) <= set(RECIPES)
    else:
        before = ROUTER_RECIPES[recipe.follows]
        assert (before.classes, before.convs, before.scale) == (
            recipe.classes,
            recipe.convs,
            recipe.scale,
        )
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(recipe.__dict__))
    assert load_recipe(str(path)) == recipe


def test_the_papers_numbers():
    widths = {
        "fsrcnn": ("w16", "w36", "w56"),
        "carn-m": ("w36", "w52", "w64"),
        "msrresnet": ("w36", "w52", "w64"),
        "rcan": ("w36", "w50", "w64"),
    }
    shares = {
        "fsrcnn": (0.75, 0.64, 0.52),
        "carn-m": (0.75, 0.71, 0.66),
        "msrresnet": (0.74, 0.68, 0.61),
        "rcan": (0.68, 0.62, 0.56),
    }
    for backbone in widths:
        for name, share in zip("rms", shares[backbone]):
            one = ROUTER_RECIPES[f"cdnsr-{name}-{backbone}-x4"]
            assert (one.batch_size, one.lr, one.final_lr, one.schedule, one.patch_hr) == (
                64,
                2e-4,
                1e-7,
                "cosine",
                128,
            )
            assert (one.share, one.alpha, one.counting) == (share, 0.0, "paper")
            assert (one.overlap, one.blend) == (4, "average")
            assert one.branches == tuple(f"cdnsr-{backbone}-{w}-x4" for w in widths[backbone])
            assert (one.lambda_ct, one.negatives, one.convs, one.classes) == (1e-3, 6, 5, 3)
            last = ROUTER_RECIPES[f"cdnsr-{name}-{backbone}-x4-3"]
            assert last.stage == "joint" and last.follows == f"cdnsr-{name}-{backbone}-x4-2"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"stage": "train"}, "stage is 'train'; expected router, distil, joint"),
        ({"objective": "gan"}, "objective is 'gan'"),
        ({"counting": "gpu"}, "counting is 'gpu'; expected deployed, paper"),
        ({"share": 1.0}, "share from 0 to below 1"),
        ({"share": 0.7, "objective": "classsr"}, "share with the objective 'cdnsr' or 'expected'"),
        ({"share": 0.7, "bank": 8}, "a bank >= 64"),
        ({"blend": "mean"}, "blend is 'mean'; expected none, average, ramp"),
        ({"blend": "none"}, "overlap by 4 and are not blended"),
        ({"distillation": "vgg"}, "distillation is 'vgg'"),
        ({"amp": "fp8"}, "amp is 'fp8'"),
        ({"alpha": 1.5}, "alpha to be a share from 0 to 1; got alpha 1.5"),
        ({"classes": 1}, "classes >= 2"),
        ({"convs": 1}, "convs from 2"),
        ({"network": "vgg"}, "network is 'vgg'; expected module-cl, mobilenetv2"),
        (
            {"network": "mobilenetv2", "blend": "none", "overlap": 0},
            "the network module-cl with the blend none; got network 'mobilenetv2', blend 'none'",
        ),
        ({"lambda_reg": -1.0}, "lambda_reg >= 0"),
        ({"patch_hr": 6}, "at least 4 LR pixels"),
        ({"patch_hr": 17}, "multiple of the scale"),
        (
            {"stage": "joint", "distillation": "pixel", "negatives": 8},
            "fewer than the batch; got negatives 8, batch_size 8",
        ),
        ({"lr": float("nan")}, "not finite"),
        ({"schedule": "linear"}, "unknown schedule 'linear'"),
    ],
)
def test_invalid_recipes(change, message):
    with pytest.raises(InputError, match=message):
        replace(ROUTED, **change).check("mine.json")


def test_unknown_recipes():
    with pytest.raises(InputError, match="unknown recipe 'cdnsr-x'; srdeploy recipes"):
        load_recipe("cdnsr-x")


@pytest.mark.parametrize("objective", ["cdnsr", "expected"])
def test_lambda_is_fitted_to_the_share_and_a_resumed_run_keeps_it(
    steps, images, cache, tmp_path, objective
):
    recipe = replace(
        ROUTED, share=0.85, values=32, bank=64, objective=objective, overlap=0, blend="ramp"
    )
    options = {"name": "net", "cache": cache, "branches": steps[0], "valid": images}
    train_router(recipe, [images], tmp_path, steps=4, budget_s=0.0, **options)
    first = load_router(tmp_path / "net.router.safetensors").spec
    path = train_router(recipe, [images], tmp_path, resume=True, **options)
    router, card = load_router(path), load_router(path).spec.training
    assert card["costs"] == list(router.spec.macs) and card["counting"] == "deployed"
    assert (router.spec.blend, router.spec.overlap) == ("ramp", 0)
    assert card["lambda_reg"] == first.training["lambda_reg"]
    fitted = card["fitted"]
    assert fitted["patches"] == 64 and fitted["oracle_share"] <= 0.85
    assert card["lambda_reg"] > 0 or fitted["without_cost_term"] <= 0.85
    whole = load_router(train_router(recipe, [images], tmp_path / "whole", **options))
    assert all(torch.equal(whole.weights[k], v) for k, v in router.weights.items())


def test_mobilenetv2_as_the_router(images, cache, tmp_path):
    names = [untrained(tmp_path, "fsrcnn", width) for width in ("w2", "w4", "w8")]
    recipe = replace(ROUTED, network="mobilenetv2", steps=2)
    first = train_router(recipe, [images], tmp_path, name="a", cache=cache, branches=names)
    a = load_router(first)
    assert a.spec.config == {"network": "mobilenetv2"} and a.spec.training["steps_done"] == 2
    assert int(a.weights["features.1.num_batches_tracked"]) == 2
    joint = replace(ROUTED, stage="joint", steps=1)
    b = load_router(train_router(joint, [images], tmp_path, name="b", cache=cache, init=str(first)))
    assert b.spec.config == a.spec.config and b.spec.router_macs == a.spec.router_macs


def test_costs_as_the_paper_counts_them(images, cache, tmp_path):
    widths = [untrained(tmp_path, "fsrcnn", f"w{width}") for width in (16, 36, 56)]
    recipe = replace(ROUTED, counting="paper", steps=1)
    path = train_router(recipe, [images], tmp_path, name="net", cache=cache, branches=widths)
    spec = load_router(path).spec
    paper = [cost / spec.training["costs"][-1] for cost in spec.training["costs"]]
    deployed = [macs / spec.macs[-1] for macs in spec.macs]
    # per LR pixel at x2: 5x5 and two 1x1 layers, four mappings, 9x9 at four output pixels
    macs = [75 * w + 24 * w + 4 * 1296 + 4 * 243 * w for w in (16, 36, 56)]
    assert paper == pytest.approx([m / macs[-1] for m in macs], abs=1e-3)
    assert deployed[0] > paper[0] and deployed[1] > paper[1]


def test_a_share_below_the_smallest_branch_is_refused(steps, images, cache, tmp_path):
    recipe = replace(ROUTED, share=0.05, bank=64)
    with pytest.raises(InputError, match="a share of 0.05 cannot be reached"):
        train_router(recipe, [images], tmp_path, name="net", cache=cache, branches=steps[0])
    assert not list(tmp_path.glob("net.*.safetensors"))
