"""The file that the name of a checkpoint stands for, without torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional, Tuple

from sr_deploy.core.errors import CheckpointError, InputError, did_you_mean
from sr_deploy.core.shipped import CHECKPOINT_SUFFIX, shipped_checkpoints
from sr_deploy.nets import ARCHITECTURES


def architecture_and_scale(name: str) -> Optional[Tuple[str, int]]:
    """Return ("asrn", 3) for `asrn_x3`; None unless it begins with an architecture's name."""
    match = re.fullmatch(r"(.+)_x(\d)", name)
    return (match[1], int(match[2])) if match and match[1] in ARCHITECTURES else None


def checkpoint_path(model: str) -> Path:
    """Return the weights file that a shipped name or a path, of weights or card, stands for.

    Raises InputError when there is no such checkpoint, CheckpointError for a file of another kind.
    """
    names = {p.stem: p for p in shipped_checkpoints()}
    if model in names:
        return names[model]
    path = Path(model)
    if path.suffix == ".json":
        path = path.with_suffix(CHECKPOINT_SUFFIX)
    if path.suffix == CHECKPOINT_SUFFIX and not path.is_file():
        raise InputError(
            f"there is no checkpoint {path}", hint="srdeploy models lists the shipped checkpoints"
        )
    if path.is_file():
        if path.suffix != CHECKPOINT_SUFFIX:
            raise CheckpointError(
                f"{path} is not a checkpoint; expected a {CHECKPOINT_SUFFIX} file with a JSON card",
                hint="import it with: srdeploy import-checkpoint FILE -o DIR",
            )
        return path
    known = ", ".join(names) or "(no checkpoints are shipped)"
    if architecture_and_scale(model) is not None:
        raise InputError(
            f"'{model}' is an architecture, and no checkpoint of that name is shipped",
            hint=f"use the path of a checkpoint, or one of {known}",
        )
    raise InputError(
        f"there is no model '{model}'; expected a file, or one of {known}",
        hint=did_you_mean(model, names),
    )
