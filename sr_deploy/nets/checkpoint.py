"""Checkpoints: safetensors weights with a JSON card beside them, and what a user may call MODEL."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, List, Optional, Sequence, Union

from torch import Tensor, nn

from sr_deploy.core.errors import (
    CheckpointError,
    InputError,
    MissingPackageError,
    SrDeployError,
    VariantError,
    did_you_mean,
)
from sr_deploy.core.files import atomic_path, sha256_of, write_text
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.shipped import CHECKPOINT_SUFFIX, read_card, shipped_checkpoints
from sr_deploy.core.spec import ModelSpec, Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.architecture import Architecture

_BARE_NAME = re.compile(r"(.+)_x(\d)")


@dataclass(frozen=True)
class Checkpoint:
    """Weights with their card. `name` is the file's stem, and the first part of every artifact's name."""

    name: str
    spec: ModelSpec
    weights: dict
    path: Optional[Path] = None

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.spec.arch]

    def network(self, variant: Optional[str] = None) -> nn.Module:
        """Return the plain static network of `variant` (the largest for None) with its own weights, in eval mode.

        Raises VariantError when the checkpoint does not hold the variant.
        """
        wanted = self.spec.variant(variant)
        net = self.architecture.build(self.spec.scale, wanted, self.spec.config)
        weights = self.architecture.slice(self.weights, self.spec.variant(None), wanted)
        net.load_state_dict({name: value.clone() for name, value in weights.items()})
        return net

    def variants(self, names: Union[str, Sequence[str], None]) -> List[Variant]:
        """Return the variants of a list, or of a comma-separated one; `all`, or None, are those of the paper's table.

        Raises VariantError when one is not held.
        """
        if names is None or names == "all":
            listed = [v for v in self.spec.variants if v in self.architecture.published]
            return [Variant.parse(v) for v in listed or self.spec.variants]
        listed = names.split(",") if isinstance(names, str) else names
        return [self.spec.variant(name) for name in dict.fromkeys(n.strip() for n in listed)]


@dataclass(frozen=True)
class Untrained:
    """An architecture at a scale, for questions that need no weights. Takes any variant its architecture has."""

    name: str
    architecture: Architecture
    scale: int

    def network(self, variant: Optional[str] = None) -> nn.Module:
        """Return the untrained static network of `variant`, the paper's own size for None. Raises VariantError."""
        return self.architecture.build(self.scale, self.architecture.parse(variant))


def untrained(name: str) -> Optional[Untrained]:
    """Return what a bare name such as `asrn_x3` stands for, None when it is not of that form.

    Raises InputError when the architecture has no such scale.
    """
    match = _BARE_NAME.fullmatch(name)
    if match is None or match.group(1) not in ARCHITECTURES:
        return None
    architecture, scale = ARCHITECTURES[match.group(1)], int(match.group(2))
    if scale not in architecture.scales:
        raise InputError(
            f"{architecture.name} has no scale x{scale}; it has {', '.join(f'x{s}' for s in architecture.scales)}",
            hint=f"write {architecture.name}_x{architecture.scales[-1]}, say",
        )
    return Untrained(name, architecture, scale)


def load_checkpoint(model: Union[str, Path]) -> Checkpoint:
    """Load a checkpoint by its path (the weights or the card) or a shipped one by its name.

    Raises InputError when there is none such, CheckpointError when the file is damaged, is no safetensors file, does
    not match its card, or does not fit its architecture. Nothing in a checkpoint is ever executed.
    """
    path = _checkpoint_path(str(model))
    spec = read_card(path)
    weights = read_safetensors(path)
    if spec.weights_sha256 != sha256_of(path):
        raise CheckpointError(
            f"{path} is not the file its card describes: its SHA-256 differs from the card's weights_sha256",
            hint="fetch the checkpoint again, or import changed weights with: srdeploy import-checkpoint",
        )
    checkpoint = Checkpoint(path.stem, spec, weights, path)
    _check_fits(checkpoint, source=str(path))
    return checkpoint


def save_checkpoint(folder: Path, name: str, spec: ModelSpec, weights: dict) -> Path:
    """Write `name`.safetensors and its card into `folder`, each atomically; return the weights' path."""
    return write_with_card(folder / (name + CHECKPOINT_SUFFIX), spec, weights)


def write_with_card(path: Path, spec: Any, weights: dict) -> Path:
    """Write weights and, beside them, their card (a dataclass with weights_sha256), each atomically; return `path`."""
    with atomic_path(path) as temporary:
        write_safetensors(temporary, weights, named=path)
        digest = sha256_of(temporary)
    write_text(path.with_suffix(".json"), to_json(replace(spec, weights_sha256=digest)))
    return path


def copy_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a loaded checkpoint's two files into `folder`, byte for byte."""
    assert checkpoint.path is not None
    for source in (checkpoint.path, checkpoint.path.with_suffix(".json")):
        with atomic_path(folder / source.name) as temporary:
            temporary.write_bytes(source.read_bytes())


def write_safetensors(path: Path, weights: dict, *, named: Path) -> None:
    """Write a state dict to `path`. Raises InputError, which calls the file `named`, when it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}, str(path))
    except SafetensorError as e:
        raise InputError(f"cannot write {named}: {e}", hint="is the disk full?") from e


def read_safetensors(path: Path) -> dict:
    """Read a safetensors file into name -> Tensor. Raises InputError (missing) or CheckpointError (damaged, other kind)."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as e:
        raise MissingPackageError(
            "safetensors", needed_for="reading a checkpoint", extra="export", cause=e
        ) from e
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        return load_file(str(path))
    except (SafetensorError, ValueError, OSError) as e:
        raise CheckpointError(
            f"{path} is not a whole safetensors file: {e}",
            hint="if it is a PyTorch state dict, bring it in with: srdeploy import-checkpoint ARCH FILE -o DIR",
        ) from e


def check_state_dict(net: nn.Module, weights: dict, *, source: str) -> None:
    """Raise CheckpointError, naming the first of each kind, unless names and shapes are exactly the network's."""
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    missing = [name for name in expected if name not in weights]
    surplus = [name for name in weights if name not in expected]
    shapes = [n for n in expected if n in weights and tuple(weights[n].shape) != expected[n]]
    problems: List[str] = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing, the first is '{missing[0]}'")
    if surplus:
        problems.append(f"{len(surplus)} are unknown, the first is '{surplus[0]}'")
    if shapes:
        name = shapes[0]
        problems.append(
            f"{len(shapes)} have another shape, the first is '{name}': {tuple(weights[name].shape)}, expected {expected[name]}"
        )
    if problems:
        raise CheckpointError(f"{source} does not fit its network: " + "; ".join(problems))


def check_finite(weights: dict, *, source: str) -> None:
    """Raise CheckpointError when a tensor holds an infinity or a not-a-number."""
    bad = next((n for n, v in weights.items() if not v.isfinite().all()), None)
    if bad is not None:
        raise CheckpointError(
            f"{source}: the tensor '{bad}' holds values that are not finite",
            hint="use an earlier checkpoint",
        )


def is_weights(value: Any) -> bool:
    """Tell whether `value` is a flat mapping of names to tensors."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _checkpoint_path(model: str) -> Path:
    known = {p.stem: p for p in shipped_checkpoints()}
    if model in known:
        return known[model]
    path = Path(model)
    if path.suffix == ".json":
        path = path.with_suffix(CHECKPOINT_SUFFIX)
    if path.suffix == CHECKPOINT_SUFFIX or path.is_file():
        if not path.is_file():
            raise InputError(
                f"there is no checkpoint {path}", hint="srdeploy models lists the shipped ones"
            )
        if path.suffix != CHECKPOINT_SUFFIX:
            raise CheckpointError(
                f"{path} is not a checkpoint of ours (a {CHECKPOINT_SUFFIX} file with a JSON card)",
                hint="bring it in with: srdeploy import-checkpoint ARCH FILE -o DIR",
            )
        return path
    if untrained(model) is not None:
        raise InputError(
            f"'{model}' is an architecture; no weights of that name are shipped",
            hint=f"give a checkpoint's path, or one of {', '.join(known) or 'the shipped ones (there are none)'}",
        )
    raise InputError(
        f"there is no model '{model}': neither a file nor one of {', '.join(known) or 'the shipped checkpoints (none)'}",
        hint=did_you_mean(model, known),
    )


def _check_fits(checkpoint: Checkpoint, *, source: str) -> None:
    spec = checkpoint.spec
    try:
        if not spec.variants:
            raise VariantError("the card names no variants")
        largest = spec.variant(None)
        net = checkpoint.architecture.build(spec.scale, largest, spec.config)
        if tuple(spec.value_range) != (0.0, 1.0):
            raise CheckpointError(
                f"its value range is {spec.value_range}; expected 0 to 1",
                hint="import it with --value-range",
            )
        if tuple(spec.min_hw) != checkpoint.architecture.min_hw:
            raise CheckpointError(
                f"its min_hw is {spec.min_hw}; {spec.arch} takes {checkpoint.architecture.min_hw}"
            )
        unknown = set(spec.variants) - set(checkpoint.architecture.points(largest))
        if unknown:
            raise VariantError(f"{largest} cannot be sliced to '{sorted(unknown)[0]}'")
    except SrDeployError as e:
        raise CheckpointError(
            f"the card of {source} is not usable: {e.message}", hint=e.hint
        ) from e
    check_state_dict(net, checkpoint.weights, source=source)
    check_finite(checkpoint.weights, source=source)
