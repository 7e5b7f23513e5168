"""What all runs share, whatever they train: images, going on, validation, what is saved when, and how a run ends."""

from __future__ import annotations

import contextlib
import errno
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import InputError, SrDeployError
from sr_deploy.nets.architecture import Weights
from sr_deploy.train.data import Pair, Patches, fingerprint, image_pairs
from sr_deploy.train.losses import Terms
from sr_deploy.train.module import Actions, Run, fit
from sr_deploy.train.recipes import Recipe
from sr_deploy.train.state import load_state, save_state


@dataclass(frozen=True)
class Options:
    """What a user says of a run beside its recipe; see checkpoint_from_images."""

    folders: Sequence[Path]
    output: Path
    name: str
    cache: Path
    lr_folders: Sequence[Path] = ()
    valid: Optional[Path] = None
    resume: bool = False
    seed: int = 0
    budget_s: float = math.inf
    devices: int = 0
    accumulate: int = 1
    workers: Optional[int] = None
    strict: bool = False
    licence: str = ""
    trained_on: str = ""
    log: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Task:
    """What is trained: the networks, their loss, and what is made of them."""

    recipe: Recipe
    net: nn.Module
    terms: Callable[[Tensor, Tensor, int], Terms]
    """`terms(lr, hr, step)`: see Run."""
    write: Callable[[str, Weights, Dict[str, Any]], Path]
    """`write(name, weights, card)`: save what the weights are of; card: licence, trained_on and the dict training."""
    score: Callable[[Weights, Path], float]
    """The PSNR in dB of the weights on HR images."""
    steps_done: Callable[[], Optional[int]]
    """How many steps the result that is there has behind it; None where there is none."""
    facts: Dict[str, Any] = field(default_factory=dict)
    """For the card; a resumed run must share them."""
    frozen: Sequence[nn.Module] = ()
    """What the loss runs and does not train."""
    teacher_score: Optional[Callable[[Path], float]] = None
    prepare: Callable[[Sequence[Pair]], Callable[[Patches], torch.utils.data.Dataset]] = (
        lambda pairs: lambda patches: patches
    )
    """Do once what the images need; the result makes of this process's patches what it trains on."""
    keeps_best: bool = True


def carry_out(task: Task, options: Options, *, leads: bool, started: float) -> None:
    """Train until the task's end, the budget's or an interrupt, and write the result and the state to go on from.

    leads: this is the process that writes. started: of time.monotonic(). Raises as checkpoint_from_images does.
    """
    recipe, name, say = task.recipe, options.name, options.log
    state_file = options.output / f"{name}.state.pt"
    facts = dict(task.facts)
    run = Run(
        recipe,
        options.seed,
        task.net,
        task.terms,
        torch.optim.Adam(task.net.parameters(), lr=recipe.lr),
        ema={k: v.detach().clone() for k, v in task.net.state_dict().items()},
        frozen=task.frozen,
    )
    if options.resume:
        load_state(state_file, task.facts, run)
        if run.step == recipe.steps and task.steps_done() == recipe.steps:
            say(f"{name} is finished: all {recipe.steps} steps are done")
            return
    begun_at, earlier_h = run.step, run.hours
    pairs = _images(run, recipe, options, state_file)
    say(f"{name}: {len(pairs)} images, steps {run.step} to {recipe.steps}")
    if task.teacher_score is not None and options.valid is not None and leads:
        facts["teacher_valid_psnr_db"] = round(task.teacher_score(options.valid), 3)
        say(f"the teacher, {facts['teacher']}, has {facts['teacher_valid_psnr_db']:.3f} dB")
    prepared = task.prepare(pairs)

    def patches(rank: int, ranks: int) -> torch.utils.data.Dataset:
        return prepared(
            Patches(
                pairs,
                scale=recipe.scale,
                patch_hr=recipe.patch_hr,
                batch_size=recipe.batch_size,
                seed=options.seed,
                noise=recipe.degradation == "dn" and not options.lr_folders,
                parts=options.accumulate,
                rank=rank,
                ranks=ranks,
            )
        )

    def card() -> Dict[str, Any]:
        run.hours = earlier_h + (time.monotonic() - started) / 3600
        given = dict(run.card)
        terms = {key: given.pop(key) for key in ("licence", "trained_on")}
        training = {
            **facts,
            **given,
            "steps_done": run.step,
            "hours": round(run.hours, 2),
            "torch": torch.__version__,
        }
        if run.best_psnr_db is not None:
            training["best_valid_psnr_db"] = round(run.best_psnr_db, 3)
        training["history"] = run.history
        return {**terms, "training": training}

    def validate() -> float:
        assert options.valid is not None
        return task.score({k: v.cpu() for k, v in run.ema.items()}, options.valid)

    def keep_best() -> None:
        if task.keeps_best:
            task.write(f"{name}-best", run.ema, card())

    def save() -> None:
        card()  # for the hours
        save_state(state_file, task.facts, run)

    try:
        if run.step < recipe.steps:
            fit(
                run,
                patches,
                Actions(save, validate, keep_best, say),
                logs=options.output / f"{name}.logs",
                deadline=started + options.budget_s,
                devices=options.devices,
                accumulate=options.accumulate,
                workers=options.workers,
                validating=options.valid is not None,
            )
        if leads:
            save()
            task.write(name, run.ema, card())
    except BaseException as e:
        if not leads:
            if run.interrupted:  # the first process tells
                raise SystemExit(1) from None
            raise
        if run.whole and run.step > begun_at:
            with contextlib.suppress(OSError, SrDeployError):  # e is what the user should hear of
                save()
        told = _told(e, run.step, options.output, kept=state_file.is_file())
        if told is e:
            raise
        raise told from e
    if run.step < recipe.steps:
        why = "" if run.interrupted else f" of {recipe.steps}, the time is up"
        say(f"stopped after step {run.step}{why}; the same command with --resume goes on")
    if run.interrupted and leads:
        raise KeyboardInterrupt


def _images(run: Run, recipe: Recipe, options: Options, state_file: Path) -> List[Pair]:
    """Decode the images and note them on the run's card. Raises InputError when a resumed run began with others."""
    pairs = image_pairs(
        options.folders,
        options.cache,
        scale=recipe.scale,
        degradation=recipe.degradation,
        lr_folders=options.lr_folders,
        min_hr=recipe.patch_hr,
        strict=options.strict,
        log=options.log,
    )
    images = {"images": len(pairs), "images_sha256": fingerprint(pairs)}
    if options.resume and {key: run.card.get(key) for key in images} != images:
        raise InputError(
            f"{state_file} belongs to a run on other images: {run.card.get('images')} of them, or others than these {len(pairs)}",
            hint="resume with the images it began with: the same names, sizes and order",
        )
    run.card.update(
        images,
        licence=options.licence or run.card.get("licence", ""),
        trained_on=options.trained_on
        or run.card.get("trained_on")
        or ", ".join(f.resolve().name for f in options.folders),
    )
    return pairs


def _told(error: BaseException, step: int, output: Path, *, kept: bool) -> BaseException:
    """The error that ended a run as the user should read it."""
    if isinstance(error, OSError):  # the loggers write in many places
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        error = SrDeployError(
            f"cannot write to {output} at step {step}: {error.strerror or error}",
            hint="free some space" if full else "",
        )
    if isinstance(error, SrDeployError) and kept:
        error.hint = "; ".join(
            filter(None, [error.hint, "the last saved state is kept, and --resume goes on from it"])
        )
    return error
