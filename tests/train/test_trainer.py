import csv
import dataclasses
import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch

from sr_deploy.core import device
from sr_deploy.core.errors import InputError, SrDeployError
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.checkpoint import load_checkpoint, save_checkpoint
from sr_deploy.train import loop, losses, trainer
from sr_deploy.train.data import Patches
from sr_deploy.train.pace import Pace
from sr_deploy.train.recipe import RECIPES
from tests.conftest import ROOT
from tests.train.conftest import TINY, train_network, write_images


def state_of(folder):
    return torch.load(folder / "net.state.pt", weights_only=True)


def equal_states(a, b):
    for part in ("net", "ema"):
        assert a[part].keys() == b[part].keys() and all(
            torch.equal(b[part][k], v) for k, v in a[part].items()
        )
    for n, state in a["optimiser"]["state"].items():
        assert all(
            torch.equal(torch.as_tensor(b["optimiser"]["state"][n][k]), torch.as_tensor(v))
            for k, v in state.items()
        )
    assert a["step"] == b["step"]


def at_step(monkeypatch, step, action):
    """Do something in the middle of an update."""
    real = Patches.pixels

    def pixels(self, n, *share):
        if n == step:
            action()
        return real(self, n, *share)

    monkeypatch.setattr(Patches, "pixels", pixels)


@pytest.mark.smoke
def test_a_finished_run_is_a_checkpoint_of_every_variant(whole):
    checkpoint = load_checkpoint(whole[1])
    assert checkpoint.spec.variants == ("d1", "d2") and checkpoint.spec.scale == 2
    assert (checkpoint.spec.licence, checkpoint.spec.trained_on) == ("CC0", "noise")
    training = checkpoint.spec.training
    assert (training["steps_done"], training["images"], training["seed"], training["method"]) == (
        6,
        3,
        0,
        "deep-supervision",
    )
    assert training["device"].startswith("cpu") and training["torch"] and training["hours"] >= 0
    x = torch.rand(1, 3, 5, 6)
    assert checkpoint.network("d1")(x).shape == checkpoint.network()(x).shape == (1, 3, 10, 12)


def test_it_computes_the_same_as_a_plain_loop(whole, images, cache):
    """Adam, one cycle, clipping and the average: Lightning changes nothing, bit for bit."""
    from sr_deploy.nets.architecture import ElasticNetwork
    from sr_deploy.train.data import image_pairs
    from sr_deploy.train.schedule import learning_rate

    torch.manual_seed(0)
    elastic = ElasticNetwork(ARCHITECTURES["asrn"], 2, Variant("d", 2))
    elastic.net.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(elastic.net.parameters())
    ema = {k: v.detach().clone() for k, v in elastic.net.state_dict().items()}
    data = Patches(
        image_pairs([images], cache, scale=2), scale=2, patch_hr=12, batch_size=4, seed=0
    )
    for step in range(6):
        lr, hr = data.batch(step)
        optimiser.param_groups[0]["lr"] = learning_rate("one-cycle", step, 6, lr=1e-3)
        given = losses.LossInputs(lr.to(memory_format=torch.channels_last), hr, TINY, None)
        optimiser.zero_grad()
        sum(losses.deep_supervision(elastic, given).values()).backward()
        torch.nn.utils.clip_grad_norm_(elastic.net.parameters(), 1.0)
        optimiser.step()
        for k, v in elastic.net.state_dict().items():
            ema[k].lerp_(v, 1 - min(0.9, (step + 1) / (step + 10)))
    weights = load_checkpoint(whole[1]).weights
    assert all(torch.equal(weights[k], v) for k, v in ema.items())


@pytest.mark.parametrize(
    "stopped_by", ["SIGINT", "SIGTERM", "SIGHUP", pytest.param("budget", marks=pytest.mark.smoke)]
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    train, tmp_path, whole, monkeypatch, stopped_by
):
    if stopped_by == "budget":
        said = []
        train(steps=6, budget_s=0, licence="CC0", trained_on="noise", log=said.append)
        assert re.fullmatch(
            "stopped after step 1 of 6: the time is up; the others take about . s; "
            "resume with the same command and --resume",
            said[-1],
        )
        assert state_of(tmp_path)["step"] == 1
    else:
        number = getattr(signal, stopped_by, None)
        if number is None:
            pytest.skip(f"this platform has no {stopped_by}")
        before = signal.getsignal(number)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            at_step(patch, 2, lambda: os.kill(os.getpid(), number))
            train(licence="CC0", trained_on="noise")
        assert signal.getsignal(number) is before
        assert state_of(tmp_path)["step"] == 3  # the step was finished
    assert (
        load_checkpoint(tmp_path / "net.safetensors").spec.training["steps_done"]
        == state_of(tmp_path)["step"]
    )
    path = train(resume=True)  # licence and trained_on are those it began with
    assert path.read_bytes() == whole[1].read_bytes()
    equal_states(state_of(whole[0]), state_of(tmp_path))
    spec = load_checkpoint(path).spec
    assert (spec.licence, spec.trained_on) == ("CC0", "noise")


@pytest.mark.parametrize("valid", [False, True])
def test_a_budget_chooses_the_steps_and_changes_nothing_else(
    train, images, tmp_path, monkeypatch, valid
):
    """The timed steps are undone: the run is that of --steps, bit for bit, with its card."""
    options = {"valid": images} if valid else {}
    path = train(output=tmp_path / "steps", steps=3, **options)
    monkeypatch.setattr(Pace, "steps_that_fit", lambda *args: 3)
    said = []
    fitted = train(output=tmp_path / "budget", budget_s=3600, log=said.append, **options)
    assert "3 of 6 steps fit in 1 h 0 min: a step takes 0." in said[1]
    assert ("a validation" in said[1]) == valid
    assert fitted.read_bytes() == path.read_bytes()
    assert load_checkpoint(path).spec.training["steps"] == 3
    equal_states(state_of(tmp_path / "steps"), state_of(tmp_path / "budget"))
    logs = [(tmp_path / f / "net.logs" / "metrics.csv") for f in ("steps", "budget")]
    steps = [[line.partition(",")[0] for line in log.read_text().splitlines()] for log in logs]
    assert steps[0] == steps[1] and steps[0][-1] == "3"


def test_a_budget_in_which_all_steps_fit_changes_nothing(train, whole):
    said = []
    path = train(budget_s=3600, licence="CC0", trained_on="noise", log=said.append)
    assert said[1].startswith("all 6 steps fit in 1 h 0 min: a step takes 0.")
    assert path.read_bytes() == whole[1].read_bytes()


def test_a_schedule_without_an_end_stops_with_the_budget(train, tmp_path):
    said = []
    train(replace(TINY, schedule="constant"), budget_s=0, log=said.append)
    assert said[-1].startswith("stopped after step 1 of 6: the time is up")
    train(replace(TINY, schedule="constant"), resume=True)
    assert state_of(tmp_path)["step"] == 6


def test_an_interrupt_while_steps_are_timed_leaves_no_run(train, tmp_path, monkeypatch):
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(budget_s=3600)
    assert not (tmp_path / "net.state.pt").exists() and not (tmp_path / "net.logs").exists()


def test_a_resumed_run_keeps_its_number_of_steps(train, tmp_path):
    train(steps=4, budget_s=0)
    with pytest.raises(InputError, match="is of a run of 4 steps, not 6") as e:
        train(steps=6, resume=True)
    assert "remove --steps" in e.value.hint
    train(resume=True, budget_s=0)  # stops, and keeps the schedule
    assert state_of(tmp_path)["step"] == 2 and state_of(tmp_path)["recipe"]["steps"] == 4
    said = []
    path = train(resume=True, log=said.append)
    assert said[0] == "net: 3 images, steps 2 to 4" and state_of(tmp_path)["step"] == 4
    weights = load_checkpoint(train(output=tmp_path / "whole", steps=4)).weights
    assert all(torch.equal(weights[k], v) for k, v in load_checkpoint(path).weights.items())


def test_the_last_line_compares_with_bicubic(train, images, tmp_path, monkeypatch):
    said = []
    train(steps=6, budget_s=0, valid=images, log=said.append)  # stopped: validated all the same
    assert said[-2].startswith("stopped after step 1 of 6")
    assert re.fullmatch(r"valid \d+\.\d\d dB, \d+\.\d\d dB (above|below) bicubic", said[-1])
    training = load_checkpoint(tmp_path / "net-best.safetensors").spec.training
    bicubic = training["bicubic_valid_psnr_db"]
    assert 5 < bicubic < 50 and training["steps_done"] == 1
    monkeypatch.setattr(trainer, "_mean_psnr", lambda *args: bicubic + 1.344)
    train(resume=True, valid=images, log=said.append)
    assert said[-1] == f"valid {bicubic + 1.344:.2f} dB, 1.34 dB above bicubic"


@pytest.mark.slow
def test_a_killed_run_resumes_from_the_last_saved_state(images, cache, tmp_path, whole):
    code = f"""
import os
from sr_deploy.train import loop
from sr_deploy.train.data import Patches
from sr_deploy.train.pace import Pace
from sr_deploy.train.options import TrainOptions
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.trainer import checkpoint_from_images
loop.SAVE_EVERY_S = 0
real = Patches.pixels
Patches.pixels = lambda self, n, *share: os._exit(9) if n == 4 else real(self, n, *share)
options = TrainOptions([{str(images)!r}], {str(tmp_path)!r}, name="net", cache={str(cache)!r})
checkpoint_from_images(Recipe(**{dataclasses.asdict(TINY)!r}), options)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert killed.returncode == 9, killed.stderr
    assert state_of(tmp_path)["step"] == 4
    path = train_network(
        TINY,
        [images],
        tmp_path,
        name="net",
        cache=cache,
        resume=True,
        licence="CC0",
        trained_on="noise",
    )
    assert path.read_bytes() == whole[1].read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".partial")]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "--devices 2"])
def test_two_processes_train_the_same_network(images, cache, tmp_path, launcher):
    (tmp_path / "net.json").write_text(json.dumps(dataclasses.asdict(TINY)))
    command = [
        "-m",
        "sr_deploy.cli.main",
        "train",
        tmp_path / "net.json",
        "--data",
        images,
        "-o",
        tmp_path / "two",
        "--cache",
        cache,
    ]
    command += ["--valid", images]
    if launcher == "torchrun":
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
    else:
        command += ["--devices", "2"]
    command += ["--budget", "1h"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, *map(str, command)], env=env, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("all 6 steps fit in 1 h 0 min") == 1
    assert run.stdout.strip() == str(tmp_path / "two" / "net.safetensors")  # printed once
    alone = load_checkpoint(
        train_network(TINY, [images], tmp_path / "one", name="net", cache=cache)
    ).weights
    both = load_checkpoint(tmp_path / "two" / "net.safetensors")
    assert both.spec.training["device"].endswith("2 processes")
    for k, v in alone.items():
        torch.testing.assert_close(both.weights[k], v, rtol=0, atol=2e-5)
    other = load_checkpoint(
        train_network(TINY, [images], tmp_path / "other", name="net", cache=cache, seed=1)
    ).weights
    assert (
        max((other[k] - v).abs().max() for k, v in alone.items()) > 1e-2
    )  # the bound above means something


@pytest.mark.slow
def test_an_error_in_every_process_is_reported_once(images, cache, tmp_path):
    (tmp_path / "net.json").write_text(
        json.dumps(dataclasses.asdict(replace(TINY, lr=1e9, schedule="constant", clip_norm=0.0)))
    )
    command = [
        "-m",
        "sr_deploy.cli.main",
        "train",
        tmp_path / "net.json",
        "--data",
        images,
        "-o",
        tmp_path / "out",
        "--cache",
        cache,
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, *map(str, command), "--devices", "2"],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 1 and run.stdout == "" and "Traceback" not in run.stderr
    assert run.stderr.count("error: ") == run.stderr.count("is not finite at step") == 1


def test_micro_batches_add_up_to_the_batch(train, whole):
    weights = load_checkpoint(train(accumulate=4)).weights
    for k, v in load_checkpoint(whole[1]).weights.items():
        torch.testing.assert_close(weights[k], v, rtol=0, atol=2e-5)


def test_workers_change_nothing(train, whole):
    assert train(workers=1, licence="CC0", trained_on="noise").read_bytes() == whole[1].read_bytes()


@pytest.mark.parametrize("features", ["avx2", "avx2 avx512_bf16"])
def test_bf16_is_another_run_of_the_same_network(train, whole, features, monkeypatch):
    monkeypatch.setattr(device, "cpu_features", lambda: ["x86_64", *features.split()])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = []
    checkpoint = load_checkpoint(train(replace(TINY, amp="bf16"), log=said.append))
    assert any("trains in FP32" in line for line in said) == (features == "avx2")
    assert all(v.dtype == torch.float32 for v in checkpoint.weights.values())
    differences = [
        (checkpoint.weights[k] - v).abs().max().item()
        for k, v in load_checkpoint(whole[1]).weights.items()
    ]
    assert 0 < max(differences) < 2e-2


def test_another_seed_is_another_network(train, whole):
    other = load_checkpoint(train(seed=1)).weights
    assert any(not torch.equal(v, other[k]) for k, v in load_checkpoint(whole[1]).weights.items())


def test_the_saved_weights_are_the_average_and_lag_behind(whole):
    weights, state = load_checkpoint(whole[1]).weights, state_of(whole[0])
    assert all(torch.equal(v, state["ema"][k]) for k, v in weights.items())
    assert any(not torch.equal(v, state["net"][k]) for k, v in weights.items())


def test_without_an_average_the_weights_themselves_are_saved(train, tmp_path):
    weights = load_checkpoint(train(replace(TINY, ema=0.0))).weights
    assert all(torch.equal(v, state_of(tmp_path)["net"][k]) for k, v in weights.items())


def test_validation_keeps_the_best_and_both_logs(train, images, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(valid=images)
    with open(tmp_path / "net.logs" / "metrics.csv") as f:
        rows = [(int(row["step"]), float(row["valid_psnr_db"])) for row in csv.DictReader(f)]
    assert [step for step, _ in rows] == [1, 2, 3, 4, 5, 6]  # valid_every 2, but often enough
    assert all(5 < psnr < 50 for _, psnr in rows)
    best = load_checkpoint(tmp_path / "net-best.safetensors").spec.training
    assert (best["steps_done"], best["best_valid_psnr_db"]) == max(
        ((s, round(p, 3)) for s, p in rows), key=lambda r: r[1]
    )
    events = EventAccumulator(str(tmp_path / "net.logs"))
    events.Reload()
    assert [e.step for e in events.Scalars("valid_psnr_db")] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "loss/depth 1", "loss/psd", "lr", "samples_per_s"} <= set(
        events.Tags()["scalars"]
    )


def test_the_best_survives_a_resumed_run_that_gets_worse(train, images, tmp_path, monkeypatch):
    scores = iter([10.0, 30.0, 20.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr(trainer, "_mean_psnr", lambda *args: next(scores))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        train(valid=images)
    train(valid=images, resume=True)
    assert load_checkpoint(tmp_path / "net-best.safetensors").spec.training["steps_done"] == 2


def test_every_method_trains_a_checkpoint(train, tmp_path):
    sandwich = replace(
        TINY, arch="imdeception", variant="", method="sandwich", psd=0.0, steps=2, batch_size=1
    )
    spec = load_checkpoint(train(sandwich, tmp_path / "sandwich")).spec
    assert spec.variants[0] == "c4" and spec.variants[-1] == "c16-nla" and len(spec.variants) == 8
    teacher = replace(
        TINY,
        arch="edsr",
        variant="b1",
        config={"channels": 4},
        method="supervised",
        elastic=False,
        psd=0.0,
        patch_hr=30,
    )
    path = train(teacher, tmp_path / "teacher")
    assert load_checkpoint(path).spec.variants == ("b1",)
    student = replace(teacher, arch="srn-s", config={})
    training = load_checkpoint(
        train(student, tmp_path / "student", teacher=str(path))
    ).spec.training
    assert (
        training["teacher"] == "net (edsr b1)"
        and training["teacher_sha256"] == load_checkpoint(path).spec.weights_sha256
    )


def test_the_teachers_score_is_on_the_card(train, images, tmp_path):
    teacher = train(
        replace(
            TINY,
            arch="srn-s",
            variant="b1",
            method="supervised",
            elastic=False,
            psd=0.0,
            patch_hr=30,
        ),
        tmp_path / "t",
    )
    student = replace(
        TINY,
        arch="srn-s",
        variant="b1",
        method="supervised",
        elastic=False,
        psd=0.0,
        patch_hr=30,
        steps=2,
    )
    spec = load_checkpoint(train(student, teacher=str(teacher), valid=images)).spec
    assert 5 < spec.training["teacher_valid_psnr_db"] < 50


def test_fine_tuning_starts_from_the_given_weights(train, whole, tmp_path):
    path = train(replace(TINY, lr=1e-12, ema=0.0), init=str(whole[1]))
    for k, v in load_checkpoint(whole[1]).weights.items():
        torch.testing.assert_close(load_checkpoint(path).weights[k], v, rtol=0, atol=1e-6)
    training = load_checkpoint(path).spec.training
    assert (
        training["init"] == "net"
        and training["init_training"]["steps_done"] == 6
        and "init_scale" not in training
    )


def test_low_rank_paths_are_trained_from_the_network_without_them(train, tmp_path):
    plain = replace(
        TINY, arch="dscf", variant="w4", method="supervised", elastic=False, psd=0.0, steps=2
    )
    before = train(plain, tmp_path / "plain")
    adapted = replace(plain, config={"reparameterised": True})
    after = load_checkpoint(train(adapted, init=str(before)))
    assert after.spec.training["init_tensors"] == "43 of 81"
    for name, value in after.weights.items():
        if name.endswith(".wide"):
            assert value.abs().sum() > 0
        elif not name.endswith(".narrow"):
            assert torch.equal(value, load_checkpoint(before).weights[name]), name
    with pytest.raises(InputError, match="is dscf w4; the recipe trains dscf w4") as e:
        train(plain, tmp_path / "back", init=str(after.path))
    assert "same architecture, size and configuration" in e.value.hint


def test_another_scale_starts_with_the_shared_tensors(train, whole):
    path = train(replace(TINY, scale=3, lr=1e-12, ema=0.0), init=str(whole[1]))
    before, after = load_checkpoint(whole[1]).weights, load_checkpoint(path)
    torch.testing.assert_close(
        after.weights["body.1.expand.weight"], before["body.1.expand.weight"], rtol=0, atol=1e-6
    )
    assert (
        after.spec.training["init_scale"] == 2 and after.spec.training["init_tensors"] == "33 of 34"
    )


def test_an_initial_checkpoint_of_another_network_is_refused(train, whole, tmp_path):
    with pytest.raises(
        InputError, match="'.*net.safetensors' is asrn d2; the recipe trains asrn d1"
    ):
        train(replace(TINY, variant="d1"), tmp_path / "new", init=str(whole[1]))
    assert not list(tmp_path.glob("new/*.safetensors"))


def test_a_recipe_requires_its_checkpoints(train, whole):
    with pytest.raises(InputError, match="starts from trained weights") as e:
        train(replace(TINY, follows="asrn-x2-best"))
    assert "asrn-x2-best with --init" in e.value.hint
    distilling = replace(
        TINY,
        arch="srn-s",
        variant="b1",
        method="supervised",
        psd=0.0,
        patch_hr=30,
        teacher="edsr-x4-3",
    )
    with pytest.raises(InputError, match="needs a teacher") as e:
        train(distilling)
    assert "the result of edsr-x4-3 with --teacher" in e.value.hint
    with pytest.raises(InputError, match="needs a teacher") as e:
        train(replace(distilling, teacher="srn-ntire2023"))
    assert "the official checkpoint srn-ntire2023 (srdeploy import-checkpoint" in e.value.hint
    with pytest.raises(InputError, match="'adapter' has no teacher"):
        train(
            replace(TINY, arch="adaedsr", method="adapter", variant="d2", psd=0.0),
            teacher=str(whole[1]),
        )
    with pytest.raises(InputError, match="upscales x2; the recipe x4"):
        train(replace(distilling, scale=4, patch_hr=60), teacher=str(whole[1]))


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_state_before_it(
    train, tmp_path, monkeypatch
):
    train(steps=6, budget_s=0)
    before = {
        p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".pt" and p.is_file()
    }
    real = losses.METHODS["deep-supervision"]
    calls = []

    def broken(elastic, step):
        calls.append(1)
        terms = real(elastic, step)
        return {**terms, "psd": terms["psd"] * math.nan} if len(calls) == 2 else terms

    monkeypatch.setitem(losses.METHODS, "deep-supervision", broken)
    with pytest.raises(
        SrDeployError,
        match=r"the loss \(its term 'psd'\) is not finite at step 2; its patches are from .*png",
    ) as e:
        train(resume=True)
    assert (
        "lower the recipe's lr" in e.value.hint and "the last saved state is kept" in e.value.hint
    )
    assert {
        p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".pt" and p.is_file()
    } == before
    assert state_of(tmp_path)["step"] == 2


def test_a_gradient_that_is_not_a_number_never_reaches_a_checkpoint(train, tmp_path, monkeypatch):
    real = losses.METHODS["deep-supervision"]

    def broken(elastic, step):
        weight = elastic.net.head[0].weight
        return {
            **real(elastic, step),
            "slope": (weight - weight).sum().sqrt(),
        }  # finite, with an infinite slope

    monkeypatch.setitem(losses.METHODS, "deep-supervision", broken)
    with pytest.raises(SrDeployError, match="the gradient is not finite at step 0") as e:
        train()
    assert "kept" not in e.value.hint  # there is none
    assert not (tmp_path / "net.safetensors").exists() and not (tmp_path / "net.state.pt").exists()


@pytest.mark.parametrize("full_for", ["net.state.pt", "net.safetensors", "metrics.csv"])
def test_a_full_disk_keeps_the_earlier_state(train, tmp_path, monkeypatch, full_for):
    train(steps=6, budget_s=0)
    kept = {
        name: (tmp_path / name).read_bytes()
        for name in ("net.state.pt", "net.safetensors", "net.json")
    }
    real_replace, full = os.replace, OSError(errno.ENOSPC, "No space left on device")

    def replace_or_fail(a, b, *args, **options):
        if str(b).endswith(full_for):
            raise full
        return real_replace(a, b, *args, **options)

    monkeypatch.setattr(os, "replace", replace_or_fail)
    with pytest.raises(SrDeployError, match="cannot write.*No space left") as e:
        train(resume=True)
    assert "free some space" in e.value.hint and "the last saved state is kept" in e.value.hint
    assert (tmp_path / "net.safetensors").read_bytes() == kept["net.safetensors"]
    if full_for != "net.safetensors":
        assert (tmp_path / "net.json").read_bytes() == kept["net.json"]
    monkeypatch.undo()
    assert (
        state_of(tmp_path)["step"]
        == {"net.state.pt": 1, "net.safetensors": 6, "metrics.csv": 1}[full_for]
    )
    assert load_checkpoint(train(resume=True)).spec.training["steps_done"] == 6


@pytest.mark.parametrize("change, key", [({"lr": 1e-4}, "lr"), ({"patch_hr": 10}, "patch_hr")])
def test_another_recipe_does_not_resume(train, tmp_path, whole, change, key):
    (tmp_path / "net.state.pt").write_bytes((whole[0] / "net.state.pt").read_bytes())
    with pytest.raises(InputError, match=f"belongs to another run: it differs in {key}"):
        train(replace(TINY, **change), resume=True)
    with pytest.raises(InputError, match="differs in seed"):
        train(seed=7, resume=True)


def test_other_images_do_not_resume(train, images, tmp_path, whole):
    (tmp_path / "net.state.pt").write_bytes((whole[0] / "net.state.pt").read_bytes())
    state = state_of(tmp_path)
    torch.save({**state, "step": 3}, tmp_path / "net.state.pt")
    fewer = tmp_path / "hr"
    shutil.copytree(images, fewer)
    (fewer / "2.png").unlink()
    for folders in ([fewer], [images, images]):
        with pytest.raises(
            InputError, match="the images changed; the run started with 3 images"
        ) as e:
            train(folders=folders, resume=True)
        assert "resume with the images of its start" in e.value.hint
    (fewer / "2.png").write_bytes((images / "1.png").read_bytes())
    with pytest.raises(
        InputError, match="the images changed; the run started with 3 images, now there are 3"
    ):
        train(folders=[fewer], resume=True)


def test_resuming_a_finished_run_changes_nothing(train, tmp_path, whole):
    for path in whole[0].iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    said = []
    assert train(resume=True, licence="MIT", log=said.append) == tmp_path / "net.safetensors"
    assert said == ["net is finished: all 6 steps are done"]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    (tmp_path / "net.safetensors").unlink()  # as a disk that was full for the last file leaves it
    train(resume=True)
    assert (tmp_path / "net.safetensors").read_bytes() == before["net.safetensors"]
    assert load_checkpoint(tmp_path / "net.safetensors").spec.training["device"].startswith("cpu")


def test_an_error_during_a_run_loses_no_completed_step(train, images, tmp_path, monkeypatch):
    def broken(*args):
        raise InputError("the image has gone")

    monkeypatch.setattr(trainer, "_mean_psnr", broken)
    with pytest.raises(InputError, match="the image has gone") as e:
        train(valid=images)
    assert "the last saved state is kept" in e.value.hint and state_of(tmp_path)["step"] == 1


def test_a_full_disk_prints_no_traceback_of_a_thread(train, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "write", full)
    with pytest.raises(SrDeployError, match="cannot write to .*No space left"):
        train()
    assert seen == [] and threading.excepthook == seen.append


def test_space_is_the_hint_for_a_full_disk_only(train, monkeypatch):
    monkeypatch.setattr(
        loop.MetricsLog,
        "write",
        lambda *args: (_ for _ in ()).throw(FileExistsError(17, "File exists")),
    )
    with pytest.raises(SrDeployError, match="cannot write to .*File exists") as e:
        train()
    assert "space" not in e.value.hint


def test_images_of_a_run_are_checked_before_it_begins(tmp_path, cache):
    with pytest.raises(InputError, match="there is no folder"):
        train_network(TINY, [tmp_path / "none"], tmp_path / "out", name="net", cache=cache)
    small = write_images(tmp_path / "small", [(8, 8)])
    with pytest.raises(InputError, match="expected at least 12x12"):
        train_network(TINY, [small], tmp_path / "out", name="net", cache=cache)
    assert not list(tmp_path.glob("out/*"))


def test_the_state_is_saved_as_time_goes_by(train, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    seen = []
    real = Patches.pixels
    monkeypatch.setattr(
        Patches,
        "pixels",
        lambda self, n, *share: (
            seen.append((tmp_path / "net.state.pt").is_file()) or real(self, n, *share)
        ),
    )
    train(replace(TINY, steps=3))
    assert seen[0] is False and seen[-1] is True


def test_it_runs_outside_the_main_thread(train):
    results = []
    thread = threading.Thread(target=lambda: results.append(train()))
    thread.start()
    thread.join()
    assert load_checkpoint(results[0]).spec.training["steps_done"] == 6


def test_a_teacher_may_be_any_checkpoint_of_the_scale(train, tmp_path):
    torch.manual_seed(0)
    architecture, variant = ARCHITECTURES["asrn"], Variant("d", 1)
    weights = architecture.build(2, variant).state_dict()
    teacher = save_checkpoint(
        tmp_path, "teacher", architecture.spec(2, variant, elastic=False), weights
    )
    train(replace(TINY, method="supervised", psd=0.0, steps=1), teacher=str(teacher))


def test_recipes_module_has_no_state_that_a_run_changes():
    assert RECIPES["asrn-x4"].config == {} and len({id(r) for r in RECIPES.values()}) == len(
        RECIPES
    )
