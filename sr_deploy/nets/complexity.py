"""Counts of parameters, multiply-accumulates, activations and convolutions, as NTIRE counts them.

The challenge has used two counters, which are not comparable:

- `hooks` (2022, 2023) uses module hooks. It counts Conv2d, ConvTranspose2d (at its output
  resolution) and Linear, one multiply-accumulate for each output element of an activation module,
  and two for each of an affine BatchNorm2d. It sees no functional operator.
- `fvcore` (since 2024) traces operators. It counts convolutions (transposed ones at their input
  resolution), matrix products, norms, adaptive average pooling and resizing, but no activation.

Both count the elements of all convolution outputs as activations. Networks are run on the meta
device, so nothing is computed.
"""

from __future__ import annotations

import collections
import copy
import math
from dataclasses import dataclass
from typing import Any, Counter, Dict, List, Optional, Sequence

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sr_deploy.core.errors import InputError

COUNTERS = ("hooks", "fvcore")
NTIRE_HW = (256, 256)
"""The challenge's LR size."""

_CONVS = (nn.Conv2d, nn.ConvTranspose2d)
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.ReLU6)
_HOOKED = (*_CONVS, *_ACTIVATIONS, nn.Linear, nn.BatchNorm2d)

# Operators that move or create data. All others that a counter ignores are reported.
_MOVES = frozenset(
    "view _unsafe_view reshape _reshape_alias permute transpose t cat split split_with_sizes slice "
    "select unsqueeze squeeze expand clone copy_ contiguous constant_pad_nd pad pixel_shuffle "
    "pixel_unshuffle channel_shuffle native_channel_shuffle empty empty_like zeros zeros_like ones "
    "ones_like full full_like arange detach alias _to_copy lift_fresh index_select index gather "
    "unbind stack repeat flip roll unfold im2col as_strided chunk narrow native_dropout "
    "dropout".split()
)
# The names in user code of operators that the dispatcher names differently.
_PUBLIC_NAMES = {
    "bmm": "matmul",
    "mm": "matmul",
    "_softmax": "softmax",
    "max_pool2d_with_indices": "max_pool2d",
}


@dataclass(frozen=True)
class Counts:
    """The counts of a network at one LR size; `macs` is what NTIRE's tables call FLOPs."""

    params: int
    macs: int
    acts: int
    convs: int
    counter: str
    uncounted: Dict[str, int]
    """The number of calls of each operator that computes but that the counter ignores."""


def count(net: nn.Module, hw: Sequence[int], *, counter: str) -> Counts:
    """Count `net` on a 1x3xHxW input. Raises InputError for an unknown counter."""
    if counter not in COUNTERS:
        raise InputError(f"unknown counter '{counter}'; expected {' or '.join(COUNTERS)}")
    operators = _OperatorCounter()
    macs: List[int] = []
    acts: List[int] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        operators.module_depth += 1

    def leave(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        operators.module_depth -= 1
        macs.append(_module_macs(module, inputs[0], output))
        if isinstance(module, _CONVS):
            acts.append(output.numel())

    # Not in inference mode: there the dispatcher passes composite operators such as conv2d, linear
    # and matmul on whole, instead of the convolutions and products that they consist of.
    with torch.inference_mode(False), torch.no_grad():
        ghost = copy.deepcopy(net).to("meta").eval()
        for module in ghost.modules():
            if isinstance(module, _HOOKED):
                module.register_forward_pre_hook(enter)
                module.register_forward_hook(leave)
        with operators, _PoolingMarker(operators):
            ghost(torch.empty(1, 3, *hw, device="meta"))

    params = sum(p.numel() for p in net.parameters())
    if counter == "hooks":
        outside = dict(operators.outside_modules)
        return Counts(params, sum(macs), sum(acts), len(acts), counter, outside)
    acts = operators.acts
    unsupported = dict(operators.unsupported)
    return Counts(params, operators.macs, sum(acts), len(acts), counter, unsupported)


def _module_macs(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    if isinstance(module, _CONVS):
        kernel = math.prod(module.kernel_size)
        return y.numel() * kernel * module.in_channels // module.groups
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    if isinstance(module, nn.BatchNorm2d):
        return y.numel() * (2 if module.affine else 1)
    return y.numel()  # an activation


class _OperatorCounter(TorchDispatchMode):
    """Count every operator by fvcore's rules, and record those outside of hooked modules."""

    def __init__(self) -> None:
        super().__init__()
        self.module_depth = 0
        self.pooling = False
        self.macs = 0
        self.acts: List[int] = []
        self.outside_modules: Counter[str] = collections.Counter()
        self.unsupported: Counter[str] = collections.Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "aten" and name in _MOVES:
            return out
        public_name = f"{namespace}::{_PUBLIC_NAMES.get(name, name)}"
        if not self.module_depth:
            self.outside_modules[public_name] += 1
        macs = self._macs(name, args, out) if namespace == "aten" else None
        if macs is None:
            self.unsupported[public_name] += 1
        else:
            self.macs += macs
        return out

    def _macs(self, name: str, args: tuple, out: Any) -> Optional[int]:
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
        # Global average pooling is dispatched as a mean. fvcore does not count other means.
        pooling = ("_adaptive_avg_pool2d", "adaptive_avg_pool2d")
        if name in pooling or (name == "mean" and self.pooling):
            return args[0].numel()
        if name == "upsample_bilinear2d":
            return 4 * out.numel()
        return out.numel() if name == "upsample_nearest2d" else None


class _PoolingMarker(TorchFunctionMode):
    """Mark the operators that belong to an adaptive average pooling."""

    def __init__(self, operators: _OperatorCounter) -> None:
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
