"""Forms of a network: equivalent graphs, of which each target prefers one.

Only a measurement shows which is fastest: `export --candidates` writes all forms, and
`build-engine --autotune` times them on the target. To add a form, add a line to FORMS.
"""

from __future__ import annotations

import copy
import functools
from typing import Callable, Dict, List, Mapping, Optional, Tuple, cast

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import TargetError
from sr_deploy.core.target import TargetProfile
from sr_deploy.export.blocks import pad_to_blocks
from sr_deploy.export.whole_pixels import PixelwiseNLA
from sr_deploy.nets.fuse import (
    fuse_network,
    make_conv,
    pass_report,
    slice_outputs,
)
from sr_deploy.nets.imdeception import GIDB, BlockNLA

LITERAL, PLAIN = "literal", "plain"


FORMS: Mapping[str, Callable[[nn.Module], Optional[nn.Module]]] = {
    PLAIN: lambda net: None,
    "blocks-8": functools.partial(pad_to_blocks, block=8),
    "blocks-16": functools.partial(pad_to_blocks, block=16),
    "blocks-32": functools.partial(pad_to_blocks, block=32),
    # Grouped convolutions as dense ones, with zeros between the groups.
    "dense": lambda net: _replace_modules(net, _is_grouped, _dense),
    # Grouped convolutions as one for each group, as in IMDeception's public code.
    "split": lambda net: _replace_modules(net, _is_grouped, SplitConvolution),
    # IMDeception: a 1x1 that a Split follows as two.
    "two-convs": lambda net: _replace_modules(net, lambda m: isinstance(m, GIDB), UnsplitGIDB),
    # For maps stored channels last: these two with attention that moves whole pixels.
    "channels-last": lambda net: _whole_pixels(net, "two-convs"),
    "channels-last-16": lambda net: _whole_pixels(net, "blocks-16"),
}
"""Each returns a new network, or None where the form would not differ from `plain`."""


def apply_form(net: nn.Module, form: str) -> Tuple[nn.Module, List[Dict[str, object]]]:
    """Return `net` in a form, and the reports of the passes that led to it."""
    if form == LITERAL:
        return net, []
    plain, reports = fuse_network(net)
    rewritten = FORMS[form](plain)
    if rewritten is None:
        return plain, reports
    return rewritten, [*reports, pass_report(form, plain, rewritten)]


def list_forms(net: nn.Module) -> List[str]:
    """Return the forms that differ for this network, `plain` first."""
    plain, _ = fuse_network(net)
    return [PLAIN] + [
        name for name, apply in FORMS.items() if name != PLAIN and apply(plain) is not None
    ]


def default_form(target: Optional[TargetProfile], arch: str, variant: str, precision: str) -> str:
    """Return the form that the target's profile names for a variant or its architecture.

    It was measured to be the fastest; the default is `plain`. A key that ends with a precision,
    such as `asrn.int8`, is for this precision only. Raises TargetError for an unknown form.
    """
    forms = target.forms if target else {}
    names = (f"{arch}.{variant}", arch)
    keys = [*(f"{name}.{precision}" for name in names), *names]
    form = next((forms[key] for key in keys if key in forms), PLAIN)
    if form not in FORMS:
        raise TargetError(
            f"target '{target.name if target else ''}': unknown form '{form}' in its forms; "
            f"expected one of {', '.join(FORMS)}"
        )
    return form


class SplitConvolution(nn.Module):
    """A grouped convolution as one convolution for each group."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        size = layer.out_channels // layer.groups
        self.parts = nn.ModuleList(
            slice_outputs(layer, g * size, size) for g in range(layer.groups)
        )

    def forward(self, x: Tensor) -> Tensor:
        chunks = x.chunk(len(self.parts), dim=1)
        return torch.cat([part(y) for part, y in zip(self.parts, chunks)], dim=1)


class UnsplitGIDB(nn.Module):
    """A GIDB with separate 1x1 convolutions for its kept and its passed maps."""

    def __init__(self, gidb: GIDB) -> None:
        super().__init__()
        kept, passed = gidb.sizes
        gblocks = (gidb.g1, gidb.g2, gidb.g3, gidb.g4)
        ones = [cast(nn.Conv2d, g[2]) for g in gblocks]
        self.three = nn.ModuleList(nn.Sequential(g[0], g[1]) for g in gblocks)
        self.kept = nn.ModuleList([*(slice_outputs(one, 0, kept) for one in ones[:3]), ones[3]])
        self.passed = nn.ModuleList(slice_outputs(one, kept, passed) for one in ones[:3])
        self.act, self.fuse = gidb.act, gidb.fuse

    def forward(self, x: Tensor) -> Tensor:
        maps, y = [], x
        for i, three in enumerate(self.three):
            middle = three(y)
            maps.append(self.act(self.kept[i](middle)))
            y = self.act(self.passed[i](middle)) if i < 3 else y
        return self.fuse(torch.cat((*maps, x), dim=1))


def _whole_pixels(net: nn.Module, form: str) -> Optional[nn.Module]:
    """Return a network in a form, and with attention that moves whole pixels."""
    attention = _replace_modules(net, lambda m: isinstance(m, BlockNLA), PixelwiseNLA)
    if attention is None:
        return None
    formed = FORMS[form](net)
    assert formed is not None
    return _replace_modules(formed, lambda m: isinstance(m, BlockNLA), PixelwiseNLA)


def _is_grouped(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1


def _dense(layer: nn.Conv2d) -> nn.Conv2d:
    rows, columns = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    shape = (layer.out_channels, layer.in_channels, *layer.kernel_size)
    weight = torch.zeros(shape, dtype=layer.weight.dtype)
    for g in range(layer.groups):
        group = slice(g * rows, (g + 1) * rows)
        weight[group, g * columns : (g + 1) * columns] = layer.weight[group].detach()
    return make_conv(weight, layer.bias)


def _replace_modules(
    net: nn.Module, matches: Callable[[nn.Module], bool], replacement: Callable[..., nn.Module]
) -> Optional[nn.Module]:
    """Return a copy of `net` with the matching modules replaced; None if there are none."""
    names = [name for name, module in net.named_modules() if matches(module)]
    result = copy.deepcopy(net)
    for name in names:
        result.set_submodule(name, replacement(result.get_submodule(name)))
    return result.eval() if names else None
