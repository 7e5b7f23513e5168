"""The gains head: what more depth would gain in each cell of an image, and its checkpoints.

It decides where an elastic network goes deeper, from the LR image and from features that are there
anyway: those after the blocks of the smallest depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError, InputError, SrDeployError, did_you_mean
from sr_deploy.core.gains import (
    CELL_PX,
    GAINS_SUFFIX,
    GainsSpec,
    gains_name,
    read_gains_card,
    shipped_gains,
)
from sr_deploy.nets.checkpoint import (
    Checkpoint,
    check_digest,
    check_finite,
    check_state_dict,
    load_checkpoint,
    read_safetensors,
    write_with_card,
)

STRIDE = 4
"""LR pixels between two positions at which the head reads the image and the features."""
_FLOOR = 1e-3
"""Added to mean magnitudes before their logarithm."""


class GainsHead(nn.Module):
    """The network that predicts gains.

    lr: (N, 3, H, W) float, 0..1, RGB; features: (N, channels, H, W) after the smallest depth's
    blocks -> gains (N, depths, ceil(H / 32), ceil(W / 32)) of each deeper depth, shallow first.

    A gain is the predicted reduction of the squared error of Y (0..255) against the smallest
    depth, summed over the SR pixels of the cell and divided by the number of SR pixels in a whole
    cell: a border cell that is half inside the image has half the gain. It may be negative.
    """

    def __init__(
        self, *, depths: int, channels: int = 96, width: int = 32, hidden: int = 64
    ) -> None:
        super().__init__()
        self.lr = nn.Conv2d(3, width, STRIDE, stride=STRIDE)
        self.features = nn.Conv2d(channels, width, 1, stride=STRIDE)
        self.mix = nn.Sequential(
            nn.Conv2d(2 * width, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * depths, 1),
        )

    def forward(self, lr: Tensor, features: Tensor) -> Tensor:
        patches = self.lr(F.pad(lr, (0, STRIDE - 1, 0, STRIDE - 1), mode="replicate"))
        x = torch.cat([patches, self.features(features)], dim=1).abs()
        inside = torch.ones_like(lr[:, :1])
        weight = F.avg_pool2d(F.pad(inside, (0, STRIDE - 1, 0, STRIDE - 1)), STRIDE)
        area = _per_cell(weight)  # (N, 1, ceil(H / 32), ceil(W / 32)), the share in the image
        x = torch.log(_per_cell(x * weight) / area + _FLOOR)
        size, direction = self.mix(x).chunk(2, dim=1)
        return torch.exp(size.clamp(-12, 10)) * torch.tanh(direction) * area


def _per_cell(x: Tensor) -> Tensor:
    """Return the sums over cells as shares of a whole cell's positions."""
    side = CELL_PX // STRIDE
    return F.avg_pool2d(F.pad(x, (0, side - 1, 0, side - 1)), side)


@dataclass(frozen=True)
class Gains:
    """A trained gains head with its card. `name` is its file's name without the suffix."""

    name: str
    spec: GainsSpec
    weights: Dict[str, Tensor]
    path: Path

    def __repr__(self) -> str:
        return f"<Gains {self.name} of {self.spec.model} {', '.join(self.spec.variants)}>"

    def network(self) -> GainsHead:
        """Return the head with its weights, in eval mode."""
        net = gains_network(self.spec)
        net.load_state_dict(self.weights)
        return net

    def checkpoint(self) -> Checkpoint:
        """Load the checkpoint whose depths it chooses between.

        A file in the head's folder takes precedence over a shipped checkpoint. Raises InputError
        when it is missing, CheckpointError when the head was trained with other weights.
        """
        spec = self.spec
        local = self.path.parent / f"{spec.model}.safetensors"
        try:
            checkpoint = load_checkpoint(local if local.is_file() else spec.model)
        except InputError as e:
            raise InputError(
                f"'{self.name}' chooses between depths of '{spec.model}', which was not found",
                hint=f"put {local.name} and its card into the folder of {self.path.name}",
            ) from e
        if checkpoint.spec.weights_sha256 != spec.model_sha256:
            raise CheckpointError(
                f"'{self.name}' was trained with other weights of '{spec.model}' "
                f"than {checkpoint.path}",
                hint="use the checkpoint that came with it, or train a gains head for this one",
            )
        for variant in spec.variants:
            checkpoint.spec.variant(variant)
        return checkpoint


def gains_network(spec: GainsSpec) -> GainsHead:
    """Return the untrained head of a card. Raises CheckpointError for a bad configuration."""
    config: Dict[str, Any] = {"channels": 96, "width": 32, "hidden": 64}
    for key, value in spec.config.items():
        if key not in config:
            raise CheckpointError(
                f"unknown configuration key '{key}' of a gains head; expected {', '.join(config)}"
            )
        if type(value) is not int or not 1 <= value <= 4096:
            raise CheckpointError(
                f"'{key}' of a gains head must be an integer from 1 to 4096, got {value!r}"
            )
        config[key] = value
    return GainsHead(depths=len(spec.variants) - 1, **config).eval()


def load_gains(model: Union[str, Path]) -> Gains:
    """Load a gains head by its path (of the weights or the card), or a shipped one by its name.

    The checkpoint of its depths is not read. Raises InputError when there is no such head,
    CheckpointError when the file is damaged or does not match its card.
    """
    path = _gains_path(str(model))
    spec = read_gains_card(path)
    weights = read_safetensors(path)
    check_digest(path, spec.weights_sha256)
    try:
        net = gains_network(spec)
    except SrDeployError as e:
        raise CheckpointError(f"the card of {path} is not valid: {e.message}", hint=e.hint) from e
    check_state_dict(net, weights, source=str(path))
    check_finite(weights, source=str(path))
    return Gains(gains_name(path), spec, weights, path)


def save_gains(folder: Path, name: str, spec: GainsSpec, weights: Dict[str, Tensor]) -> Path:
    """Write `name`.gains.safetensors and its card to `folder`; return the path of the weights."""
    return write_with_card(folder / (name + GAINS_SUFFIX), spec, weights)


def _gains_path(model: str) -> Path:
    names = {gains_name(p): p for p in shipped_gains()}
    if model in names:
        return names[model]
    path = Path(model)
    if path.name.endswith(GAINS_SUFFIX.replace(".safetensors", ".json")):
        path = path.with_suffix(".safetensors")
    if not path.name.endswith(GAINS_SUFFIX):
        known = ", ".join(names) or "(none are shipped)"
        raise InputError(
            f"'{model}' is not a gains head; expected a {GAINS_SUFFIX} file, or one of {known}",
            hint=did_you_mean(model, names),
        )
    if not path.is_file():
        raise InputError(f"there is no gains head {path}")
    return path
