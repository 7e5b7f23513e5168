"""The common parts of all training runs: images, resuming, validation, saving, how a run ends."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Type, TypeVar, Union

import torch
from torch import Tensor, nn

from sr_deploy.bench.evaluate import Bicubic, check_images, evaluate, finite_or_none, image_set
from sr_deploy.core.device import bf16_is_emulated
from sr_deploy.core.errors import InputError, MissingPackageError, SrDeployError
from sr_deploy.core.files import write_hint
from sr_deploy.nets.architecture import Weights
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.runtime.torch_module import TorchSession
from sr_deploy.train.data import BatchSplit, Pair, Patches, fingerprint, image_pairs
from sr_deploy.train.losses import Terms
from sr_deploy.train.options import TrainOptions
from sr_deploy.train.processes import following, is_first_process, leading
from sr_deploy.train.recipe import BaseRecipe, load_recipe
from sr_deploy.train.state import TrainingRun

R = TypeVar("R", bound=BaseRecipe)
DatasetOf = Callable[[Patches], torch.utils.data.Dataset]


class Task:
    """The networks of a run, their loss, and the files made of their weights."""

    net: nn.Module
    recipe: Any
    frozen: Sequence[nn.Module] = ()
    """Modules that the loss runs and does not train."""
    keeps_best = True
    suffix: str
    """Of the result's file."""

    def __init__(self, recipe: BaseRecipe, options: TrainOptions) -> None:
        self.recipe, self.options = recipe, options
        self.facts: Dict[str, Any] = {
            **vars(recipe),
            "seed": options.seed,
            "lr_images": "given" if options.lr_folders else "made",
        }
        """For the card. A resumed run must have the same."""

    def terms(self, lr: Tensor, hr: Tensor, step: int) -> Terms:
        """Return the loss terms of a batch.

        lr: (N, 3, H, W), hr: (N, 3, sH, sW), both float32, 0..1, RGB. hr may be
        other targets, if `dataset` provides them.
        """
        raise NotImplementedError

    def write(self, stem: str, weights: Weights, card: Dict[str, Any]) -> Path:
        """Save the result. card: licence, trained_on and the dict training."""
        raise NotImplementedError

    def score(self, weights: Weights, valid: Path) -> float:
        """Return the PSNR of the weights on HR images, in dB."""
        raise NotImplementedError

    def load(self, path: Path) -> Any:
        """Load the result. Raises SrDeployError when there is no usable one."""
        raise NotImplementedError

    def steps_done(self) -> Optional[int]:
        """Return the number of steps of the saved result; None if there is no usable one."""
        try:
            path = self.options.output_file(self.suffix)
            return self.load(path).spec.training.get("steps_done")
        except SrDeployError:
            return None

    def bicubic_score(self, valid: Path) -> Optional[float]:
        """Return the PSNR of bicubic on HR images, in dB, as `score`; None if it is unknown."""
        images, degradation = image_set(str(valid)), self.recipe.degradation
        session = Bicubic(self.recipe.scale)
        psnr_db = evaluate(session, images, metric="y", degradation=degradation).psnr_db
        return finite_or_none(psnr_db)

    def teacher_score(self, valid: Path) -> Optional[float]:
        """Return the PSNR of the teacher on HR images, in dB; None without a teacher."""
        return None

    def dataset(self, pairs: Sequence[Pair]) -> DatasetOf:
        """Prepare the images once; return a function from a process's patches to its dataset."""
        return lambda patches: patches


def resolve(
    recipe: Union[str, Path, R], options: TrainOptions, kind: Type[R]
) -> Tuple[R, TrainOptions, Optional[Path]]:
    """Return the checked recipe, the options with the run's name, and the recipe's file if any.

    Raises InputError when the recipe is not usable or not of this kind.
    """
    recipe_file: Optional[Path] = None
    if isinstance(recipe, BaseRecipe):
        if options.name is None:
            raise InputError("the checkpoint has no name", hint="give the options a name")
        loaded: BaseRecipe = recipe
        loaded.check(options.name)
    else:
        loaded = load_recipe(str(recipe))
        recipe_file = Path(recipe) if str(recipe).endswith(".json") else None
        if options.name is None:
            options = replace(options, name=recipe_file.stem if recipe_file else str(recipe))
    if not isinstance(loaded, kind):
        raise InputError(f"the recipe {recipe} trains {loaded.trains}")
    if options.steps is not None:
        loaded = loaded.with_steps(options.steps)
        loaded.check("--steps")
    return loaded, options, recipe_file


def run_task(
    make_task: Callable[[TrainOptions], Task],
    recipe: BaseRecipe,
    options: TrainOptions,
    *,
    recipe_file: Optional[Path],
    started: float,
) -> Path:
    """Train until the last step, the end of the budget or an interrupt; write result and state.

    started: by time.monotonic(). Raises as checkpoint_from_images does.
    """
    options.check_inputs(recipe.batch_size)
    try:
        import lightning  # noqa: F401
        import tensorboard  # noqa: F401
        import tqdm  # noqa: F401
    except ImportError as e:
        raise MissingPackageError(e.name or "lightning", needed_for="training", cause=e) from e
    leads = is_first_process()
    if leads:
        options.check_outputs(recipe_file)
        if options.valid is not None:  # an unusable image would end the run hours later
            valid = image_set(str(options.valid))
            for note in valid.notes([recipe.scale]):
                options.log(note)
            check_images(valid, metrics=["y"], scales=[recipe.scale])
    else:
        options = replace(options, log=lambda line: None)
    folders = options.output, options.cache_folder
    with leading(*folders, str(options.name)) if leads else following():
        torch.manual_seed(options.seed)
        task = make_task(options)
        Training(task, recipe, leads=leads, started=started).train()
    return options.output_file(task.suffix)


class Training:
    """Starts or resumes a run, and writes its files."""

    def __init__(self, task: Task, recipe: BaseRecipe, *, leads: bool, started: float) -> None:
        """leads: whether this process writes the files."""
        self.task, self.recipe, self.leads, self.started = task, recipe, leads, started
        self.options = task.options
        self.state_file = self.options.output_file(".state.pt")
        self.facts = dict(task.facts)
        net: Any = task.net
        net.to(memory_format=torch.channels_last).train()
        self.run = TrainingRun(
            net,
            torch.optim.Adam(net.parameters(), lr=recipe.lr),
            ema={k: v.detach().clone() for k, v in net.state_dict().items()},
        )
        self.earlier_hours = 0.0
        self.bicubic_db: Optional[float] = None
        self.valid_text = self.needed_text = ""
        """The last score, and the time that the steps that are left need."""

    def train(self) -> None:
        """Train, and write the result and the state."""
        task, run, options = self.task, self.run, self.options
        if options.resume:
            self._resume()
            steps = self.recipe.steps
            if run.step == steps and task.steps_done() == steps:
                options.log(f"{options.name} is finished: all {steps} steps are done")
                return
        first_step, self.earlier_hours = run.step, run.hours
        pairs = self._pairs()
        options.log(f"{options.name}: {len(pairs)} images, steps {run.step} to {self.recipe.steps}")
        on_gpu = torch.cuda.is_available()
        if self.recipe.amp == "bf16" and not on_gpu and bf16_is_emulated():
            options.log(
                "this CPU has neither AVX512-BF16 nor AMX: steps in bf16 take several times as "
                'long as in FP32; a recipe of your own with "amp": "off" trains in FP32'
            )
        self._score_others()
        dataset_of = task.dataset(pairs)
        try:
            self._fit(pairs, dataset_of)
        except BaseException as e:
            if not self.leads:
                if run.interrupted:  # the first process reports it
                    raise SystemExit(1) from None
                raise
            if run.consistent and run.step > first_step:
                with contextlib.suppress(OSError, SrDeployError):  # the user should see e
                    self.save()
            error = self._readable(e)
            if error is e:
                raise
            raise error from e
        self._report_end()
        if run.interrupted and self.leads:
            raise KeyboardInterrupt

    def _report_end(self) -> None:
        run, steps = self.run, self.recipe.steps
        if 0 < run.step < steps:
            why = "" if run.interrupted else "the time is up; "
            self.options.log(
                f"stopped after step {run.step} of {steps}: {why}the others take about "
                f"{self.needed_text}; resume with the same command and --resume"
            )
        if self.valid_text and not run.interrupted:
            self.options.log(self.valid_text)

    def _resume(self) -> None:
        """Load the state. The run keeps its number of steps."""
        steps, defaults = self.options.steps, self.recipe.defaults()
        own = self.run.load(self.state_file, self.task.facts, defaults)
        if steps not in (None, own):
            raise InputError(
                f"{self.state_file} is of a run of {own} steps, not {steps}",
                hint="remove --steps, or choose another --name or -o for a new run",
            )
        self._set_steps(own)

    def _set_steps(self, steps: int) -> None:
        self.recipe = self.task.recipe = self.recipe.with_steps(steps)
        self.facts["steps"] = self.task.facts["steps"] = steps

    def _fit(self, pairs: Sequence[Pair], dataset_of: DatasetOf) -> None:
        recipe, options = self.recipe, self.options

        def dataset(rank: int, ranks: int) -> torch.utils.data.Dataset:
            return dataset_of(
                Patches(
                    pairs,
                    scale=recipe.scale,
                    patch_hr=recipe.patch_hr,
                    batch_size=recipe.batch_size,
                    seed=options.seed,
                    noise=recipe.degradation == "dn" and not options.lr_folders,
                    split=BatchSplit(options.accumulate, rank, ranks),
                )
            )

        if self.run.step < recipe.steps:
            from sr_deploy.train.loop import choose_steps, fit

            is_new = not options.resume and options.steps is None
            if is_new and recipe.has_end and math.isfinite(options.budget_s):
                chosen = choose_steps(self, dataset)
                if not chosen:
                    return
                self._set_steps(chosen)
            fit(self, dataset)
        if self.leads:
            self.save()
            self.task.write(str(options.name), self.run.ema, self._card())

    def save(self) -> None:
        """Write the state."""
        self._count_hours()
        self.run.save(self.state_file, self.task.facts)

    def validate(self) -> float:
        """Return the PSNR of the averaged weights on the validation images, in dB."""
        assert self.options.valid is not None
        weights = {k: v.cpu() for k, v in self.run.ema.items()}
        psnr_db = self.task.score(weights, self.options.valid)
        self.valid_text = f"valid {psnr_db:.2f} dB"
        if self.bicubic_db is not None:
            gain = psnr_db - self.bicubic_db
            self.valid_text += f", {abs(gain):.2f} dB {'above' if gain >= 0 else 'below'} bicubic"
        return psnr_db

    def keep_best(self) -> None:
        """Save the averaged weights as the best ones."""
        if self.task.keeps_best:
            self.task.write(f"{self.options.name}-best", self.run.ema, self._card())

    def _count_hours(self) -> None:
        self.run.hours = self.earlier_hours + (time.monotonic() - self.started) / 3600

    def _card(self) -> Dict[str, Any]:
        self._count_hours()
        run = self.run
        card = dict(run.card)
        terms = {key: card.pop(key) for key in ("licence", "trained_on")}
        training = {
            **self.facts,
            **card,
            "steps_done": run.step,
            "hours": round(run.hours, 2),
            "torch": torch.__version__,
        }
        if run.best_psnr_db is not None:
            training["best_valid_psnr_db"] = round(run.best_psnr_db, 3)
        training["history"] = run.history
        return {**terms, "training": training}

    def _pairs(self) -> List[Pair]:
        """Decode the images and note them on the card. Raises InputError if they changed."""
        recipe, options, card = self.recipe, self.options, self.run.card
        pairs = image_pairs(
            options.folders,
            options.cache_folder,
            scale=recipe.scale,
            degradation=recipe.degradation,
            lr_folders=options.lr_folders,
            min_hr=recipe.patch_hr,
            strict=options.strict,
            log=options.log,
        )
        images = {"images": len(pairs), "images_sha256": fingerprint(pairs)}
        if options.resume and {key: card.get(key) for key in images} != images:
            raise InputError(
                f"cannot resume {self.state_file}: the images changed; the run started with "
                f"{card.get('images')} images, now there are {len(pairs)}",
                hint="resume with the images of its start: the same names, sizes and order",
            )
        folder_names = ", ".join(f.resolve().name for f in options.folders)
        card.update(
            images,
            licence=options.licence or card.get("licence", ""),
            trained_on=options.trained_on or card.get("trained_on") or folder_names,
        )
        return pairs

    def _score_others(self) -> None:
        """Note on the card what bicubic and the teacher reach on the validation images."""
        if self.options.valid is None or not self.leads:
            return
        self.bicubic_db = self.task.bicubic_score(self.options.valid)
        if self.bicubic_db is not None:
            self.facts["bicubic_valid_psnr_db"] = round(self.bicubic_db, 3)
        psnr_db = self.task.teacher_score(self.options.valid)
        if psnr_db is not None:
            self.facts["teacher_valid_psnr_db"] = round(psnr_db, 3)
            self.options.log(f"the teacher, {self.facts['teacher']}, has {psnr_db:.3f} dB")

    def _readable(self, error: BaseException) -> BaseException:
        """Return the error that ended the run as the user should see it."""
        if isinstance(error, OSError):  # the loggers write in many places
            error = SrDeployError(
                f"cannot write to {self.options.output} at step {self.run.step}: "
                f"{error.strerror or error}",
                hint=write_hint(error),
            )
        if isinstance(error, SrDeployError) and self.state_file.is_file():
            hints = [error.hint, "the last saved state is kept; continue from it with --resume"]
            error.hint = "; ".join(filter(None, hints))
        return error


def start_facts(start: Checkpoint) -> Dict[str, Any]:
    """Return the facts of the checkpoint that a run starts from, for the card."""
    return {
        "init": start.name,
        "init_sha256": start.spec.weights_sha256,
        "init_training": start.spec.training,
    }


def psnr_on_images(
    net: nn.Module, recipe: BaseRecipe, valid: Path, min_hw: Tuple[int, int] = (1, 1)
) -> float:
    """Return the mean PSNR on Y of a network on HR images, in dB, as `srdeploy eval`."""
    session = TorchSession(net, scale=recipe.scale, min_hw=min_hw)
    images = image_set(str(valid))
    return evaluate(session, images, metric="y", degradation=recipe.degradation).psnr_db
