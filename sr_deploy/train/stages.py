"""The losses of CDNSR's steps two to four, and the modules that each of them trains."""

from __future__ import annotations

from typing import Dict, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.train.bank import soft_labels
from sr_deploy.train.contrast import DISTILLATION, negative_samples
from sr_deploy.train.losses import Terms
from sr_deploy.train.recipe import RouterRecipe
from sr_deploy.train.router_losses import (
    TAU_END,
    average_loss,
    class_loss,
    flops_excess,
    gumbel_softmax,
    mix_outputs,
    temperature,
)

CLASSSR_WEIGHTS = (1000.0, 0.5, 3.0)
"""Of L1, the class loss and the average loss, in ClassSR's public options."""
TRAINED = {
    "router": ("router",),
    "distil": ("branches", "projector"),
    "joint": ("router", "branches", "projector"),
}
"""The modules that each stage trains."""


def stage_terms(
    recipe: RouterRecipe,
    modules: Dict[str, nn.Module],
    macs: Sequence[int],
    lr: Tensor,
    hr: Tensor,
    noise: Tensor,
    step: int,
) -> Terms:
    """Return the loss terms of a stage: eq. 4 for the router, eq. 9 for the branches, all of both for `joint`.

    modules: router, branches, projector and features. macs: of the branches. hr: with the objective
    `labels` the errors of the branches, (N, M). noise: of eq. 5, (N, M). The stage `distil` sends each patch
    through its likeliest branch; `joint` keeps the last tau of the stage `router`.
    """
    if recipe.objective == "labels":
        labels = soft_labels(hr, macs, recipe.lambda_reg, recipe.softness)
        return {"labels": F.cross_entropy(modules["router"](lr).to(hr.dtype), labels)}
    with torch.set_grad_enabled("branches" in TRAINED[recipe.stage]):
        outputs = modules["branches"](lr).to(hr.dtype)
    log_p = F.log_softmax(modules["router"](lr).to(hr.dtype), dim=1)
    if recipe.stage == "distil":
        p = F.one_hot(log_p.argmax(dim=1), log_p.shape[1]).to(hr.dtype)
    elif recipe.objective == "classsr":
        p = log_p.exp()
    else:
        tau = TAU_END if recipe.stage == "joint" else temperature(step, recipe.steps)
        p = gumbel_softmax(log_p, noise.to(hr.dtype), tau)
    terms: Terms = {"pixel": F.l1_loss(mix_outputs(p, outputs), hr)}
    if recipe.objective == "classsr" and recipe.stage != "distil":
        pixel_weight, class_weight, average_weight = CLASSSR_WEIGHTS
        terms = {
            "pixel": pixel_weight * terms["pixel"],
            "class": class_weight * class_loss(p),
            "average": average_weight * average_loss(p),
        }
    elif recipe.stage != "distil":
        terms["flops"] = recipe.lambda_reg * flops_excess(p, macs, recipe.alpha)
    if recipe.distils:
        negatives = negative_samples(lr.to(hr.dtype), hr.shape[2:], recipe.negatives)
        loss = DISTILLATION[recipe.distillation](
            outputs, negatives, modules["features"], modules["projector"]
        )
        terms[f"taught: {recipe.distillation}"] = recipe.lambda_ct * loss
    return terms
