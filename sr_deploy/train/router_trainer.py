"""Training of a router, its branches or both: CDNSR's steps two to four."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
from torch import Tensor, nn

from sr_deploy.core.errors import InputError
from sr_deploy.core.routers import ROUTERS, RouterSpec
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Weights
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.complexity import count
from sr_deploy.nets.gains import GainsHead
from sr_deploy.nets.router import Router, classifier, load_router, save_router
from sr_deploy.train.bank import (
    BANK_BATCH,
    Bank,
    BankBatches,
    calibrate,
    compute_bank,
    fit_lambda,
    oracle_share,
)
from sr_deploy.train.branches import (
    RouterBranch,
    branch_of,
    branch_paths,
    load_branch,
    save_branch,
    sort_branches,
    with_weights,
)
from sr_deploy.train.contrast import SUBSTITUTE, Projector, RandomFeatures, load_vgg19
from sr_deploy.train.data import Pair, Patches, fingerprint
from sr_deploy.train.losses import Terms
from sr_deploy.train.options import TrainOptions
from sr_deploy.train.recipe import RouterRecipe
from sr_deploy.train.router_losses import (
    TRAINED,
    DepthBranches,
    ParallelBranches,
    RoutedNetwork,
    gumbel_noise,
    stage_terms,
)
from sr_deploy.train.training import DatasetOf, Task, psnr_on_images, resolve, run_task


def router_from_images(
    recipe: Union[str, Path, RouterRecipe],
    options: TrainOptions,
    *,
    branches: Sequence[str] = (),
    vgg: Union[str, Path, None] = None,
) -> Path:
    """Train a router, its branches or both by a recipe, and return the router's path.

    Writes to the output folder NAME.router.safetensors with its card and, if branches are trained,
    NAME-1.safetensors, NAME-2.safetensors and so on, the smallest first. Branches that are neither
    trained nor shipped are copied there. State, logs and errors are those of
    checkpoint_from_images.

    branches: the checkpoints to choose between, each with `:VARIANT` if it holds several
    (asrn_x4:d1); for the stage `router` only. The other stages start from a router (options.init)
    and its branches. vgg: torchvision's VGG-19 weights for distillation between branches; without
    them a substitute is used, which the card names.
    """
    started = time.monotonic()
    recipe, options, recipe_file = resolve(recipe, options, RouterRecipe)
    _check_inputs(recipe, options.init, branches, vgg)
    return run_task(
        lambda run_options: _RouterTask(recipe, run_options, branches, vgg),
        recipe,
        options,
        recipe_file=recipe_file,
        started=started,
    )


def _check_inputs(
    recipe: RouterRecipe, init: Optional[str], branches: Sequence[str], vgg: Union[str, Path, None]
) -> None:
    if recipe.stage == "router":
        if init is not None:
            raise InputError(
                "this recipe trains a new router",
                hint="remove --init and name the branches with --branch",
            )
        if len(branches) != recipe.classes:
            results = f": the results of {', '.join(recipe.branches)}" if recipe.branches else ""
            raise InputError(
                f"{len(branches)} branches; "
                f"the recipe trains a router for {recipe.classes} classes",
                hint=f"give {recipe.classes} with --branch{results}",
            )
    elif branches:
        raise InputError(
            "this recipe starts from a router, which has its branches", hint="remove --branch"
        )
    elif init is None:
        raise InputError(
            "this recipe starts from a router",
            hint=f"give the result of {recipe.follows or 'another recipe'} with --init",
        )
    if vgg is not None and not recipe.distils:
        raise InputError("this recipe does not compare features", hint="remove --vgg")


class _RouterTask(Task):
    keeps_best = False
    suffix = ROUTERS.suffix

    def __init__(
        self,
        recipe: RouterRecipe,
        options: TrainOptions,
        branch_names: Sequence[str],
        vgg: Union[str, Path, None],
    ) -> None:
        super().__init__(recipe, options)
        self.name = str(options.name)
        self.facts["method"] = f"routed, {recipe.stage}"
        if options.init is None:
            branches = [load_branch(text, recipe) for text in branch_names]
            self.config: Dict[str, Any] = recipe.router_config
            self.router = classifier(self.config, recipe.classes)
        else:
            branches = self._start_from(options.init)
        self.branches = sort_branches(branches, recipe, self.name)
        self.macs = [b.macs for b in self.branches]
        self.facts["costs"] = self.costs = [b.cost for b in self.branches]
        self.router_macs = count(self.router, recipe.patch_hw, counter="fvcore").macs
        self.facts["trained_for"] = [f"{b}, {b.weights_sha256}" for b in self.branches]
        self.paths = branch_paths(
            self.branches, recipe, options.output, self.name, resume=options.resume
        )
        self.modules = {
            "router": self.router,
            "branches": _branch_module(self.branches),
            **_feature_modules(recipe, vgg),
        }
        if recipe.distils:
            self.facts["features"] = (
                SUBSTITUTE if vgg is None else f"VGG-19 to conv5_4, of {Path(vgg).name}"
            )
        trained = TRAINED[recipe.stage]
        self.net = nn.ModuleDict({key: self.modules[key] for key in trained})
        self.frozen = [m for key, m in self.modules.items() if key not in trained]
        self.lambda_reg = recipe.lambda_reg
        self.bank: Optional[Bank] = None
        self.result_facts: Dict[str, Any] = {}
        """Facts about the current weights, for the card."""

    def _start_from(self, init: str) -> List[RouterBranch]:
        start, classes = load_router(init), self.recipe.classes
        if len(start.spec.models) != classes:
            raise InputError(
                f"'{init}' is a router for {len(start.spec.models)} classes; "
                f"the recipe is for {classes}"
            )
        self.facts.update(
            init=start.name,
            init_sha256=start.spec.weights_sha256,
            init_training=start.spec.training,
        )
        branches = [
            branch_of(checkpoint, Variant.parse(branch.variant), self.recipe)
            for checkpoint, branch in zip(start.checkpoints(), start.spec.branches)
        ]
        router, self.config = start.network(), dict(start.spec.config)
        if isinstance(router, GainsHead):
            raise InputError(
                f"'{init}' predicts gains; the recipe is for a router of classes",
                hint="give the router that it was trained from",
            )
        self.router = router
        return branches

    def terms(self, lr: Tensor, hr: Tensor, step: int) -> Terms:
        rng = np.random.default_rng((self.options.seed, step, 1))
        noise = gumbel_noise(len(lr), self.recipe.classes, rng).to(lr.device)
        recipe = replace(self.recipe, lambda_reg=self.lambda_reg)
        return stage_terms(recipe, self.modules, self.costs, lr, hr, noise, step)

    def dataset(self, pairs: Sequence[Pair]) -> DatasetOf:
        recipe = self.recipe
        fits = recipe.share and recipe.stage != "distil"
        if not fits and not recipe.learns_from_bank:
            return super().dataset(pairs)
        bank = self._bank(pairs)
        if fits:
            self._fit_lambda(bank)
        if not recipe.learns_from_bank:
            return super().dataset(pairs)
        if recipe.objective == "labels":
            self.bank = bank
        targets = {"cdnsr": bank.differences, "expected": bank.absolute, "labels": bank.squared}[
            recipe.objective
        ]
        return lambda process_patches: BankBatches(bank, targets, process_patches)

    def _bank(self, pairs: Sequence[Pair]) -> Bank:
        """Return the errors of the branches as this stage began."""
        recipe = self.recipe
        patches = Patches(
            pairs,
            scale=recipe.scale,
            patch_hr=recipe.patch_hr,
            batch_size=BANK_BATCH,
            seed=self.options.seed,
        )
        return compute_bank(
            patches,
            _branch_module(self.branches).eval(),
            recipe.bank,
            cache=self.options.cache_folder,
            key=[self.facts["trained_for"], fingerprint(pairs)],
            values=recipe.values if recipe.learns_from_bank else 0,
            surroundings=recipe.blend == "none",
            log=self.options.log,
        )

    def _fit_lambda(self, bank: Bank) -> None:
        share, errors = self.recipe.share, bank.absolute
        self.lambda_reg = fit_lambda(errors, self.costs, share)
        oracle = oracle_share(errors, self.costs, self.lambda_reg)
        self.result_facts["lambda_reg"] = float(f"{self.lambda_reg:.4g}")
        self.result_facts["fitted"] = {
            "oracle_share": round(oracle, 4),
            "without_cost_term": round(oracle_share(errors, self.costs, 0.0), 4),
            "patches": len(errors),
        }
        self.options.log(
            f"lambda_reg {self.lambda_reg:.4g}: the best branch of each of {len(errors)} "
            f"patches costs {oracle:.1%} of the largest (wanted {share:.1%})"
        )

    def _networks(self, weights: Weights) -> Tuple[nn.Module, List[Checkpoint]]:
        """Return the router, calibrated if it learnt from labels, and the branches."""
        router = copy.deepcopy(self.router).cpu().eval()
        router.load_state_dict(_part(weights, "router.") or self.router.state_dict())
        if self.bank is not None:
            target_db = self.recipe.target_db
            offsets, share = calibrate(router, self.bank, self.macs, target_db)
            router.classify.bias.data += offsets
            self.result_facts["calibrated"] = {
                "lost_db": target_db,
                "share_of_plain": round(share + self.router_macs / max(self.macs), 4),
                "on": "patches not trained on",
            }
        return router, [
            with_weights(branch, _part(weights, f"branches.networks.{i}."))
            for i, branch in enumerate(self.branches)
        ]

    def write(self, stem: str, weights: Weights, card: Dict[str, Any]) -> Path:
        recipe = self.recipe
        router, checkpoints = self._networks(weights)
        card["training"].update(self.result_facts)
        saved = [save_branch(c, path, card) for c, path in zip(checkpoints, self.paths)]
        spec = RouterSpec(
            recipe.scale,
            tuple(c.name for c in saved),
            tuple(str(b.variant) for b in self.branches),
            tuple(c.spec.weights_sha256 for c in saved),
            tuple(self.macs),
            self.router_macs,
            recipe.patch_hw,
            overlap=recipe.overlap,
            blend=recipe.blend,
            config=self.config,
            **card,
        )
        return save_router(self.options.output, stem, spec, router.state_dict())

    def score(self, weights: Weights, valid: Path) -> float:
        router, checkpoints = self._networks(weights)
        networks = [c.network(str(b.variant)) for c, b in zip(checkpoints, self.branches)]
        side = self.recipe.patch_hw[0]
        routed = RoutedNetwork(
            router,
            networks,
            scale=self.recipe.scale,
            patch=side,
            surroundings=self.recipe.blend == "none",
        )
        psnr_db = psnr_on_images(routed, self.recipe, valid)
        executed = sum(n * (self.router_macs + m) for n, m in zip(routed.counts, self.macs))
        share = executed / (max(self.macs) / side**2 * routed.image_px)
        self.result_facts["valid"] = {
            "psnr_db": round(psnr_db, 3),
            "share_of_plain": round(share, 4),
            "patches": list(routed.counts),
        }
        self.options.log(
            f"valid {psnr_db:.3f} dB at {100 * share:.1f}% of the plain largest branch's work, "
            f"patches side by side {'/'.join(map(str, routed.counts))}"
        )
        return psnr_db

    def load(self, path: Path) -> Router:
        return load_router(path)


def _branch_module(branches: Sequence[RouterBranch]) -> nn.Module:
    """Return one module for all branches; depths of one checkpoint share their blocks."""
    largest = branches[-1].checkpoint.network(str(branches[-1].variant))
    one_checkpoint = len({b.weights_sha256 for b in branches}) == 1
    if one_checkpoint and hasattr(largest, "forward_depths"):
        return DepthBranches(largest, [b.variant.size for b in branches])
    return ParallelBranches([b.checkpoint.network(str(b.variant)) for b in branches])


def _feature_modules(recipe: RouterRecipe, vgg: Union[str, Path, None]) -> Dict[str, nn.Module]:
    if not recipe.distils:
        return {"projector": nn.Identity(), "features": nn.Identity()}
    features = RandomFeatures() if vgg is None else load_vgg19(Path(vgg))
    return {"projector": Projector(features.channels), "features": features.requires_grad_(False)}


def _part(weights: Weights, prefix: str) -> Dict[str, Tensor]:
    return {k[len(prefix) :]: v.cpu() for k, v in weights.items() if k.startswith(prefix)}
