"""A user's own code, and torch modules of a program, as sources of graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List, Optional, Sequence, Union

from torch import nn

from sr_deploy.core.network_code import parse_code
from sr_deploy.core.spec import Variant
from sr_deploy.export.pipeline import ExportOptions, onnx_from_source
from sr_deploy.export.source import SourceFacts, TorchSource
from sr_deploy.nets.code import CodeNetwork, load_code, network_from_module
from sr_deploy.runtime.module_probe import network_field, network_fit


class CodeSource(TorchSource):
    """A network made by code. Its scale, sizes and receptive field are measured."""

    def __init__(self, network: CodeNetwork) -> None:
        fit = network_fit(network, network.variants[-1])
        self.code_network, self.text = network, str(network.code)
        self.scale, self.name = fit.scale, network.name(fit.scale)
        self.min_hw = (fit.sizes.min_hw[0], fit.sizes.min_hw[1])
        self.parent_sha256, self.digest = network.weights_sha256, network.source_sha256[:12]

    @classmethod
    def from_text(cls, text: str) -> CodeSource:
        return cls(load_code(parse_code(text)[0]))

    def variants(self, names: Union[str, Sequence[str], None]) -> List[Variant]:
        return [Variant.parse(name) for name in self.code_network.chosen(names)]

    def facts(self, variant: Variant) -> SourceFacts:
        fit = network_fit(self.code_network, str(variant))
        field = network_field(self.code_network, str(variant))
        return SourceFacts(
            arch=self.code_network.code.attribute,
            structure=str(variant),
            halo_px=field.halo_px,
            align_px=field.align_px,
            multiple=fit.sizes.multiple,
            min_px=(fit.sizes.min_hw[0], fit.sizes.min_hw[1]),
        )

    def network(self, variant: Variant) -> nn.Module:
        return self.code_network.network(str(variant))


class ModuleSource(CodeSource):
    """A torch module of the calling program."""

    @property
    def command(self) -> str:
        return f"sr_deploy.onnx_from_module({self.code_network.code.attribute})"


def onnx_from_module(
    module: nn.Module,
    output: Union[str, Path],
    options: Optional[ExportOptions] = None,
    *,
    scale: Optional[int] = None,
    name: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Export a torch module to `output`; return the paths of the graphs.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3, padding=1), torch.nn.PixelShuffle(2))
    >>> options = sr_deploy.ExportOptions(sizes=["32x32"], target="cpu")
    >>> [path.name for path in sr_deploy.onnx_from_module(net, "mine", options, name="mine")]
    ['mine_x2.32x32.fp32.onnx']

    module: (1, 3, H, W) float RGB in 0..1 to (1, 3, scale*H, scale*W); one with the methods
    `variants()` and `slice(variant)` is exported in its variants. It is copied, so training may go
    on. scale: what it must be; None: as measured. name: begins the names of the files; empty: the
    name of the class. Otherwise as `onnx_from_source`.
    """
    source = ModuleSource(network_from_module(module, name, scale))
    return onnx_from_source(source, output, options, progress=progress)
