import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sr_deploy.core.errors import InputError, SrDeployError
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.importers import IMPORTERS
from sr_deploy.train import recipe as recipe_module
from sr_deploy.train.losses import TEACHABLE
from sr_deploy.train.recipe import RECIPES, Recipe, load_recipe

NETWORKS = {name: recipe for name, recipe in RECIPES.items() if isinstance(recipe, Recipe)}


def shapes(recipe):
    architecture = ARCHITECTURES[recipe.arch]
    with torch.device("meta"):
        net = architecture.build(
            recipe.scale, architecture.parse(recipe.variant or None), recipe.config
        )
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def without_adapter(shapes):
    return {name: shape for name, shape in shapes.items() if not name.startswith("adapter.")}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_recipe_can_be_run_and_says_where_it_comes_from(name):
    recipe = load_recipe(name)
    assert recipe.source
    if recipe.follows:
        before = RECIPES[recipe.follows.replace("-best", "")]
        assert before.scale == recipe.scale
        if before.arch == ARCHITECTURES[recipe.arch].backbone:  # the adapter is new
            assert shapes(before) == without_adapter(shapes(recipe))
        elif recipe.method == "adapter":  # which may have another width
            assert without_adapter(shapes(before)) == without_adapter(shapes(recipe))
        else:
            assert (before.arch, before.variant) == (recipe.arch, recipe.variant)
            assert shapes(before).items() <= shapes(recipe).items()
            if before.config != recipe.config:  # the low-rank paths are new
                assert recipe.arch == "dscf" and recipe.config == {"reparameterised": True}
    if recipe.teacher:
        assert recipe.method in TEACHABLE
        assert recipe.teacher in IMPORTERS or RECIPES[recipe.teacher].scale == recipe.scale


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_written_as_json_is_the_same_recipe(name, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(dataclasses.asdict(RECIPES[name])))
    assert load_recipe(str(path)) == RECIPES[name]


@pytest.mark.smoke
def test_the_papers_numbers():
    asrn = RECIPES["asrn-x4"]
    assert (asrn.batch_size, asrn.lr, asrn.schedule, asrn.periods, asrn.psd, asrn.loss) == (
        16,
        1e-4,
        "halving",
        (200_000,),
        0.1 / 255**2,
        "l2",
    )
    assert RECIPES["asrn-dsl-x4"].psd == 0 and RECIPES["asrn-ss-x4"].method == "supervised"
    first, second = RECIPES["imdeception-x4"], RECIPES["imdeception-x4-2"]
    assert (first.batch_size, first.patch_hr, first.lr, first.loss, first.steps) == (
        8,
        512,
        5e-4,
        "charbonnier",
        2000 * 800,
    )
    assert (second.loss, second.steps, second.follows) == ("l2", 1300 * 800, "imdeception-x4-best")
    stages = [RECIPES[n] for n in ("edsr-x4", "edsr-x4-2", "edsr-x4-3")]
    assert [s.lr for s in stages] == [2e-4, 1e-4, 2.5e-5] and [s.patch_hr for s in stages] == [
        192,
        192,
        256,
    ]
    assert [s.loss for s in stages] == ["l1", "l1", "l2"] and all(
        s.batch_size == 16 and s.final_lr == 1e-7 for s in stages
    )
    student = RECIPES["srn-ntire-x4"]
    assert (student.arch, student.variant, student.batch_size, student.patch_hr, student.lr) == (
        "srn-s",
        "b4",
        32,
        256,
        2e-4,
    )
    assert RECIPES["srn-ntire-x4-3"].patch_hr == 640 and RECIPES["srn-x2"].patch_hr == 128


@pytest.mark.parametrize(
    "change, message",
    [
        ({"arch": "vdsr"}, "arch is 'vdsr'; expected asrn, "),
        (
            {"method": "gan"},
            "method is 'gan'; expected supervised, deep-supervision, sandwich",
        ),
        ({"loss": "l3"}, "loss is 'l3'"),
        ({"amp": "fp8"}, "amp is 'fp8'; expected off, bf16, fp16"),
        ({"scale": 5}, "asrn does not support scale x5"),
        ({"variant": "c4"}, "'c4' is not a variant"),
        ({"config": {"width": 3}}, "unknown configuration key 'width'"),
        ({"patch_hr": 33}, "patch_hr to be a multiple of the scale; got patch_hr 33"),
        (
            {"steps": 0},
            "steps, patch_hr, batch_size, valid_every of at least 1; got scale 2, steps 0",
        ),
        ({"lr": 0.0}, "lr > 0"),
        ({"ema": 1.0}, "0 <= ema < 1"),
        ({"schedule": "linear"}, "unknown schedule 'linear'"),
        ({"degradation": "bd"}, "mine.json: the degradation 'bd' is defined at x3, not at x2"),
        ({"steps": 10**9 + 1}, "steps is not finite, or above 10"),
        ({"lr": 1e39}, "lr is not finite, or above 10"),
        ({"lr": math.nan}, "lr is not finite"),
        ({"clip_norm": math.inf}, "clip_norm is not finite"),
        ({"periods": (1, 10**30, 1)}, "periods is not finite"),
        ({"final_lr": -1e-9}, "final_lr >= 0"),
        (
            {"config": {"activation": ["relu"]}},
            r"activation is \['relu'\]; expected a str, such as 'relu'",
        ),
        ({"config": {"activation": "tan"}}, "mine.json: .*tan"),
        (
            {"arch": "edsr", "variant": "b2", "config": {"channels": -4}},
            "channels is -4; expected a number of at least 1",
        ),
        (
            {"arch": "edsr", "variant": "b2", "config": {"channels": True}},
            "channels is True; expected a number of at least 1",
        ),
        (
            {"arch": "edsr", "variant": "b999", "config": {"channels": 1024}},
            "more than 10.*9 parameters",
        ),
        (
            {"arch": "srn", "variant": "b1", "patch_hr": 64, "config": {}},
            "srn cannot be cut in depth; asrn, edsr, edsr-original can",
        ),
        (
            {
                "arch": "srn",
                "variant": "b1",
                "patch_hr": 28,
                "method": "supervised",
                "config": {},
            },
            "srn takes at least 15 LR pixels a side",
        ),
    ],
)
def test_invalid_recipes(change, message):
    with pytest.raises(SrDeployError, match=message):
        replace(RECIPES["asrn-x2-small"], **change).check("mine.json")


def test_unknown_recipes(tmp_path):
    with pytest.raises(InputError, match="unknown recipe 'asrn-x5'; srdeploy recipes lists the"):
        load_recipe("asrn-x5")
    with pytest.raises(InputError, match="cannot read"):
        load_recipe(str(tmp_path / "none.json"))


def test_a_recipe_file_is_named_by_every_error(tmp_path):
    path = tmp_path / "mine.json"
    for change in (
        {"variant": "c4"},
        {"config": {"activation": []}},
        {"periods": [3]},
        {"degradation": "bd"},
        {"stepz": 1},
    ):
        path.write_text(json.dumps({**dataclasses.asdict(RECIPES["asrn-x2-small"]), **change}))
        with pytest.raises(InputError, match="mine.json"):
            load_recipe(str(path))


def test_a_recipe_inherits_the_fields_of_those_it_extends(tmp_path):
    (tmp_path / "a").mkdir()
    base = {"extends": "asrn-x4-small", "comment": "mine", "steps": 7, "lr": 0.5}
    (tmp_path / "a" / "base.json").write_text(json.dumps(base))
    mine = {"extends": "a/base.json", "lr": 0.25, "printed": {"lr": "nowhere"}}
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    expected = replace(RECIPES["asrn-x4-small"], steps=7, lr=0.25)
    assert load_recipe(str(tmp_path / "mine.json")) == expected
    (tmp_path / "mine.json").write_text(json.dumps({"extends": "cdnsr-r-fsrcnn-x4", "alpha": 0.5}))
    assert load_recipe(str(tmp_path / "mine.json")) == replace(
        RECIPES["cdnsr-r-fsrcnn-x4"], alpha=0.5
    )


@pytest.mark.parametrize(
    "extends, message",
    [
        ("asrn-x9", "mine.json: unknown recipe 'asrn-x9'"),
        (3, "mine.json: extends is 3; expected the name of a recipe or a .json file"),
        ("none.json", "cannot read .*none.json"),
        ("other.json", "recipes extend each other: .*mine.json -> .*other.json -> .*mine.json"),
    ],
)
def test_a_recipe_that_cannot_be_extended(tmp_path, extends, message):
    (tmp_path / "mine.json").write_text(json.dumps({"extends": extends}))
    (tmp_path / "other.json").write_text(json.dumps({"extends": "mine.json"}))
    with pytest.raises(InputError, match=message):
        load_recipe(str(tmp_path / "mine.json"))


def test_recipe_files_name_each_recipe_once_and_cite_fields_only():
    names = []
    for path in sorted(Path(recipe_module.__file__).parent.glob("recipes/*/*.json")):
        for name, fields in json.loads(path.read_text(encoding="utf-8")).items():
            names.append(name)
            assert set(fields.get("printed", {})) <= set(vars(RECIPES[name])), name
    assert sorted(names) == sorted(RECIPES)


def test_notes_say_where_a_run_differs_from_its_paper():
    first, second, asrn, ours = (
        RECIPES[name].notes()
        for name in ("imdeception-c4-x4", "imdeception-c4-x4-2", "asrn-x4", "asrn-x4-small")
    )
    assert first["knee"] == (
        "the schedule repeats every 648,000 steps and ends in the explore of cycle 3, "
        "at the peak rate; the paper does not say"
    )
    assert "starts anew with this recipe" in second["knee"] and "80% of the peak" in second["knee"]
    recipe = RECIPES["imdeception-c4-x4"]
    assert recipe.learning_rate(recipe.steps - 1) == recipe.lr
    assert first["small images"].endswith(
        "less than 512 pixels a side are left out; the paper pads with zeros"
    )
    assert asrn["augmentation"].endswith("transposed at random; the paper flips only")
    assert "paper" not in "".join(ours.values()) and "knee" not in ours
