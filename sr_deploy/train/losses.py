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
    def first(self) -> float: ...
    @property
    def depth(self) -> float: ...
    @property
    def follow(self) -> float: ...
    @property
    def level(self) -> float: ...


@dataclass(frozen=True)
class LossInputs:
    """A batch, the recipe, the random numbers of the step, and a teacher's output."""

    lr: Tensor  # (N, 3, H, W) float, 0..1, RGB
    hr: Tensor  # (N, 3, scale*H, scale*W)
    recipe: LossSettings
    rng: np.random.Generator
    taught: Optional[Tensor] = None
    """The output of a frozen teacher, (N, 3, scale*H, scale*W)."""

    def pixel_loss(self, sr: Tensor, target: Optional[Tensor] = None) -> Tensor:
        """Return the recipe's pixel loss against `target`, by default against hr."""
        return pixel_loss(self.recipe.loss, sr, self.hr if target is None else target)

    def terms(self, name: str, sr: Tensor) -> Terms:
        """Return the loss against hr and, with a teacher, that against its output: SRN's eq. 4."""
        terms = {name: self.pixel_loss(sr)}
        if self.taught is not None:
            terms[f"{name}, teacher"] = self.pixel_loss(sr, self.taught)
        return terms


def supervised(elastic: ElasticNetwork, step: LossInputs) -> Terms:
    """One network, one loss: ASRN (SS), EDSR, IMDeception; with a teacher SRN."""
    return step.terms("pixel", training_forward(elastic.net)(step.lr))


def deep_supervision(elastic: ElasticNetwork, step: LossInputs) -> Terms:
    """ASRN's eq. 11: the loss at full depth (eq. 5) and others (eq. 7), and psd times eq. 10.

    With `first` (ours) the losses of the first depth count that many times.
    """
    net: Any = elastic.net
    features, images = net.forward_depths(step.lr)
    recipe = step.recipe
    terms = {name: recipe.first * term for name, term in step.terms("depth 1", images[0]).items()}
    for n, sr in enumerate(images[1:], 2):
        terms.update(step.terms(f"depth {n}", sr))
    if recipe.psd:
        psd = progressive_self_distillation(features, detached=recipe.psd_detached)
        terms["psd"] = recipe.psd * psd
    return terms


def sandwich(elastic: ElasticNetwork, step: LossInputs) -> Terms:
    """Elastic width: the largest, smallest and a random point; the largest teaches the others."""
    points = elastic.architecture.points(elastic.largest)
    largest = elastic(step.lr, points[-1])
    terms = step.terms("largest", largest)
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


FOLLOWED = 8
"""Number of desired depths that `follow` compares in each step, spread evenly."""
LEVEL_PX = 16
"""Side of the tiles of `level`, in LR pixels."""


def follow_loss(depth_map: Tensor, depth: Tensor, blocks: int) -> Tensor:
    """Return the squared distance of a batch's mean depth from the desired one, in shares.

    depth_map: (N, maps, H, W), not limited above, depth: (1,), both in blocks. The distance is
    divided by the desired depth plus 1. The mean of what is computed counts where it is too small,
    the mean of the map where it is too large, so that depths beyond all blocks are pulled back.
    """
    above = (depth_map.float().mean() - depth).clamp(min=0)
    below = (depth - depth_map.float().clamp(max=blocks).mean()).clamp(min=0)
    return (((above + below) / (depth + 1)) ** 2).mean()


def level_loss(depth_map: Tensor) -> Tensor:
    """Return how much deeper the deepest pixel of a tile is than the mean, in blocks.

    depth_map: (N, maps, H, W). A tile costs as much as its deepest pixel.
    """
    depth_map = depth_map.float()
    return F.max_pool2d(depth_map, LEVEL_PX, ceil_mode=True).mean() - depth_map.mean()


def adaptive_depth(elastic: ElasticNetwork, step: LossInputs) -> Terms:
    """AdaDSR's eq. 8: the reconstruction loss plus `depth` times eq. 7.

    The desired depth of each sample is drawn from 0 to all blocks. An adapter without that input
    (FAdaEDSR) is trained for the depth of its variant. With `follow` and `level` (ours) their
    losses are added, each times its weight.
    """
    net: Any = elastic.net
    recipe, n, blocks = step.recipe, len(step.lr), net.adapter.blocks
    depth = step.lr.new_full((n,), elastic.largest.size)
    if net.adapter.scaled != "none":
        depth = torch.from_numpy(step.rng.uniform(0, blocks, n)).to(depth)
    sr, depth_map = net.forward_at(step.lr, depth)
    terms = {"pixel": step.pixel_loss(sr), "depth": recipe.depth * depth_loss(depth_map, depth)}
    if recipe.level:
        terms["level"] = recipe.level * level_loss(depth_map)
    if recipe.follow:
        features = net.features(step.lr)
        at = (np.arange(FOLLOWED) + step.rng.uniform(0, 1, FOLLOWED)) * blocks / FOLLOWED
        desired = torch.from_numpy(at).to(depth).split(1)
        losses = [follow_loss(net.adapter(features, d.expand(n)), d, blocks) for d in desired]
        terms["follow"] = recipe.follow * torch.stack(losses).mean()
    return terms


DEEP_WEIGHT = 0.1
"""Weight of maps of more than half of all blocks in `adapter`."""
ERROR_STEPS = 8
"""Number of steps between the depths whose errors `adapter` computes."""
ERROR_PX = 9
"""Side of the window over which the errors of `adapter` are averaged, in LR pixels."""


def adapter(elastic: ElasticNetwork, step: LossInputs) -> Terms:
    """The adapter of AdaDSR alone, taught by what each depth gains at each pixel (ours).

    The network is frozen: its squared errors at nine depths are known from one pass. For each of
    eight desired depths they tell the best map of that mean on the batch. The loss is the squared
    distance from that map, and `follow` and `level` times their losses.
    """
    net: Any = elastic.net
    recipe, blocks = step.recipe, net.adapter.blocks
    with torch.no_grad():
        features = net.features(step.lr)
        errors = _errors_of_depths(net, features, step.hr)
        errors = errors / errors.mean()
    n = len(step.lr)
    at = (np.arange(FOLLOWED) + step.rng.uniform(0, 1, FOLLOWED)) * blocks / FOLLOWED
    terms: Dict[str, list] = {"map": [], "follow": [], "level": []}
    for desired in torch.from_numpy(at).to(features.dtype).to(features.device).split(1):
        depth_map = net.adapter(features, desired.expand(n)).float()
        best = best_map(errors, desired.item(), blocks)
        # Beyond half of all blocks little is gained: the mean counts more than where it is.
        weight = 1.0 if desired.item() <= blocks / 2 else DEEP_WEIGHT
        distance = (depth_map.clamp(max=blocks) - best).square().mean() / (desired + 1) ** 2
        terms["map"].append(weight * distance)
        terms["follow"].append(recipe.follow * follow_loss(depth_map, desired, blocks))
        terms["level"].append(recipe.level * level_loss(depth_map))
    return {name: torch.stack(losses).mean() for name, losses in terms.items()}


def best_map(errors: Tensor, desired: float, blocks: int) -> Tensor:
    """Return the depths, (N, 1, H, W), of this mean that leave the least error in all.

    errors: (N, D, H, W), of D depths in equal steps from 0 to all blocks. What is left when no
    depth gains any more is spread evenly, so that no pixel is deeper for a smaller mean.
    """
    errors = errors.cummin(dim=1).values
    step = blocks / (errors.shape[1] - 1)
    depths = torch.linspace(0, blocks, errors.shape[1]).to(errors).view(1, -1, 1, 1)

    def chosen(price: float) -> Tensor:
        return (errors + price * depths).argmin(dim=1, keepdim=True).float() * step

    low, high = 1e-6, 1.0  # the error that a block must save to be worth it
    best = chosen(low)
    if best.mean().item() <= desired:
        left = float(blocks - best.mean())
        return blocks - (blocks - best) * ((blocks - desired) / left if left else 1.0)
    for _ in range(24):
        price = (low * high) ** 0.5
        best = chosen(price)
        low, high = (price, high) if best.mean().item() > desired else (low, price)
    return best


def _errors_of_depths(net: Any, features: Tensor, hr: Tensor) -> Tensor:
    """Return squared errors, (N, 9, H, W), of 0 blocks to all in equal steps, at LR pixels."""
    blocks = len(net.blocks)
    marks = [round(blocks * i / ERROR_STEPS) for i in range(ERROR_STEPS + 1)]
    errors, y = [], features
    for number in range(blocks + 1):
        y = net.blocks[number - 1](y) if number else y
        for _ in range(marks.count(number)):
            error = (net.image(y, features).float() - hr).square().mean(dim=1, keepdim=True)
            errors.append(F.avg_pool2d(error, net.scale))
    inside = F.pad(torch.cat(errors, dim=1), [ERROR_PX // 2] * 4, mode="replicate")
    return F.avg_pool2d(inside, ERROR_PX, stride=1)


METHODS: Dict[str, Callable[[ElasticNetwork, LossInputs], Terms]] = {
    "supervised": supervised,
    "deep-supervision": deep_supervision,
    "sandwich": sandwich,
    "adaptive-depth": adaptive_depth,
    "adapter": adapter,
}


TEACHABLE = ("supervised", "deep-supervision", "sandwich")
"""The methods that a teacher may take part in."""


def training_forward(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the forward pass for training: a cheaper equivalent if the network has one."""
    return getattr(net, "forward_training", net)
