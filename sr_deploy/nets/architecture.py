"""What a network file tells the rest of the toolkit: how to build it, and how to slice its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError, InputError, VariantError, did_you_mean
from sr_deploy.core.spec import ModelSpec, Variant

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """One elastic architecture. Adding a network is one file that defines this, and one line in `nets/__init__.py`."""

    name: str
    scales: Tuple[int, ...]
    default_variant: str
    """The paper's own size, and what the bare name stands for."""
    network: Callable[..., nn.Module]
    """`network(scale=4, variant=Variant, **config)`: the static network of one variant, untrained."""
    check: Callable[[Variant], None]
    """Raise VariantError when no network of this architecture has that variant."""
    slice: Callable[[Weights, Variant, Variant], dict]
    """`slice(weights, held, wanted)`: the weights of `wanted` cut out of those of `held`; differentiable."""
    points: Callable[[Variant], Tuple[str, ...]]
    """All variants that elastic weights of this largest variant can be sliced into, smallest first."""
    size_of: Callable[[Weights], Variant]
    """The variant a bare state dict was made for, read from its keys and shapes."""
    config_of: Callable[[Weights], dict] = lambda weights: {}
    """The configuration a bare state dict was made for, where its shapes tell."""
    published: Tuple[str, ...] = ()
    """The points `--variants all` means, where the paper's table names fewer than `points`; empty: all of them."""
    config: Mapping[str, object] = field(default_factory=dict)
    """Further constructor arguments with their defaults."""
    structure: Callable[[Variant], str] = str
    """The same for variants that have the same layers, more or fewer of them."""
    backbone: str = ""
    """The architecture whose checkpoints can start this one, which adds an adapter; empty: none."""
    min_hw: Tuple[int, int] = (1, 1)
    halo_px: Callable[[Variant], Optional[int]] = lambda variant: None
    """How far from an edge of a tile, in LR pixels, its outputs are those of the whole image; None: nowhere."""
    align_px: Callable[[Variant], int] = lambda variant: 1
    """That holds for tiles that start and end on multiples of this, or at the image's border."""

    def parse(self, text: Optional[str]) -> Variant:
        """Return the variant `text` of this architecture, its default for None. Raises VariantError."""
        variant = Variant.parse(self.default_variant if text is None else text)
        self.check(variant)
        return variant

    def build(
        self, scale: int, variant: Variant, config: Optional[Mapping[str, object]] = None
    ) -> nn.Module:
        """Return the untrained static network, in eval mode. Raises InputError or VariantError."""
        if scale not in self.scales:
            raise InputError(
                f"{self.name} has no scale x{scale}; it has {', '.join(f'x{s}' for s in self.scales)}",
                hint=f"write {self.name}_x{self.scales[-1]}, say",
            )
        self.check(variant)
        unknown = set(config or {}) - set(self.config)
        if unknown:
            raise CheckpointError(
                f"{self.name} has no configuration key '{sorted(unknown)[0]}'; it has {', '.join(self.config) or 'none'}"
            )
        network = self.network(scale=scale, variant=variant, **{**self.config, **(config or {})})
        return network.eval()

    def spec(self, scale: int, variant: Variant, *, elastic: bool, **card: object) -> ModelSpec:
        """Return the card of weights of this architecture; `elastic` weights hold every point up to `variant`."""
        variants = self.points(variant) if elastic else (str(variant),)
        return ModelSpec(arch=self.name, scale=scale, variants=variants, min_hw=self.min_hw, **card)  # type: ignore[arg-type]


def check_axis(variant: Variant, axis: str, example: str, tags: Tuple[str, ...] = ()) -> None:
    """Raise VariantError unless `variant` is a point of that axis with no other tags than `tags`."""
    if (
        variant.axis != axis
        or not set(variant.tags) <= set(tags)
        or len(variant.tags) != len(set(variant.tags))
    ):
        raise VariantError(
            f"'{variant}' is not a variant of this architecture; expected one such as {example}",
            hint=did_you_mean(str(variant), [example]),
        )


def blocks_in(weights: Weights, prefix: str) -> int:
    """Return how many blocks a state dict has under `prefix.0.`, `prefix.1.` and so on; at least one."""
    found = {
        name[len(prefix) + 1 :].partition(".")[0]
        for name in weights
        if name.startswith(prefix + ".")
    }
    return max(len(found), 1)


class Elastic(nn.Module):
    """A super-network: the largest variant's weights, run at any point of its space through differentiable slices."""

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
        with torch.device(
            "meta"
        ):  # the structure of each point; its weights are always slices of self.net's
            points = {
                p: architecture.build(scale, Variant.parse(p), config)
                for p in architecture.points(largest)
            }
        self._static = (
            points  # a plain dict: these hold no weights of their own, so they are no submodules
        )

    def forward(self, x: Tensor, variant: str) -> Tensor:
        """Upscale x: (N, 3, H, W) float, 0..1, RGB, with the network sliced to `variant`, to (N, 3, sH, sW)."""
        held = {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}
        weights = self.architecture.slice(held, self.largest, Variant.parse(variant))
        return torch.func.functional_call(self._static[variant], weights, (x,))
