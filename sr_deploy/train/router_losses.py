"""The losses of CDNSR's steps two to four (eqs. 1-6), those of ClassSR, and a routed network.

Branches are in the order of their cost, the smallest first. p: (N, M), the probability of each of M
branches for each patch.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.train.bank import soft_labels
from sr_deploy.train.contrast import DISTILLATION, negative_samples
from sr_deploy.train.losses import Terms, training_forward
from sr_deploy.train.recipe import RouterRecipe

TAU_END = 0.4
CLASSSR_WEIGHTS = (1000.0, 0.5, 3.0)
"""Of L1, the class loss and the average loss, in ClassSR's public options."""
TRAINED = {
    "router": ("router",),
    "distil": ("branches", "projector"),
    "joint": ("router", "branches", "projector"),
}
"""The modules that each stage trains."""


def temperature(step: int, steps: int) -> float:
    """Return tau of update `step`, counted from 0, of a run of `steps` (section IV-A)."""
    return max(TAU_END, 1 - step / steps)


def gumbel_noise(n: int, classes: int, rng: np.random.Generator) -> Tensor:
    """Return g = -log(-log U), (n, classes) float32, of eq. 5."""
    return torch.from_numpy(rng.gumbel(size=(n, classes))).float()


def gumbel_softmax(log_p: Tensor, noise: Tensor, tau: float) -> Tensor:
    """Return the relaxed choice, (N, M) with rows of sum 1: exp((log p + g) / tau), normalised.

    Eq. 6 as printed divides both exponentials by tau, which cancels. Their exponents are divided
    here, as in the paper that it cites.
    """
    return ((log_p + noise) / tau).softmax(dim=1)


def mix_outputs(p: Tensor, outputs: Tensor) -> Tensor:
    """Return eq. 1, the mean of the branches' images by p: (N, M, 3, H, W) -> (N, 3, H, W)."""
    return torch.einsum("nm,nmchw->nchw", p, outputs)


def expected_distance(p: Tensor, distances: Tensor) -> Tensor:
    """Return the mean of the branches' L1 distances, (N, M), by p: that of hard choices (eq. 5).

    The L1 distance of the mean image, eq. 1, is less than this. It rewards mixing the branches,
    which a router that chooses one cannot do.
    """
    return (p * distances).sum(dim=1).mean()


def flops_excess(p: Tensor, costs: Sequence[float], alpha: float) -> Tensor:
    """Return eqs. 2-3: by how much the mean cost, as a share of the largest, exceeds `alpha`."""
    share = p.new_tensor(costs) / max(costs)
    return F.relu((p * share).sum(dim=1).mean() - alpha)


def class_loss(p: Tensor) -> Tensor:
    """Return ClassSR's class loss, the mean of M - 1 minus the sum of |p_i - p_j| over all pairs.

    It is 0 if one class has probability 1.
    """
    classes = p.shape[1]
    pairs = [(i, j) for i in range(classes) for j in range(i)]
    differences = sum(((p[:, i] - p[:, j]).abs() for i, j in pairs), p.new_zeros(len(p)))
    return (classes - 1 - differences).mean()


def average_loss(p: Tensor) -> Tensor:
    """Return ClassSR's average loss, the sum of |sum of p - N/M| over the classes, scaled to 0..1.

    0 is a batch of equal classes, 1 a batch of a single class.
    """
    n, classes = p.shape
    equal = n / classes
    return (p.sum(dim=0) - equal).abs().sum() / (2 * (n - equal))


def stage_terms(
    recipe: RouterRecipe,
    modules: Dict[str, nn.Module],
    costs: Sequence[int],
    lr: Tensor,
    hr: Tensor,
    noise: Tensor,
    step: int,
) -> Terms:
    """Return the loss terms: eq. 4 for the router, eq. 9 for the branches, both for `joint`.

    modules: router, branches, projector and features. costs: of the branches, in any unit. hr: from
    a bank instead errors of the branches, (N, M), or for eq. 4 some of their differences from the
    HR images, (N, M, values): as p sums to 1, L1 of eq. 1 is the mean of |sum of p_j (y_j - y)|.
    noise: of eq. 5, (N, M). The stage `distil` sends each patch through its likeliest branch;
    `joint` keeps the last tau of the stage `router`.
    """
    if recipe.objective == "labels":
        labels = soft_labels(hr, costs, recipe.lambda_reg, recipe.softness)
        return {"labels": F.cross_entropy(modules["router"](lr).to(hr.dtype), labels)}
    if recipe.learns_from_bank:
        log_p = F.log_softmax(modules["router"](lr).to(hr.dtype), dim=1)
        if recipe.objective == "expected":
            p = log_p.exp()
            pixel = expected_distance(p, hr)
        else:
            p = gumbel_softmax(log_p, noise.to(hr.dtype), temperature(step, recipe.steps))
            pixel = torch.einsum("nm,nmv->nv", p, hr).abs().mean()
        return {"pixel": pixel, **_cost_terms(recipe, log_p, p, costs)}
    with torch.set_grad_enabled("branches" in TRAINED[recipe.stage]):
        outputs = modules["branches"](lr).to(hr.dtype)
    log_p = F.log_softmax(modules["router"](lr).to(hr.dtype), dim=1)
    if recipe.stage == "distil":
        p = F.one_hot(log_p.argmax(dim=1), log_p.shape[1]).to(hr.dtype)
    elif recipe.objective == "cdnsr":
        tau = TAU_END if recipe.stage == "joint" else temperature(step, recipe.steps)
        p = gumbel_softmax(log_p, noise.to(hr.dtype), tau)
    else:
        p = log_p.exp()
    terms: Terms = {"pixel": F.l1_loss(mix_outputs(p, outputs), hr)}
    if recipe.objective == "expected":
        distances = (outputs - hr.unsqueeze(1)).abs().mean(dim=(2, 3, 4))
        terms["pixel"] = expected_distance(p, distances)
    if recipe.objective == "classsr" and recipe.stage != "distil":
        pixel_weight, class_weight, average_weight = CLASSSR_WEIGHTS
        terms = {
            "pixel": pixel_weight * terms["pixel"],
            "class": class_weight * class_loss(p),
            "average": average_weight * average_loss(p),
        }
    elif recipe.stage != "distil":
        terms.update(_cost_terms(recipe, log_p, p, costs))
    if recipe.distils:
        negatives = negative_samples(lr.to(hr.dtype), hr.shape[2:], recipe.negatives)
        loss = DISTILLATION[recipe.distillation](
            outputs, negatives, modules["features"], modules["projector"]
        )
        terms[f"taught: {recipe.distillation}"] = recipe.lambda_ct * loss
    return terms


def _cost_terms(recipe: RouterRecipe, log_p: Tensor, p: Tensor, costs: Sequence[int]) -> Terms:
    terms: Terms = {"flops": recipe.lambda_reg * flops_excess(p, costs, recipe.alpha)}
    if recipe.softness:
        entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
        terms["entropy"] = -recipe.lambda_reg * recipe.softness * entropy
    return terms


class ParallelBranches(nn.Module):
    """All branches on the same patches. x: (N, 3, H, W) float, 0..1, RGB -> (N, M, 3, sH, sW)."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([training_forward(net)(x) for net in self.networks], dim=1)


class DepthBranches(nn.Module):
    """The same for depths of one elastic network with `forward_depths`: its blocks run once."""

    def __init__(self, net: nn.Module, depths: Sequence[int]) -> None:
        super().__init__()
        self.net, self.depths = net, tuple(depths)

    def forward(self, x: Tensor) -> Tensor:
        net: Any = self.net
        images = net.forward_depths(x)[1]
        return torch.stack([images[d - 1] for d in self.depths], dim=1)


class RoutedNetwork(nn.Module):
    """A router and its branches as one network. x: (1, 3, H, W) float, 0..1, RGB -> (1, 3, sH, sW).

    The image is cut into patches of `patch` LR pixels a side; the last ones overlap their
    neighbours if the image is not a multiple of that. Each patch runs through its likeliest branch
    only, or is cut from that branch's output for the whole image (`surroundings`). `counts` is the
    number of patches of each class so far, `image_px` that of LR pixels.
    """

    def __init__(
        self,
        router: Callable[[Tensor], Tensor],
        networks: Sequence[nn.Module],
        *,
        scale: int,
        patch: int,
        surroundings: bool = False,
    ) -> None:
        super().__init__()
        self.router, self.networks = router, nn.ModuleList(networks)
        self.scale, self.patch, self.surroundings = scale, patch, surroundings
        self.counts, self.image_px = [0] * len(networks), 0

    def forward(self, x: Tensor) -> Tensor:
        s, p = self.scale, self.patch
        h, w = x.shape[2:]
        self.image_px += h * w
        corners = [(top, left) for top in _starts(h, p) for left in _starts(w, p)]
        patches = torch.cat([x[..., top : top + p, left : left + p] for top, left in corners])
        classes = self.router(patches).argmax(dim=1).tolist()
        y = x.new_zeros(1, 3, s * h, s * w)
        for j, net in enumerate(self.networks):
            members = [i for i, c in enumerate(classes) if c == j]
            self.counts[j] += len(members)
            if self.surroundings and members:
                whole = net(x)
            for start in range(0, len(members), 16):
                batch = members[start : start + 16]
                images = None if self.surroundings else net(patches[batch])
                for n, i in enumerate(batch):
                    top, left = corners[i]
                    rows, columns = slice(s * top, s * (top + p)), slice(s * left, s * (left + p))
                    y[0, :, rows, columns] = (
                        whole[0, :, rows, columns] if images is None else images[n]
                    )
        return y


def _starts(size: int, patch: int) -> List[int]:
    return [*range(0, max(size - patch, 0), patch), max(size - patch, 0)]
