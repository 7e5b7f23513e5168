"""The training loop: fixed schedule, state saved as it goes, resumed bit for bit."""

from __future__ import annotations

import dataclasses
import math
import pickle
import time
from pathlib import Path
from typing import Callable, Optional, Sequence

import numpy as np
import torch

from sr_deploy.core.errors import CheckpointError, InputError, SrDeployError
from sr_deploy.core.files import atomic_path, output_folder
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.architecture import Elastic
from sr_deploy.nets.checkpoint import load_checkpoint, save_checkpoint
from sr_deploy.train.data import Patches
from sr_deploy.train.losses import asrn_full, sandwich
from sr_deploy.train.recipes import Recipe

SAVE_EVERY_S = 120.0


def checkpoint_from_images(
    recipe: Recipe,
    folders: Sequence[Path],
    output: Path,
    *,
    name: str,
    init: Optional[str] = None,
    seed: int = 0,
    budget_s: float = math.inf,
    licence: str = "",
    trained_on: str = "",
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train by `recipe` on folders of HR images and return the path of the checkpoint written to `output`.

    A run that ended early (budget, Ctrl-C, a kill) leaves `NAME.state.pt`; the same call goes on from it, and ends with
    the weights of an uninterrupted run. Raises InputError without usable images, SrDeployError when the loss is not
    finite (the last saved state stays). init: a checkpoint to start from, by path or shipped name.
    """
    output_folder(output)
    torch.manual_seed(seed)
    architecture = ARCHITECTURES[recipe.arch]
    largest = architecture.parse(None)
    elastic = Elastic(architecture, recipe.scale, largest).to(memory_format=torch.channels_last)
    elastic.net.train()
    optimiser = torch.optim.Adam(elastic.net.parameters(), lr=recipe.peak_lr)
    state_path = output / f"{name}.state.pt"
    fingerprint = {**dataclasses.asdict(recipe), "seed": seed}
    if init is not None:
        fingerprint.update(_load_init(init, recipe, elastic))
    ema = {k: v.detach().clone() for k, v in elastic.net.state_dict().items()}
    first, hours = _resume(state_path, fingerprint, elastic, optimiser, ema)
    data = Patches(folders, scale=recipe.scale, patch_lr=recipe.patch_lr, batch_size=recipe.batch_size, seed=seed)
    log(f"{len(data.pairs)} images ({len(data.too_small)} too small), steps {first} to {recipe.steps}")

    started = saved = time.monotonic()

    def save(step: int) -> None:
        spent = hours + (time.monotonic() - started) / 3600
        state = {"step": step, "hours": spent, "recipe": fingerprint, "net": elastic.net.state_dict(), "ema": ema}
        with atomic_path(state_path) as temporary:
            torch.save({**state, "optimiser": optimiser.state_dict()}, temporary)

    step = first
    try:
        while step < recipe.steps:
            loss = _train_step(recipe, elastic, optimiser, data, step, ema)
            if not math.isfinite(loss):
                raise SrDeployError(
                    f"the loss or its gradient is not finite at step {step}",
                    hint="lower the recipe's peak_lr; the last saved state is kept",
                )
            step += 1
            if step % 100 == 0:
                log(f"step {step}/{recipe.steps} loss {loss:.5f} {time.monotonic() - started:.0f} s")
            if time.monotonic() - saved > SAVE_EVERY_S:
                save(step)
                saved = time.monotonic()
            if time.monotonic() - started > budget_s:
                break
    except KeyboardInterrupt:
        save(step)
        raise
    save(step)

    training = {
        **fingerprint,
        "steps_done": step,
        "hours": round(hours + (time.monotonic() - started) / 3600, 2),
        "images": len(data.pairs),
        "device": f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    spec = architecture.spec(recipe.scale, largest, elastic=True, licence=licence, trained_on=trained_on, training=training)
    return save_checkpoint(output, name, spec, ema)


def _train_step(recipe: Recipe, elastic: Elastic, optimiser: torch.optim.Adam, data: Patches, step: int, ema: dict) -> float:
    lr, hr = data.batch(step)
    lr = lr.to(memory_format=torch.channels_last)
    for group in optimiser.param_groups:
        group["lr"] = recipe.peak_lr * one_cycle(step / recipe.steps)
    if recipe.method == "asrn-full":
        loss = asrn_full(elastic, lr, hr, loss=recipe.loss, psd=recipe.psd)
    elif recipe.method == "sandwich":
        loss = sandwich(elastic, lr, hr, loss=recipe.loss, rng=np.random.default_rng((data.seed, step, 1)))
    else:
        raise InputError(f"unknown training method '{recipe.method}'; expected asrn-full or sandwich")
    if not torch.isfinite(loss):
        return loss.item()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(elastic.net.parameters(), 1.0)
    if not torch.isfinite(norm):
        return math.nan
    optimiser.step()
    decay = min(recipe.ema, (step + 1) / (step + 10))
    with torch.no_grad():
        for name, value in elastic.net.state_dict().items():
            ema[name].lerp_(value, 1 - decay)
    return loss.item()


def _load_init(model: str, recipe: Recipe, elastic: Elastic) -> dict:
    """Start from a checkpoint's weights; return what the card says about it. Raises InputError when it is of another network."""
    start = load_checkpoint(model)
    if (start.spec.arch, start.spec.scale, start.spec.variants[-1]) != (recipe.arch, recipe.scale, str(elastic.largest)):
        raise InputError(
            f"'{model}' is {start.spec.arch}_x{start.spec.scale} {start.spec.variants[-1]}; the recipe trains "
            f"{recipe.arch}_x{recipe.scale} {elastic.largest}",
            hint="start from a checkpoint of the same architecture, scale and size",
        )
    elastic.net.load_state_dict(start.weights)
    return {"init": start.name, "init_sha256": start.spec.weights_sha256, "init_training": start.spec.training}


def one_cycle(progress: float) -> float:
    """Return the share of the peak learning rate at `progress`, 0..1: linear up over 5 %, cosine down to zero."""
    if progress < 0.05:
        return max(progress / 0.05, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.05) / 0.95))


def _resume(path: Path, fingerprint: dict, elastic: Elastic, optimiser: torch.optim.Adam, ema: dict) -> tuple:
    if not path.is_file():
        return 0, 0.0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["recipe"] != fingerprint:
            raise InputError(f"{path} belongs to a run of another recipe or seed", hint="remove it, or give another folder")
        elastic.net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        for name, value in state["ema"].items():
            ema[name].copy_(value)
    except (RuntimeError, KeyError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as e:
        raise CheckpointError(f"{path} cannot be resumed from: {e}", hint="remove it to start again") from e
    return state["step"], state["hours"]
