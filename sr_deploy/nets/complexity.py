"""Counts of parameters, multiply-accumulates, activations and convolutions, as NTIRE counts them.

The challenge has used two counters, which are not comparable:

- `hooks` (2022, 2023) uses module hooks. It counts Conv2d, ConvTranspose2d (at its output
  resolution) and Linear, one multiply-accumulate for each output element of an activation module,
  and two for each of an affine BatchNorm2d. It sees no functional operator.
- `fvcore` (since 2024) traces operators. It counts convolutions (transposed ones at their input
  resolution), matrix products, norms, adaptive average pooling, grid sampling and resizing, but no
  activation. Its rules are repeated with what they miss: convolutions whose padding is a text
  (`same`, `valid`), attention and recurrent layers in one call, broadcast matrix products.
  `Counts.uncounted_macs` has the multiply-accumulates that are missing.

Both count the elements of all convolution outputs as activations, those with a text as padding too,
as the challenge's hooks do; fvcore's own count of activations adds matrix products. Networks are
run on the meta device, so nothing is computed, or on the CPU if they fail there.
"""

from __future__ import annotations

import collections
import copy
import math
from typing import Any, Counter, Dict, List, Optional, Sequence

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sr_deploy.core.counts import COUNTERS, NTIRE_HW, Counts, counts_record, einsum_macs
from sr_deploy.core.errors import InputError
from sr_deploy.core.sizes import HW

_CONVS = (nn.Conv2d, nn.ConvTranspose2d)
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.ReLU6)
_HOOKED = (*_CONVS, *_ACTIVATIONS, nn.Linear, nn.BatchNorm2d)

# Operators that move or create data. All others that a counter ignores are reported.
_MOVES = frozenset(
    "view view_as _unsafe_view reshape reshape_as _reshape_alias permute transpose swapaxes t "
    "mT cat concat split split_with_sizes unsafe_split chunk unsafe_chunk tensor_split slice "
    "select unsqueeze squeeze squeeze_ expand expand_as broadcast_to flatten unflatten "
    "movedim clone copy_ contiguous constant_pad_nd pad pixel_shuffle pixel_unshuffle "
    "channel_shuffle native_channel_shuffle empty empty_like new_empty zeros zeros_like "
    "new_zeros ones ones_like new_ones full full_like new_full arange detach alias to "
    "_to_copy type_as lift_fresh index_select index gather unbind stack hstack vstack repeat "
    "repeat_interleave tile flip roll unfold im2col as_strided narrow meshgrid native_dropout "
    "dropout feature_dropout numel rot90".split()
)
_CONV_NAMES = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution".split()
)


def count(net: nn.Module, hw: Sequence[int], *, counter: str) -> Counts:
    """Count `net` on a 1x3xHxW input. Raises InputError for an unknown counter."""
    if counter not in COUNTERS:
        raise InputError(f"unknown counter '{counter}'; expected {' or '.join(COUNTERS)}")
    try:
        return _count_on("meta", net, hw, counter)
    except Exception:  # where it looks at values, or has tensors that stay on the CPU
        return _count_on("cpu", net, hw, counter)


def _count_on(device: str, net: nn.Module, hw: Sequence[int], counter: str) -> Counts:
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

    # In inference mode the dispatcher passes composite operators such as conv2d, matmul and lstm on
    # whole, as fvcore's trace has them.
    with torch.inference_mode():
        ghost = copy.deepcopy(net).to(device).eval()
        for module in ghost.modules():
            if isinstance(module, _HOOKED):
                module.register_forward_pre_hook(enter)
                module.register_forward_hook(leave)
        with operators:
            ghost(torch.empty(1, 3, *hw, device=device))

    params = sum(p.numel() for p in net.parameters())
    if counter == "hooks":
        seen = operators.outside
        total = (sum(macs), sum(acts), len(acts))
    else:
        seen = operators.ignored
        total = (operators.macs, sum(operators.acts), len(operators.acts))
    return Counts(
        params, *total, counter, dict(seen.calls), {k: n for k, n in seen.macs.items() if n}
    )


def count_record(net: nn.Module, hw: HW = NTIRE_HW) -> Dict[str, Any]:
    """Return the counts of `net` by both counters, as a manifest has them."""
    return counts_record({c: count(net, hw, counter=c) for c in COUNTERS}, hw)


def _module_macs(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    if isinstance(module, _CONVS):
        kernel = math.prod(module.kernel_size)
        return y.numel() * kernel * module.in_channels // module.groups
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    if isinstance(module, nn.BatchNorm2d):
        return y.numel() * (2 if module.affine else 1)
    return y.numel()  # an activation


class _Ignored:
    """What a counter ignores: calls and multiply-accumulates by operator."""

    def __init__(self) -> None:
        self.calls: Counter[str] = collections.Counter()
        self.macs: Counter[str] = collections.Counter()


class _OperatorCounter(TorchDispatchMode):
    """Count every operator by fvcore's rules, and record those outside of hooked modules."""

    def __init__(self) -> None:
        super().__init__()
        self.module_depth = 0
        self.macs = 0
        self.acts: List[int] = []
        self.outside = _Ignored()
        self.ignored = _Ignored()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        products = _Products()
        out = products.run(func, args, kwargs or {})
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "aten" and name in _MOVES:
            return out
        if name in _CONV_NAMES:
            self.acts.append(out.numel())
            if func._overloadname == "padding":
                name = "_convolution_mode"  # as fvcore's trace has it
        public_name = f"{namespace}::{name}"
        if not self.module_depth:
            self.outside.calls[public_name] += 1
            self.outside.macs[public_name] += products.macs
        macs = _fvcore_macs(name, args, out) if namespace == "aten" else None
        if name.endswith("_cell"):  # of recurrent layers: fvcore's trace has its operators
            macs = products.macs
        self.macs += macs or 0
        missing = max(products.macs - (macs or 0), 0)
        if macs is None or missing:
            self.ignored.calls[public_name] += 1
            self.ignored.macs[public_name] += missing
        return out


class _Products(TorchDispatchMode):
    """Count the multiply-accumulates of convolutions and matrix products within an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def run(self, func: Any, args: tuple, kwargs: Dict[str, Any]) -> Any:
        """Run an operator; one that consists of others is taken apart."""
        with self:
            out = func.decompose(*args, **kwargs)
        if out is NotImplemented:
            out = func(*args, **kwargs)
            self.macs += _product_macs(func._schema.name.partition("::")[2], args, out)
        return out

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        return self.run(func, args, kwargs or {})


def _product_macs(name: str, args: tuple, out: Any) -> int:
    """Return the multiply-accumulates of an operator that is not composite."""
    if name in ("convolution", "_convolution"):
        return _conv_macs(args[0], args[1], out, transposed=args[6])
    if name in ("mm", "bmm", "mv", "dot", "vdot"):
        return int(out.numel() * args[0].shape[-1])
    if name in ("addmm", "baddbmm", "addmv"):
        return int(out.numel() * args[1].shape[-1])
    if name == "addbmm":
        return int(out.numel() * args[1].shape[0] * args[1].shape[-1])
    return 0


def _fvcore_macs(name: str, args: tuple, out: Any) -> Optional[int]:
    """Return the count of fvcore's rule for an operator; None where it has none, or fails."""
    if name in _CONV_NAMES:
        return _conv_macs(args[0], args[1], out, transposed="transpose" in name)
    if name == "linear":
        return int(args[0].numel() * args[1].shape[0])
    if name in ("mm", "bmm", "matmul"):  # for matmul, broadcasting of the first factor is missed
        return int(args[0].numel() * args[1].shape[-1]) if args[1].dim() > 1 else None
    if name == "addmm":
        return int(args[1].numel() * args[2].shape[-1])
    if name == "einsum":
        return einsum_macs(args[0], [x.shape for x in args[1]])
    if name in _NORMS:
        affine = args[_NORMS[name] :][:1] not in ((), (None,))  # defaults at the end are left out
        estimate = 1 if name == "batch_norm" and not args[5] else 4
        return int(args[0].numel() * (estimate + affine))
    if name == "adaptive_avg_pool2d":
        return int(args[0].numel())
    if name in ("upsample_bilinear2d", "grid_sampler"):
        return int(4 * out.numel())
    return int(out.numel()) if name == "upsample_nearest2d" else None


_NORMS = {"group_norm": 2, "layer_norm": 2, "instance_norm": 1, "batch_norm": 1}
"""The operators that fvcore counts as norms, with the place of their weight."""


def _conv_macs(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, transposed: bool) -> int:
    sides = weight.dim() - 2
    pixels = (x if transposed else out).shape[-sides:]
    batch = x.shape[0] if x.dim() == weight.dim() else 1
    return int(batch * weight.numel() * math.prod(pixels))
