"""The options of a training run that are not part of its recipe."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Union

import torch

from sr_deploy.core.errors import InputError
from sr_deploy.core.image_folders import hr_images
from sr_deploy.core.images import image_files
from sr_deploy.train.data import BatchSplit
from sr_deploy.train.processes import process_count

FILE_SUFFIXES = (
    ".safetensors", ".json", "-best.safetensors", "-best.json",
    ".router.safetensors", ".router.json", ".gains.safetensors", ".gains.json", ".state.pt",
)  # fmt: skip
"""The files of a run: its name with each of these."""
LogLine = Callable[[str], None]


@dataclass(frozen=True)
class TrainOptions:
    """Images, output and resources of a run. Paths may be strings, and a list may be one folder.

    >>> options = sr_deploy.TrainOptions("photos", "trained", budget_s=3600, seed=1)

    Raises InputError for an empty path, an unusable name or a number out of range.
    """

    folders: Sequence[Path]
    """Folders of HR images."""
    output: Path
    """Folder of the checkpoint, its state, logs and decoded images."""
    name: Optional[str] = None
    """Name of the checkpoint; None: that of the recipe."""
    lr_folders: Sequence[Path] = ()
    """The LR images of each HR folder; empty: the recipe's degradation makes them."""
    valid: Optional[Path] = None
    """Folder of HR images to validate on; the best weights are saved too."""
    init: Optional[str] = None
    """Checkpoint (or router) to start from."""
    resume: bool = False
    seed: int = 0
    steps: Optional[int] = None
    """Number of steps; None: the recipe's, or as many as fit in the budget. A resumed run keeps
    those that it started with."""
    budget_s: float = math.inf
    """Time for the run. Without `steps`, a new run whose schedule ends with the last step has as
    many steps as fit; any other run stops after this time, and can be resumed."""
    devices: int = 0
    """GPUs, or processes on a CPU; 0: all GPUs, or one process."""
    accumulate: int = 1
    """Micro-batches per step; the batch remains that of the recipe."""
    workers: Optional[int] = None
    """Processes that cut patches; None: 0 on a CPU, 4 on a GPU."""
    cache: Optional[Path] = None
    """Folder of decoded images; None: `cache` in the output folder."""
    strict: bool = False
    """Whether damaged or too small images are errors; otherwise they are skipped."""
    licence: str = ""
    """Terms of the weights, for the card. A resumed run keeps those it started with."""
    trained_on: str = ""
    """Description of the images, for the card; empty: the names of the folders."""
    log: LogLine = lambda line: None

    def __post_init__(self) -> None:
        folders = _paths(self.folders, "--data")
        object.__setattr__(self, "folders", folders)
        object.__setattr__(self, "lr_folders", _paths(self.lr_folders, "--lr-data"))
        object.__setattr__(self, "output", _path(self.output, "--output"))
        for key in ("valid", "cache"):
            if getattr(self, key) is not None:
                object.__setattr__(self, key, _path(getattr(self, key), f"--{key}"))
        if not folders:
            raise InputError("no folder of HR images", hint="give at least one, with --data")
        if self.name is not None:
            _check_name(self.name)
        if self.accumulate < 1 or self.devices < 0:
            raise InputError(
                f"{self.accumulate} micro-batches on {self.devices} devices; "
                "expected at least 1 and 0"
            )
        if torch.cuda.is_available() and self.devices > torch.cuda.device_count():
            raise InputError(
                f"{self.devices} devices; this machine has {torch.cuda.device_count()} GPUs"
            )
        if self.workers is not None and self.workers < 0:
            raise InputError(f"{self.workers} workers; expected at least 0")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed {self.seed} is out of range; expected 0 to 2**63 - 1")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"{self.steps} steps; expected at least 1")
        if not self.budget_s >= 0:
            raise InputError(f"a budget of {self.budget_s} s; expected at least 0")

    @property
    def cache_folder(self) -> Path:
        return self.cache or self.output / "cache"

    def output_file(self, suffix: str) -> Path:
        """Return a file of the run, such as NAME.state.pt for `.state.pt`."""
        return self.output / f"{self.name}{suffix}"

    def check_inputs(self, batch_size: int) -> None:
        """Raise InputError when the batch cannot be divided or a folder has no HR images."""
        BatchSplit(self.accumulate, ranks=process_count(self.devices)).check(batch_size)
        for folder in self.folders:
            hr_images(folder)
        for folder in self.lr_folders:
            image_files(folder)

    def check_outputs(self, recipe_file: Optional[Path]) -> None:
        """Raise InputError when a run would overwrite something, or cannot resume."""
        paths = [self.output_file(suffix) for suffix in FILE_SUFFIXES]
        hint = "choose another --name or -o"
        for path in paths:
            if recipe_file and path.is_file() and os.path.samefile(path, recipe_file):
                raise InputError(f"the run would overwrite its recipe {recipe_file}", hint=hint)
            if path.is_dir():
                raise InputError(f"{path} is a folder; expected a file or nothing", hint=hint)
        logs, state = self.output_file(".logs"), paths[-1]
        if logs.is_file():
            raise InputError(f"{logs} is a file; expected a folder or nothing", hint=hint)
        if self.resume and not state.is_file():
            raise InputError(
                f"cannot resume: there is no {state}", hint="remove --resume to start a new run"
            )
        existing = next((path for path in reversed(paths) if path.exists()), None)
        if existing is not None and not self.resume:
            resume = "continue it with --resume, or " if existing == state else ""
            raise InputError(f"a run of this name exists: {existing}", hint=resume + hint)


def _check_name(name: str) -> None:
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(
            f"'{name}' cannot be used as the name of a checkpoint",
            hint="give a name without a folder, and the folder with -o",
        )
    if len(os.fsencode(name + max(FILE_SUFFIXES, key=len))) > 255:  # the limit of file systems
        raise InputError(
            f"a name of {len(name)} characters is too long for a file: '{name[:20]}...'",
            hint="choose a shorter --name",
        )


def _path(path: Union[str, Path], option: str) -> Path:
    if not str(path):  # Path would take it for the current folder
        raise InputError(f"{option} is empty; expected a folder")
    return Path(path)


def _paths(paths: Union[str, Path, Sequence[Union[str, Path]]], option: str) -> List[Path]:
    return [_path(p, option) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
