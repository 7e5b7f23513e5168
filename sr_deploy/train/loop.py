"""The Lightning part of a run: one optimiser step, and the work between two of them."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Protocol, Tuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sr_deploy.core.errors import SrDeployError
from sr_deploy.core.progress import time_text
from sr_deploy.train.data import unit_range
from sr_deploy.train.logs import MetricsLog, quiet_log_writers
from sr_deploy.train.options import TrainOptions
from sr_deploy.train.pace import SAVE_EVERY_S, WARM_UP, Pace
from sr_deploy.train.recipe import BaseRecipe
from sr_deploy.train.state import TrainingRun

LOG_EVERY = 50
"""Steps between two lines of the logs."""
REPORT_EVERY_S = 30.0
"""Time between two lines of progress if stderr is no terminal for a progress bar."""
TRIAL_SHARE = 0.02
"""Longest time of a trial, as a share of the budget."""


class Fittable(Protocol):
    """A run as `fit` sees it: see `Training`."""

    run: TrainingRun
    task: Any
    recipe: BaseRecipe
    options: TrainOptions
    started: float
    needed_text: str

    def validate(self) -> float: ...
    def keep_best(self) -> None: ...
    def save(self) -> None: ...


Datasets = Callable[[int, int], Dataset]
"""Called with (rank, ranks); its items are (lr, hr), `sources(step)` are the files of a step."""


def fit(training: Fittable, dataset: Datasets) -> None:
    """Train until the recipe's last step, the end of the budget or an interrupt."""
    steps = range(training.run.step, training.recipe.steps)
    _run_steps(training, dataset, steps, _BetweenSteps(training))


def choose_steps(training: Fittable, dataset: Datasets) -> int:
    """Return how many of the recipe's steps a new run can do in its budget; 0 if interrupted.

    They are measured by a trial, which is undone: it changes nothing of the run.
    """
    weights, trial = copy.deepcopy(training.run.net.state_dict()), _Trial(training)
    try:
        _run_steps(training, dataset, range(trial.steps), trial)
    finally:
        training.run.begin(weights)
    return trial.chosen


def _run_steps(training: Fittable, dataset: Datasets, steps: range, between: _BetweenSteps) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    run, recipe, options = training.run, training.recipe, training.options
    on_gpu = torch.cuda.is_available()
    # torchrun starts the processes of a CPU itself.
    cpu_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    precision: Any = {"off": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[recipe.amp]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers and devices
        trainer = Trainer(
            accelerator="gpu" if on_gpu else "cpu",
            devices=options.devices or ("auto" if on_gpu else cpu_processes),
            precision=precision,
            accumulate_grad_batches=options.accumulate,
            max_steps=len(steps),
            max_epochs=1,
            callbacks=[between],
            logger=False,
            default_root_dir=options.output,
            limit_val_batches=0,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = dataset(trainer.global_rank, trainer.world_size)
        default_workers = 4 if on_gpu else 0
        batches = DataLoader(
            data,
            batch_size=None,
            sampler=range(steps.start * options.accumulate, steps.stop * options.accumulate),
            num_workers=default_workers if options.workers is None else options.workers,
            pin_memory=on_gpu,
        )
        # Lightning raises SIGTERMException after the step in which the signal came.
        with _signals_finish_the_step(run), quiet_log_writers():
            with contextlib.suppress(SIGTERMException):
                trainer.fit(_Module(training, data), batches)


@contextlib.contextmanager
def _signals_finish_the_step(run: TrainingRun) -> Iterator[None]:
    """On Ctrl-C, SIGTERM and SIGHUP finish and save the step; on the second signal stop at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        run.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    numbers = [signal.SIGINT, signal.SIGTERM]  # Lightning adds its own handler to SIGTERM's
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # nohup ignores it
        numbers.append(hangup)
    handlers = {n: signal.signal(n, interrupt) for n in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Module(LightningModule):
    def __init__(self, training: Fittable, dataset: Any) -> None:
        super().__init__()
        self.net = training.run.net  # registered: Lightning moves and synchronises its parameters
        self.training_run, self.task, self.dataset = training.run, training.task, dataset
        self.recipe = training.recipe
        self.terms: Dict[str, Tensor] = {}
        self.not_finite = ""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.training_run.optimiser

    def training_step(self, batch: Tuple[Tensor, Tensor], index: int) -> Tensor:
        lr, hr = unit_range(batch[0]), unit_range(batch[1])
        lr = lr.to(memory_format=torch.channels_last)
        self.terms = self.task.terms(lr, hr, self.training_run.step)
        for name, value in self.terms.items():
            if not torch.isfinite(value):
                self.not_finite = f"the loss (its term '{name}')"
        total = sum(self.terms.values(), hr.new_zeros(()))
        # A NaN reaches the gradient of every process, so that all of them stop.
        return total * math.nan if self.not_finite else total

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        recipe = self.recipe
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), recipe.clip_norm or math.inf)
        if not torch.isfinite(norm):
            causes = [self.not_finite]
            if self.trainer.world_size > 1:  # all must raise, or one would wait for ever
                causes *= self.trainer.world_size
                torch.distributed.all_gather_object(causes, self.not_finite)
            # The gradient scaler of fp16 skips a step with an infinite gradient.
            cause = max(causes, key=len) or ("" if recipe.amp == "fp16" else "the gradient")
            if cause:
                raise self._error(cause)
        self.training_run.consistent = False

    def _error(self, cause: str) -> SrDeployError:
        step = self.training_run.step
        names = list(dict.fromkeys(p.name for p in self.dataset.sources(step)))
        more = " ..." if len(names) > 4 else ""
        return SrDeployError(
            f"{cause} is not finite at step {step}; its patches are from "
            f"{', '.join(names[:4])}{more}",
            hint="lower the recipe's lr, or check those images",
        )


class _BetweenSteps(Callback):
    """Between steps: learning rate, average of the weights, logs, validation, saving, stopping."""

    reports = True
    """Whether it writes logs and shows progress."""

    def __init__(self, training: Fittable) -> None:
        self.training, self.run = training, training.run
        self.recipe, self.options = training.recipe, training.options
        self.deadline = training.started + training.options.budget_s
        self.pace = Pace()
        self.logs: Optional[MetricsLog] = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        run, device = self.run, module.device
        if device.type == "cuda":
            name = torch.cuda.get_device_name()
        else:
            name = f"cpu, {torch.get_num_threads()} threads"
        if trainer.world_size > 1:
            name += f", {trainer.world_size} processes"
        run.card["device"] = name
        run.ema = {k: v.to(device) for k, v in run.ema.items()}
        for frozen in self.training.task.frozen:
            frozen.to(device).eval()
        if run.precision:
            trainer.precision_plugin.load_state_dict(run.precision)
        reports = self.reports and trainer.is_global_zero
        if reports:
            self.logs = MetricsLog(self.options.output_file(".logs"), run.step)
        self.bar = tqdm(
            total=self.recipe.steps,
            initial=run.step,
            file=sys.stderr,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
            dynamic_ncols=True,
            disable=not (reports and sys.stderr.isatty()),
        )
        self.saved_at = self.reported_at = time.monotonic()
        self.loss_text = self.valid_text = ""
        self.pace.start()

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.lr = self.recipe.learning_rate(self.run.step)
        for group in self.run.optimiser.param_groups:
            group["lr"] = self.lr

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.options.accumulate:
            return
        run = self.run
        self._update_average()
        run.step += 1
        run.consistent = True
        run.precision = trainer.precision_plugin.state_dict()
        self.pace.step_done()
        stop = trainer.is_global_zero and self._finish_step(module.terms)
        if trainer.world_size > 1:
            stop = trainer.strategy.broadcast(stop)
        if stop:
            trainer.should_stop = True

    @torch.no_grad()
    def _update_average(self) -> None:
        run = self.run
        decay = min(self.recipe.ema, (run.step + 1) / (run.step + 10))
        for name, value in run.net.state_dict().items():
            if value.is_floating_point():
                run.ema[name].lerp_(value, 1 - decay)
            else:
                run.ema[name].copy_(value)

    def _finish_step(self, terms: Dict[str, Tensor]) -> bool:
        """Log, validate and save what is due after a step. Return whether the run stops here."""
        run, recipe = self.run, self.recipe
        # A last validation is to end in time.
        time_is_up = time.monotonic() + self.pace.valid_s > self.deadline
        stop = run.interrupted or time_is_up
        last = run.step == recipe.steps or (time_is_up and not run.interrupted)
        psnr_db: Optional[float] = None
        if self.options.valid is not None and (run.step % recipe.validates_every == 0 or last):
            with self.pace.between("validation"):
                psnr_db = self._validate()
        if run.step % LOG_EVERY == 0 or psnr_db is not None or last:
            self._log(terms, psnr_db)
        self._show_progress()
        if run.step % max(recipe.steps // 20, 1) == 0 or run.step == recipe.steps:
            loss = sum(value.item() for value in terms.values())
            entry: Dict[str, Any] = {"step": run.step, "loss": round(loss, 5)}
            if psnr_db is not None:
                entry["valid_psnr_db"] = round(psnr_db, 3)
            run.history.append(entry)
        if time.monotonic() - self.saved_at > SAVE_EVERY_S:
            with self.pace.between("saving"):
                self.training.save()
            self.saved_at = time.monotonic()
        return stop

    def _validate(self) -> float:
        run, psnr_db = self.run, self.training.validate()
        self.valid_text = f", valid {psnr_db:.3f} dB"
        if run.best_psnr_db is None or psnr_db > run.best_psnr_db:
            run.best_psnr_db = psnr_db
            self.training.keep_best()
        return psnr_db

    def _log(self, terms: Dict[str, Tensor], psnr_db: Optional[float]) -> None:
        values = {f"loss/{name}": value.item() for name, value in terms.items()}
        loss = sum(values.values())
        self.loss_text = f", loss {loss:.5f}"
        assert self.logs is not None
        metrics: Dict[str, Optional[float]] = {
            "loss": loss,
            **values,
            "lr": self.lr,
            "samples_per_s": self.recipe.batch_size / self.pace.step_s,
            "valid_psnr_db": psnr_db,
        }
        self.logs.write(self.run.step, metrics)

    def _show_progress(self) -> None:
        step, steps, now = self.run.step, self.recipe.steps, time.monotonic()
        needed_s = self.pace.seconds(self.recipe, step)
        left_s = min(needed_s, max(self.deadline - now, 0))
        self.training.needed_text = time_text(needed_s)
        rate = f"{1 / self.pace.step_s:.2f} steps/s"
        self.bar.set_postfix_str(
            f"{rate}, {time_text(left_s)} left{self.loss_text}{self.valid_text}", refresh=False
        )
        self.bar.update()
        if self.bar.disable and self.loss_text and now - self.reported_at > REPORT_EVERY_S:
            self.options.log(
                f"step {step}/{steps}{self.loss_text}{self.valid_text}, {rate}, "
                f"{time_text(left_s)} left"
            )
            self.reported_at = now

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if hasattr(self, "bar"):
            self.bar.close()
        if self.logs is not None:
            self.logs.close()


class _Trial(_BetweenSteps):
    """Times steps, a validation and saving, and chooses how many steps fit in the budget."""

    reports = False

    def __init__(self, training: Fittable) -> None:
        super().__init__(training)
        self.chosen, steps = 0, self.recipe.steps
        self.steps = min(max(30, steps // 100), steps)
        now = time.monotonic()
        self.ends_at = now + TRIAL_SHARE * (self.deadline - now)

    def _finish_step(self, terms: Dict[str, Tensor]) -> bool:
        step, pace, recipe, options = self.run.step, self.pace, self.recipe, self.options
        if self.run.interrupted:
            return True
        if step < self.steps and (time.monotonic() < self.ends_at or step < WARM_UP + 2):
            return False
        with pace.between("saving"), tempfile.TemporaryDirectory(dir=options.output) as folder:
            self.run.save(Path(folder) / "state.pt", {})
        each = f"{pace.step_s:.2g} s"
        if options.valid is not None:
            with pace.between("validation"):
                self.training.validate()
            each += f" and a validation {pace.valid_s:.2g} s"
        self.chosen = pace.steps_that_fit(recipe, self.deadline - time.monotonic())
        which = "all" if self.chosen == recipe.steps else f"{self.chosen:,} of"
        options.log(
            f"{which} {recipe.steps:,} steps fit in {time_text(options.budget_s)}: "
            f"a step takes {each}"
        )
        return True

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.world_size > 1:
            self.chosen = trainer.strategy.broadcast(self.chosen)
