"""`Source`, what is exported: it gives an FP32 graph of each variant, and what it is checked by.

A checkpoint, a graph of anyone's and a module of one's own are sources, one file each. All that
follows the FP32 graph, from half precision to the manifest, is common to them: see `pipeline.py`.
"""

from __future__ import annotations

import abc
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import onnx
from torch import nn

from sr_deploy.core.registry import Registry
from sr_deploy.core.run_options import CPU_RUN
from sr_deploy.core.sizes import HW, Sizes, up_to_multiple
from sr_deploy.core.spec import WHOLE, Variant
from sr_deploy.core.target import TargetProfile
from sr_deploy.export.forms import PLAIN, apply_form, default_form, list_forms
from sr_deploy.export.graph import graph_from_network, ranges_of_nodes
from sr_deploy.nets.checkpoint import InputRanges
from sr_deploy.nets.complexity import COUNTERS, NTIRE_HW, count, count_record
from sr_deploy.runtime.torch_device import torch_device
from sr_deploy.runtime.torch_module import array_function

SOURCES = Registry(
    "kind of source",
    {
        "artifact": "sr_deploy.export.graph_source:GraphSource",
        "code": "sr_deploy.export.code_source:CodeSource",
        "checkpoint": "sr_deploy.export.checkpoint_source:CheckpointSource",
    },
)
"""By the kind of network that a text names (`runtime/opener`). Each is a file and a line here."""


DEFAULT_SIZE = "256x512"


@dataclass(frozen=True)
class SourceFacts:
    """What a manifest says of a variant, beside its graph; fields as in `Manifest`."""

    arch: str
    structure: str
    halo_px: Optional[int] = None
    align_px: int = 1
    multiple: int = 1
    min_px: Tuple[int, int] = (1, 1)
    degradation: str = "bi"
    quantised: str = ""
    """Precision of a network that is quantised, such as `int8`; its FP32 graph stays so."""


@dataclass(frozen=True)
class SourceGraph:
    """A variant as an FP32 graph: `lr`, (1, 3, H, W) RGB in 0..1, to `sr`, (1, 3, sH, sW)."""

    model: onnx.ModelProto
    reference: Callable[[np.ndarray], np.ndarray]
    """What the graph must compute: of the network as it was given, before any rewrite."""
    rewrites: List[Dict[str, object]]
    """Reports of the exact rewrites."""
    counts: Dict[str, Any]
    """As in `Manifest.counts`."""
    learnt_ranges: Dict[str, Tuple[float, float]] = field(default_factory=dict)
    """Of a network trained for INT8: (low, high) of the input of convolutions, by node name."""


class Source(abc.ABC):
    """A network to export, in one or several variants."""

    name: str
    """Begins the name of every artifact."""
    text: str
    """Names it in commands."""
    scale: int
    min_hw: Tuple[int, int]
    parent_sha256: str
    digest: str = ""
    """A checksum of what else decides the graph, such as the card."""
    reference_name: str = "torch"
    """What computes `SourceGraph.reference`, for messages."""
    check_name: str = "onnxruntime_vs_torch"
    """The name in manifests of the comparison with it."""

    @property
    def command(self) -> str:
        """The beginning of the command that exports it."""
        return f"srdeploy export {self.text}"

    @classmethod
    @abc.abstractmethod
    def from_text(cls, text: str) -> Source:
        """Return the source that a text without a variant names. Raises SrDeployErrors."""

    def variants(self, names: Union[str, Sequence[str], None]) -> List[Variant]:
        """Return the variants of a list, or of a comma-separated one; `all` or None: all.

        Raises VariantError for an unknown one.
        """
        return [WHOLE]

    @abc.abstractmethod
    def facts(self, variant: Variant) -> SourceFacts:
        """Return what is known of a variant."""

    def default_sizes(self, target: Optional[TargetProfile]) -> Sequence[str]:
        """Return the LR sizes to export where none are given: those of the target."""
        return target.shapes if target else (DEFAULT_SIZE,)

    def crop_hw(self, variant: Variant, asked: HW) -> HW:
        """Return the size of LR crops that the variant can take, `asked` or the next larger one."""
        facts = self.facts(variant)
        least = (max(asked[0], facts.min_px[0]), max(asked[1], facts.min_px[1]))
        return up_to_multiple(least, facts.multiple)

    def input_ranges(self, variant: Variant) -> InputRanges:
        """Return the ranges that training for INT8 learnt."""
        return {}

    def opset(self, asked: int) -> int:
        """Return the opset of the graphs, `asked` at most."""
        return asked

    def candidates(self, variant: Variant) -> List[str]:
        """Return the forms in which the variant can be exported for autotuning."""
        return [PLAIN]

    def default_form(
        self, variant: Variant, target: Optional[TargetProfile], precision: str
    ) -> str:
        """Return the form that a target prefers for engines of a precision."""
        return PLAIN

    @abc.abstractmethod
    def graph(self, variant: Variant, sizes: Sizes, form: str, opset: int) -> SourceGraph:
        """Return the graph of a variant in a form. Raises ExportError."""


class TorchSource(Source):
    """A source whose variants are torch modules."""

    @abc.abstractmethod
    def network(self, variant: Variant) -> nn.Module:
        """Return the static network of a variant, in eval mode."""

    def candidates(self, variant: Variant) -> List[str]:
        return list_forms(self.network(variant))

    def default_form(
        self, variant: Variant, target: Optional[TargetProfile], precision: str
    ) -> str:
        return default_form(target, self.facts(variant).arch, str(variant), precision)

    def graph(self, variant: Variant, sizes: Sizes, form: str, opset: int) -> SourceGraph:
        net = self.network(variant)
        deployed, rewrites = apply_form(net, form)
        multiple = self.facts(variant).multiple
        model = graph_from_network(deployed, sizes, opset=opset, multiple=multiple)
        return SourceGraph(
            model,
            array_function(net, torch_device(CPU_RUN)),
            rewrites,
            counts_of(net, deployed, multiple),
            ranges_of_nodes(model, self.input_ranges(variant)),
        )


def counts_of(trained: nn.Module, deployed: nn.Module, multiple: int = 1) -> Dict[str, Any]:
    """Return a manifest's counts of both networks by both counters.

    multiple: of the sides that they take.
    """
    hw = up_to_multiple(NTIRE_HW, multiple)
    deployed_counts = {c: asdict(count(deployed, hw, counter=c)) for c in COUNTERS}
    return {**count_record(trained, hw), "deployed": deployed_counts}
