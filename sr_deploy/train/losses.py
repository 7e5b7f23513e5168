"""What the papers minimise. A method returns its terms by name; their sum is the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Optional, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import InputError
from sr_deploy.nets.architecture import ElasticNetwork

PIXEL_LOSSES = ("l1", "l2", "charbonnier")
Terms = Dict[str, Tensor]


def pixel_loss(name: str, sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean pixel loss: "l1", "l2", or "charbonnier" with epsilon 0.1 (IMDeception, eq. 5), in hr's precision."""
    sr = sr.to(hr.dtype)
    if name == "l1":
        return F.l1_loss(sr, hr)
    if name == "l2":
        return F.mse_loss(sr, hr)
    if name == "charbonnier":
        return torch.sqrt((sr - hr) ** 2 + 0.1**2).mean()
    raise InputError(f"unknown loss '{name}'; expected {', '.join(PIXEL_LOSSES)}")


def progressive_self_distillation(features: Sequence[Tensor], *, detached: bool = True) -> Tensor:
    """Return ASRN's eqs. 8-10: each block's attention map against the next one's, summed over the blocks, mean over N.

    features: one (N, C, H, W) per block, shallow first. detached: the deeper map is no variable, so that a teacher is not
    pulled to its student (the paper does not say).
    """
    at_least = torch.promote_types(features[0].dtype, torch.float32)
    maps = [f.abs().sum(dim=1, dtype=at_least).flatten(1) for f in features]  # eq. 9, (N, H*W)
    unit = [F.normalize(m, dim=1) for m in maps]
    pairs = [
        (student, teacher.detach() if detached else teacher)
        for student, teacher in zip(unit[:-1], unit[1:])
    ]
    return sum(
        ((student - teacher).norm(dim=1).mean() for student, teacher in pairs),
        maps[0].new_zeros(()),
    )


@dataclass(frozen=True)
class Step:
    """What a method is given: a batch, the recipe's numbers, the teacher where there is one, and the step's random numbers."""

    lr: Tensor
    """(N, 3, H, W) float, 0..1, RGB."""
    hr: Tensor
    """(N, 3, scale*H, scale*W)."""
    loss: str
    psd: float
    psd_detached: bool
    teacher: Optional[nn.Module]
    rng: np.random.Generator
    depth: float = 0.0
    """The weight of the network depth loss."""


def supervised(elastic: ElasticNetwork, step: Step) -> Terms:
    """One network, one loss: ASRN (SS) and eq. 5, EDSR, SRN without distillation, IMDeception as in its paper."""
    return {"pixel": pixel_loss(step.loss, _largest(elastic, step.lr), step.hr)}


def deep_supervision(elastic: ElasticNetwork, step: Step) -> Terms:
    """ASRN's eq. 11: the routine reconstruction (eq. 5), DSL for every smaller depth (eq. 7), and psd times PSD (eq. 10)."""
    features, depths = elastic.net.forward_depths(step.lr)  # type: ignore[operator]
    terms = {f"depth {n}": pixel_loss(step.loss, sr, step.hr) for n, sr in enumerate(depths, 1)}
    if step.psd:
        terms["psd"] = step.psd * progressive_self_distillation(
            features, detached=step.psd_detached
        )
    return terms


def distillation(elastic: ElasticNetwork, step: Step) -> Terms:
    """SRN's eq. 4: the distance to HR plus the distance to what a frozen teacher makes of the same LR, both of weight 1."""
    assert step.teacher is not None
    sr = _largest(elastic, step.lr)
    with torch.no_grad():
        taught = step.teacher(step.lr).to(step.hr.dtype)
    return {
        "pixel": pixel_loss(step.loss, sr, step.hr),
        "teacher": pixel_loss(step.loss, sr, taught),
    }


def sandwich(elastic: ElasticNetwork, step: Step) -> Terms:
    """Elastic width: the largest point, the smallest and a random one between; those two are also taught by the largest."""
    points = elastic.architecture.points(elastic.largest)
    largest = elastic(step.lr, points[-1])
    terms = {"largest": pixel_loss(step.loss, largest, step.hr)}
    taught = largest.detach().to(step.hr.dtype)
    between = points[1:-1]
    for name, point in (
        ("smallest", points[0]),
        *([("random", between[int(step.rng.integers(len(between)))])] if between else []),
    ):
        sr = elastic(step.lr, point)
        terms[name] = pixel_loss(step.loss, sr, step.hr)
        terms[f"{name} taught"] = 0.5 * pixel_loss(step.loss, sr, taught)
    return terms


def depth_loss(depth_map: Tensor, depth: Tensor) -> Tensor:
    """Return AdaDSR's eq. 7, max(0, mean depth - desired depth), for each sample and map; their mean.

    depth_map: (N, maps, H, W), depth: (N,), in blocks.
    """
    at_least = torch.promote_types(depth_map.dtype, torch.float32)
    return (depth_map.mean(dim=(2, 3), dtype=at_least) - depth.view(-1, 1)).clamp(min=0).mean()


def adaptive_depth(elastic: ElasticNetwork, step: Step) -> Terms:
    """AdaDSR's eq. 8: the reconstruction loss plus depth times eq. 7, at a desired depth drawn for each sample from 0 to all blocks.

    An adapter that takes no desired depth (FAdaEDSR) is trained for that of its variant.
    """
    net = elastic.net
    wanted = step.lr.new_full((len(step.lr),), elastic.largest.size)
    if net.adapter.scaled != "none":  # type: ignore[union-attr]
        wanted = torch.from_numpy(step.rng.uniform(0, net.adapter.blocks, len(wanted))).to(wanted)  # type: ignore[union-attr]
    sr, depth_map = net.forward_at(step.lr, wanted)  # type: ignore[operator]
    return {
        "pixel": pixel_loss(step.loss, sr, step.hr),
        "depth": step.depth * depth_loss(depth_map, wanted),
    }


METHODS: Dict[str, Callable[[ElasticNetwork, Step], Terms]] = {
    "supervised": supervised,
    "deep-supervision": deep_supervision,
    "distillation": distillation,
    "sandwich": sandwich,
    "adaptive-depth": adaptive_depth,
}


def _largest(elastic: ElasticNetwork, lr: Tensor) -> Tensor:
    """The whole network, by the cheaper form it may have for training."""
    return getattr(elastic.net, "forward_training", elastic.net)(lr)
