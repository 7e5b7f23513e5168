from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from sr_deploy.core.errors import InputError, SrDeployError
from sr_deploy.nets.checkpoint import load_checkpoint
from sr_deploy.train import int8_trainer
from sr_deploy.train.recipe import RECIPES, load_recipe

INT8_TINY = replace(RECIPES["int8"], steps=4, patch_hr=12, batch_size=2, valid_every=2)


@pytest.fixture()
def train_int8(train, whole, tmp_path):
    def run(recipe=INT8_TINY, **options):
        options = {"output": tmp_path / "int8", "init": str(whole[1]), **options}
        return train(recipe, **options)

    return run


@pytest.mark.smoke
def test_the_result_is_a_checkpoint_of_the_same_network_with_ranges(train_int8, whole, images):
    said = []
    checkpoint = load_checkpoint(train_int8(valid=images, log=said.append))
    start = load_checkpoint(whole[1])
    assert checkpoint.spec.variants == start.spec.variants == ("d1", "d2")
    assert checkpoint.weights.keys() == start.weights.keys()
    assert checkpoint.ranges.keys() == {"d1", "d2"}
    assert {"body.0.expand", "body.0.chain.3", "upsampler"} < checkpoint.ranges["d1"].keys()
    training = checkpoint.spec.training
    assert (training["method"], training["arch"], training["scale"]) == ("int8", "asrn", 2)
    assert (training["init"], training["teacher"]) == ("net", "net in FP32")
    x = torch.rand(1, 3, 8, 9)
    for variant in ("d1", "d2"):
        torch.testing.assert_close(
            checkpoint.network(variant)(x), start.network(variant)(x), atol=0.05, rtol=0
        )
    assert any(line.startswith("the teacher, net in FP32, has ") for line in said)
    best = load_checkpoint(checkpoint.path.with_name("net-best.safetensors"))
    assert best.ranges.keys() == {"d1", "d2"}


def test_an_interrupted_run_continues_bit_for_bit(train_int8, tmp_path):
    whole = train_int8(output=tmp_path / "one")
    train_int8(output=tmp_path / "two", steps=4, budget_s=0)
    resumed = train_int8(output=tmp_path / "two", resume=True)
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_network_of_one_size_too(train, tmp_path):
    fsrcnn = replace(
        INT8_TINY, arch="fsrcnn", scale=2, variant="w4", method="supervised", steps=1, amp="off"
    )
    start = train(fsrcnn, tmp_path / "start")
    recipe = replace(INT8_TINY, steps=1, arch="fsrcnn", scale=2)
    path = train(recipe, tmp_path / "int8", init=str(start))
    assert load_checkpoint(path).ranges.keys() == {"w4"}


def test_it_learns_from_lr_images_as_its_checkpoint_did(train, tmp_path):
    fsrcnn = replace(
        INT8_TINY, arch="fsrcnn", scale=3, variant="w4", method="supervised", degradation="bd"
    )
    start = train(fsrcnn, tmp_path / "start")
    recipe = replace(INT8_TINY, steps=1, arch="fsrcnn", scale=3)
    spec = load_checkpoint(train(recipe, tmp_path / "int8", init=str(start))).spec
    assert (spec.degradation, spec.training["degradation"]) == ("bd", "bd")
    with pytest.raises(InputError, match="the recipe is for another degradation"):
        train(replace(recipe, degradation="dn"), tmp_path / "dn", init=str(start))


def test_it_needs_a_checkpoint_that_the_recipe_is_for(train_int8):
    with pytest.raises(InputError, match="trains a checkpoint for INT8") as e:
        train_int8(init=None)
    assert "--init" in e.value.hint
    with pytest.raises(InputError, match="is asrn x2 d2; the recipe is for another scale"):
        train_int8(replace(INT8_TINY, arch="asrn", scale=4))
    with pytest.raises(InputError, match="multiple of the scale"):
        train_int8(replace(INT8_TINY, patch_hr=13))


def test_a_recipe_of_ones_own_extends_it(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"extends": "int8", "steps": 9}))
    assert load_recipe(str(path)) == replace(RECIPES["int8"], steps=9)
    for change, message in [
        ({"amp": "bf16"}, "expected amp off with the method int8"),
        ({"lr": -1.0}, "lr > 0"),
        ({"method": "supervised"}, "arch is ''"),
    ]:
        path.write_text(json.dumps({"extends": "int8", **change}))
        with pytest.raises(InputError, match=message):
            load_recipe(str(path))


def test_a_loss_that_is_not_finite_stops_it(train_int8, tmp_path, monkeypatch):
    real = int8_trainer.pixel_loss
    monkeypatch.setattr(int8_trainer, "pixel_loss", lambda *args: real(*args) * math.nan)
    with pytest.raises(SrDeployError, match=r"the loss \(its term .* is not finite at step 0"):
        train_int8()
    assert not (tmp_path / "int8" / "net.safetensors").exists()
