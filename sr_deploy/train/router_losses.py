"""CDNSR's losses of classification, eqs. 1-6 of the paper, and ClassSR's, which it compares with; and a routed network.

The branches' order is that of their cost, the smallest first; p: (N, M), the probability of each of M branches for each patch.
"""

from __future__ import annotations

from typing import Callable, List, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAU_END = 0.4


def temperature(step: int, steps: int) -> float:
    """Return tau of update `step`, counted from 0, of a run of `steps` (section IV-A)."""
    return max(TAU_END, 1 - step / steps)


def gumbel_noise(n: int, classes: int, rng: np.random.Generator) -> Tensor:
    """Return g = -log(-log U), (n, classes) float32, of eq. 5."""
    return torch.from_numpy(rng.gumbel(size=(n, classes))).float()


def gumbel_softmax(log_p: Tensor, noise: Tensor, tau: float) -> Tensor:
    """Return the relaxed choice, (N, M), rows of sum 1: exp((log p + g) / tau), normalised.

    Eq. 6 as printed divides both exponentials by tau, which cancels; meant is their exponent, as in the paper it cites.
    """
    return ((log_p + noise) / tau).softmax(dim=1)


def mixed(p: Tensor, outputs: Tensor) -> Tensor:
    """Return eq. 1's image, the branches' mean by p. outputs: (N, M, 3, H, W) -> (N, 3, H, W)."""
    return torch.einsum("nm,nmchw->nchw", p, outputs)


def flops_excess(p: Tensor, costs: Sequence[float], alpha: float) -> Tensor:
    """Return eqs. 2-3: how far the mean cost of the batch, as a share of the largest branch's, exceeds `alpha`; at least 0."""
    share = p.new_tensor(costs) / max(costs)
    return F.relu((p * share).sum(dim=1).mean() - alpha)


def class_loss(p: Tensor) -> Tensor:
    """Return ClassSR's class loss: M - 1 less the sum of |p_i - p_j| over all pairs, mean over the batch; 0 where one is certain."""
    classes = p.shape[1]
    pairs = [(i, j) for i in range(classes) for j in range(i)]
    apart = sum(((p[:, i] - p[:, j]).abs() for i, j in pairs), p.new_zeros(len(p)))
    return (classes - 1 - apart).mean()


def average_loss(p: Tensor) -> Tensor:
    """Return ClassSR's average loss: how far the batch is from equal classes, sum over them of |sum of p - N/M|, 0..1.

    It is scaled so that a batch that all goes to one class gives 1.
    """
    n, classes = p.shape
    equal = n / classes
    return (p.sum(dim=0) - equal).abs().sum() / (2 * (n - equal))


class Branches(nn.Module):
    """The networks that are chosen between, run side by side. x: (N, 3, H, W) float, 0..1, RGB -> (N, M, 3, sH, sW)."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(
            [getattr(net, "forward_training", net)(x) for net in self.networks], dim=1
        )


class Depths(nn.Module):
    """The same for depths of one elastic network: its blocks run once. Takes `forward_depths` of the network, and which depths."""

    def __init__(self, net: nn.Module, depths: Sequence[int]) -> None:
        super().__init__()
        self.net, self.depths = net, tuple(depths)

    def forward(self, x: Tensor) -> Tensor:
        images = self.net.forward_depths(x)[1]  # type: ignore[operator]
        return torch.stack([images[d - 1] for d in self.depths], dim=1)


class Routed(nn.Module):
    """A router with its branches as one network. x: (1, 3, H, W) float, 0..1, RGB -> (1, 3, sH, sW).

    The image is cut into patches of `patch` LR pixels a side (the last ones lie over their neighbours where it is no multiple);
    each goes through the likeliest branch alone. `counts` are the patches of each class since it was made.
    """

    def __init__(
        self,
        router: Callable[[Tensor], Tensor],
        networks: Sequence[nn.Module],
        *,
        scale: int,
        patch: int,
    ) -> None:
        super().__init__()
        self.router, self.networks = router, nn.ModuleList(networks)
        self.scale, self.patch = scale, patch
        self.counts = [0] * len(networks)

    def forward(self, x: Tensor) -> Tensor:
        s, p = self.scale, self.patch
        h, w = x.shape[2:]
        spots = [(top, left) for top in _starts(h, p) for left in _starts(w, p)]
        patches = torch.cat([x[..., top : top + p, left : left + p] for top, left in spots])
        classes = self.router(patches).argmax(dim=1)
        y = x.new_zeros(1, 3, s * h, s * w)
        for j, net in enumerate(self.networks):
            mine = [i for i, c in enumerate(classes.tolist()) if c == j]
            self.counts[j] += len(mine)
            for start in range(0, len(mine), 16):
                chosen = mine[start : start + 16]
                for i, image in zip(chosen, net(patches[chosen])):
                    top, left = spots[i]
                    y[0, :, s * top : s * (top + p), s * left : s * (left + p)] = image
        return y


def _starts(size: int, patch: int) -> List[int]:
    return [*range(0, max(size - patch, 0), patch), max(size - patch, 0)]
