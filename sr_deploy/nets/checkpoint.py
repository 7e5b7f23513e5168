"""Checkpoints: safetensors weights with a JSON card next to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, manual_seed, nn
from torch.random import fork_rng

from sr_deploy.core.errors import CheckpointError, InputError, SrDeployError, VariantError
from sr_deploy.core.files import atomic_path, sha256_of, write_text
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.shipped import CHECKPOINT_SUFFIX, INT8_RANGE, read_card
from sr_deploy.core.spec import ModelSpec, Variant, listed_variants
from sr_deploy.nets import ARCHITECTURES, FROM_WEIGHTS
from sr_deploy.nets.architecture import Architecture
from sr_deploy.nets.checkpoint_names import architecture_and_scale, checkpoint_path
from sr_deploy.nets.safetensors_reader import tensors_from_bytes

InputRanges = Mapping[str, Tuple[float, float]]
"""Ranges (low, high) of the inputs of convolutions, by their names in the fused network."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights with their card. `name` is the file's stem and begins the name of every artifact."""

    name: str
    spec: ModelSpec
    weights: Dict[str, Tensor]
    path: Optional[Path] = None
    ranges: Mapping[str, InputRanges] = field(default_factory=dict)
    """Of a checkpoint trained for INT8, by variant; see `fuse_network` for the fused network."""

    def __repr__(self) -> str:
        variants = "..".join(dict.fromkeys(self.spec.variants[:1] + self.spec.variants[-1:]))
        return f"<Checkpoint {self.name} {self.spec.arch} x{self.spec.scale} {variants}>"

    @property
    def architecture(self) -> Architecture:
        arch = self.spec.arch
        return FROM_WEIGHTS[arch] if arch in FROM_WEIGHTS else ARCHITECTURES[arch]

    def network(self, variant: Optional[str] = None) -> nn.Module:
        """Return the static network of `variant` (None: the largest) in eval mode.

        It has its own copy of the weights. Raises VariantError for an unknown variant.
        """
        target = self.spec.variant(variant)
        if self.architecture.from_weights is not None:
            return self.architecture.from_weights(self.weights, self.spec)
        net = self.architecture.build(self.spec.scale, target, self.spec.config)
        weights = self.architecture.slice(self.weights, self.spec.variant(None), target)
        net.load_state_dict({name: value.clone() for name, value in weights.items()})
        return net

    def halo_px(self, variant: Variant) -> Optional[int]:
        """Return the receptive field's radius: the architecture's, else as measured."""
        known = self.architecture.halo_px(variant)
        return self.spec.halo_px if known is None else known

    def align_px(self, variant: Variant) -> int:
        """Return the multiple on which tile edges must lie for `halo_px` to hold."""
        return math.lcm(self.architecture.align_px(variant), self.spec.align_px)

    def variants(self, names: Union[str, Sequence[str], None]) -> List[Variant]:
        """Return the variants of a list, or of a comma-separated one.

        `all`, or None, means those of the paper's table. Raises VariantError for an unknown one.
        """
        listed = listed_variants(names)
        if listed is None:
            published = [v for v in self.spec.variants if v in self.architecture.published]
            return [Variant.parse(v) for v in published or self.spec.variants]
        return [self.spec.variant(name) for name in listed]


@dataclass(frozen=True)
class UntrainedModel:
    """An architecture at a scale, without weights, in all variants of the architecture."""

    name: str
    architecture: Architecture
    scale: int

    def network(
        self, variant: Optional[str] = None, config: Optional[Dict[str, Any]] = None
    ) -> nn.Module:
        """Return the untrained static network of `variant` (None: the size in the paper).

        config: where it differs from the architecture's default. Raises VariantError.
        """
        return self.architecture.build(self.scale, self.architecture.parse(variant), config)

    def checkpoint(self) -> Checkpoint:
        """Return a checkpoint of the size in the paper with random weights, always the same."""
        largest = self.architecture.parse(None)
        with fork_rng(devices=[]):
            manual_seed(0)
            weights = self.architecture.build(self.scale, largest).state_dict()
        return Checkpoint(
            self.name, self.architecture.spec(self.scale, largest, elastic=True), weights
        )


def parse_untrained(name: str) -> Optional[UntrainedModel]:
    """Parse a bare name such as `asrn_x3`; return None if `name` is not of that kind.

    Raises InputError when the architecture does not have the scale.
    """
    match = architecture_and_scale(name)
    if match is None:
        return None
    architecture, scale = ARCHITECTURES[match[0]], match[1]
    architecture.check_scale(scale)
    return UntrainedModel(name, architecture, scale)


def load_checkpoint(model: Union[str, Path]) -> Checkpoint:
    """Load a checkpoint by its path (of the weights or the card), or a shipped one by its name.

    >>> checkpoint = sr_deploy.load_checkpoint("asrn_x4")
    >>> checkpoint.spec.variants
    ('d1', 'd2', 'd3', 'd4', 'd5')
    >>> net = checkpoint.network("d3")  # a torch module with its own weights only
    >>> sum(weight.numel() for weight in net.parameters())
    165251

    No code in a file is executed. Raises InputError when there is no such checkpoint,
    CheckpointError when the file is damaged, of another format, or does not match its card or its
    architecture.
    """
    try:
        path = checkpoint_path(str(model))
    except InputError:
        parse_untrained(str(model))  # says so if the architecture does not have the scale
        raise
    spec = read_card(path)
    tensors = read_safetensors(path)
    check_digest(path, spec.weights_sha256)
    weights = {k: v for k, v in tensors.items() if not k.startswith(INT8_RANGE)}
    ranges = _read_ranges(tensors, spec.variants, source=str(path))
    checkpoint = Checkpoint(path.stem, spec, weights, path, ranges)
    _check_card(checkpoint, source=str(path))
    return checkpoint


def save_checkpoint(
    folder: Path,
    name: str,
    spec: ModelSpec,
    weights: dict,
    ranges: Mapping[str, InputRanges] = MappingProxyType({}),
) -> Path:
    """Write `name`.safetensors and its card to `folder`; return the path of the weights."""
    learnt = {
        f"{INT8_RANGE}{variant}.{layer}": torch.tensor(bounds)
        for variant, layers in ranges.items()
        for layer, bounds in layers.items()
    }
    return write_with_card(folder / (name + CHECKPOINT_SUFFIX), spec, {**weights, **learnt})


def write_with_card(path: Path, spec: Any, weights: dict) -> Path:
    """Write weights and their card (a dataclass with weights_sha256), each atomically.

    Raises InputError when the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, str(temporary))
        except SafetensorError as e:
            hint = "check that the disk is not full"
            raise InputError(f"cannot write {path}: {e}", hint=hint) from e
        digest = sha256_of(temporary)
    write_text(path.with_suffix(".json"), to_json(replace(spec, weights_sha256=digest)))
    return path


def copy_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy the two files of a loaded checkpoint to `folder`, byte for byte."""
    assert checkpoint.path is not None
    for source in (checkpoint.path, checkpoint.path.with_suffix(".json")):
        with atomic_path(folder / source.name) as temporary:
            temporary.write_bytes(source.read_bytes())


def read_safetensors(path: Path) -> Dict[str, Tensor]:
    """Read a safetensors file. Raises InputError (missing) or CheckpointError (cannot be read)."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        return tensors_from_bytes(path.read_bytes())
    except (ValueError, OSError) as e:
        raise CheckpointError(
            f"{path} is not a valid safetensors file: {e}",
            hint="import a PyTorch state dict with: srdeploy import-checkpoint FILE -o DIR",
        ) from e


def _read_ranges(
    tensors: Mapping[str, Tensor], variants: Sequence[str], *, source: str
) -> Dict[str, Dict[str, Tuple[float, float]]]:
    """Return the ranges among a checkpoint's tensors. Raises CheckpointError for unusable ones."""
    ranges: Dict[str, Dict[str, Tuple[float, float]]] = {}
    for name, value in tensors.items():
        if not name.startswith(INT8_RANGE):
            continue
        variant, _, layer = name[len(INT8_RANGE) :].partition(".")
        low, high = value.tolist() if value.shape == (2,) else (math.nan, math.nan)
        if variant not in variants or not -math.inf < low <= 0 < high < math.inf:
            raise CheckpointError(
                f"{source}: '{name}' is not the range of a layer's input; expected two numbers, "
                f"at most 0 and above 0, of one of {', '.join(variants)}",
                hint="train it again with the recipe int8, or use the checkpoint it began with",
            )
        ranges.setdefault(variant, {})[layer] = (low, high)
    return ranges


def check_digest(path: Path, sha256: str) -> None:
    """Raise CheckpointError unless a file has the SHA-256 on its card."""
    if sha256 != sha256_of(path):
        raise CheckpointError(
            f"{path} does not match its card: its SHA-256 differs from weights_sha256",
            hint="download it again; import modified weights with: srdeploy import-checkpoint",
        )


def check_state_dict(net: nn.Module, weights: dict, *, source: str) -> None:
    """Raise CheckpointError unless names and shapes are exactly the network's.

    The error names the first problem of each kind.
    """
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    shapes = [n for n in expected if n in weights and tuple(weights[n].shape) != expected[n]]
    problems: List[str] = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing, the first is '{missing[0]}'")
    if unknown:
        problems.append(f"{len(unknown)} tensors are unknown, the first is '{unknown[0]}'")
    if shapes:
        name = shapes[0]
        problems.append(
            f"{len(shapes)} tensors have the wrong shape, the first is '{name}': "
            f"{tuple(weights[name].shape)}, expected {expected[name]}"
        )
    if problems:
        raise CheckpointError(f"{source} does not fit its network: {'; '.join(problems)}")


def check_finite(weights: dict, *, source: str) -> None:
    """Raise CheckpointError when a tensor contains an infinity or a NaN."""
    for name, value in weights.items():
        if not value.isfinite().all():
            raise CheckpointError(
                f"{source}: the tensor '{name}' contains values that are not finite",
                hint="use an earlier checkpoint",
            )


def _check_card(checkpoint: Checkpoint, *, source: str) -> None:
    """Raise CheckpointError unless card, architecture and weights agree."""
    spec = checkpoint.spec
    try:
        architecture = checkpoint.architecture
        if not spec.variants:
            raise VariantError("it names no variants")
        if tuple(spec.value_range) != (0.0, 1.0):
            raise CheckpointError(
                f"its value_range is {spec.value_range}; expected 0 to 1",
                hint="import the weights again with --value-range",
            )
        if architecture.from_weights is not None:
            architecture.from_weights(checkpoint.weights, spec)
        else:
            net = _network_of_card(architecture, spec)
    except SrDeployError as e:
        raise CheckpointError(f"the card of {source} is not valid: {e.message}", hint=e.hint) from e
    if architecture.from_weights is None:
        check_state_dict(net, checkpoint.weights, source=source)
    check_finite(checkpoint.weights, source=source)


def _network_of_card(architecture: Architecture, spec: ModelSpec) -> nn.Module:
    """Return the untrained network of the largest variant. Raises SrDeployError for a bad card."""
    largest = spec.variant(None)
    net = architecture.build(spec.scale, largest, spec.config)
    if tuple(spec.min_hw) != architecture.min_hw:
        raise CheckpointError(f"its min_hw is {spec.min_hw}; expected {architecture.min_hw}")
    for variant in sorted(set(spec.variants) - set(architecture.points(largest))):
        raise VariantError(f"{largest} cannot be sliced to '{variant}'")
    return net
