"""Checkpoints as sources of graphs."""

from __future__ import annotations

from typing import List, Sequence, Union

from torch import nn

from sr_deploy.core.spec import Variant
from sr_deploy.export.source import SourceFacts, TorchSource
from sr_deploy.nets.checkpoint import Checkpoint, InputRanges, load_checkpoint


class CheckpointSource(TorchSource):
    """A checkpoint, sliced into its variants."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        spec = checkpoint.spec
        self.checkpoint = checkpoint
        self.name = self.text = checkpoint.name
        self.scale, self.min_hw = spec.scale, spec.min_hw
        self.parent_sha256, self.digest = spec.weights_sha256, spec.digest

    @classmethod
    def from_text(cls, text: str) -> CheckpointSource:
        return cls(load_checkpoint(text))

    def variants(self, names: Union[str, Sequence[str], None]) -> List[Variant]:
        return self.checkpoint.variants(names)

    def facts(self, variant: Variant) -> SourceFacts:
        architecture, spec = self.checkpoint.architecture, self.checkpoint.spec
        return SourceFacts(
            arch=architecture.name,
            structure=architecture.structure(variant),
            halo_px=self.checkpoint.halo_px(variant),
            align_px=self.checkpoint.align_px(variant),
            multiple=spec.multiple,
            min_px=spec.min_hw,
            degradation=spec.degradation,
        )

    def network(self, variant: Variant) -> nn.Module:
        return self.checkpoint.network(str(variant))

    def input_ranges(self, variant: Variant) -> InputRanges:
        return self.checkpoint.ranges.get(str(variant), {})
