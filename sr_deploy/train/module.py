"""The Lightning half of a run: one optimiser step, and what happens between two of them."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from sr_deploy.core.errors import SrDeployError
from sr_deploy.train.data import unit_range
from sr_deploy.train.losses import Terms
from sr_deploy.train.recipes import Recipe
from sr_deploy.train.schedule import learning_rate

SAVE_EVERY_S = 120.0
LOG_EVERY = 50
"""Steps between two lines of the logs."""
SAY_EVERY_S = 30.0
"""Between two lines of progress where there is no terminal to draw a bar on."""


@dataclass
class Run:
    """All that changes while a run goes on; what of it a state file holds is up to the trainer."""

    recipe: Recipe
    seed: int
    net: nn.Module
    """Whose weights change: what Lightning moves and synchronises, and a state file holds."""
    terms: Callable[[Tensor, Tensor, int], Terms]
    """`terms(lr, hr, step)`: the loss of a batch by its terms; lr: (N, 3, H, W), hr: (N, 3, sH, sW), float32, 0..1, RGB.

    In place of hr there may be what the task's own data give.
    """
    optimiser: torch.optim.Optimizer
    ema: Dict[str, Tensor]
    frozen: Sequence[nn.Module] = ()
    """What the loss runs and does not train: a teacher."""
    step: int = 0
    """Updates done."""
    hours: float = 0.0
    """Of earlier sessions."""
    best_psnr_db: Optional[float] = None
    history: List[dict] = field(default_factory=list)
    """The log in short, for the card: step, loss and validation PSNR, about twenty times a run."""
    precision: Dict[str, Any] = field(default_factory=dict)
    """The state of fp16's gradient scaler."""
    card: Dict[str, Any] = field(default_factory=dict)
    """What else goes on the card: device, licence, trained_on, and the images by their number and fingerprint."""
    interrupted: bool = False
    whole: bool = True
    """False from the moment an update begins to change weights until it is counted: nothing to save."""


@dataclass(frozen=True)
class Actions:
    """What a run does with the outside world, each called in the first process only."""

    save: Callable[[], None]
    validate: Callable[[], float]
    keep_best: Callable[[], None]
    log: Callable[[str], None]


def fit(
    run: Run,
    patches: Callable[[int, int], torch.utils.data.Dataset],
    actions: Actions,
    *,
    logs: Path,
    deadline: float,
    devices: int,
    accumulate: int,
    workers: Optional[int],
    validating: bool,
) -> None:
    """Train until the recipe's last step, `deadline` (of time.monotonic) or an interrupt; write the device on run's card.

    patches: the data for (rank, ranks): items (lr, hr), and `sources(step)`, the files they are of.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    recipe = run.recipe
    on_gpu = torch.cuda.is_available()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers, loggers and devices
        csv = CSVLogger(logs.parent, name=logs.name)
        trainer = Trainer(
            accelerator="gpu" if on_gpu else "cpu",
            devices=devices or ("auto" if on_gpu else _local_processes()),
            precision={"off": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[recipe.amp],  # type: ignore[arg-type]
            accumulate_grad_batches=accumulate,
            max_steps=recipe.steps - run.step,
            max_epochs=1,
            callbacks=[
                _Watch(
                    run, actions, deadline=deadline, accumulate=accumulate, validating=validating
                )
            ],
            logger=[csv, TensorBoardLogger(logs.parent, name=logs.name, version=csv.version)],
            default_root_dir=logs.parent,
            limit_val_batches=0,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = patches(trainer.global_rank, trainer.world_size)
        if workers is None:
            workers = 0 if not on_gpu else 4
        batches = DataLoader(
            data,
            batch_size=None,
            sampler=range(run.step * accumulate, recipe.steps * accumulate),
            num_workers=workers,
            pin_memory=on_gpu,
        )
        with _own_signals(run), _quiet_writers(), contextlib.suppress(
            SIGTERMException
        ):  # Lightning's own, after a step
            trainer.fit(_Module(run, data), batches)


@contextlib.contextmanager
def _own_signals(run: Run) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP finish the step first, so that it is saved; the second one does not wait."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        run.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    numbers = [signal.SIGINT, signal.SIGTERM]  # Lightning adds its own to SIGTERM's
    if (
        hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    ):  # as nohup sets it
        numbers.append(signal.SIGHUP)
    before = {n: signal.signal(n, interrupt) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _quiet_writers() -> Iterator[None]:
    """Keep TensorBoard's thread from printing a full disk's traceback: the same error is raised by the next line of the log."""
    before = threading.excepthook
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else before(args)
    try:
        yield
    finally:
        threading.excepthook = before


def _local_processes() -> int:
    """How many CPU processes torchrun started here; one without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class _Module(LightningModule):
    def __init__(self, run: Run, patches: Any) -> None:
        super().__init__()
        self.net = run.net  # registered: its parameters are what Lightning moves and synchronises
        self.state, self.patches = run, patches
        self.terms: Dict[str, Tensor] = {}
        self.wrong = ""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.state.optimiser

    def training_step(self, batch: Tuple[Tensor, Tensor], index: int) -> Tensor:
        run = self.state
        lr, hr = unit_range(batch[0]), unit_range(batch[1])
        self.terms = run.terms(lr.to(memory_format=torch.channels_last), hr, run.step)
        for name, value in self.terms.items():
            if not torch.isfinite(value):
                self.wrong = f"the loss (its term '{name}')"
        total = sum(self.terms.values(), hr.new_zeros(()))
        return (
            total * math.nan if self.wrong else total
        )  # into the gradient, where every process sees it

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        norm = torch.nn.utils.clip_grad_norm_(
            self.net.parameters(), self.state.recipe.clip_norm or math.inf
        )
        if not torch.isfinite(norm):
            found = [self.wrong]
            if (
                self.trainer.world_size > 1
            ):  # all raise the same: one that waits for the others would not end
                found *= self.trainer.world_size
                torch.distributed.all_gather_object(found, self.wrong)
            what = max(found, key=len) or (
                "the gradient" if self.state.recipe.amp != "fp16" else ""
            )  # fp16's scaler skips the step
            if what:
                raise self._not_finite(what)
        self.state.whole = False

    def _not_finite(self, what: str) -> SrDeployError:
        names = list(dict.fromkeys(p.name for p in self.patches.sources(self.state.step)))
        return SrDeployError(
            f"{what} is not finite at step {self.state.step}; its patches are of {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}",
            hint="lower the recipe's lr, or look at those images",
        )


class _Watch(Callback):
    """Between steps: learning rate, average of the weights, logs, validation, saving, stopping."""

    def __init__(
        self, run: Run, actions: Actions, *, deadline: float, accumulate: int, validating: bool
    ) -> None:
        self.run, self.actions, self.deadline, self.accumulate, self.validating = (
            run,
            actions,
            deadline,
            accumulate,
            validating,
        )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        run = self.run
        device = module.device
        named = (
            torch.cuda.get_device_name()
            if device.type == "cuda"
            else f"cpu, {torch.get_num_threads()} threads"
        )
        run.card["device"] = named + (
            f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
        )
        run.ema = {k: v.to(device) for k, v in run.ema.items()}
        for fixed in run.frozen:
            fixed.to(device).eval()
        if run.precision:
            trainer.precision_plugin.load_state_dict(run.precision)
        self.bar = tqdm(
            total=run.recipe.steps,
            initial=run.step,
            file=sys.stderr,
            unit="step",
            dynamic_ncols=True,
            disable=not (trainer.is_global_zero and sys.stderr.isatty()),
        )
        self.saved = self.said = self.began = time.monotonic()
        self.first, self.shown = run.step, ""

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        r = self.run.recipe
        self.lr = learning_rate(
            r.schedule, self.run.step, r.steps, lr=r.lr, final_lr=r.final_lr, periods=r.periods
        )
        for group in self.run.optimiser.param_groups:
            group["lr"] = self.lr

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.accumulate:
            return
        run, recipe = self.run, self.run.recipe
        decay = min(recipe.ema, (run.step + 1) / (run.step + 10))
        with torch.no_grad():
            for name, value in run.net.state_dict().items():
                run.ema[name].lerp_(value, 1 - decay) if value.is_floating_point() else run.ema[
                    name
                ].copy_(value)
        run.step += 1
        run.whole = True
        run.precision = trainer.precision_plugin.state_dict()
        last = run.step == recipe.steps
        now = time.monotonic()
        if trainer.is_global_zero:
            self.bar.update()
            metrics = {}
            if run.step % LOG_EVERY == 0 or last:
                metrics = self._training_metrics(module, now)
            if self.validating and (run.step % recipe.valid_every == 0 or last):
                metrics["valid_psnr_db"] = psnr = self.actions.validate()
                self.shown = f", valid {psnr:.3f} dB"
                if run.best_psnr_db is None or psnr > run.best_psnr_db:
                    run.best_psnr_db = psnr
                    self.actions.keep_best()
            if metrics:
                self._write_logs(trainer, metrics)
            if run.step % max(recipe.steps // 20, 1) == 0 or last:
                self._summarise(module, metrics.get("valid_psnr_db"))
            if now - self.saved > SAVE_EVERY_S:
                self.actions.save()
                self.saved = now
        stop = run.interrupted or now > self.deadline
        if trainer.world_size > 1:
            stop = trainer.strategy.broadcast(stop)
        if stop:
            trainer.should_stop = True

    def _training_metrics(self, module: Any, now: float) -> Dict[str, float]:
        terms = {name: value.item() for name, value in module.terms.items()}
        loss = sum(terms.values())
        rate = (self.run.step - self.first) / (now - self.began)
        self.bar.set_postfix_str(f"loss {loss:.5f}{self.shown}")
        if now - self.said > SAY_EVERY_S and self.bar.disable:
            left = (self.run.recipe.steps - self.run.step) / rate
            self.actions.log(
                f"step {self.run.step}/{self.run.recipe.steps}, loss {loss:.5f}{self.shown}, {rate:.2f} steps/s, {left / 60:.0f} min left"
            )
            self.said = now
        samples = rate * self.run.recipe.batch_size
        return {
            "loss": loss,
            **{f"loss/{k}": v for k, v in terms.items()},
            "lr": self.lr,
            "samples_per_s": samples,
        }

    def _summarise(self, module: Any, psnr: Optional[float]) -> None:
        entry = {
            "step": self.run.step,
            "loss": round(sum(v.item() for v in module.terms.values()), 5),
        }
        self.run.history.append(
            entry if psnr is None else {**entry, "valid_psnr_db": round(psnr, 3)}
        )

    def _write_logs(self, trainer: Trainer, metrics: Dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self.run.step)
            logger.save()

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if hasattr(self, "bar"):
            self.bar.close()
