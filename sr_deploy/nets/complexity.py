"""Parameters, multiply-accumulates, activations and convolutions, by the two counters the NTIRE challenge has used.

Their numbers are not comparable, so each carries its counter's name:
- `hooks` (2022, 2023): module hooks. Multiply-accumulates of Conv2d, ConvTranspose2d (at its output resolution) and
  Linear, one per output element of an activation module, two for an affine BatchNorm2d. Sees no functional operator.
- `fvcore` (since 2024): operators. Convolutions (transposed ones at their input resolution), matrix products, norms,
  adaptive average pooling, resizing; no activation.
Both take activations as the elements of all convolution outputs. Networks are run on the meta device: nothing is computed.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sr_deploy.core.errors import InputError

COUNTERS = ("hooks", "fvcore")
NTIRE_HW = (256, 256)
"""The LR size the challenge counts at."""

_CONVS = (nn.Conv2d, nn.ConvTranspose2d)
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.ReLU6)
_HOOKED = (*_CONVS, *_ACTIVATIONS, nn.Linear, nn.BatchNorm2d)

# Operators that move or make data and compute nothing. Everything else that a counter gives no number for is named.
_MOVES = frozenset(
    "view _unsafe_view reshape _reshape_alias permute transpose t cat split split_with_sizes slice select unsqueeze squeeze "
    "expand clone copy_ contiguous constant_pad_nd pad pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
    "empty empty_like zeros zeros_like ones ones_like full full_like arange detach alias _to_copy lift_fresh index_select "
    "index gather unbind stack repeat flip roll unfold im2col as_strided chunk narrow native_dropout dropout".split()
)


@dataclass(frozen=True)
class Counts:
    """What a counter says of a network at one LR size. `macs` are multiply-accumulates, what NTIRE's tables call FLOPs."""

    params: int
    macs: int
    acts: int
    convs: int
    counter: str
    uncounted: Dict[str, int]
    """Operators that compute but that the counter gives nothing for, with the number of their calls."""


def count(net: nn.Module, hw: Sequence[int], *, counter: str) -> Counts:
    """Count `net` on a 1x3xHxW input. Raises InputError for an unknown counter."""
    if counter not in COUNTERS:
        raise InputError(f"unknown counter '{counter}'; expected {' or '.join(COUNTERS)}")
    ghost = copy.deepcopy(net).to("meta").eval()
    mode = _Operators()
    hooked: List[int] = []
    module_acts: List[int] = []

    def entered(module: nn.Module, inputs: Any) -> None:
        mode.inside.append(module)

    def left(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        mode.inside.pop()
        hooked.append(_hook_macs(module, inputs[0], output))
        if isinstance(module, _CONVS):
            module_acts.append(output.numel())

    for module in ghost.modules():
        if isinstance(module, _HOOKED):
            module.register_forward_pre_hook(entered)
            module.register_forward_hook(left)
    with torch.no_grad(), mode, _AveragePools(mode):
        ghost(torch.empty(1, 3, *hw, device="meta"))

    params = sum(p.numel() for p in net.parameters())
    if counter == "hooks":
        return Counts(
            params, sum(hooked), sum(module_acts), len(module_acts), counter, mode.outside_modules
        )
    return Counts(params, mode.macs, sum(mode.acts), len(mode.acts), counter, mode.unsupported)


def _hook_macs(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    if isinstance(module, _CONVS):
        kernel = math.prod(module.kernel_size)
        return y.numel() * kernel * module.in_channels // module.groups
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    if isinstance(module, nn.BatchNorm2d):
        return y.numel() * (2 if module.affine else 1)
    return y.numel() if isinstance(module, _ACTIVATIONS) else 0


class _Operators(TorchDispatchMode):
    """Record every operator: its multiply-accumulates by fvcore's rules, and whether a hooked module stood round it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: List[nn.Module] = []
        self.pooling = False
        self.macs = 0
        self.acts: List[int] = []
        self.outside_modules: Dict[str, int] = {}
        self.unsupported: Dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "aten" and name in _MOVES:
            return out
        if not any(isinstance(m, _HOOKED) for m in self.inside):
            _tally(self.outside_modules, func._schema.name)
        macs = self._fvcore_macs(namespace, name, args, out)
        if macs is None:
            _tally(self.unsupported, func._schema.name)
        else:
            self.macs += macs
        return out

    def _fvcore_macs(self, namespace: str, name: str, args: tuple, out: Any) -> Any:
        if namespace != "aten":
            return None
        if name in ("convolution", "_convolution", "mkldnn_convolution"):
            x, weight, transposed = args[0], args[1], args[6]
            self.acts.append(out.numel())
            pixels = x.shape[2:] if transposed else out.shape[2:]
            return x.shape[0] * weight.numel() * math.prod(pixels)
        if name in ("mm", "bmm"):
            return out.numel() * args[0].shape[-1]
        if name in ("addmm", "baddbmm"):
            return out.numel() * args[1].shape[-1]
        if name in ("native_batch_norm", "_native_batch_norm_legit_no_training"):
            return args[0].numel() * (2 if args[1] is not None else 1)
        if name in ("native_layer_norm", "native_group_norm"):
            weight = args[2] if name == "native_layer_norm" else args[1]
            return args[0].numel() * (5 if weight is not None else 4)
        # A global average pooling is dispatched as a mean; a mean of the network's own is not counted by fvcore.
        if name in ("_adaptive_avg_pool2d", "adaptive_avg_pool2d") or (
            name == "mean" and self.pooling
        ):
            return args[0].numel()
        if name == "upsample_bilinear2d":
            return 4 * out.numel()
        return out.numel() if name == "upsample_nearest2d" else None


class _AveragePools(TorchFunctionMode):
    """Tell the operators below which of them are an adaptive average pooling's."""

    def __init__(self, operators: _Operators) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        outer = self._operators.pooling
        self._operators.pooling = outer or func is torch.nn.functional.adaptive_avg_pool2d
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._operators.pooling = outer


# What a user wrote, where the dispatcher has another name for it.
_PUBLIC_NAMES = {
    "bmm": "matmul",
    "mm": "matmul",
    "_softmax": "softmax",
    "max_pool2d_with_indices": "max_pool2d",
}


def _tally(calls: Dict[str, int], name: str) -> None:
    namespace, _, operator = name.partition("::")
    name = f"{namespace}::{_PUBLIC_NAMES.get(operator, operator)}"
    calls[name] = calls.get(name, 0) + 1
