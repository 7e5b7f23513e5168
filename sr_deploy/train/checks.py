"""What is checked before a run makes its first file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, Optional, Sequence, Union

import torch

from sr_deploy.bench.evaluate import check_images, image_set
from sr_deploy.core.errors import InputError
from sr_deploy.core.images import image_files
from sr_deploy.train.data import check_shared
from sr_deploy.train.processes import process_count
from sr_deploy.train.recipes import Recipe

FILES = (
    ".safetensors",
    ".json",
    "-best.safetensors",
    "-best.json",
    ".router.safetensors",
    ".router.json",
    ".state.pt",
)
"""What a run writes, after its name."""


def folder(given: Union[str, Path], option: str) -> Path:
    """Return the folder as a Path. Raises InputError for an empty name, which Path would take for the current folder."""
    if not str(given):
        raise InputError(f"{option} is empty; expected a folder")
    return Path(given)


def folder_list(given: Union[str, Path, Sequence[Union[str, Path]]], option: str) -> List[Path]:
    """Return one folder or several as a list of Paths. Raises InputError for an empty name."""
    return [folder(f, option) for f in ([given] if isinstance(given, (str, Path)) else given)]


def check_options(
    recipe: Recipe,
    name: Optional[str],
    folders: Sequence[Path],
    *,
    lr_folders: Sequence[Path],
    init: Optional[str],
    teacher: Optional[str],
    judge: Optional[str],
    accumulate: int,
    devices: int,
    workers: Optional[int],
    seed: int,
    budget_s: float,
) -> None:
    """Raise InputError when options cannot be, do not go with the recipe, or name folders without images."""
    check_name(name)
    if recipe.follows and init is None:
        raise InputError(
            "this recipe goes on from weights",
            hint=f"give the result of {recipe.follows} with --init",
        )
    if recipe.method == "distillation" and teacher is None:
        raise InputError(
            "this recipe learns from a teacher",
            hint=f"give the result of {recipe.teacher or 'another recipe'} with --teacher",
        )
    if recipe.method != "distillation" and teacher is not None:
        raise InputError("this recipe has no teacher", hint="leave --teacher out")
    if bool(recipe.difficulty) != (judge is not None):
        told = (
            f"give the result of {recipe.judge} with --judge"
            if recipe.difficulty
            else "leave --judge out"
        )
        raise InputError(
            f"this recipe trains on patches of {'one class of' if recipe.difficulty else 'every'} difficulty",
            hint=told,
        )
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


def check_name(name: Optional[str]) -> None:
    """Raise InputError when `name` cannot be that of a checkpoint's files."""
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(
            f"'{name}' cannot be the name of a checkpoint",
            hint="give a name without a folder, and the folder with -o",
        )
    if len(os.fsencode(name + max(FILES, key=len))) > 255:  # what file systems take
        raise InputError(
            f"a name of {len(name)} letters is too long for a file: '{name[:20]}...'",
            hint="give a shorter --name",
        )


def check_run(
    folders: Sequence[Path],
    lr_folders: Sequence[Path],
    *,
    batch_size: int,
    accumulate: int,
    devices: int,
    workers: Optional[int],
    seed: int,
    budget_s: float,
) -> None:
    """Raise InputError when options that go with any recipe cannot be, or name folders without images."""
    if accumulate < 1 or devices < 0:
        raise InputError(
            f"{accumulate} micro-batches on {devices} devices; expected at least 1 and 0"
        )
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise InputError(f"{devices} devices; this machine has {torch.cuda.device_count()} GPUs")
    check_shared(batch_size, parts=accumulate, ranks=process_count(devices))
    if workers is not None and workers < 0:
        raise InputError(f"{workers} workers; expected at least 0")
    if not 0 <= seed < 2**63:
        raise InputError("the seed is out of range; expected 0 to 2**63 - 1")
    if not budget_s >= 0:
        raise InputError(f"a budget of {budget_s} s; expected at least 0")
    if not folders:
        raise InputError("no folder of HR images", hint="give at least one, with --data")
    for given in (*folders, *lr_folders):
        image_files(given)


def check_files(output: Path, name: str, *, recipe_file: Path, resume: bool) -> None:
    """Raise InputError when a run would write over its own recipe, over another run or over a folder, or has no state to resume."""
    paths = [output / (name + end) for end in FILES]
    for path in paths:
        if path.is_file() and recipe_file.is_file() and os.path.samefile(path, recipe_file):
            raise InputError(
                f"the run would write over its recipe {recipe_file}",
                hint="give another --name or -o",
            )
        if path.is_dir():
            raise InputError(
                f"{path} is a folder, in the place of a file", hint="give another --name or -o"
            )
    if (output / f"{name}.logs").is_file():
        raise InputError(
            f"{output / name}.logs is a file, in the place of a folder",
            hint="give another --name or -o",
        )
    state = paths[-1]
    if resume and not state.is_file():
        raise InputError(
            f"there is no run to resume: no {state}", hint="leave --resume out to begin one"
        )
    there = next((path for path in reversed(paths) if path.exists()), None)
    if there is not None and not resume:
        go_on = "go on with it by --resume, or " if there == state else ""
        raise InputError(
            f"there is a run of that name: {there}", hint=f"{go_on}give another --name or -o"
        )


def check_valid(valid: Path, scale: int) -> None:
    """Raise InputError, naming it, when an image cannot be validated on: that would end the run hours later."""
    check_images(image_set(str(valid)), metric="y", scale=scale)
