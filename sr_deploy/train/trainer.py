"""A run from images to a checkpoint: what it needs, what it writes, how it goes on."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Union

import numpy as np
import torch
from torch import Tensor

from sr_deploy.bench.evaluate import evaluate, image_set
from sr_deploy.core.errors import InputError, MissingPackageError, SrDeployError
from sr_deploy.core.spec import ModelSpec
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.architecture import ElasticNetwork, Weights
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sr_deploy.runtime.torch_module import TorchSession
from sr_deploy.train.checks import check_files, check_options, check_valid, folder, folder_list
from sr_deploy.train.data import Pair, Patches
from sr_deploy.train.difficulty import crops_of_class
from sr_deploy.train.losses import METHODS, Step, Terms
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
    judge: Optional[str] = None,
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
    wants one. judge: the one that tells how difficult patches are, where the recipe trains on a class of them. budget_s: stop
    cleanly when so much time has passed. devices: how many GPUs or CPU processes; 0: all GPUs, or
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
    folders, lr_folders, output = (
        folder_list(folders, "--data"),
        folder_list(lr_folders, "--lr"),
        folder(output, "--output"),
    )
    valid, cache = (
        None if valid is None else folder(valid, "--valid"),
        output / "cache" if cache is None else folder(cache, "--cache"),
    )
    check_options(
        recipe,
        name,
        folders,
        lr_folders=lr_folders,
        init=init,
        teacher=teacher,
        judge=judge,
        accumulate=accumulate,
        devices=devices,
        workers=workers,
        seed=seed,
        budget_s=budget_s,
    )
    try:
        import tensorboard  # noqa: F401

        from sr_deploy.train.task import Options, Task, carry_out
    except ImportError as e:
        raise MissingPackageError(
            e.name or "lightning", needed_for="training", extra="train", cause=e
        ) from e
    first_process = is_first_process()
    path = output / f"{name}.safetensors"
    if first_process:
        check_files(output, name, recipe_file=recipe_file, resume=resume)
        if valid is not None:
            check_valid(valid, recipe.scale)

    with leading(output, cache, name) if first_process else following():
        architecture = ARCHITECTURES[recipe.arch]
        torch.manual_seed(seed)
        elastic = ElasticNetwork(
            architecture,
            recipe.scale,
            architecture.parse(recipe.variant or None),
            recipe.config or None,
        )
        elastic.net.to(memory_format=torch.channels_last).train()
        facts = {
            **dataclasses.asdict(recipe),
            "seed": seed,
            "lr_images": "given" if lr_folders else "made",
        }
        if init is not None:
            facts.update(_started_from(init, recipe, elastic))
        taught_by = None
        if teacher is not None:
            taught_by = load_checkpoint(teacher)
            facts.update(_taught_by(taught_by, recipe))
        taught = None if taught_by is None else taught_by.network()
        judged_by = None
        if judge is not None:
            judged_by = load_checkpoint(judge)
            facts.update(_judged_by(judged_by, recipe))

        def prepare(pairs: Sequence[Pair]) -> Callable[[Patches], Patches]:
            if judged_by is None:
                return lambda patches: patches
            crops = crops_of_class(
                pairs,
                judged_by.network(),
                scale=recipe.scale,
                patch_lr=recipe.patch_hr // recipe.scale,
                difficulty=recipe.difficulty,
                log=options.log,
            )
            return lambda patches: patches.within(crops)

        def terms(lr: Tensor, hr: Tensor, step: int) -> Terms:
            rng = np.random.default_rng((seed, step, 1))
            return METHODS[recipe.method](
                elastic,
                Step(
                    lr, hr, recipe.loss, recipe.psd, recipe.psd_detached, taught, rng, recipe.depth
                ),
            )

        def spec(card: Dict[str, Any]) -> ModelSpec:
            return architecture.spec(
                recipe.scale,
                elastic.largest,
                elastic=recipe.elastic,
                config=dict(recipe.config),
                **card,
            )

        def score(weights: Weights, valid: Path) -> float:
            current = Checkpoint(name, spec({}), dict(weights))
            points = [str(v) for v in current.variants("all")]
            return _score(current, tuple(dict.fromkeys((points[0], points[-1]))), recipe, valid)

        task = Task(
            recipe,
            elastic.net,
            terms,
            write=lambda stem, weights, card: save_checkpoint(
                output, stem, spec(card), dict(weights)
            ),
            score=score,
            steps_done=lambda: _steps_done(path),
            facts=facts,
            frozen=() if taught is None else (taught,),
            teacher_score=taught_by
            and (lambda valid: _score(taught_by, taught_by.spec.variants[-1:], recipe, valid)),
            prepare=prepare,
        )
        options = Options(
            folders,
            output,
            name,
            cache,
            lr_folders,
            valid,
            resume,
            seed,
            budget_s,
            devices,
            accumulate,
            workers,
            strict,
            licence,
            trained_on,
            log if first_process else _silent,
        )
        carry_out(task, options, leads=first_process, started=started)
        return path


def _silent(line: str) -> None:
    pass


def _steps_done(path: Path) -> Optional[int]:
    """The steps of a checkpoint that is there and whole."""
    try:
        return load_checkpoint(path).spec.training.get("steps_done")
    except SrDeployError:
        return None


def _started_from(model: str, recipe: Recipe, elastic: ElasticNetwork) -> dict:
    """Load a checkpoint's weights; return what the card says about it. Raises InputError when it is of another network.

    Another scale will do: what has the same name and shape is taken, the rest, the last layers, starts anew. So does the adapter on
    a backbone's checkpoint.
    """
    start = load_checkpoint(model)
    same = (start.spec.arch, start.spec.variants[-1], start.spec.config) == (
        recipe.arch,
        str(elastic.largest),
        recipe.config,
    )
    if start.spec.arch == elastic.architecture.backbone:
        needed = {
            k: v.shape for k, v in elastic.net.state_dict().items() if not k.startswith("adapter.")
        }
        same = {k: v.shape for k, v in start.weights.items()} == needed
    if not same:
        raise InputError(
            f"'{model}' is {start.spec.arch} {start.spec.variants[-1]}; the recipe trains {recipe.arch} {elastic.largest}",
            hint="start from a checkpoint of the same architecture, size and configuration"
            + (f", or of {elastic.architecture.backbone}" if elastic.architecture.backbone else ""),
        )
    own = elastic.net.state_dict()
    taken = {k: v for k, v in start.weights.items() if k in own and own[k].shape == v.shape}
    elastic.net.load_state_dict({**own, **taken})
    facts = {
        "init": start.name,
        "init_sha256": start.spec.weights_sha256,
        "init_training": start.spec.training,
    }
    if len(taken) < len(own):
        facts["init_scale"], facts["init_tensors"] = start.spec.scale, f"{len(taken)} of {len(own)}"
    return facts


def _taught_by(teacher: Checkpoint, recipe: Recipe) -> dict:
    if teacher.spec.scale != recipe.scale:
        raise InputError(
            f"the teacher '{teacher.name}' upscales x{teacher.spec.scale}; the recipe x{recipe.scale}"
        )
    return {
        "teacher": f"{teacher.name} ({teacher.spec.arch} {teacher.spec.variants[-1]})",
        "teacher_sha256": teacher.spec.weights_sha256,
    }


def _judged_by(judge: Checkpoint, recipe: Recipe) -> dict:
    if judge.spec.scale != recipe.scale:
        raise InputError(
            f"the judge '{judge.name}' upscales x{judge.spec.scale}; the recipe x{recipe.scale}"
        )
    return {
        "judged_by": f"{judge.name} ({judge.spec.arch} {judge.spec.variants[-1]})",
        "judge_sha256": judge.spec.weights_sha256,
    }


def _score(checkpoint: Checkpoint, variants: Sequence[str], recipe: Recipe, valid: Path) -> float:
    images = image_set(str(valid))
    scores = []
    for variant in variants:
        session = TorchSession(
            checkpoint.network(variant), scale=recipe.scale, min_hw=checkpoint.spec.min_hw
        )
        scores.append(evaluate(session, images, metric="y", degradation=recipe.degradation).psnr_db)
    return sum(scores) / len(scores)
