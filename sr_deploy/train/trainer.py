"""A run from images to a checkpoint: what it needs, what it writes, how it goes on."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import pickle
import time
from pathlib import Path
from typing import Callable, Optional, Sequence, Union

import torch

from sr_deploy.bench.evaluate import evaluate, image_set
from sr_deploy.core.errors import CheckpointError, InputError, MissingPackageError, SrDeployError
from sr_deploy.core.files import atomic_path, output_folder
from sr_deploy.core.spec import ModelSpec
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.architecture import Elastic
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sr_deploy.runtime.torch_module import TorchSession
from sr_deploy.train.data import Patches, image_pairs
from sr_deploy.train.recipes import Recipe, check, recipe_named


def checkpoint_from_images(
    recipe: Union[str, Recipe],
    folders: Sequence[Union[str, Path]],
    output: Union[str, Path],
    *,
    name: Optional[str] = None,
    lr_folders: Sequence[Union[str, Path]] = (),
    valid: Union[str, Path, None] = None,
    init: Optional[str] = None,
    teacher: Optional[str] = None,
    resume: bool = False,
    seed: int = 0,
    budget_s: float = math.inf,
    devices: int = 0,
    accumulate: int = 1,
    workers: Optional[int] = None,
    cache: Union[str, Path, None] = None,
    strict: bool = False,
    licence: str = "",
    trained_on: str = "",
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train by a recipe (one of srdeploy recipes by its name, or a .json file) and return the checkpoint's path.

    Writes to `output` NAME.safetensors with its card (the last weights), NAME-best.safetensors (the best by `valid`),
    NAME.state.pt (to go on from: on a CPU the two halves of a run are the whole run bit for bit), NAME.logs/ (CSV and
    TensorBoard) and, unless `cache` names another folder, cache/ (the decoded images). NAME is the recipe's unless given.

    folders: of HR images; lr_folders: with their LR images, one for each. valid: HR images; scored is the mean PSNR on Y of
    the smallest and the largest variant. init: a checkpoint to start from. teacher: the one to learn from, where the recipe
    wants one. budget_s: stop cleanly when so much time has passed. devices: how many GPUs or CPU processes; 0: all GPUs, or
    one process. accumulate: micro-batches a step; the batch stays the recipe's. workers: processes that cut patches; None:
    none on a CPU, four on a GPU.

    Raises InputError on unusable images or options, or a state of another run; SrDeployError when the loss is not finite or
    the disk is full (the last saved state stays); KeyboardInterrupt, after saving, when interrupted.
    """
    started = time.monotonic()
    if isinstance(recipe, str):
        name = Path(recipe).stem if name is None else name
        recipe = recipe_named(recipe)
    check(recipe, source=name or recipe.arch)
    folders, output, valid = [Path(f) for f in folders], Path(output), None if valid is None else Path(valid)
    _check_options(recipe, name, init=init, teacher=teacher, accumulate=accumulate, devices=devices, valid=valid)
    try:
        import tensorboard  # noqa: F401

        from sr_deploy.train.module import Actions, Run, fit
    except ImportError as e:
        raise MissingPackageError(e.name or "lightning", needed_for="training", extra="train", cause=e) from e
    output_folder(output)
    first_process = is_first_process()
    say = log if first_process else _silent

    architecture = ARCHITECTURES[recipe.arch]
    torch.manual_seed(seed)
    elastic = Elastic(architecture, recipe.scale, architecture.parse(recipe.variant or None), recipe.config or None)
    elastic.net.to(memory_format=torch.channels_last).train()
    facts = {**dataclasses.asdict(recipe), "seed": seed, "lr_images": "given" if lr_folders else "made"}
    if init is not None:
        facts.update(_started_from(init, recipe, elastic))
    taught_by = None
    if teacher is not None:
        taught_by = load_checkpoint(teacher)
        facts.update(_taught_by(taught_by, recipe))
    run = Run(
        recipe, seed, elastic, torch.optim.Adam(elastic.net.parameters(), lr=recipe.lr),
        ema={k: v.detach().clone() for k, v in elastic.net.state_dict().items()},
        teacher=None if taught_by is None else taught_by.network(),
    )  # fmt: skip
    state_file = output / f"{name}.state.pt"
    if resume:
        _load_state(state_file, facts, run)
    elif state_file.exists() and first_process:
        raise InputError(f"there is a run of that name: {state_file}", hint="go on with it by --resume, or give another --name or -o")
    earlier_h = run.hours

    pairs = image_pairs(
        folders, Path(cache or output / "cache"), scale=recipe.scale, degradation=recipe.degradation,
        lr_folders=[Path(f) for f in lr_folders], min_hr=recipe.patch_hr, strict=strict, log=say,
    )  # fmt: skip
    fixed = dict(facts)  # what a resumed run must share
    facts["images"] = len(pairs)
    say(f"{name}: {len(pairs)} images, steps {run.step} to {recipe.steps}")
    if taught_by is not None and valid is not None and first_process:
        facts["teacher_valid_psnr_db"] = round(_score(taught_by, taught_by.spec.variants[-1:], recipe, valid), 3)
        say(f"the teacher, {taught_by.name}, has {facts['teacher_valid_psnr_db']:.3f} dB")

    def patches(rank: int, ranks: int) -> Patches:
        return Patches(
            pairs, scale=recipe.scale, patch_hr=recipe.patch_hr, batch_size=recipe.batch_size, seed=seed,
            noise=recipe.degradation == "dn" and not lr_folders, parts=accumulate, rank=rank, ranks=ranks,
        )  # fmt: skip

    def spec() -> ModelSpec:
        run.hours = earlier_h + (time.monotonic() - started) / 3600
        training = {**facts, "steps_done": run.step, "hours": round(run.hours, 2), "torch": torch.__version__}
        if run.best_psnr_db is not None:
            training["best_valid_psnr_db"] = round(run.best_psnr_db, 3)
        training["history"] = run.history
        return architecture.spec(
            recipe.scale, elastic.largest, elastic=recipe.elastic, config=dict(recipe.config), licence=licence, trained_on=trained_on,
            training=training,
        )  # fmt: skip

    def validate() -> float:
        assert valid is not None
        current = Checkpoint(name, spec(), {k: v.cpu() for k, v in run.ema.items()})
        points = [str(v) for v in current.variants("all")]
        return _score(current, tuple(dict.fromkeys((points[0], points[-1]))), recipe, valid)

    def keep_best() -> None:
        save_checkpoint(output, f"{name}-best", spec(), run.ema)

    def save() -> None:
        spec()  # for the hours
        _save_state(state_file, fixed, run)

    if run.step < recipe.steps:
        try:
            facts["device"] = fit(
                run, patches, Actions(save, validate, keep_best, say), logs=output / f"{name}.logs", deadline=started + budget_s,
                devices=devices, accumulate=accumulate, workers=workers, validating=valid is not None,
            )  # fmt: skip
        except OSError as e:  # the loggers write in many places
            raise SrDeployError(
                f"cannot write to {output} at step {run.step}: {e.strerror or e}", hint="free some space; the last saved state is kept"
            ) from e
    path = output / f"{name}.safetensors"
    if first_process:
        save()
        save_checkpoint(output, name, spec(), run.ema)
    if run.interrupted:
        say(f"stopped after step {run.step}; the same command with --resume goes on")
        raise KeyboardInterrupt
    return path


def is_first_process() -> bool:
    """Tell whether this is the process that writes and prints, of all that torchrun or Lightning started."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _silent(line: str) -> None:
    pass


def _check_options(
    recipe: Recipe, name: Optional[str], *, init: Optional[str], teacher: Optional[str], accumulate: int, devices: int,
    valid: Optional[Path],
) -> None:  # fmt: skip
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(f"'{name}' cannot be the name of a checkpoint", hint="give a name without a folder, and the folder with -o")
    if recipe.follows and init is None:
        raise InputError("this recipe goes on from weights", hint=f"give the result of {recipe.follows} with --init")
    if recipe.method == "distillation" and teacher is None:
        raise InputError(
            "this recipe learns from a teacher", hint=f"give the result of {recipe.teacher or 'another recipe'} with --teacher"
        )
    if recipe.method != "distillation" and teacher is not None:
        raise InputError("this recipe has no teacher", hint="leave --teacher out")
    if accumulate < 1 or devices < 0:
        raise InputError(f"{accumulate} micro-batches on {devices} devices; expected at least 1 and 0")
    if valid is not None:
        image_set(str(valid))


def _started_from(model: str, recipe: Recipe, elastic: Elastic) -> dict:
    """Load a checkpoint's weights; return what the card says about it. Raises InputError when it is of another network.

    Another scale will do: what has the same name and shape is taken, the rest, the last layers, starts anew.
    """
    start = load_checkpoint(model)
    same = (start.spec.arch, start.spec.variants[-1], start.spec.config) == (recipe.arch, str(elastic.largest), recipe.config)
    if not same:
        raise InputError(
            f"'{model}' is {start.spec.arch} {start.spec.variants[-1]}; the recipe trains {recipe.arch} {elastic.largest}",
            hint="start from a checkpoint of the same architecture, size and configuration",
        )
    own = elastic.net.state_dict()
    taken = {k: v for k, v in start.weights.items() if k in own and own[k].shape == v.shape}
    elastic.net.load_state_dict({**own, **taken})
    facts = {"init": start.name, "init_sha256": start.spec.weights_sha256, "init_training": start.spec.training}
    if len(taken) < len(own):
        facts["init_scale"], facts["init_tensors"] = start.spec.scale, f"{len(taken)} of {len(own)}"
    return facts


def _taught_by(teacher: Checkpoint, recipe: Recipe) -> dict:
    if teacher.spec.scale != recipe.scale:
        raise InputError(f"the teacher '{teacher.name}' upscales x{teacher.spec.scale}; the recipe x{recipe.scale}")
    return {"teacher": f"{teacher.name} ({teacher.spec.arch} {teacher.spec.variants[-1]})", "teacher_sha256": teacher.spec.weights_sha256}


def _score(checkpoint: Checkpoint, variants: Sequence[str], recipe: Recipe, valid: Path) -> float:
    images = image_set(str(valid))
    scores = []
    for variant in variants:
        session = TorchSession(checkpoint.network(variant), scale=recipe.scale, min_hw=checkpoint.spec.min_hw)
        scores.append(evaluate(session, images, metric="y", degradation=recipe.degradation).psnr_db)
    return sum(scores) / len(scores)


_IN_STATE = ("step", "hours", "best_psnr_db", "history", "precision")


def _save_state(path: Path, fixed: dict, run: object) -> None:
    state = {key: getattr(run, key) for key in _IN_STATE}
    state.update(recipe=fixed, net=run.elastic.net.state_dict(), ema=run.ema, optimiser=run.optimiser.state_dict())  # type: ignore[attr-defined]
    buffer = io.BytesIO()  # torch's own writer tells a full disk apart from nothing else
    torch.save(state, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _load_state(path: Path, fixed: dict, run: object) -> None:
    if not path.is_file():
        raise InputError(f"there is no run to resume: no {path}", hint="leave --resume out to begin one")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["recipe"] != fixed:
            differ = sorted(k for k in {*state["recipe"], *fixed} if state["recipe"].get(k) != fixed.get(k))
            raise InputError(
                f"{path} belongs to another run: it differs in {', '.join(differ)}",
                hint="resume with the recipe, the seed and the start it began with, or give another --name or -o",
            )
        run.elastic.net.load_state_dict(state["net"])  # type: ignore[attr-defined]
        run.optimiser.load_state_dict(state["optimiser"])  # type: ignore[attr-defined]
        for name, value in run.ema.items():  # type: ignore[attr-defined]
            value.copy_(state["ema"][name])
        for key in _IN_STATE:
            setattr(run, key, state[key])
    except (RuntimeError, KeyError, TypeError, EOFError, ValueError, AttributeError, pickle.UnpicklingError) as e:
        raise CheckpointError(f"{path} cannot be resumed from: {e}", hint="remove it to start again") from e
