"""The interface between a network's file and the rest of the package: building and slicing it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError, InputError, VariantError, did_you_mean
from sr_deploy.core.spec import ModelSpec, Variant

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """An architecture: its variants, how to build them, and how to slice weights to them.

    By default a checkpoint holds a single variant. Elastic architectures define `slice` and
    `points`.
    """

    name: str
    default_variant: str
    """The size in the paper, which the bare name stands for."""
    network: Callable[..., nn.Module]
    """`network(scale=4, variant=Variant, **config)` returns the untrained static network."""
    check: Callable[[Variant], None]
    """Raise VariantError unless the architecture has this variant."""
    size_of: Callable[[Weights], Variant]
    """Return the variant of a bare state dict, from its names and shapes."""
    slice: Callable[[Weights, Variant, Variant], dict] = lambda weights, *variants: dict(weights)
    """`slice(weights, source, target)` cuts the weights of `target` out of those of `source`.

    It is differentiable.
    """
    points: Callable[[Variant], Tuple[str, ...]] = lambda largest: (str(largest),)
    """Return all variants that elastic weights of `largest` can be sliced to, smallest first."""
    scales: Tuple[int, ...] = (2, 3, 4)
    config_of: Callable[[Weights], dict] = lambda weights: {}
    """Return the configuration of a bare state dict, as far as its names and shapes show it."""
    published: Tuple[str, ...] = ()
    """The points in the paper's table, which `--variants all` means; empty: all points."""
    config: Mapping[str, object] = field(default_factory=dict)
    """Further constructor arguments and their defaults."""
    structure: Callable[[Variant], str] = str
    """Return the same text for variants that differ only in the number of equal layers."""
    from_weights: Optional[Callable[[Weights, ModelSpec], nn.Module]] = None
    """Return the network of a checkpoint with its weights, where no constructor arguments make it.

    Raises CheckpointError unless card and weights agree.
    """
    backbone: str = ""
    """The architecture whose checkpoints can initialise this one, which adds an adapter."""
    min_hw: Tuple[int, int] = (1, 1)
    halo_px: Callable[[Variant], Optional[int]] = lambda variant: None
    """Return the receptive field's radius in LR pixels; None: the network sees the whole image.

    That far from the edge of a tile, the output equals that of the whole image.
    """
    align_px: Callable[[Variant], int] = lambda variant: 1
    """Return the multiple that tile edges inside the image must lie on for `halo_px` to hold."""

    def parse(self, text: Optional[str]) -> Variant:
        """Parse a variant of this architecture; None is the default. Raises VariantError."""
        variant = Variant.parse(self.default_variant if text is None else text)
        self.check(variant)
        return variant

    def check_scale(self, scale: int) -> None:
        """Raise InputError unless the architecture has this scale."""
        if scale not in self.scales:
            raise InputError(
                f"{self.name} does not support scale x{scale}; expected one of "
                f"{', '.join(f'x{s}' for s in self.scales)}",
                hint=f"for example {self.name}_x{self.scales[-1]}",
            )

    def build(
        self, scale: int, variant: Variant, config: Optional[Mapping[str, object]] = None
    ) -> nn.Module:
        """Return the untrained static network, in eval mode.

        Raises InputError, VariantError, or CheckpointError for a bad configuration.
        """
        self.check_scale(scale)
        self.check(variant)
        for key in sorted(set(config or {}) - set(self.config)):
            raise CheckpointError(
                f"unknown configuration key '{key}' of {self.name}; "
                f"expected {', '.join(self.config) or 'none'}"
            )
        return self.network(
            scale=scale, variant=variant, **{**self.config, **(config or {})}
        ).eval()

    def spec(self, scale: int, variant: Variant, *, elastic: bool, **card: object) -> ModelSpec:
        """Return the card of weights of this architecture.

        elastic: the weights can be sliced to every point up to `variant`.
        """
        variants = self.points(variant) if elastic else (str(variant),)
        return ModelSpec(arch=self.name, scale=scale, variants=variants, min_hw=self.min_hw, **card)  # type: ignore[arg-type]


def width_architecture(
    name: str,
    network: Callable[..., nn.Module],
    *,
    default: int,
    bias: str = "head.bias",
    smallest: int = 1,
    multiple: int = 1,
    halo_px: Optional[int] = None,
    min_hw: Tuple[int, int] = (1, 1),
) -> Architecture:
    """Return the Architecture of a network whose widths are trained separately.

    network: takes `scale`, `width`, and the configuration if there is one. bias: the tensor that
    has `width` elements.
    """

    def check(variant: Variant) -> None:
        check_axis(variant, f"w{default}")
        if not smallest <= variant.size <= 1024 or variant.size % multiple:
            step = f" and divisible by {multiple}" if multiple > 1 else ""
            raise VariantError(
                f"the width of {name} must be between {smallest} and 1024{step}, got {variant.size}"
            )

    return Architecture(
        name=name,
        default_variant=f"w{default}",
        network=lambda *, scale, variant, **config: network(
            scale=scale, width=variant.size, **config
        ),
        check=check,
        size_of=lambda weights: Variant(
            "w", weights[bias].shape[0] if bias in weights else default
        ),
        halo_px=lambda variant: halo_px,
        min_hw=min_hw,
    )


def check_axis(variant: Variant, example: str, *tags: str) -> None:
    """Raise VariantError unless `variant` has the axis of `example`, and each tag once at most."""
    unknown = set(variant.tags) - set(tags)
    if variant.axis != example[0] or unknown or len(variant.tags) != len(set(variant.tags)):
        raise VariantError(
            f"'{variant}' is not a variant of this architecture; expected for example {example}",
            hint=did_you_mean(str(variant), [example]),
        )


def check_config_int(owner: str, key: str, value: object, smallest: int = 1) -> None:
    """Raise CheckpointError unless a configuration value is an integer of a possible size."""
    if not isinstance(value, int) or not smallest <= value <= 1024:
        raise CheckpointError(
            f"{owner}: '{key}' must be an integer from {smallest} to 1024, got {value!r}"
        )


def all_sizes(largest: Variant) -> Tuple[str, ...]:
    """Return the variants of every size from 1 to that of `largest`."""
    return tuple(f"{largest.axis}{n}" for n in range(1, largest.size + 1))


def slice_blocks(prefix: str) -> Callable[[Weights, Variant, Variant], dict]:
    """Return the `slice` of a network whose variants share everything but the number of blocks."""

    def slice(weights: Weights, source: Variant, target: Variant) -> dict:
        dropped = tuple(f"{prefix}.{i}." for i in range(target.size, source.size))
        return {name: value for name, value in weights.items() if not name.startswith(dropped)}

    return slice


def count_blocks(weights: Weights, prefix: str) -> int:
    """Return the number of blocks under `prefix.0.`, `prefix.1.`, ...; at least 1."""
    start = prefix + "."
    blocks = {name[len(start) :].partition(".")[0] for name in weights if name.startswith(start)}
    return max(len(blocks), 1)


class ElasticNetwork(nn.Module):
    """A super-network: the weights of the largest variant, run as any variant by slices of them.

    The slices are differentiable.
    """

    def __init__(
        self,
        architecture: Architecture,
        scale: int,
        largest: Variant,
        config: Optional[dict] = None,
    ) -> None:
        super().__init__()
        self.architecture, self.largest = architecture, largest
        self.net = architecture.build(scale, largest, config)
        self._scale, self._config = scale, config
        self._static: Dict[str, nn.Module] = {}  # a dict, so not submodules

    def forward(self, x: Tensor, variant: str) -> Tensor:
        """Upscale x, (N, 3, H, W) float 0..1 RGB, by `variant` to (N, 3, scale*H, scale*W)."""
        point = Variant.parse(variant)
        if variant not in self._static:  # only the structure: the weights are slices of self.net's
            with torch.device("meta"):
                self._static[variant] = self.architecture.build(self._scale, point, self._config)
        weights = {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}
        weights = self.architecture.slice(weights, self.largest, point)
        return torch.func.functional_call(self._static[variant], weights, (x,))
