"""The checkpoints shipped with the package, and what is known of one without its weights."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import List, Optional

from sr_deploy.core.cards import WEIGHTS_SUFFIX
from sr_deploy.core.degradation import check_degradation
from sr_deploy.core.errors import CheckpointError, InputError
from sr_deploy.core.files import data_folder
from sr_deploy.core.gains import GAINS
from sr_deploy.core.jsonio import read_dataclass
from sr_deploy.core.routers import ROUTERS
from sr_deploy.core.spec import ModelSpec

CHECKPOINT_SUFFIX = WEIGHTS_SUFFIX
INT8_RANGE = "int8."
"""Begins the names of tensors that are ranges of INT8: `int8.VARIANT.LAYER`, each (low, high)."""


def shipped_checkpoints() -> List[Path]:
    """Return the weight files of the shipped networks, sorted by name, without those that choose
    between them."""
    files = data_folder("models").glob("*" + CHECKPOINT_SUFFIX)
    return sorted(p for p in files if not p.name.endswith((ROUTERS.suffix, GAINS.suffix)))


def read_card(weights: Path) -> ModelSpec:
    """Read the card beside a weights file. Raises CheckpointError if it is missing or malformed."""
    card = weights.with_suffix(".json")
    if not card.is_file():
        raise CheckpointError(
            f"{weights} has no card: expected {card.name} beside it",
            hint="import a bare state dict with: srdeploy import-checkpoint FILE -o DIR",
        )
    spec = read_dataclass(ModelSpec, card, CheckpointError)
    try:
        check_degradation(spec.degradation, spec.scale)
    except InputError as e:
        raise CheckpointError(f"{card}: {e.message}") from e
    return spec


def is_trained_for_int8(weights: Path, variant: str) -> bool:
    """Return whether a checkpoint has learnt the ranges with which a variant is quantised."""
    names: List[str] = []
    with contextlib.suppress(OSError, ValueError), open(weights, "rb") as f:
        size = min(int.from_bytes(f.read(8), "little"), weights.stat().st_size)
        names = list(json.loads(f.read(size).decode("utf-8")))
    return any(name.startswith(f"{INT8_RANGE}{variant}.") for name in names)


DEFAULT_MODELS = {2: "asrn_x2", 3: "asrn_x3", 4: "asrn_x4"}
"""By scale: the shipped checkpoint that is used where none is given. Its tiles are exact."""
MAIN_MODELS = ("asrn_x4", "imdeception_x4", "srn-ntire_x4")
"""The shipped checkpoints that export and build-engine take where none is given."""


def find_checkpoint(model: str) -> Optional[Path]:
    """Return the weights file that a shipped name or a path, of weights or card, stands for.

    None for anything else, and where the weights or the card are missing.
    """
    shipped = {path.stem: path for path in shipped_checkpoints()}
    path = shipped.get(model, Path(model))
    path = path.with_suffix(CHECKPOINT_SUFFIX) if path.suffix == ".json" else path
    whole = path.suffix == CHECKPOINT_SUFFIX and path.is_file()
    return path if whole and path.with_suffix(".json").is_file() else None


def shipped_graphs() -> Path:
    """Return the folder of the graphs that are shipped of some of the checkpoints."""
    return data_folder("models") / "graphs"
