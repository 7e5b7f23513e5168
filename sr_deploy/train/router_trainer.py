"""CDNSR's steps two to four: a router, the networks it chooses between, or all of them, trained on images."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor, nn

from sr_deploy.bench.evaluate import evaluate, image_set
from sr_deploy.core.errors import InputError, MissingPackageError, SrDeployError
from sr_deploy.core.routers import ROUTER_SUFFIX, RouterSpec
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Weights
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.complexity import count
from sr_deploy.nets.router import ModuleCL, load_router, save_router
from sr_deploy.runtime.torch_module import TorchSession
from sr_deploy.train.bank import Bank, BankBatches, bank_of, calibrated
from sr_deploy.train.branches import (
    Chosen,
    branch_paths,
    chosen_branch,
    ordered,
    with_weights,
    written,
)
from sr_deploy.train.checks import (
    check_files,
    check_name,
    check_run,
    check_valid,
    folder,
    folder_list,
)
from sr_deploy.train.contrast import SUBSTITUTE, Projector, RandomFeatures, vgg19_from_file
from sr_deploy.train.data import Pair, Patches, fingerprint
from sr_deploy.train.losses import Terms
from sr_deploy.train.processes import following, is_first_process, leading
from sr_deploy.train.routed_recipes import RoutedRecipe, check_routed, routed_recipe_named
from sr_deploy.train.router_losses import Branches, Depths, Routed, gumbel_noise
from sr_deploy.train.stages import TRAINED, routed_terms


def router_from_images(
    recipe: Union[str, Path, RoutedRecipe],
    folders: Union[str, Path, Sequence[Union[str, Path]]],
    output: Union[str, Path],
    *,
    name: Optional[str] = None,
    branches: Sequence[str] = (),
    init: Optional[str] = None,
    vgg: Union[str, Path, None] = None,
    lr_folders: Union[str, Path, Sequence[Union[str, Path]]] = (),
    valid: Union[str, Path, None] = None,
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
    """Train a router, its branches or both by a recipe (see srdeploy recipes), and return the router's path.

    Writes to `output` NAME.router.safetensors with its card and, where branches are trained, NAME-1.safetensors, NAME-2.safetensors
    and so on, the smallest first; branches that are neither trained nor shipped are copied there. The rest is as in
    checkpoint_from_images, and so are the errors.

    branches: the checkpoints to choose between, each with `:VARIANT` where it holds several (asrn_x4:d1); for the stage `router`
    alone. init: the router to go on from, with its branches; for the other stages. vgg: torchvision's VGG-19 weights, where
    branches teach each other; without them a substitute is used, which the card names.
    """
    started = time.monotonic()
    recipe_file = Path()
    if isinstance(recipe, RoutedRecipe):
        check_routed(recipe, source=name or recipe.stage)
    else:
        recipe_file = Path(recipe)
        name = recipe_file.stem if name is None else name
        recipe = routed_recipe_named(str(recipe))
    folders, lr_folders, output = (
        folder_list(folders, "--data"),
        folder_list(lr_folders, "--lr"),
        folder(output, "--output"),
    )
    valid, cache = (
        None if valid is None else folder(valid, "--valid"),
        output / "cache" if cache is None else folder(cache, "--cache"),
    )
    check_name(name)
    assert name is not None
    _check_start(recipe, branches, init, vgg)
    check_run(
        folders,
        lr_folders,
        batch_size=recipe.batch_size,
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
    if first_process:
        check_files(output, name, recipe_file=recipe_file, resume=resume)
        if valid is not None:
            check_valid(valid, recipe.scale)

    with leading(output, cache, name) if first_process else following():
        torch.manual_seed(seed)
        facts: Dict[str, Any] = {
            **dataclasses.asdict(recipe),
            "method": f"routed, {recipe.stage}",
            "seed": seed,
        }
        facts["lr_images"] = "given" if lr_folders else "made"
        if init is None:
            chosen = ordered([chosen_branch(text, recipe) for text in branches], recipe, name)
            router = ModuleCL(classes=recipe.classes, convs=recipe.convs)
            config: Dict[str, Any] = {"convs": recipe.convs}
        else:
            before = load_router(init)
            if len(before.spec.models) != recipe.classes:
                raise InputError(
                    f"'{init}' is a router for {len(before.spec.models)} classes; the recipe is for {recipe.classes}"
                )
            parts = zip(before.checkpoints(), before.spec.branches)
            chosen = ordered(
                [Chosen(c, Variant.parse(b.variant), b.macs) for c, b in parts], recipe, name
            )
            router, config = before.network(), dict(before.spec.config)
            facts.update(
                init=before.name,
                init_sha256=before.spec.weights_sha256,
                init_training=before.spec.training,
            )
        facts["trained_for"] = [
            f"{c.checkpoint.name}:{c.variant}, {c.checkpoint.spec.weights_sha256}" for c in chosen
        ]
        paths = branch_paths(chosen, recipe, output, name, resume=resume)
        features, modules = _modules(router, chosen, recipe, vgg)
        if recipe.teaches:
            facts["features"] = (
                SUBSTITUTE if vgg is None else f"VGG-19 to conv5_4, of {Path(vgg).name}"
            )
        net = nn.ModuleDict({key: modules[key] for key in TRAINED[recipe.stage]})
        net.to(memory_format=torch.channels_last).train()
        macs = [c.macs for c in chosen]

        def terms(lr: Tensor, hr: Tensor, step: int) -> Terms:
            noise = gumbel_noise(
                len(lr), recipe.classes, np.random.default_rng((seed, step, 1))
            ).to(lr.device)
            return routed_terms(recipe, modules, features, macs, lr, hr, noise, step)

        banks: List[Bank] = []
        facts_after: Dict[str, Any] = {}

        def prepare(pairs: Sequence[Pair]) -> Callable[[Patches], torch.utils.data.Dataset]:
            if recipe.objective != "labels":
                return lambda patches: patches
            drawn = Patches(
                pairs,
                scale=recipe.scale,
                patch_hr=recipe.patch_hr,
                batch_size=recipe.batch_size,
                seed=seed,
            )
            bank = bank_of(
                drawn,
                modules["branches"].eval(),
                recipe.bank,
                cache=cache,
                key=[facts["trained_for"], fingerprint(pairs)],
                log=options.log,
            )
            banks.append(bank)
            return lambda patches: BankBatches(bank, patches)

        def trained(weights: Weights) -> Tuple[ModuleCL, List[Checkpoint]]:
            """The router, calibrated where it learnt from labels, and the branches."""
            current = copy.deepcopy(router).cpu().eval()
            current.load_state_dict(_part(weights, "router.") or router.state_dict())
            for bank in banks:
                added, share = calibrated(current, bank, macs, recipe.target_db)
                current.classify.bias.data += added
                facts_after["calibrated"] = {
                    "lost_db": recipe.target_db,
                    "share": round(share, 4),
                    "on": "patches not trained on",
                }
            return current, [
                with_weights(c, _part(weights, f"branches.networks.{j}."))
                for j, c in enumerate(chosen)
            ]

        def write(stem: str, weights: Weights, card: Dict[str, Any]) -> Path:
            current, of_branches = trained(weights)
            card["training"].update(facts_after)
            saved = [
                written(checkpoint, path, card) for checkpoint, path in zip(of_branches, paths)
            ]
            spec = RouterSpec(
                recipe.scale,
                tuple(c.name for c in saved),
                tuple(str(c.variant) for c in chosen),
                tuple(c.spec.weights_sha256 for c in saved),
                tuple(macs),
                count(router, recipe.patch_hw, counter="fvcore").macs,
                recipe.patch_hw,
                config,
                **card,
            )
            return save_router(output, stem, spec, current.state_dict())

        def score(weights: Weights, valid: Path) -> float:
            current, of_branches = trained(weights)
            networks = [
                checkpoint.network(str(c.variant)) for checkpoint, c in zip(of_branches, chosen)
            ]
            routed = Routed(current, networks, scale=recipe.scale, patch=recipe.patch_hw[0])
            session = TorchSession(routed, scale=recipe.scale)
            psnr = evaluate(
                session, image_set(str(valid)), metric="y", degradation=recipe.degradation
            ).psnr_db
            share = sum(n * m for n, m in zip(routed.counts, macs)) / (
                sum(routed.counts) * max(macs)
            )
            counts = "/".join(map(str, routed.counts))
            facts_after["valid"] = {
                "psnr_db": round(psnr, 3),
                "share": round(share, 4),
                "patches": list(routed.counts),
            }
            log(
                f"valid {psnr:.3f} dB at {100 * share:.1f}% of the largest branch's cost, patches {counts}"
            )
            return psnr

        task = Task(
            recipe,
            net,
            terms,
            write,
            score,
            lambda: _steps_done(output / (name + ROUTER_SUFFIX)),
            facts,
            frozen=[m for key, m in modules.items() if key not in TRAINED[recipe.stage]]
            + [features],
            prepare=prepare,
            keeps_best=False,
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
            log if first_process else lambda line: None,
        )
        carry_out(task, options, leads=first_process, started=started)
        return output / (name + ROUTER_SUFFIX)


def _check_start(
    recipe: RoutedRecipe, branches: Sequence[str], init: Optional[str], vgg: Union[str, Path, None]
) -> None:
    if recipe.stage == "router" and init is not None:
        raise InputError(
            "this recipe trains a new router",
            hint="leave --init out, and name its branches with --branch",
        )
    if recipe.stage == "router" and len(branches) != recipe.classes:
        named = f": the results of {', '.join(recipe.branches)}" if recipe.branches else ""
        raise InputError(
            f"{len(branches)} branches; the recipe trains a router for {recipe.classes} classes",
            hint=f"name {recipe.classes} with --branch{named}",
        )
    if recipe.stage != "router" and branches:
        raise InputError(
            "this recipe goes on from a router, which has its branches", hint="leave --branch out"
        )
    if recipe.stage != "router" and init is None:
        raise InputError(
            "this recipe goes on from a router",
            hint=f"give {recipe.follows or 'one'}'s result with --init",
        )
    if vgg is not None and not recipe.teaches:
        raise InputError("nothing in this recipe compares features", hint="leave --vgg out")


def _modules(
    router: nn.Module, chosen: Sequence[Chosen], recipe: RoutedRecipe, vgg: Union[str, Path, None]
) -> Tuple[nn.Module, Dict[str, nn.Module]]:
    """Return the feature extractor, and the router, the branches and the projector by name."""
    largest = chosen[-1].checkpoint.network(str(chosen[-1].variant))
    one = len({c.checkpoint.spec.weights_sha256 for c in chosen}) == 1
    if one and hasattr(largest, "forward_depths"):
        branches: nn.Module = Depths(largest, [c.variant.size for c in chosen])
    else:
        branches = Branches([c.checkpoint.network(str(c.variant)) for c in chosen])
    features: nn.Module = nn.Identity()
    projector: nn.Module = nn.Identity()
    if recipe.teaches:
        made = RandomFeatures() if vgg is None else vgg19_from_file(Path(vgg))
        features, projector = made, Projector(made.channels)
    return features.requires_grad_(False), {
        "router": router,
        "branches": branches,
        "projector": projector,
    }


def _part(weights: Weights, prefix: str) -> dict:
    return {k[len(prefix) :]: v.cpu() for k, v in weights.items() if k.startswith(prefix)}


def _steps_done(path: Path) -> Optional[int]:
    """The steps of a router that is there and whole."""
    try:
        return load_router(path).spec.training.get("steps_done")
    except SrDeployError:
        return None
