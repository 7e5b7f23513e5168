"""Training for INT8: a checkpoint goes on learning with fake quantisation, taught by its own FP32.

What is trained are its own weights: they are fused anew in every step, so that the result is an
ordinary checkpoint, with learnt ranges beside its weights.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
import torch
from torch import Tensor

from sr_deploy.core.errors import InputError
from sr_deploy.nets.architecture import Weights
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sr_deploy.nets.fuse import fused_network
from sr_deploy.train.data import Pair, Patches
from sr_deploy.train.fake_quantise import QuantisedNetwork
from sr_deploy.train.losses import Terms, pixel_loss
from sr_deploy.train.options import TrainOptions
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.training import DatasetOf, Task, psnr_on_images, start_facts

CALIBRATION_PATCHES = 32


def recipe_of_start(recipe: Recipe, options: TrainOptions) -> Recipe:
    """Return a recipe of the method int8 for the checkpoint that the run starts from.

    Raises InputError when there is none, when the recipe is for another one, and for a network
    that cannot be trained.
    """
    if options.init is None:
        raise InputError(
            "this recipe trains a checkpoint for INT8", hint="give the checkpoint with --init"
        )
    spec = load_checkpoint(options.init).spec
    known: Dict[str, Any] = {
        "arch": spec.arch,
        "scale": spec.scale,
        "variant": spec.variants[-1],
        "degradation": spec.degradation,
    }
    unset = "", 0, "bi"
    other = [k for k, v in known.items() if getattr(recipe, k) not in (v, *unset)]
    if other or recipe.config not in ({}, spec.config):
        raise InputError(
            f"'{options.init}' is {spec.arch} x{spec.scale} {spec.variants[-1]}; the recipe is "
            f"for another {', '.join(other) or 'config'}",
            hint="remove from the recipe what the checkpoint decides",
        )
    elastic = len(spec.variants) > 1
    filled = replace(
        recipe,
        **known,
        config=dict(spec.config),
        elastic=elastic,
    )
    filled.check(f"the recipe for '{options.init}'")
    return filled


class Int8Task(Task):
    """Each step trains the largest and the smallest variant, and another one drawn at random."""

    suffix = ".safetensors"

    def __init__(self, recipe: Recipe, options: TrainOptions) -> None:
        super().__init__(recipe, options)
        assert options.init is not None
        self.start = start = load_checkpoint(options.init)
        self.facts.update(start_facts(start), teacher=f"{start.name} in FP32")
        self.net = self.quantised = QuantisedNetwork(start)
        self.teachers = {v: fused_network(start.network(v)) for v in start.spec.variants}
        self.frozen = tuple(self.teachers.values())

    def dataset(self, pairs: Sequence[Pair]) -> DatasetOf:
        if not self.options.resume:
            recipe = self.recipe
            patches = Patches(
                pairs,
                scale=recipe.scale,
                patch_hr=recipe.patch_hr,
                batch_size=CALIBRATION_PATCHES,
                seed=self.options.seed + 1,
            )
            self.quantised.choose_ranges(patches.batch(0)[0])
        return super().dataset(pairs)

    def terms(self, lr: Tensor, hr: Tensor, step: int) -> Terms:
        variants, terms = self.start.spec.variants, {}
        drawn = {"largest": variants[-1]}
        if len(variants) > 1:
            drawn["smallest"] = variants[0]
        if len(variants) > 2:
            rng = np.random.default_rng((self.options.seed, step, 1))
            drawn["random"] = variants[int(rng.integers(1, len(variants) - 1))]
        for name, variant in drawn.items():
            sr = self.quantised(lr, variant)
            with torch.no_grad():
                target = self.teachers[variant](lr)
            terms[name] = pixel_loss(self.recipe.loss, sr, hr)
            terms[f"{name} taught"] = pixel_loss(self.recipe.loss, sr, target)
        # Several processes wait for the gradients of all parameters.
        unused: List[Tensor] = [0 * ranges.sum() for ranges in self.quantised.ranges.values()]
        terms["largest"] = sum(unused, terms["largest"])
        return terms

    def write(self, stem: str, weights: Weights, card: Dict[str, Any]) -> Path:
        ranges = self._with(weights).learnt()
        own = {k[len("net.") :]: v for k, v in weights.items() if k.startswith("net.")}
        return save_checkpoint(
            self.options.output, stem, replace(self.start.spec, notes="", **card), own, ranges
        )

    def score(self, weights: Weights, valid: Path) -> float:
        quantised = self._with(weights)
        return self._mean_psnr({v: quantised.static(v) for v in self._ends()}, valid)

    def teacher_score(self, valid: Path) -> float:
        return self._mean_psnr({v: self.teachers[v] for v in self._ends()}, valid)

    def load(self, path: Path) -> Checkpoint:
        return load_checkpoint(path)

    def _ends(self) -> List[str]:
        variants = self.start.spec.variants
        return list(dict.fromkeys((variants[0], variants[-1])))

    def _with(self, weights: Weights) -> QuantisedNetwork:
        """Return the network with other weights; the next call changes it."""
        self._other.load_state_dict(dict(weights))
        return self._other

    @functools.cached_property
    def _other(self) -> QuantisedNetwork:
        return QuantisedNetwork(self.start)

    def _mean_psnr(self, networks: Dict[str, torch.nn.Module], valid: Path) -> float:
        min_hw = self.start.spec.min_hw
        scores = [psnr_on_images(net, self.recipe, valid, min_hw) for net in networks.values()]
        return sum(scores) / len(scores)
