"""What routers and gains heads share: files of weights that belong to other checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict

from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError, InputError, SrDeployError
from sr_deploy.nets.checkpoint import (
    Checkpoint,
    check_digest,
    check_finite,
    check_state_dict,
    load_checkpoint,
    read_safetensors,
)


def read_weights(path: Path, sha256: str) -> Dict[str, Tensor]:
    """Read weights. Raises CheckpointError for a damaged file, or one with another SHA-256."""
    weights = read_safetensors(path)
    check_digest(path, sha256)
    return weights


def check_weights(
    path: Path, weights: Dict[str, Tensor], make_network: Callable[[], nn.Module]
) -> None:
    """Raise CheckpointError unless weights are those of the network that a card describes."""
    try:
        net = make_network()
    except SrDeployError as e:
        raise CheckpointError(f"the card of {path} is not valid: {e.message}", hint=e.hint) from e
    check_state_dict(net, weights, source=str(path))
    check_finite(weights, source=str(path))


def load_chosen(
    beside: Path, model: str, sha256: str, *, name: str, kind: str, missing: str
) -> Checkpoint:
    """Load a checkpoint that the weights at `beside` choose, or choose depths of.

    A file in their folder takes precedence over a shipped checkpoint. sha256: of the weights that
    they were trained with. name, kind: of what chooses, such as `router`. missing: the message if
    there is none. Raises InputError if there is none, CheckpointError for other weights.
    """
    local = beside.parent / f"{model}.safetensors"
    try:
        checkpoint = load_checkpoint(local if local.is_file() else model)
    except InputError as e:
        hint = f"put {local.name} and its card into the folder of {beside.name}"
        raise InputError(missing, hint=hint) from e
    if checkpoint.spec.weights_sha256 != sha256:
        raise CheckpointError(
            f"the {kind} '{name}' was trained with other weights of '{model}' "
            f"than {checkpoint.path}",
            hint=f"use the checkpoint that came with it, or train a {kind} for this one",
        )
    return checkpoint
