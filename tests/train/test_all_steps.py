"""All four steps of CDNSR by one call: their order, how they stop and continue, refusals."""

from dataclasses import replace

import pytest
import torch

from sr_deploy.core.errors import InputError
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.checkpoint import load_checkpoint, save_checkpoint
from sr_deploy.nets.router import load_router
from sr_deploy.train import recipe as recipe_module
from sr_deploy.train.all_steps import GivenModels, train_all_steps
from sr_deploy.train.options import TrainOptions
from tests.train.conftest import TINY, TINY_ROUTER

JUDGE = replace(
    TINY,
    arch="fsrcnn",
    variant="w4",
    method="supervised",
    psd=0.0,
    elastic=False,
    steps=2,
    patch_hr=16,
)
EASY = replace(JUDGE, variant="w2", difficulty=(1, 2), judge="judge")
HARD = replace(EASY, variant="w8", difficulty=(2, 2))
ROUTER = replace(
    TINY_ROUTER,
    classes=2,
    convs=2,
    share=0.8,
    values=16,
    bank=64,
    negatives=2,
    ema=0.9,
    branches=("easy", "hard"),
)
DISTIL = replace(
    ROUTER, stage="distil", distillation="contrastive", branches=(), follows="router", steps=2
)
JOINT = replace(DISTIL, stage="joint", follows="distil")
NAMES = ["judge", "easy", "hard", "router", "distil", "joint"]


@pytest.fixture(autouse=True)
def recipes(monkeypatch):
    tiny = dict(zip(NAMES, (JUDGE, EASY, HARD, ROUTER, DISTIL, JOINT)))
    monkeypatch.setattr(recipe_module, "RECIPES", tiny)


def options_for(images, cache, output, lines=None, **changes):
    log = (lambda line: None) if lines is None else lines.append
    return TrainOptions([images], output, cache=cache, valid=images, log=log, **changes)


def test_all_steps_stop_with_the_budget_and_go_on(images, cache, tmp_path):
    lines = []
    stopped = options_for(images, cache, tmp_path, lines, budget_s=0.0)
    path = train_all_steps("joint", stopped, GivenModels())
    assert path.name == "judge.safetensors", "the first step was not completed"
    assert load_checkpoint(path).spec.training["steps_done"] == 1
    with pytest.raises(InputError, match="a run of this name exists: .*judge"):
        train_all_steps("joint", options_for(images, cache, tmp_path), GivenModels())

    again = options_for(images, cache, tmp_path, lines, resume=True)
    path = train_all_steps("joint", again, GivenModels())
    assert path.name == "joint.router.safetensors"
    begun = [line for line in lines if line.startswith("step ") and line[-2:] != "dB"]
    assert [f"step {n} of 6: {name}" for n, name in enumerate(NAMES, 1)] == [
        line for line in begun[1:] if line.rsplit(" ", 1)[1] in NAMES
    ]
    assert any(
        line.startswith("step 6 of 6: 2 of 2 steps, valid ") and "lambda_reg" in line
        for line in lines
    )
    cards = [load_checkpoint(tmp_path / f"{n}.safetensors").spec.training for n in NAMES[:3]]
    assert [card.get("judged_by") for card in cards] == [None] + ["judge (fsrcnn w4)"] * 2
    joint = load_router(path)
    assert joint.spec.models == ("joint-1", "joint-2")
    assert joint.spec.training["init"] == "distil"

    lines.clear()
    weights = joint.weights
    path = train_all_steps("joint", again, GivenModels())
    assert sum("is finished" in line for line in lines) == 6
    assert all(torch.equal(weights[k], v) for k, v in load_router(path).weights.items())


def test_given_models_take_the_place_of_trained_ones(images, cache, tmp_path):
    starts = []
    for width in ("w2", "w8"):
        architecture, variant = ARCHITECTURES["fsrcnn"], Variant.parse(width)
        weights = architecture.build(2, variant).state_dict()
        spec = architecture.spec(2, variant, elastic=False)
        starts.append(str(save_checkpoint(tmp_path, f"given-{width}", spec, weights)))
    given = GivenModels(judge=starts[1], starts=starts)
    path = train_all_steps("router", options_for(images, cache, tmp_path / "out"), given)
    assert load_router(path).spec.models == ("easy", "hard")
    for name, start in zip(("easy", "hard"), ("given-w2", "given-w8")):
        card = load_checkpoint(tmp_path / "out" / f"{name}.safetensors").spec.training
        assert card["init"] == start and card["judged_by"] == "given-w8 (fsrcnn w8)"
    assert not (tmp_path / "out" / "judge.safetensors").exists()


@pytest.mark.parametrize(
    "changes, given, match",
    [
        ({"name": "mine"}, GivenModels(), "have the names and lengths of their recipes.*no --name"),
        ({"init": "asrn_x4"}, GivenModels(), "start from each other: no --init"),
        ({"steps": 9}, GivenModels(), "lengths of their recipes.*no --steps"),
        ({}, GivenModels(starts=["a.safetensors"]), "1 branches; the recipe has 2"),
        ({}, GivenModels(teacher="asrn_x4"), "no step uses a teacher"),
    ],
)
def test_what_all_steps_refuse(images, cache, tmp_path, changes, given, match):
    options = options_for(images, cache, tmp_path / "out", **changes)
    with pytest.raises(InputError, match=match):
        train_all_steps("joint", options, given)
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_no_step_trains_is_missed_before_the_first(
    images, cache, tmp_path, monkeypatch
):
    taught = replace(JUDGE, teacher="srn-ntire2023")
    monkeypatch.setattr(recipe_module, "RECIPES", {"judge": JUDGE, "taught": taught})
    with pytest.raises(InputError, match="needs a teacher") as e:
        options = options_for(images, cache, tmp_path / "out")
        train_all_steps("taught", options, GivenModels())
    assert "the official checkpoint srn-ntire2023" in e.value.hint
    assert not (tmp_path / "out").exists()
