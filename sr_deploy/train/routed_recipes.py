"""Recipes of CDNSR's steps two to four, which train a router and the networks it chooses between.

The first step, each branch on the patches of its class of difficulty, is that of ordinary recipes: see `difficulty` in Recipe.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, Mapping, Tuple

from sr_deploy.core.degradation import check_degradation
from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.core.jsonio import from_dict, read_json
from sr_deploy.core.routers import CELL
from sr_deploy.train.contrast import DISTILLATION
from sr_deploy.train.recipes import AMP, CDNSR_OTHER_CLASSES, CDNSR_WIDTHS, LARGEST
from sr_deploy.train.schedule import learning_rate

STAGES = ("router", "distil", "joint")
OBJECTIVES = ("cdnsr", "classsr", "labels")
TEACHING = ("none", *DISTILLATION)


@dataclass(frozen=True)
class RoutedRecipe:
    """One of the steps. Adam with PyTorch's betas, flips and transposition of the patches throughout."""

    stage: str
    """`router`: Module-CL alone, the branches as they are; `distil`: the branches, the router as it is; `joint`: all."""
    scale: int
    steps: int
    patch_hr: int
    """HR pixels a side."""
    batch_size: int
    lr: float
    schedule: str
    """See `learning_rate`: constant, one-cycle, cosine, halving, knee."""
    classes: int = 3
    """M, the number of branches."""
    convs: int = 5
    """Of Module-CL."""
    objective: str = "cdnsr"
    """`cdnsr`: eq. 4; `classsr`: 1000 times L1, its class loss and its average loss; `labels`, ours and of the stage router alone:
    which branch is best for a patch, learnt from errors that are computed once (see bank.py)."""
    alpha: float = 0.0
    """The share of the largest branch's cost that is free."""
    lambda_reg: float = 2e-4
    bank: int = 4096
    """Of `labels`: how many patches' errors are computed."""
    softness: float = 1.5
    """Of `labels`: see soft_labels; lambda_reg is then in squares of 0..1."""
    target_db: float = 0.027
    """Of `labels`: what the routed patches may lose, taken together, against the largest branch: the classes are shifted to that."""
    distillation: str = "none"
    """Of the stages that train branches: `contrastive` (eq. 8), or what Table V compares with: none, pixel, perceptual, csd."""
    lambda_ct: float = 1e-3
    negatives: int = 6
    """S, images each patch is pushed away from."""
    degradation: str = "bi"
    periods: Tuple[int, ...] = ()
    final_lr: float = 0.0
    ema: float = 0.0
    clip_norm: float = 0.0
    amp: str = "off"
    valid_every: int = 1000
    branches: Tuple[str, ...] = ()
    """The recipes whose results are the branches, by --branch, smallest first."""
    follows: str = ""
    """The recipe whose result this one starts from, by --init."""
    data: str = ""
    source: str = ""
    unprinted: str = ""

    @property
    def patch_hw(self) -> Tuple[int, int]:
        """The LR patches, (h, w) in pixels."""
        side = self.patch_hr // self.scale
        return side, side

    @property
    def teaches(self) -> bool:
        """Whether the larger branches teach the smaller ones."""
        return self.stage != "router" and self.distillation != "none"


def check_routed(recipe: RoutedRecipe, *, source: str) -> None:
    """Raise InputError when a recipe names something that does not exist or numbers that cannot be."""
    for key, value, known in (
        ("stage", recipe.stage, STAGES),
        ("objective", recipe.objective, OBJECTIVES),
        ("distillation", recipe.distillation, TEACHING),
        ("amp", recipe.amp, AMP),
    ):
        if value not in known:
            raise InputError(
                f"{source}: {key} is '{value}'; expected {', '.join(known)}",
                hint=did_you_mean(value, known),
            )
    numbers = [
        v for v in dataclasses.asdict(recipe).values() if isinstance(v, (int, float))
    ] + list(recipe.periods)
    if not all(abs(n) <= LARGEST for n in numbers):
        raise InputError(f"{source}: a number is not finite, or above 10**9")
    if (
        min(recipe.steps, recipe.patch_hr, recipe.batch_size, recipe.valid_every) < 1
        or recipe.patch_hr % recipe.scale
    ):
        raise InputError(
            f"{source}: steps, batch_size and valid_every are at least 1, patch_hr a multiple of the scale"
        )
    if min(recipe.patch_hw) < CELL:
        raise InputError(f"{source}: a router takes at least {CELL} LR pixels a side")
    if recipe.classes < 2 or not 2 <= recipe.convs <= 100:
        raise InputError(
            f"{source}: expected classes >= 2 and convs from 2 to 100, not {recipe.classes} and {recipe.convs}"
        )
    if not (
        recipe.lr > 0
        and 0 <= recipe.ema < 1
        and min(recipe.final_lr, recipe.clip_norm, recipe.lambda_reg, recipe.lambda_ct) >= 0
    ):
        raise InputError(
            f"{source}: expected lr > 0, 0 <= ema < 1, final_lr >= 0, clip_norm >= 0, lambda_reg >= 0, lambda_ct >= 0"
        )
    if not 0 <= recipe.alpha <= 1:
        raise InputError(f"{source}: alpha is a share, from 0 to 1, not {recipe.alpha}")
    if recipe.objective == "labels" and (
        recipe.stage != "router" or recipe.bank < 64 or not recipe.softness * recipe.lambda_reg > 0
    ):
        raise InputError(
            f"{source}: labels are of the stage 'router', with a bank of at least 64 and softness and lambda_reg above 0"
        )
    if recipe.teaches and not 1 <= recipe.negatives < recipe.batch_size:
        raise InputError(
            f"{source}: {recipe.negatives} negatives; expected at least 1, and fewer than the batch of {recipe.batch_size}"
        )
    learning_rate(
        recipe.schedule,
        0,
        recipe.steps,
        lr=recipe.lr,
        final_lr=recipe.final_lr,
        periods=recipe.periods,
    )
    check_degradation(recipe.degradation, recipe.scale)


def is_routed(name: str) -> bool:
    """Tell whether a recipe's name, or a JSON file of one, is that of a router: it has a stage."""
    return (
        "stage" in read_json(Path(name), InputError)
        if name.endswith(".json")
        else name in ROUTED_RECIPES
    )


def routed_recipe_named(name: str) -> RoutedRecipe:
    """Return a listed recipe, or that of a JSON file with the fields of RoutedRecipe. Raises InputError."""
    if name.endswith(".json"):
        recipe = from_dict(
            RoutedRecipe, read_json(Path(name), InputError), source=Path(name), error=InputError
        )
    elif name in ROUTED_RECIPES:
        recipe = ROUTED_RECIPES[name]
    else:
        raise InputError(
            f"unknown recipe '{name}' of a router", hint=did_you_mean(name, ROUTED_RECIPES)
        )
    check_routed(recipe, source=name)
    return recipe


REQUIREMENTS: Mapping[str, Tuple[float, float]] = {
    "r": (0.75, 2e-4),
    "m": (0.55, 2e-4),
    "s": (0.45, 4e-4),
}
"""Alpha and lambda_reg of the variants with relaxed, moderate and strict requirements, from Table II's rows."""

_PRINTED = RoutedRecipe(
    stage="router",
    scale=4,
    batch_size=64,
    patch_hr=128,
    steps=200_000,
    lr=2e-4,
    schedule="cosine",
    final_lr=1e-7,
    alpha=0.75,
    data="DIV2K 0001-0800, and the same made smaller by factors 0.6 to 0.9",
    source="CDNSR: eqs. 1-9; section IV-A: Adam, batch 64, LR 32x32, 2e-4, cosine to 1e-7, lambda_reg 2e-4, lambda_CT 1e-3, S = 6",
    unprinted="the length (200,000 steps, as ClassSR), which alpha and lambda_reg make R, M and S (three rows of Table II), the router's "
    "choice while the branches learn (the likeliest), tau of the last step (0.4), VGG's layer (conv5_4) and the perceptron's widths",
)

# Ours, for minutes on one core. Trained by eq. 4 from branches that differ by tenths of a dB, the router soon sends every patch to
# the same branch, and stays there: softmax has no gradient left. Labels have none of that.
_SMALL = replace(
    _PRINTED,
    objective="labels",
    steps=2_000,
    lr=1e-3,
    schedule="one-cycle",
    final_lr=0.0,
    clip_norm=1.0,
    ema=0.99,
    valid_every=2_000,
    data="",
    source="ours",
    unprinted="",
)


def _recipes() -> Dict[str, RoutedRecipe]:
    r: Dict[str, RoutedRecipe] = {}
    for backbone, widths in CDNSR_WIDTHS.items():
        branches = tuple(f"cdnsr-{backbone}-{width}-x4" for width in widths)
        for name, (alpha, lambda_reg) in REQUIREMENTS.items():
            first = replace(_PRINTED, alpha=alpha, lambda_reg=lambda_reg, branches=branches)
            stem = f"cdnsr-{name}-{backbone}-x4"
            r[stem] = first
            r[f"{stem}-2"] = replace(
                first, stage="distil", distillation="contrastive", follows=stem
            )
            r[f"{stem}-3"] = replace(
                first, stage="joint", distillation="contrastive", follows=f"{stem}-2"
            )
    fsrcnn = r["cdnsr-r-fsrcnn-x4"]
    for backbone in ("fsrcnn", "carn-m"):  # Table III
        for convs in (3, 4, 5, 6):
            r[f"cdnsr-ablation-{backbone}-{convs}-convs"] = replace(
                r[f"cdnsr-r-{backbone}-x4"],
                convs=convs,
                alpha=0.8,
                source="CDNSR, Table III: alpha 0.8",
            )
    for teaching in TEACHING:  # Table V
        r[f"cdnsr-ablation-{teaching}"] = replace(
            fsrcnn,
            stage="distil",
            distillation=teaching,
            lambda_ct=1.0 if teaching != "contrastive" else 1e-3,
            negatives=5,
            follows="cdnsr-r-fsrcnn-x4",
            source="CDNSR, Table V: S = 5, weight 1; contrastive as section IV-A",
        )
    for count in (2, 4, 6, 8):  # Table VII
        r[f"cdnsr-ablation-{count}-negatives"] = replace(
            r["cdnsr-s-fsrcnn-x4-2"], negatives=count, source="CDNSR, Table VII: S from 2 to 8"
        )
    for widths in CDNSR_OTHER_CLASSES:
        branches = tuple(f"cdnsr-fsrcnn-{w}-of-{len(widths)}-x4" for w in widths)
        r[f"cdnsr-ablation-{len(widths)}-classes"] = replace(
            fsrcnn,
            classes=len(widths),
            branches=branches,
            source="ours: other numbers of classes M",
        )
    r["cdnsr-ablation-classsr"] = replace(
        fsrcnn,
        objective="classsr",
        source="CDNSR, Table I: ClassSR's loss, with the weights of its public options: 1000, 0.5, 3",
    )

    # With the paper's 5 convolutions a router takes 15 % of FSRCNN w56's multiply-accumulates, with 3 (Table III) 7 %.
    small = replace(_SMALL, convs=3)
    r["cdnsr-fsrcnn-x4-small"] = replace(
        small,
        bank=20_480,
        steps=5_000,
        valid_every=5_000,
        branches=tuple(f"fsrcnn-{w}-x4-small" for w in CDNSR_WIDTHS["fsrcnn"]),
    )
    r["cdnsr-fsrcnn-x4-small-2"] = replace(
        small,
        stage="distil",
        objective="cdnsr",
        distillation="contrastive",
        steps=600,
        lr=5e-4,
        follows="cdnsr-fsrcnn-x4-small",
    )
    r["cdnsr-fsrcnn-x4-small-3"] = replace(
        small,
        stage="joint",
        objective="cdnsr",
        distillation="contrastive",
        steps=600,
        lr=2e-4,
        follows="cdnsr-fsrcnn-x4-small-2",
    )
    r["elastic-asrn-x4-small"] = replace(
        _SMALL,
        bank=12_288,
        steps=4_000,
        valid_every=4_000,
        target_db=0.02,
        branches=("asrn-x4-small-2",) * 3,
    )
    return r


ROUTED_RECIPES: Mapping[str, RoutedRecipe] = _recipes()
