"""Forms of a network: the same function written so that one backend or another likes it best.

Which is fastest only a measurement tells: `export --candidates` writes them all, `build-engine --autotune` times them on the
target. A form is a line in FORMS.
"""

from __future__ import annotations

import copy
import functools
from typing import Callable, Dict, List, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import TargetError
from sr_deploy.core.target import TargetProfile
from sr_deploy.export.blocks import in_blocks
from sr_deploy.nets.fuse import fuse_network, make_conv, pass_report, slice_outputs
from sr_deploy.nets.imdeception import GIDB

LITERAL, PLAIN = "literal", "plain"


def apply_form(net: nn.Module, form: str) -> Tuple[nn.Module, List[Dict[str, object]]]:
    """Return `net` in a form, and what was done to it: each pass with its counts before and after."""
    if form == LITERAL:
        return net, []
    plain, done = fuse_network(net)
    made = FORMS[form](plain)
    return (plain, done) if made is None else (made, [*done, pass_report(form, plain, made)])


def list_forms(net: nn.Module) -> List[str]:
    """Return the forms that differ for this network, `plain` first."""
    plain, _ = fuse_network(net)
    return [PLAIN] + [
        name for name, apply in FORMS.items() if name != PLAIN and apply(plain) is not None
    ]


def default_form(target: Optional[TargetProfile], arch: str, variant: str) -> str:
    """Return the form that was measured to be fastest on the target, for the variant or its architecture; `plain` unmeasured.

    Raises TargetError when the profile names a form that there is not.
    """
    forms = target.forms if target else {}
    form = next((forms[key] for key in (f"{arch}.{variant}", arch) if key in forms), PLAIN)
    if form not in FORMS:
        raise TargetError(
            f"target '{target.name if target else ''}': forms: '{form}' is none; expected one of {', '.join(FORMS)}"
        )
    return form


def dense(net: nn.Module) -> Optional[nn.Module]:
    """Grouped convolutions as dense ones, with zeros between the groups."""
    return _each(net, lambda m: isinstance(m, nn.Conv2d) and m.groups > 1, _dense)


def split(net: nn.Module) -> Optional[nn.Module]:
    """Grouped convolutions as one convolution a group, as IMDeception's public code has them."""
    return _each(net, lambda m: isinstance(m, nn.Conv2d) and m.groups > 1, SplitConvolution)


def two_convs(net: nn.Module) -> Optional[nn.Module]:
    """IMDeception: a 1x1 that a Split follows as two."""
    return _each(net, lambda m: isinstance(m, GIDB), UnsplitGIDB)


FORMS: Mapping[str, Callable[[nn.Module], Optional[nn.Module]]] = {
    PLAIN: lambda net: None,
    "blocks-8": functools.partial(in_blocks, block=8),
    "blocks-16": functools.partial(in_blocks, block=16),
    "blocks-32": functools.partial(in_blocks, block=32),
    "dense": dense,
    "split": split,
    "two-convs": two_convs,
}


class SplitConvolution(nn.Module):
    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        share = layer.out_channels // layer.groups
        self.parts = nn.ModuleList(
            slice_outputs(layer, g * share, share) for g in range(layer.groups)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [part(y) for part, y in zip(self.parts, x.chunk(len(self.parts), dim=1))], dim=1
        )


class UnsplitGIDB(nn.Module):
    """A GIDB whose kept and passed maps come from a 1x1 each."""

    def __init__(self, gidb: GIDB) -> None:
        super().__init__()
        self.three = nn.ModuleList(
            nn.Sequential(g[0], g[1]) for g in (gidb.g1, gidb.g2, gidb.g3, gidb.g4)
        )
        kept, passed = gidb.sizes
        self.kept = nn.ModuleList(
            [slice_outputs(g[2], 0, kept) for g in (gidb.g1, gidb.g2, gidb.g3)] + [gidb.g4[2]]
        )
        self.passed = nn.ModuleList(
            slice_outputs(g[2], kept, passed) for g in (gidb.g1, gidb.g2, gidb.g3)
        )
        self.act, self.fuse = gidb.act, gidb.fuse

    def forward(self, x: Tensor) -> Tensor:
        maps, y = [], x
        for i, three in enumerate(self.three):
            middle = three(y)
            maps.append(self.act(self.kept[i](middle)))
            y = self.act(self.passed[i](middle)) if i < 3 else y
        return self.fuse(torch.cat((*maps, x), dim=1))


def _dense(layer: nn.Conv2d) -> nn.Conv2d:
    share, each = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    weight = torch.zeros(
        layer.out_channels, layer.in_channels, *layer.kernel_size, dtype=layer.weight.dtype
    )
    for g in range(layer.groups):
        weight[g * share : (g + 1) * share, g * each : (g + 1) * each] = layer.weight[
            g * share : (g + 1) * share
        ].detach()
    return make_conv(weight, layer.bias)


def _each(
    net: nn.Module, chosen: Callable[[nn.Module], bool], made: Callable[..., nn.Module]
) -> Optional[nn.Module]:
    """Return a copy of `net` with a module made of each chosen one in its place; None when there is none."""
    names = [name for name, module in net.named_modules() if chosen(module)]
    result = copy.deepcopy(net)
    for name in names:
        result.set_submodule(name, made(result.get_submodule(name)))
    return result.eval() if names else None
