"""A run from images to a checkpoint: what it needs, what it writes, how it goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import time
from pathlib import Path
from typing import Callable, Optional, Sequence, Union

import torch

from sr_deploy.bench.evaluate import evaluate, image_set
from sr_deploy.core.errors import InputError, MissingPackageError, SrDeployError
from sr_deploy.core.spec import ModelSpec
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.architecture import Elastic
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sr_deploy.runtime.torch_module import TorchSession
from sr_deploy.train.checks import check_files, check_options, check_valid, folder, folder_list
from sr_deploy.train.data import Patches, fingerprint, image_pairs
from sr_deploy.train.processes import following, is_first_process, leading
from sr_deploy.train.recipes import Recipe, check, recipe_named


def checkpoint_from_images(
    recipe: Union[str, Path, Recipe],
    folders: Union[str, Path, Sequence[Union[str, Path]]],
    output: Union[str, Path],
    *,
    name: Optional[str] = None,
    lr_folders: Union[str, Path, Sequence[Union[str, Path]]] = (),
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
    none on a CPU, four on a GPU. licence, trained_on: for the card; a resumed run keeps those it began with; trained_on is
    the folders' names where nothing is given.

    Raises InputError on unusable images or options, a state of another run or of other images, or when another process trains
    under that name; SrDeployError when the loss is not finite or the disk is full; KeyboardInterrupt when interrupted. What
    was trained until then is saved first, where it can be.
    """
    started = time.monotonic()
    recipe_file = Path()
    if isinstance(recipe, Recipe):
        check(recipe, source=name or recipe.arch)
    else:
        recipe_file = Path(recipe)
        name = recipe_file.stem if name is None else name
        recipe = recipe_named(str(recipe))
    folders, lr_folders, output = folder_list(folders, "--data"), folder_list(lr_folders, "--lr"), folder(output, "--output")
    valid, cache = None if valid is None else folder(valid, "--valid"), output / "cache" if cache is None else folder(cache, "--cache")
    check_options(
        recipe, name, folders, lr_folders=lr_folders, init=init, teacher=teacher, accumulate=accumulate, devices=devices,
        workers=workers, seed=seed, budget_s=budget_s,
    )  # fmt: skip
    try:
        import tensorboard  # noqa: F401

        from sr_deploy.train.module import Actions, Run, fit
        from sr_deploy.train.state import load_state, save_state
    except ImportError as e:
        raise MissingPackageError(e.name or "lightning", needed_for="training", extra="train", cause=e) from e
    first_process = is_first_process()
    say = log if first_process else _silent
    path, state_file = output / f"{name}.safetensors", output / f"{name}.state.pt"
    if first_process:
        check_files(output, name, recipe_file=recipe_file, resume=resume)
        if valid is not None:
            check_valid(valid, recipe)

    with leading(output, cache, name) if first_process else following():
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
        fixed = dict(facts)  # what a resumed run must share
        run = Run(
            recipe, seed, elastic, torch.optim.Adam(elastic.net.parameters(), lr=recipe.lr),
            ema={k: v.detach().clone() for k, v in elastic.net.state_dict().items()},
            teacher=None if taught_by is None else taught_by.network(),
        )  # fmt: skip
        if resume:
            load_state(state_file, fixed, run)
            if run.step == recipe.steps and _steps_done(path) == recipe.steps:
                say(f"{name} is finished: all {recipe.steps} steps are done")
                return path
        begun_at, earlier_h = run.step, run.hours

        pairs = image_pairs(
            folders, cache, scale=recipe.scale, degradation=recipe.degradation, lr_folders=lr_folders, min_hr=recipe.patch_hr,
            strict=strict, log=say,
        )  # fmt: skip
        images = {"images": len(pairs), "images_sha256": fingerprint(pairs)}
        if resume and {key: run.card.get(key) for key in images} != images:
            raise InputError(
                f"{state_file} belongs to a run on other images: {run.card.get('images')} of them, or others than these {len(pairs)}",
                hint="resume with the images it began with: the same names, sizes and order",
            )
        run.card.update(
            images, licence=licence or run.card.get("licence", ""),
            trained_on=trained_on or run.card.get("trained_on") or ", ".join(f.resolve().name for f in folders),
        )  # fmt: skip
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
            card = dict(run.card)
            terms = {key: card.pop(key) for key in ("licence", "trained_on")}
            training = {**facts, **card, "steps_done": run.step, "hours": round(run.hours, 2), "torch": torch.__version__}
            if run.best_psnr_db is not None:
                training["best_valid_psnr_db"] = round(run.best_psnr_db, 3)
            training["history"] = run.history
            return architecture.spec(
                recipe.scale, elastic.largest, elastic=recipe.elastic, config=dict(recipe.config), training=training, **terms
            )

        def validate() -> float:
            assert valid is not None
            current = Checkpoint(name, spec(), {k: v.cpu() for k, v in run.ema.items()})
            points = [str(v) for v in current.variants("all")]
            return _score(current, tuple(dict.fromkeys((points[0], points[-1]))), recipe, valid)

        def keep_best() -> None:
            save_checkpoint(output, f"{name}-best", spec(), run.ema)

        def save() -> None:
            spec()  # for the hours
            save_state(state_file, fixed, run)

        try:
            if run.step < recipe.steps:
                fit(
                    run, patches, Actions(save, validate, keep_best, say), logs=output / f"{name}.logs", deadline=started + budget_s,
                    devices=devices, accumulate=accumulate, workers=workers, validating=valid is not None,
                )  # fmt: skip
            if first_process:
                save()
                save_checkpoint(output, name, spec(), run.ema)
        except BaseException as e:
            if not first_process:
                if run.interrupted:  # the first process tells
                    raise SystemExit(1) from None
                raise
            if run.whole and run.step > begun_at:
                with contextlib.suppress(OSError, SrDeployError):  # e is what the user should hear of
                    save()
            told = _told(e, run.step, output, kept=state_file.is_file())
            if told is e:
                raise
            raise told from e
        if run.step < recipe.steps:
            why = "" if run.interrupted else f" of {recipe.steps}, the time is up"
            say(f"stopped after step {run.step}{why}; the same command with --resume goes on")
        if run.interrupted and first_process:
            raise KeyboardInterrupt
        return path


def _silent(line: str) -> None:
    pass


def _steps_done(path: Path) -> Optional[int]:
    """The steps of a checkpoint that is there and whole."""
    try:
        return load_checkpoint(path).spec.training.get("steps_done")
    except SrDeployError:
        return None


def _told(error: BaseException, step: int, output: Path, *, kept: bool) -> BaseException:
    """The error that ended a run as the user should read it."""
    if isinstance(error, OSError):  # the loggers write in many places
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        error = SrDeployError(f"cannot write to {output} at step {step}: {error.strerror or error}", hint="free some space" if full else "")
    if isinstance(error, SrDeployError) and kept:
        error.hint = "; ".join(filter(None, [error.hint, "the last saved state is kept, and --resume goes on from it"]))
    return error


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
