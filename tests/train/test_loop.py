import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from sr_deploy.core.errors import CheckpointError, InputError, SrDeployError
from sr_deploy.nets.checkpoint import load_checkpoint
from sr_deploy.train import loop
from sr_deploy.train.data import Patches
from sr_deploy.train.loop import checkpoint_from_images, one_cycle
from sr_deploy.train.recipes import Recipe

ASRN = Recipe(arch="asrn", scale=2, method="asrn-full", steps=4, patch_lr=6, batch_size=2)
IMDECEPTION = Recipe(arch="imdeception", scale=2, method="sandwich", steps=2, patch_lr=6, batch_size=1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hr")
    for i in range(2):
        small = np.random.default_rng(i).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(small, (28, 24), interpolation=cv2.INTER_CUBIC))
    return folder


def train(images, output, recipe=ASRN, **options):
    return checkpoint_from_images(recipe, [images], output, name="net", **options)


def state_of(output):
    return torch.load(output / "net.state.pt", weights_only=True)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """A run without interruption: its folder and the checkpoint's path."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, train(images, folder, licence="CC0", trained_on="noise")


def interrupt_at(monkeypatch, step):
    real = Patches.batch

    def batch(self, n):
        if n == step:
            raise KeyboardInterrupt
        return real(self, n)

    monkeypatch.setattr(Patches, "batch", batch)


def test_a_finished_run_is_a_checkpoint_of_every_variant(finished):
    checkpoint = load_checkpoint(finished[1])
    assert checkpoint.spec.variants == ("d1", "d2", "d3", "d4", "d5") and checkpoint.spec.scale == 2
    assert (checkpoint.spec.licence, checkpoint.spec.trained_on) == ("CC0", "noise")
    training = checkpoint.spec.training
    assert (training["steps_done"], training["images"], training["seed"], training["method"]) == (4, 2, 0, "asrn-full")
    assert training["device"] and training["torch"] and training["hours"] >= 0
    x = torch.rand(1, 3, 5, 6)
    assert checkpoint.network("d1")(x).shape == checkpoint.network()(x).shape == (1, 3, 10, 12)


@pytest.mark.parametrize("stopped_by", ["ctrl-c", "budget"])
def test_two_halves_of_a_run_are_the_whole_run_bit_for_bit(images, tmp_path, finished, monkeypatch, stopped_by):
    if stopped_by == "ctrl-c":
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_at(patch, 2)
            train(images, tmp_path)
        assert not (tmp_path / "net.safetensors").exists()
        assert state_of(tmp_path)["step"] == 2
    else:
        train(images, tmp_path, budget_s=0)
        assert state_of(tmp_path)["step"] == 1
    path = train(images, tmp_path, licence="CC0", trained_on="noise")
    assert path.read_bytes() == finished[1].read_bytes()
    whole, resumed = state_of(finished[0]), state_of(tmp_path)
    for part in ("net", "ema"):
        assert all(torch.equal(resumed[part][k], v) for k, v in whole[part].items())
    for n, state in whole["optimiser"]["state"].items():
        assert all(torch.equal(torch.as_tensor(resumed["optimiser"]["state"][n][k]), torch.as_tensor(v)) for k, v in state.items())


def test_training_moves_the_weights_and_their_average_lags_behind(finished, images, tmp_path):
    state = state_of(finished[0])
    assert any(not torch.equal(v, state["ema"][k]) for k, v in state["net"].items())
    other = load_checkpoint(train(images, tmp_path, seed=1))
    assert any(not torch.equal(v, load_checkpoint(finished[1]).weights[k]) for k, v in other.weights.items())


def test_the_shipped_weights_are_the_average(finished):
    weights, state = load_checkpoint(finished[1]).weights, state_of(finished[0])
    assert all(torch.equal(v, state["ema"][k]) for k, v in weights.items())


def test_the_sandwich_trains_a_super_network(images, tmp_path):
    checkpoint = load_checkpoint(train(images, tmp_path, IMDECEPTION))
    assert checkpoint.spec.variants[0] == "c4" and checkpoint.spec.variants[-1] == "c16-nla" and len(checkpoint.spec.variants) == 8


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_state(images, tmp_path, monkeypatch):
    train(images, tmp_path, budget_s=0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real, calls = loop.asrn_full, []

    def broken(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs) * (math.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(loop, "asrn_full", broken)
    with pytest.raises(SrDeployError, match="not finite at step 2") as e:
        train(images, tmp_path)
    assert "last saved state is kept" in e.value.hint
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_gradient_that_is_not_a_number_never_reaches_a_checkpoint(images, tmp_path, monkeypatch):
    real = loop.asrn_full

    def broken(elastic, *args, **kwargs):
        weight = elastic.net.head[0].weight
        return real(elastic, *args, **kwargs) + (weight - weight).sum().sqrt()  # finite, with an infinite slope

    monkeypatch.setattr(loop, "asrn_full", broken)
    with pytest.raises(SrDeployError, match="finite|nan"):
        train(images, tmp_path, replace(ASRN, steps=1))
    assert not (tmp_path / "net.safetensors").exists()


@pytest.mark.parametrize("change", [{"peak_lr": 1e-4}, {"steps": 9}, {"patch_lr": 5}])
def test_another_recipe_does_not_resume(images, tmp_path, finished, change):
    (tmp_path / "net.state.pt").write_bytes((finished[0] / "net.state.pt").read_bytes())
    with pytest.raises(InputError, match="belongs to a run of another recipe or seed"):
        train(images, tmp_path, replace(ASRN, **change))
    with pytest.raises(InputError, match="another recipe or seed"):
        train(images, tmp_path, seed=7)


@pytest.mark.parametrize("content", [b"", b"no state at all", "cut"])
def test_a_damaged_state_is_refused(images, tmp_path, finished, content):
    whole = (finished[0] / "net.state.pt").read_bytes()
    (tmp_path / "net.state.pt").write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        train(images, tmp_path)


def test_an_unknown_method(images, tmp_path):
    with pytest.raises(InputError, match="unknown training method 'gan'; expected asrn-full or sandwich"):
        train(images, tmp_path, replace(ASRN, method="gan"))


def test_the_state_is_saved_as_time_goes_by(images, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    seen = []
    real = Patches.batch
    monkeypatch.setattr(Patches, "batch", lambda self, n: seen.append((tmp_path / "net.state.pt").is_file()) or real(self, n))
    train(images, tmp_path, replace(ASRN, steps=2))
    assert seen == [False, True]


def test_learning_rate_over_a_cycle():
    shares = [one_cycle(n / 1000) for n in range(1001)]
    assert shares[0] == 0.01 and shares[25] == pytest.approx(0.5) and shares[50] == pytest.approx(1)
    assert max(shares) == pytest.approx(1) and shares[1000] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in zip(shares[50:], shares[51:]))
