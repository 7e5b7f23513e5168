"""`Variant`, a point of an elastic space, and `ModelSpec`, the card of a checkpoint."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.errors import InputError, VariantError, did_you_mean

_VARIANT = re.compile(r"([a-z])([1-9][0-9]{0,3})((?:-[a-z]+)*)")


@dataclass(frozen=True)
class Variant:
    """A point of an elastic space: `d3` (3 blocks of ASRN), `c16-nla` (core 16 with attention).

    A network without variants has the one variant `WHOLE`, whose text is empty.
    """

    axis: str
    size: int
    tags: Tuple[str, ...] = ()

    @staticmethod
    def parse(text: str) -> Variant:
        """Read `d3`, `c16-nla` or an empty text. Raises VariantError for anything else."""
        if not text:
            return WHOLE
        match = _VARIANT.fullmatch(text)
        if match is None:
            raise VariantError(
                f"'{text}' is not a variant; "
                "expected a letter and a size, for example d3, c8, c16-nla or b4"
            )
        axis, size, tags = match.groups()
        return Variant(axis, int(size), tuple(tags.split("-")[1:]))

    def __str__(self) -> str:
        return "-".join((f"{self.axis}{self.size}",) + self.tags) if self.axis else ""


WHOLE = Variant("", 0)
"""The only variant of a network without variants."""


def listed_variants(names: Union[str, Sequence[str], None]) -> Optional[List[str]]:
    """Return the variants of a list or of a comma-separated text; None for None or `all`."""
    if names is None or names == "all":
        return None
    names = names.split(",") if isinstance(names, str) else names
    return list(dict.fromkeys(name.strip() for name in names))


def named_by_scale(stem: str, scale: int) -> str:
    """Return the name of a network after a file or a class, such as `net_x4`."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "network"
    return stem if stem.endswith(f"_x{scale}") else f"{stem}_x{scale}"


def network_name(model: str, variant: object) -> str:
    """Return MODEL.VARIANT, or MODEL for a network without variants."""
    return f"{model}.{variant}" if str(variant) else model


@dataclass(frozen=True)
class ModelSpec:
    """The card of a checkpoint, stored as JSON beside its safetensors file."""

    arch: str
    scale: int
    variants: Tuple[str, ...]
    """The variants that can be sliced from the weights, smallest first."""
    config: Dict[str, Any] = field(default_factory=dict)
    """Constructor arguments of the network other than scale and variant."""
    min_hw: Tuple[int, int] = (1, 1)
    """The smallest legal LR input, (h, w) in pixels."""
    multiple: int = 1
    """The network takes LR sides that are multiples of this; sessions mirror others up."""
    halo_px: Optional[int] = None
    """Of a network whose architecture does not tell its receptive field: as measured."""
    align_px: int = 1
    """`halo_px` holds for tiles that start and end on multiples of this."""
    value_range: Tuple[float, float] = (0.0, 1.0)
    degradation: str = "bi"
    """How the LR images are made that it is trained for, as in `core/degradation.py`."""
    licence: str = ""
    trained_on: str = ""
    training: Dict[str, Any] = field(default_factory=dict)
    """Recipe, steps, patch and batch sizes, hours and machine, recorded by the trainer."""
    notes: str = ""
    weights_sha256: str = ""

    @property
    def digest(self) -> str:
        """A short checksum of architecture, scale and configuration, without the weights."""
        text = json.dumps([self.arch, self.scale, self.config], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def variant(self, text: Optional[str]) -> Variant:
        """Return a variant; None: the largest. Raises VariantError if the checkpoint lacks it."""
        if text is None:
            return Variant.parse(self.variants[-1])
        variant = Variant.parse(text)
        if str(variant) not in self.variants:
            raise VariantError(
                f"this {self.arch}_x{self.scale} checkpoint has no variant '{text}'; "
                f"it has {', '.join(self.variants)}",
                hint=did_you_mean(text, self.variants),
            )
        return variant

    def check_input(self, hw: Sequence[int]) -> None:
        """Raise InputError if an LR input of (h, w) pixels is too small for the network."""
        check_min_hw(hw, self.min_hw, what=f"{self.arch}_x{self.scale}")


def check_min_hw(hw: Sequence[int], min_hw: Sequence[int], *, what: str) -> None:
    """Raise InputError if (h, w) is below `min_hw`. what: the network, for the message."""
    if hw[0] < min_hw[0] or hw[1] < min_hw[1]:
        raise InputError(
            f"an input of {hw[0]}x{hw[1]} pixels is too small for {what}: "
            f"the smallest is {min_hw[0]}x{min_hw[1]}",
            hint=f"give at least {min_hw[0]}x{min_hw[1]} (height x width)",
        )


def check_desired_depth(depth: float, blocks: int) -> None:
    """Raise VariantError unless a desired depth is within a backbone of `blocks` blocks."""
    if not 0 <= depth <= blocks:  # also for NaN
        raise VariantError(
            f"desired depth {depth:g}; expected 0 to {blocks}, the blocks of the backbone",
            hint=f"give a depth from 0 to {blocks}",
        )
