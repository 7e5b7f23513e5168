"""The checkpoints that come with the package, and the card beside any checkpoint. No weights are read here."""

from __future__ import annotations

from pathlib import Path
from typing import List

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.files import data_folder
from sr_deploy.core.jsonio import from_dict, read_json
from sr_deploy.core.routers import ROUTER_SUFFIX
from sr_deploy.core.spec import ModelSpec

CHECKPOINT_SUFFIX = ".safetensors"


def shipped_checkpoints() -> List[Path]:
    """Return the weight files of the shipped checkpoints, sorted by name; routers are none: see `core/routing.py`."""
    return sorted(
        p
        for p in data_folder("models").glob("*" + CHECKPOINT_SUFFIX)
        if not p.name.endswith(ROUTER_SUFFIX)
    )


def read_card(weights: Path) -> ModelSpec:
    """Read the card beside a weights file. Raises CheckpointError when there is none, or it is malformed."""
    card = weights.with_suffix(".json")
    if not card.is_file():
        raise CheckpointError(
            f"{weights} has no card: expected {card.name} beside it",
            hint="bring a bare state dict in with: srdeploy import-checkpoint ARCH FILE -o DIR",
        )
    return from_dict(
        ModelSpec, read_json(card, CheckpointError), source=str(card), error=CheckpointError
    )
