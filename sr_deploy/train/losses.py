"""The losses of the papers. A training method returns named terms; their sum is the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Protocol, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import InputError
from sr_deploy.nets.architecture import ElasticNetwork

PIXEL_LOSSES = ("l1", "l2", "charbonnier")
Terms = Dict[str, Tensor]


def pixel_loss(name: str, sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean loss of the pixels, in the precision of hr.

    name: "l1", "l2", or "charbonnier" with epsilon 0.1 (IMDeception, eq. 5).
    """
    sr = sr.to(hr.dtype)
    if name == "l1":
        return F.l1_loss(sr, hr)
    if name == "l2":
        return F.mse_loss(sr, hr)
    if name == "charbonnier":
        return torch.sqrt((sr - hr) ** 2 + 0.1**2).mean()
    raise InputError(f"unknown loss '{name}'; expected {', '.join(PIXEL_LOSSES)}")


def progressive_self_distillation(features: Sequence[Tensor], *, detached: bool = True) -> Tensor:
    """Return ASRN's eqs. 8-10: the distances of successive blocks' attention maps, mean over N.

    features: one (N, C, H, W) per block, shallow first. detached: no gradient flows into the deeper
    map, so that the teacher is not pulled to its student (the paper does not say).
    """
    dtype = torch.promote_types(features[0].dtype, torch.float32)
    maps = [f.abs().sum(dim=1, dtype=dtype).flatten(1) for f in features]  # eq. 9, (N, H*W)
    unit = [F.normalize(m, dim=1) for m in maps]
    total = maps[0].new_zeros(())
    for student, teacher in zip(unit[:-1], unit[1:]):
        target = teacher.detach() if detached else teacher
        total = total + (student - target).norm(dim=1).mean()
    return total


class LossSettings(Protocol):
    """The fields of a recipe that the losses read."""

    @property
    def loss(self) -> str: ...
    @property
    def psd(self) -> float: ...
    @property
    def psd_detached(self) -> bool: ...
    @property
    def depth(self) -> float: ...


@dataclass(frozen=True)
class LossInputs:
    """A batch, the recipe, the random numbers of the step, and the teacher if there is one."""

    lr: Tensor  # (N, 3, H, W) float, 0..1, RGB
    hr: Tensor  # (N, 3, scale*H, scale*W)
    recipe: LossSettings
    rng: np.random.Generator
    teacher: Optional[nn.Module] = None

    def pixel_loss(self, sr: Tensor, target: Optional[Tensor] = None) -> Tensor:
        """Return the recipe's pixel loss against `target`, by default against hr."""
        return pixel_loss(self.recipe.loss, sr, self.hr if target is None else target)


def supervised(elastic: ElasticNetwork, step: LossInputs) -> Terms:
    """One network, one loss: ASRN (SS), EDSR, SRN without distillation, IMDeception's paper."""
    return {"pixel": step.pixel_loss(training_forward(elastic.net)(step.lr))}


def deep_supervision(elastic: ElasticNetwork, step: LossInputs) -> Terms:
    """ASRN's eq. 11: the loss at full depth (eq. 5) and others (eq. 7), and psd times eq. 10."""
    net: Any = elastic.net
    features, images = net.forward_depths(step.lr)
    terms = {f"depth {n}": step.pixel_loss(sr) for n, sr in enumerate(images, 1)}
    recipe = step.recipe
    if recipe.psd:
        psd = progressive_self_distillation(features, detached=recipe.psd_detached)
        terms["psd"] = recipe.psd * psd
    return terms


def distillation(elastic: ElasticNetwork, step: LossInputs) -> Terms:
    """SRN's eq. 4: the distance to HR plus that to the output of a frozen teacher."""
    assert step.teacher is not None
    sr = training_forward(elastic.net)(step.lr)
    with torch.no_grad():
        target = step.teacher(step.lr).to(step.hr.dtype)
    return {"pixel": step.pixel_loss(sr), "teacher": step.pixel_loss(sr, target)}


def sandwich(elastic: ElasticNetwork, step: LossInputs) -> Terms:
    """Elastic width: the largest, smallest and a random point; the largest teaches the others."""
    points = elastic.architecture.points(elastic.largest)
    largest = elastic(step.lr, points[-1])
    terms = {"largest": step.pixel_loss(largest)}
    target = largest.detach().to(step.hr.dtype)
    students = {"smallest": points[0]}
    between = points[1:-1]
    if between:
        students["random"] = between[int(step.rng.integers(len(between)))]
    for name, point in students.items():
        sr = elastic(step.lr, point)
        terms[name] = step.pixel_loss(sr)
        terms[f"{name} taught"] = 0.5 * step.pixel_loss(sr, target)
    return terms


def depth_loss(depth_map: Tensor, depth: Tensor) -> Tensor:
    """Return AdaDSR's eq. 7, max(0, mean depth - desired depth), averaged over samples and maps.

    depth_map: (N, maps, H, W), depth: (N,), both in blocks.
    """
    dtype = torch.promote_types(depth_map.dtype, torch.float32)
    return (depth_map.mean(dim=(2, 3), dtype=dtype) - depth.view(-1, 1)).clamp(min=0).mean()


def adaptive_depth(elastic: ElasticNetwork, step: LossInputs) -> Terms:
    """AdaDSR's eq. 8: the reconstruction loss plus `depth` times eq. 7.

    The desired depth of each sample is drawn from 0 to all blocks. An adapter without that input
    (FAdaEDSR) is trained for the depth of its variant.
    """
    net: Any = elastic.net
    n = len(step.lr)
    depth = step.lr.new_full((n,), elastic.largest.size)
    if net.adapter.scaled != "none":
        depth = torch.from_numpy(step.rng.uniform(0, net.adapter.blocks, n)).to(depth)
    sr, depth_map = net.forward_at(step.lr, depth)
    return {"pixel": step.pixel_loss(sr), "depth": step.recipe.depth * depth_loss(depth_map, depth)}


METHODS: Dict[str, Callable[[ElasticNetwork, LossInputs], Terms]] = {
    "supervised": supervised,
    "deep-supervision": deep_supervision,
    "distillation": distillation,
    "sandwich": sandwich,
    "adaptive-depth": adaptive_depth,
}


def training_forward(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the forward pass for training: a cheaper equivalent if the network has one."""
    return getattr(net, "forward_training", net)
