"""Training of one network: from images to a checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, Iterable, Optional, Sequence, Union

import numpy as np
import torch
from torch import Tensor

from sr_deploy.core.errors import InputError
from sr_deploy.core.spec import ModelSpec
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.architecture import ElasticNetwork, Weights
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sr_deploy.train.data import Pair
from sr_deploy.train.difficulty import patches_of_class
from sr_deploy.train.int8_trainer import Int8Task, recipe_of_start
from sr_deploy.train.losses import METHODS, TEACHABLE, LossInputs, Terms
from sr_deploy.train.options import TrainOptions
from sr_deploy.train.recipe import INT8, RECIPES, Recipe
from sr_deploy.train.training import (
    DatasetOf,
    Task,
    psnr_on_images,
    resolve,
    run_task,
    start_facts,
)


def checkpoint_from_images(
    recipe: Union[str, Path, Recipe],
    options: TrainOptions,
    *,
    teacher: Optional[str] = None,
    judge: Optional[str] = None,
) -> Path:
    """Train a network by a recipe (a name of srdeploy recipes, or a .json file); return its path.

    >>> options = sr_deploy.TrainOptions("photos", "trained", name="mine")
    >>> sr_deploy.checkpoint_from_images("tiny.json", options).name
    'mine.safetensors'

    Writes to the output folder NAME.safetensors with its card (the last weights),
    NAME-best.safetensors (the best on `valid`), NAME.state.pt (to resume: on a CPU a resumed run is
    equal to an uninterrupted one bit for bit), NAME.logs/ (CSV and TensorBoard) and cache/ (the
    decoded images). The validation score is the mean PSNR on Y of the smallest and the largest
    variant; with the method int8, of their fake-quantised networks.

    teacher: the checkpoint to distil from. judge: the checkpoint that measures the difficulty of
    patches.

    Raises InputError for unusable images or options, the state of another run or of other images,
    and when another process is training under this name; SrDeployError when the loss is not
    finite or the disk is full; KeyboardInterrupt when interrupted. The progress is saved first,
    where possible.
    """
    started = time.monotonic()
    recipe, options, recipe_file = resolve(recipe, options, Recipe)
    _check_inputs(recipe, options, teacher, judge)
    if recipe.method == INT8:
        recipe = recipe_of_start(recipe, options)

    def make_task(run_options: TrainOptions) -> Task:
        if recipe.method == INT8:
            return Int8Task(recipe, run_options)
        return _NetworkTask(recipe, run_options, teacher, judge)

    return run_task(
        make_task,
        recipe,
        options,
        recipe_file=recipe_file,
        started=started,
    )


def _check_inputs(
    recipe: Recipe, options: TrainOptions, teacher: Optional[str], judge: Optional[str]
) -> None:
    if recipe.follows and options.init is None:
        raise InputError(
            "this recipe starts from trained weights",
            hint=f"give the result of {recipe.follows} with --init",
        )
    if recipe.teacher and teacher is None:
        raise teacher_missing(recipe.teacher)
    if teacher is not None and recipe.method not in TEACHABLE:
        raise InputError(
            f"the method '{recipe.method}' has no teacher; {', '.join(TEACHABLE)} may have one",
            hint="remove --teacher",
        )
    if recipe.difficulty and judge is None:
        raise InputError(
            "this recipe trains on patches of one class of difficulty",
            hint=f"give the result of {recipe.judge or 'another recipe'} with --judge",
        )
    if judge is not None and not recipe.difficulty:
        raise InputError("this recipe trains on patches of every difficulty", hint="remove --judge")


def teacher_missing(teacher: str) -> InputError:
    """Return the error of a recipe with this `teacher` where none is given."""
    origin = f"the result of {teacher}"
    if teacher not in RECIPES:
        origin = f"the official checkpoint {teacher} (srdeploy import-checkpoint FILE -o DIR)"
    return InputError("this recipe needs a teacher", hint=f"give {origin} with --teacher")


class _NetworkTask(Task):
    suffix = ".safetensors"

    def __init__(
        self, recipe: Recipe, options: TrainOptions, teacher: Optional[str], judge: Optional[str]
    ) -> None:
        super().__init__(recipe, options)
        self.architecture = ARCHITECTURES[recipe.arch]
        largest = self.architecture.parse(recipe.variant or None)
        self.elastic = ElasticNetwork(
            self.architecture, recipe.scale, largest, recipe.config or None
        )
        self.net = self.elastic.net
        if options.init is not None:
            self.facts.update(_initialise(self.elastic, options.init, recipe))
        self.teacher = self._helper(teacher, "teacher", "teacher")
        self.judge = self._helper(judge, "judge", "judged_by")
        self.teacher_net = None if self.teacher is None else self.teacher.network()
        if self.teacher_net is not None:
            self.frozen = (self.teacher_net,)

    def _helper(self, model: Optional[str], role: str, key: str) -> Optional[Checkpoint]:
        """Load a checkpoint that takes part in the training and note it under `key`."""
        if model is None:
            return None
        checkpoint = load_checkpoint(model)
        spec = checkpoint.spec
        if spec.scale != self.recipe.scale:
            raise InputError(
                f"the {role} '{checkpoint.name}' upscales x{spec.scale}; "
                f"the recipe x{self.recipe.scale}"
            )
        self.facts[key] = f"{checkpoint.name} ({spec.arch} {spec.variants[-1]})"
        self.facts[f"{role}_sha256"] = spec.weights_sha256
        return checkpoint

    def dataset(self, pairs: Sequence[Pair]) -> DatasetOf:
        if self.judge is None:
            return super().dataset(pairs)
        positions = patches_of_class(
            pairs,
            self.judge.network(),
            scale=self.recipe.scale,
            side_lr=self.recipe.patch_hw[0],
            difficulty=self.recipe.difficulty,
            log=self.options.log,
        )
        return lambda patches: patches.restricted_to(positions)

    def terms(self, lr: Tensor, hr: Tensor, step: int) -> Terms:
        rng = np.random.default_rng((self.options.seed, step, 1))
        taught = None
        if self.teacher_net is not None:
            with torch.no_grad():
                taught = self.teacher_net(lr).to(hr.dtype)
        inputs = LossInputs(lr, hr, self.recipe, rng, taught)
        return METHODS[self.recipe.method](self.elastic, inputs)

    def write(self, stem: str, weights: Weights, card: Dict[str, Any]) -> Path:
        return save_checkpoint(self.options.output, stem, self._spec(card), dict(weights))

    def score(self, weights: Weights, valid: Path) -> float:
        current = Checkpoint(str(self.options.name), self._spec({}), dict(weights))
        variants = [str(v) for v in current.variants("all")]
        return _mean_psnr(current, dict.fromkeys((variants[0], variants[-1])), self.recipe, valid)

    def teacher_score(self, valid: Path) -> Optional[float]:
        if self.teacher is None:
            return None
        return _mean_psnr(self.teacher, self.teacher.spec.variants[-1:], self.recipe, valid)

    def load(self, path: Path) -> Checkpoint:
        return load_checkpoint(path)

    def _spec(self, card: Dict[str, Any]) -> ModelSpec:
        recipe, config = self.recipe, dict(self.recipe.config)
        return self.architecture.spec(
            recipe.scale,
            self.elastic.largest,
            elastic=recipe.elastic,
            config=config,
            degradation=recipe.degradation,
            **card,
        )


def _initialise(elastic: ElasticNetwork, model: str, recipe: Recipe) -> Dict[str, Any]:
    """Load the weights of a checkpoint; return the facts for the card.

    A checkpoint of another scale is accepted: tensors of the same name and shape are loaded, the
    others (the last layers) keep their initial values. So is a checkpoint of the backbone without
    an adapter, of a network with an adapter of another width, or of one before low-rank paths were
    added to it. Raises InputError when the checkpoint is of another network.
    """
    start = load_checkpoint(model)
    backbone, own = elastic.architecture.backbone, elastic.net.state_dict()
    if start.spec.arch == backbone:
        shapes = {k: v.shape for k, v in own.items() if not k.startswith("adapter.")}
        fits = {k: v.shape for k, v in start.weights.items()} == shapes
    else:
        plain = {k: v for k, v in recipe.config.items() if k != "reparameterised"}
        adds_paths = start.spec.config == plain and start.weights.keys() <= own.keys()
        fits = (start.spec.arch, start.spec.variants[-1]) == (recipe.arch, str(elastic.largest))
        same = start.spec.config == {k: v for k, v in recipe.config.items() if k != "adapter"}
        fits = fits and (same or start.spec.config == recipe.config or adds_paths)
    if not fits:
        raise InputError(
            f"'{model}' is {start.spec.arch} {start.spec.variants[-1]}; "
            f"the recipe trains {recipe.arch} {elastic.largest}",
            hint="start from a checkpoint of the same architecture, size and configuration"
            + (f", or of {backbone}" if backbone else ""),
        )
    loaded = {k: v for k, v in start.weights.items() if k in own and own[k].shape == v.shape}
    elastic.net.load_state_dict({**own, **loaded})
    facts = start_facts(start)
    if len(loaded) < len(own):
        facts["init_scale"] = start.spec.scale
        facts["init_tensors"] = f"{len(loaded)} of {len(own)}"
    return facts


def _mean_psnr(
    checkpoint: Checkpoint, variants: Iterable[str], recipe: Recipe, valid: Path
) -> float:
    min_hw = checkpoint.spec.min_hw
    scores = [psnr_on_images(checkpoint.network(v), recipe, valid, min_hw) for v in variants]
    return sum(scores) / len(scores)
