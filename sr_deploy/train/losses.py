"""What the papers minimise."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sr_deploy.core.errors import InputError
from sr_deploy.nets.architecture import Elastic
from sr_deploy.nets.linear import run_collapsed


def pixel_loss(name: str, sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean pixel loss: "l1", "l2", or "charbonnier" with epsilon 0.1 (IMDeception's first phase)."""
    if name == "l1":
        return F.l1_loss(sr, hr)
    if name == "l2":
        return F.mse_loss(sr, hr)
    if name == "charbonnier":
        return torch.sqrt((sr - hr) ** 2 + 0.1**2).mean()
    raise InputError(f"unknown loss '{name}'; expected l1, l2 or charbonnier")


def progressive_self_distillation(features: Sequence[Tensor]) -> Tensor:
    """Return ASRN's eqs. 8-10: each block's attention map against the next one's, summed over the blocks, mean over N.

    features: one (N, C, H, W) per block, shallow first. The deeper map is detached: a teacher is not pulled to its
    student (the paper does not say).
    """
    maps = [f.abs().sum(dim=1).flatten(1) for f in features]  # eq. 9, (N, H*W)
    unit = [F.normalize(m, dim=1) for m in maps]
    pairs = zip(unit[:-1], unit[1:])
    return sum(((student - teacher.detach()).norm(dim=1).mean() for student, teacher in pairs), torch.zeros(()))


def asrn_full(elastic: Elastic, lr: Tensor, hr: Tensor, *, loss: str, psd: float) -> Tensor:
    """Return ASRN's eq. 11: routine reconstruction, deep supervision of every depth, and psd times eq. 10.

    Head and upsampler run collapsed (same function, same gradients), all depths through the upsampler as one batch.
    """
    net = elastic.net
    scale = hr.shape[-1] // lr.shape[-1]
    features: List[Tensor] = []
    x = run_collapsed(net.head, lr, 1)
    for block in net.body:
        x = block(x)
        features.append(x)
    depths = run_collapsed(net.upsampler, torch.cat(features), scale).chunk(len(features))
    total = sum((pixel_loss(loss, sr, hr) for sr in depths), torch.zeros(()))
    return total + psd * progressive_self_distillation(features)


def sandwich(elastic: Elastic, lr: Tensor, hr: Tensor, *, loss: str, rng: np.random.Generator) -> Tensor:
    """Return the elastic-width loss: the largest point, the smallest, and a random one; both also taught by the largest."""
    points = elastic.architecture.points(elastic.largest)
    largest = elastic(lr, points[-1])
    total = pixel_loss(loss, largest, hr)
    between = points[1:-1]
    for point in (points[0], *([between[int(rng.integers(len(between)))]] if between else [])):
        sr = elastic(lr, point)
        total = total + pixel_loss(loss, sr, hr) + 0.5 * pixel_loss(loss, sr, largest.detach())
    return total
