"""What each of CDNSR's steps two to four minimises, and what it trains."""

from __future__ import annotations

from typing import Dict, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.train.bank import soft_labels
from sr_deploy.train.contrast import DISTILLATION, negatives
from sr_deploy.train.losses import Terms
from sr_deploy.train.routed_recipes import RoutedRecipe
from sr_deploy.train.router_losses import (
    TAU_END,
    average_loss,
    class_loss,
    flops_excess,
    gumbel_softmax,
    mixed,
    temperature,
)

CLASSSR_WEIGHTS = (1000.0, 0.5, 3.0)
"""Of L1, the class loss and the average loss, in ClassSR's public options."""
TRAINED = {
    "router": ("router",),
    "distil": ("branches", "projector"),
    "joint": ("router", "branches", "projector"),
}
"""What changes at each stage."""


def routed_terms(
    recipe: RoutedRecipe,
    modules: Dict[str, nn.Module],
    features: nn.Module,
    macs: Sequence[int],
    lr: Tensor,
    hr: Tensor,
    noise: Tensor,
    step: int,
) -> Terms:
    """Return the terms of a stage: eq. 4 for the router, eq. 9 for the branches, and both with all their terms for the last.

    modules: router, branches and projector. hr: with the objective `labels` the branches' errors, (N, M). noise: (N, M), of
    eq. 5. While the branches learn alone, each patch goes through its likeliest one; at the last stage tau stays where the
    second one left it.
    """
    if recipe.objective == "labels":
        labels = soft_labels(hr, macs, recipe.lambda_reg, recipe.softness)
        return {"labels": F.cross_entropy(modules["router"](lr).to(hr.dtype), labels)}
    with torch.set_grad_enabled("branches" in TRAINED[recipe.stage]):
        outputs = modules["branches"](lr).to(hr.dtype)
    log_p = F.log_softmax(modules["router"](lr).to(hr.dtype), dim=1)
    terms: Terms = {}
    if recipe.stage == "distil":
        p = F.one_hot(log_p.argmax(dim=1), log_p.shape[1]).to(hr.dtype)
    elif recipe.objective == "classsr":
        p = log_p.exp()
    else:
        tau = TAU_END if recipe.stage == "joint" else temperature(step, recipe.steps)
        p = gumbel_softmax(log_p, noise.to(hr.dtype), tau)
    terms["pixel"] = F.l1_loss(mixed(p, outputs), hr)
    if recipe.objective == "classsr" and recipe.stage != "distil":
        pixels, certain, equal = CLASSSR_WEIGHTS
        terms = {
            "pixel": pixels * terms["pixel"],
            "class": certain * class_loss(p),
            "average": equal * average_loss(p),
        }
    elif recipe.stage != "distil":
        terms["flops"] = recipe.lambda_reg * flops_excess(p, macs, recipe.alpha)
    if recipe.teaches:
        others = negatives(lr.to(hr.dtype), hr.shape[2:], recipe.negatives)
        taught = DISTILLATION[recipe.distillation](outputs, others, features, modules["projector"])
        terms[f"taught: {recipe.distillation}"] = recipe.lambda_ct * taught
    return terms
