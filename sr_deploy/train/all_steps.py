"""All steps of a method in one run: a recipe, and before it those whose results it needs."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.errors import InputError
from sr_deploy.core.gains import GAINS
from sr_deploy.core.routers import ROUTERS
from sr_deploy.nets.checkpoint import load_checkpoint
from sr_deploy.nets.gains import load_gains
from sr_deploy.nets.router import load_router
from sr_deploy.train.gains_trainer import gains_from_images
from sr_deploy.train.options import TrainOptions
from sr_deploy.train.recipe import (
    RECIPES,
    AnyRecipe,
    GainsRecipe,
    Recipe,
    RouterRecipe,
    load_recipe,
)
from sr_deploy.train.router_trainer import router_from_images
from sr_deploy.train.trainer import checkpoint_from_images, teacher_missing


@dataclass(frozen=True)
class GivenModels:
    """Models that a user gives instead of training them."""

    judge: Optional[str] = None
    """Measures the difficulty of patches."""
    starts: Sequence[str] = ()
    """What the branches of step one start from, one for each, smallest first; empty: from the
    recipes that they follow, or from nothing."""
    teacher: Optional[str] = None
    vgg: Union[str, Path, None] = None


def train_all_steps(recipe: str, options: TrainOptions, given: GivenModels) -> Path:
    """Train a shipped recipe and before it those that it follows; return the last result's path.

    Each step is a run of its own, with the name of its recipe and its recipe's number of steps, in
    the output folder. options.budget_s is for all together. With options.resume, finished steps are
    left as they are, the step that was stopped continues, and the others begin. Raises as
    checkpoint_from_images and router_from_images do, and InputError when a name, an initial
    checkpoint or a number of steps is given.
    """
    for option in ("name", "init", "steps"):
        if getattr(options, option) is not None:
            raise InputError(
                "all steps have the names and lengths of their recipes, and start from each other: "
                f"no --{option}",
                hint=f"remove --{option}, or train one recipe at a time",
            )
    started, path = time.monotonic(), Path()
    starts = _starts(load_recipe(recipe), given)
    steps = _in_order(recipe, given, starts)
    _check_use(steps, given)
    for number, name in enumerate(steps, 1):
        options.log(f"step {number} of {len(steps)}: {name}")
        left_s = max(options.budget_s - (time.monotonic() - started), 0.0)
        own_file = name.endswith(".json")
        run = dataclasses.replace(
            options, name=Path(name).stem if own_file else name, budget_s=left_s
        )
        resume = options.resume and run.output_file(".state.pt").is_file()
        run = dataclasses.replace(
            run, resume=resume, steps=None if resume else load_recipe(name).steps
        )
        path = _train(name, run, given, starts)
        training = _card_of(path)
        options.log(f"step {number} of {len(steps)}: {_summary(training)}")
        if training["steps_done"] < training["steps"]:
            break
    return path


def _starts(recipe: AnyRecipe, given: GivenModels) -> Dict[str, str]:
    """Return the given starts by the recipes of the branches."""
    while isinstance(recipe, RouterRecipe) and recipe.follows:
        recipe = load_recipe(recipe.follows)
    branches = recipe.branches if isinstance(recipe, RouterRecipe) else ()
    if given.starts and len(given.starts) != len(branches):
        raise InputError(
            f"{len(given.starts)} branches; the recipe has {len(branches)}",
            hint=f"give one --branch for each of {', '.join(branches)}, or none"
            if branches
            else "remove --branch",
        )
    return dict(zip(branches, given.starts))


def _check_use(steps: Sequence[str], given: GivenModels) -> None:
    """Raise InputError for a given model that no step uses, or one that no step can make."""
    recipes = [load_recipe(step) for step in steps]
    networks = [r for r in recipes if isinstance(r, Recipe)]
    used = {
        "judge": any(r.difficulty for r in networks),
        "teacher": any(r.teacher for r in networks),
        "vgg": any(isinstance(r, RouterRecipe) and r.distils for r in recipes),
    }
    for r in networks:
        if given.teacher is None and r.teacher and r.teacher not in RECIPES:
            raise teacher_missing(r.teacher)
    for option, is_used in used.items():
        if getattr(given, option) is not None and not is_used:
            raise InputError(f"no step uses a {option}", hint=f"remove --{option}")


def _in_order(name: str, given: GivenModels, starts: Dict[str, str]) -> List[str]:
    """Return the recipe and all that must be trained before it, each once."""
    recipe = load_recipe(name)
    needed = [name.partition("-best")[0] for name in _needs(name, recipe, given, starts)]
    order = [step for need in needed for step in _in_order(need, given, starts)]
    return list(dict.fromkeys([*order, name]))


def _needs(
    name: str, recipe: AnyRecipe, given: GivenModels, starts: Dict[str, str]
) -> Tuple[str, ...]:
    """Return the recipes whose results this one takes."""
    if isinstance(recipe, GainsRecipe):
        return (recipe.follows,)
    if isinstance(recipe, RouterRecipe):
        return (recipe.follows,) if recipe.follows else recipe.branches
    judge = recipe.judge if recipe.difficulty and given.judge is None else ""
    teacher = recipe.teacher if given.teacher is None and recipe.teacher in RECIPES else ""
    follows = "" if name in starts else recipe.follows
    return tuple(filter(None, (judge, teacher, follows)))


def _train(name: str, run: TrainOptions, given: GivenModels, starts: Dict[str, str]) -> Path:
    recipe = load_recipe(name)

    def result(step: str, suffix: str = ".safetensors") -> Optional[str]:
        return str(run.output / f"{step}{suffix}") if step else None

    if isinstance(recipe, Recipe):
        run = dataclasses.replace(run, init=starts.get(name) or result(recipe.follows))
        helpers: Dict[str, Any] = {}
        if recipe.difficulty:
            helpers["judge"] = given.judge or result(recipe.judge)
        if recipe.teacher:
            helpers["teacher"] = given.teacher or result(recipe.teacher)
        return checkpoint_from_images(name, run, **helpers)
    if isinstance(recipe, GainsRecipe):
        return gains_from_images(name, dataclasses.replace(run, init=result(recipe.follows)))
    run = dataclasses.replace(run, init=result(recipe.follows, ROUTERS.suffix))
    branches = [] if recipe.follows else [str(result(branch)) for branch in recipe.branches]
    vgg = given.vgg if recipe.distils else None
    return router_from_images(name, run, branches=branches, vgg=vgg)


def _card_of(path: Path) -> Dict[str, Any]:
    if path.name.endswith(GAINS.suffix):
        return load_gains(path).spec.training
    is_router = path.name.endswith(ROUTERS.suffix)
    return (load_router(path) if is_router else load_checkpoint(path)).spec.training


def _summary(training: Dict[str, Any]) -> str:
    """Return what a step reached, from its card."""
    parts = [f"{training['steps_done']} of {training['steps']} steps"]
    valid = training.get("valid", {})
    psnr_db = (
        valid.get("psnr_db")
        or training["history"][-1:]
        and training["history"][-1].get("valid_psnr_db")
    )
    if psnr_db:
        parts.append(f"valid {psnr_db:.3f} dB")
    if valid:
        parts.append(f"at {valid['share_of_plain']:.1%} of the largest branch's work")
    if "fitted" in training:
        parts.append(f"lambda_reg {training['lambda_reg']:.3g}")
    return ", ".join(parts)
