"""Networks that compute as INT8 engines do, differentiable: fake quantisation of the fused form.

Weights are symmetric for each output channel, with the largest as the end of the range. Inputs of
convolutions are symmetric for the whole tensor, with a range that is learnt ("Learned Step Size
Quantization"): rounding passes gradients on, and a value outside the range moves the range.
"""

from __future__ import annotations

import copy
from typing import Any, Dict, List, Sequence, Tuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import InputError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture
from sr_deploy.nets.checkpoint import Checkpoint, InputRanges
from sr_deploy.nets.fuse import fused_network
from sr_deploy.nets.fused_weights import fused_weights

LEVELS = 127
"""The largest integer; -128 is not used, so that ranges are symmetric."""
RANGE_RATE = 10.0
"""The logarithms of ranges learn this many times as fast as the weights."""
SAMPLES = 2**16
"""Values of a layer's input, at most, for which its range is chosen."""


class _Rounded(torch.autograd.Function):
    """x in steps of a scale. The gradient of x is passed on inside the range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ratio = x / scale
        integers = ratio.round().clamp_(-LEVELS, LEVELS)
        ctx.save_for_backward(ratio, integers)
        return integers * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, Tensor]:
        ratio, integers = ctx.saved_tensors
        inside = gradient * (ratio.abs() <= LEVELS)
        return inside, (gradient * integers).sum() - (inside * ratio).sum()


def quantised_input(x: Tensor, bound: Tensor) -> Tensor:
    """Return x rounded to 255 levels from -bound to bound, a scalar, and cut to them."""
    return _Rounded.apply(x, bound / LEVELS)


def quantised_kernel(weight: Tensor) -> Tensor:
    """Return a kernel rounded to 255 levels for each of its outputs, (out, in, k, k)."""
    largest = weight.detach().abs().amax(dim=(1, 2, 3)).clamp(min=1e-12)
    zero = torch.zeros_like(largest, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(
        weight, largest / LEVELS, zero, 0, -LEVELS, LEVELS
    )


class QuantisedConv(nn.Module):
    """A convolution that rounds its input to `bound` and its kernel; the input as it is if None."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.conv = conv.weight, conv.bias, [conv]  # a list: no submodule
        self.bound: Any = None
        self.seen: List[Tensor] = []
        """Inputs, while the ranges are chosen."""

    def forward(self, x: Tensor) -> Tensor:
        conv: Any = self.conv[0]
        if self.bound is None:
            self.seen.append(x.detach().flatten())
            kernel = self.weight
        else:
            x, kernel = quantised_input(x, self.bound), quantised_kernel(self.weight)
        options = conv.stride, conv.padding, conv.dilation, conv.groups
        return F.conv2d(x, kernel, self.bias, *options)


class _Fusing(nn.Module):
    """The weights of the fused form, as a module for `functional_call`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self) -> Dict[str, Tensor]:
        return fused_weights(self.net)


class QuantisedForm:
    """The structure of a variant's fused form, with quantised convolutions."""

    def __init__(self, net: nn.Module, min_hw: Sequence[int]) -> None:
        self.fusing = _Fusing(net)
        self.fused = copy.deepcopy(fused_network(net)).requires_grad_(False)
        found = dict(self.fused.named_modules())
        convs = {n: QuantisedConv(m) for n, m in found.items() if isinstance(m, nn.Conv2d)}
        for name, conv in convs.items():
            self.fused.set_submodule(name, conv)
        self.fused(torch.zeros(1, 3, *min_hw))
        # AdaEDSR's adapter reads the weights of a layer that it does not run.
        self.layers = [name for name, conv in convs.items() if conv.seen]
        self.convs = [convs[name] for name in self.layers]
        for conv in self.convs:
            conv.seen = []

    def run(self, x: Tensor, weights: Dict[str, Tensor], bounds: Any) -> Tensor:
        """Return the image. weights: of the network before it was fused. bounds: one per layer."""
        named = {f"net.{name}": value for name, value in weights.items()}
        fused = torch.func.functional_call(self.fusing, named, ())
        self.set_bounds(bounds)
        return torch.func.functional_call(self.fused, fused, (x,))

    def set_bounds(self, bounds: Any) -> None:
        for conv, bound in zip(self.convs, bounds):
            conv.bound = bound


class QuantisedNetwork(nn.Module):
    """A checkpoint's network with fake quantisation, and the learnt ranges of all its variants."""

    def __init__(self, start: Checkpoint) -> None:
        """Raises InputError for a network without convolutions."""
        super().__init__()
        self.architecture: Architecture = start.architecture
        self.variants, self.largest = start.spec.variants, start.spec.variant(None)
        self.net = start.network()
        self._forms = {v: QuantisedForm(start.network(v), start.spec.min_hw) for v in self.variants}
        if not all(form.layers for form in self._forms.values()):
            raise InputError(f"{self.architecture.name} has no convolutions to quantise")
        sizes = {v: len(form.layers) for v, form in self._forms.items()}
        self.ranges = nn.ParameterDict({v: torch.zeros(n) for v, n in sizes.items()})
        """The logarithm of each range's end, divided by RANGE_RATE."""
        self.lowest = nn.ParameterDict({v: torch.zeros(n) for v, n in sizes.items()})
        """The smallest value of each input when the ranges were chosen; not learnt."""
        self.lowest.requires_grad_(False)

    def forward(self, x: Tensor, variant: str) -> Tensor:
        """Upscale x, (N, 3, H, W) float 0..1 RGB, by `variant` as INT8 does."""
        return self._forms[variant].run(x, self._weights(variant), self._bounds(variant))

    def _bounds(self, variant: str) -> List[Tensor]:
        return list((RANGE_RATE * self.ranges[variant]).exp().unbind())

    def _weights(self, variant: str) -> Dict[str, Tensor]:
        weights = {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}
        return self.architecture.slice(weights, self.largest, Variant.parse(variant))

    @torch.no_grad()
    def choose_ranges(self, lr: Tensor) -> None:
        """Set the ranges to those of least squared error on images (N, 3, H, W), 0..1."""
        for variant, form in self._forms.items():
            form.run(lr, self._weights(variant), [None] * len(form.layers))
            for i, conv in enumerate(form.convs):
                values = torch.cat(conv.seen)
                conv.seen = []
                self.ranges[variant][i] = _best_bound(values).log() / RANGE_RATE
                self.lowest[variant][i] = values.min()

    @torch.no_grad()
    def static(self, variant: str) -> nn.Module:
        """Return the fake-quantised network of a variant with its own weights."""
        form = copy.copy(self._forms[variant])
        form.set_bounds([None] * len(form.layers))  # no tensors with a history are copied
        named = {f"net.{name}": value for name, value in self._weights(variant).items()}
        fused = torch.func.functional_call(form.fusing, named, ())
        net = copy.deepcopy(form.fused)
        net.load_state_dict(fused, strict=False)  # without buffers that no checkpoint has
        for name, bound in zip(form.layers, self._bounds(variant)):
            cast(QuantisedConv, net.get_submodule(name)).bound = bound
        return net.eval()

    @torch.no_grad()
    def learnt(self) -> Dict[str, InputRanges]:
        """Return the ranges by variant and layer.

        The lower end is not below what was seen: for targets with unsigned integers.
        """
        learnt: Dict[str, InputRanges] = {}
        for variant, form in self._forms.items():
            low = (1.1 * self.lowest[variant]).clamp(max=0)
            bounds = [bound.item() for bound in self._bounds(variant)]
            pairs = zip(form.layers, low.tolist(), bounds)
            learnt[variant] = {layer: (max(x, -bound), bound) for layer, x, bound in pairs}
        return learnt


def _best_bound(values: Tensor) -> Tensor:
    """Return the end of the range, a scalar, with the least squared error of rounding."""
    largest = values.abs().max().clamp(min=1e-6)
    some = values[:: -(-len(values) // SAMPLES)]
    bounds = [largest * share / 20 for share in range(6, 21)]
    errors = torch.stack([(quantised_input(some, b) - some).square().mean() for b in bounds])
    return bounds[int(errors.argmin())]
