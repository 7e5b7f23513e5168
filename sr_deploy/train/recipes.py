"""Recipes are data: everything that fixes a run but the images, the seed and the start, with where it comes from.

Three kinds: the papers' schedules as printed; `-small` ones for hours on a CPU; `-gpu` ones for half an hour on one GPU.
What a paper does not print is said in `unprinted`. Stages that go on from weights are recipes of their own: `follows` names
the one whose result --init takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Dict, Iterator, Mapping, Tuple

import torch

from sr_deploy.core.degradation import check_degradation
from sr_deploy.core.errors import InputError, SrDeployError, did_you_mean
from sr_deploy.core.jsonio import from_dict, read_json
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.train.losses import METHODS, PIXEL_LOSSES
from sr_deploy.train.schedule import learning_rate

AMP = ("off", "bf16", "fp16")
LARGEST = 10**9
"""Of any number in a recipe, and of the parameters it trains: past it nothing ends, or fits a float."""
# ASRN's lambda of 0.1 goes with images in 0..255, where its MSE is tens and the attention term hundredths. Losses here are of
# 0..1, so it is divided by 255 for L1 and by its square for L2: the same sum but for a factor. Taken as 0.1 with L1 of 0..1 it
# cost 0.38 dB at d5 and 0.06 dB at d1 (Set5 x4, 2,000 steps of 16 patches of 64x64, beside no PSD).
PSD_L1, PSD_L2 = 0.1 / 255, 0.1 / 255**2
DEPTH_L1 = 0.01 / 255
"""AdaDSR's lambda; its public code has images in 0..255 too."""


@dataclass(frozen=True)
class Recipe:
    """One run. Adam with PyTorch's betas, flips and transposition of the patches throughout."""

    arch: str
    scale: int
    method: str
    """`supervised`, `deep-supervision` (DSL, with psd > 0 also PSD), `distillation`, `sandwich` (elastic width) or `adaptive-depth`."""
    steps: int
    patch_hr: int
    """HR pixels a side."""
    batch_size: int
    lr: float
    schedule: str
    """See `learning_rate`: constant, one-cycle, cosine, halving, knee."""
    variant: str = ""
    """The largest variant that is trained; empty: the architecture's own."""
    config: dict = field(default_factory=dict)
    elastic: bool = False
    """The checkpoint's card names every point it can be cut to."""
    periods: Tuple[int, ...] = ()
    final_lr: float = 0.0
    loss: str = "l1"
    psd: float = 0.0
    """The weight of PSD beside losses of images in 0..1."""
    psd_detached: bool = True
    depth: float = 0.0
    """The weight of AdaDSR's network depth loss beside losses of images in 0..1."""
    difficulty: Tuple[int, ...] = ()
    """(class, of how many): train on patches of that class of difficulty alone, 1 the easiest; empty: on all."""
    judge: str = ""
    """The recipe whose result tells how difficult a patch is, by --judge."""
    degradation: str = "bi"
    ema: float = 0.0
    """Decay of the weights' average, which is what is validated and saved; 0: the weights themselves."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0: not clipped."""
    amp: str = "off"
    valid_every: int = 1000
    follows: str = ""
    """The recipe whose result this one starts from, by --init; `-best`: its best one."""
    teacher: str = ""
    """The recipe whose result teaches, by --teacher."""
    data: str = ""
    """The images that the paper trains on."""
    source: str = ""
    unprinted: str = ""
    """What the source leaves open, and was chosen."""


def recipe_named(name: str) -> Recipe:
    """Return a listed recipe, or that of a JSON file with the fields of Recipe. Raises InputError."""
    if name.endswith(".json"):
        recipe = from_dict(
            Recipe, read_json(Path(name), InputError), source=Path(name), error=InputError
        )
    elif name in RECIPES:
        recipe = RECIPES[name]
    else:
        raise InputError(
            f"unknown recipe '{name}'; srdeploy recipes lists the {len(RECIPES)} known ones",
            hint=did_you_mean(name, RECIPES) or "a recipe of your own is a .json file",
        )
    check(recipe, source=name)
    return recipe


def check(recipe: Recipe, *, source: str) -> None:
    """Raise InputError when a recipe names something that does not exist or numbers that cannot be."""
    for key, value, known in (
        ("arch", recipe.arch, ARCHITECTURES),
        ("method", recipe.method, METHODS),
        ("loss", recipe.loss, PIXEL_LOSSES),
        ("amp", recipe.amp, AMP),
    ):
        if value not in known:
            raise InputError(
                f"{source}: {key} is '{value}'; expected {', '.join(known)}",
                hint=did_you_mean(value, known),
            )
    for key, value in dataclasses.asdict(recipe).items():
        several = (
            value.values()
            if isinstance(value, dict)
            else value
            if isinstance(value, tuple)
            else (value,)
        )
        if any(isinstance(v, (int, float)) and not abs(v) <= LARGEST for v in several):
            raise InputError(f"{source}: {key} is not finite, or above 10**9")
    architecture = ARCHITECTURES[recipe.arch]
    network = _network(recipe, source=source)
    if recipe.method == "deep-supervision" and not hasattr(network, "forward_depths"):
        able = [
            n
            for n in ARCHITECTURES
            if hasattr(ARCHITECTURES[n].build(4, ARCHITECTURES[n].parse(None)), "forward_depths")
        ]
        raise InputError(f"{source}: {recipe.arch} cannot be cut in depth; {', '.join(able)} can")
    if recipe.method == "adaptive-depth" and not hasattr(network, "forward_at"):
        raise InputError(
            f"{source}: {recipe.arch} has no adapter", hint="adaedsr and adarcan have one"
        )
    if (
        min(recipe.steps, recipe.patch_hr, recipe.batch_size, recipe.valid_every) < 1
        or recipe.patch_hr % recipe.scale
    ):
        raise InputError(
            f"{source}: steps, batch_size and valid_every are at least 1, patch_hr a multiple of the scale"
        )
    if recipe.patch_hr // recipe.scale < max(architecture.min_hw):
        raise InputError(
            f"{source}: {recipe.arch} takes at least {max(architecture.min_hw)} LR pixels a side"
        )
    if not (
        recipe.lr > 0
        and 0 <= recipe.ema < 1
        and min(recipe.final_lr, recipe.clip_norm, recipe.psd, recipe.depth) >= 0
    ):
        raise InputError(
            f"{source}: expected lr > 0, 0 <= ema < 1, final_lr >= 0, clip_norm >= 0, psd >= 0, depth >= 0"
        )
    if recipe.difficulty and not (
        len(recipe.difficulty) == 2 and 1 <= recipe.difficulty[0] <= recipe.difficulty[1]
    ):
        raise InputError(
            f"{source}: difficulty is (class, of how many), (1, 3) say, not {recipe.difficulty}"
        )
    with _naming(source):
        learning_rate(
            recipe.schedule,
            0,
            recipe.steps,
            lr=recipe.lr,
            final_lr=recipe.final_lr,
            periods=recipe.periods,
        )
        check_degradation(recipe.degradation, recipe.scale)


@contextlib.contextmanager
def _naming(source: str) -> Iterator[None]:
    try:
        yield
    except SrDeployError as e:
        raise InputError(f"{source}: {e.message}", hint=e.hint) from e


def _network(recipe: Recipe, *, source: str) -> torch.nn.Module:
    """The recipe's network without its weights. Raises InputError, naming the source, when there is none such."""
    architecture = ARCHITECTURES[recipe.arch]
    for key, value in recipe.config.items():
        default = architecture.config.get(key, value)
        if type(value) is not type(default) or (type(value) is int and value < 1):
            kind = (
                "a number of at least 1" if type(default) is int else f"a {type(default).__name__}"
            )
            raise InputError(
                f"{source}: the configuration's {key} is {value!r}; expected {kind}, as {default!r} is"
            )
    try:
        with _naming(source), torch.device("meta"):
            network = architecture.build(
                recipe.scale, architecture.parse(recipe.variant or None), recipe.config
            )
    except (LookupError, TypeError, ValueError, RuntimeError) as e:
        raise InputError(
            f"{source}: there is no {recipe.arch} of the configuration {recipe.config}: {e}"
        ) from e
    if sum(p.numel() for p in network.parameters()) > LARGEST:
        raise InputError(f"{source}: a network of more than 10**9 parameters")
    return network


def _asrn(scale: int, method: str, psd: float, **changes: object) -> Recipe:
    recipe = Recipe(
        arch="asrn",
        scale=scale,
        method=method,
        psd=psd,
        elastic=True,
        loss="l2",
        batch_size=16,
        patch_hr=48 * scale,
        steps=1_000_000,
        lr=1e-4,
        schedule="halving",
        periods=(200_000,),
        data="DIV2K 0001-0800",
        source="ASRN: eqs. 5-11; section 4.2: Adam, batch 16, lr 1e-4 halved every 200 epochs of 1,000 steps, lambda 0.1",
        unprinted="patch size (48 LR pixels, as EDSR), length (1,000 epochs), activation, the images' range (0..255: that alone "
        "makes sense of lambda), whether PSD's teacher is detached",
    )
    return replace(recipe, **changes)  # type: ignore[arg-type]


def _imdeception(variant: str, method: str) -> Recipe:
    return Recipe(
        arch="imdeception",
        scale=4,
        variant=variant,
        method=method,
        elastic=method == "sandwich",
        loss="charbonnier",
        batch_size=8,
        patch_hr=512,
        steps=1_600_000,
        lr=5e-4,
        schedule="knee",
        periods=(8_000, 320_000, 320_000),
        data="DF2K",
        source="IMDeception, section 4.2, first phase: Charbonnier 0.1 (eq. 5), 2,000 epochs of 800 batches of 8, HR 512x512, "
        "Knee: 10 epochs warm-up, 400 explore at 5e-4, 400 cooldown"
        + (" (elastic width is ours)" if method == "sandwich" else ""),
        unprinted="what follows the 810 epochs of the schedule: it begins again",
    )


def _second_phase(first: Recipe, follows: str) -> Recipe:
    return replace(
        first,
        loss="l2",
        steps=1_040_000,
        follows=follows,
        source="IMDeception, section 4.2, second phase: from the best checkpoint, L2, 1,300 epochs",
    )


_EDSR = Recipe(
    arch="edsr",
    scale=4,
    method="supervised",
    batch_size=16,
    patch_hr=192,
    steps=1_000_000,
    lr=2e-4,
    schedule="cosine",
    final_lr=1e-7,
    data="DIV2K 0001-0800",
    source="SRN, section 4.1, teacher, stage 1: L1, HR 192x192, batch 16, 20,000 epochs, 2e-4, cosine to 1e-7",
    unprinted="the length of an epoch: 800 images / 16 = 50 steps",
)

_SRN = Recipe(
    arch="srn",
    scale=4,
    variant="b6",
    method="distillation",
    teacher="edsr-x4-3",
    batch_size=32,
    patch_hr=256,
    steps=2_000_000,
    lr=2e-4,
    schedule="cosine",
    final_lr=1e-7,
    data="DIV2K 0001-0800 and LSDIR",
    source="SRN, section 4.1, student: eq. 4, HR 256x256 (x2: 128x128), batch 32, 80,000 epochs, 2e-4, cosine to 1e-7",
    unprinted="the length of an epoch: that of DIV2K, 800 images / 32 = 25 steps",
)

_SRN_ABLATION = replace(
    _SRN,
    method="supervised",
    teacher="",
    steps=135_000,
    data="DIV2K and Flickr2K",
    source="SRN, section 4.3, Tables 2 and 3: L1, 2e-4, 1,250 epochs, cosine to 1e-7",
    unprinted="batch and patch size: the student's; the length of an epoch: 3,450 images / 32 = 108 steps",
)

_ADAEDSR = Recipe(
    arch="adaedsr",
    scale=4,
    variant="d32",
    config={"channels": 256, "blocks": 32},
    elastic=True,
    method="adaptive-depth",
    depth=DEPTH_L1,
    follows="edsr-original-256-x4",
    batch_size=16,
    patch_hr=192,
    steps=800_000,
    lr=5e-5,
    schedule="halving",
    periods=(200_000,),
    data="DIV2K 0001-0800",
    source="AdaDSR: eqs. 6-8, lambda 0.01; section 4.1: Adam, batch 16, LR 48x48, 800 epochs, 5e-5 halved every 200, d from [0, D]",
    unprinted="the length of an epoch (1,000 steps); the images' range (0..255, as in its public code)",
)

# The first of CDNSR's four steps; the others are in routed_recipes.py.
CDNSR_WIDTHS: Mapping[str, Tuple[str, ...]] = {
    "fsrcnn": ("w16", "w36", "w56"),
    "carn-m": ("w36", "w52", "w64"),
    "msrresnet": ("w36", "w52", "w64"),
    "rcan": ("w36", "w50", "w64"),
}
"""CDNSR's backbones, each at its three widths (section IV-A)."""
CDNSR_OTHER_CLASSES: Tuple[Tuple[str, ...], ...] = (
    ("w16", "w56"),
    ("w16", "w28", "w42", "w56"),
    ("w16", "w26", "w36", "w46", "w56"),
)
"""FSRCNN's widths for other numbers of classes, ours."""
_CDNSR_FIRST = Recipe(
    arch="fsrcnn",
    scale=4,
    method="supervised",
    judge="msrresnet-x4",
    batch_size=64,
    patch_hr=128,
    steps=1_000_000,
    lr=2e-4,
    schedule="cosine",
    final_lr=1e-7,
    data="DIV2K 0001-0800, and the same made smaller by factors 0.6 to 0.9",
    source="CDNSR: sections III-D and IV-A: L1 on one third of the patches, Adam, batch 64, LR 32x32, 2e-4, cosine to 1e-7",
    unprinted="the length",
)

# Ours, for hours on one or two cores. L1, one cycle and an average of the weights get further in that time than the papers'
# settings, which are made for days.
_SMALL = Recipe(
    arch="asrn",
    scale=4,
    method="deep-supervision",
    psd=PSD_L1,
    elastic=True,
    steps=10_000,
    patch_hr=128,
    batch_size=16,
    lr=1.5e-3,
    schedule="one-cycle",
    ema=0.999,
    clip_norm=1.0,
    source="ours",
)
_SMALL_WIDTH = replace(
    _SMALL, arch="imdeception", method="sandwich", psd=0.0, steps=8_000, batch_size=8, lr=1e-3
)

# Ours, for half an hour on one GPU of the H100's kind. The numbers of steps come from arithmetic, not from a run.
_GPU = {
    "batch_size": 64,
    "patch_hr": 256,
    "steps": 20_000,
    "amp": "bf16",
    "unprinted": "never run: no GPU was at hand",
}


def _recipes() -> Dict[str, Recipe]:
    r: Dict[str, Recipe] = {}
    for scale in (2, 3, 4):
        r[f"asrn-ss-x{scale}"] = _asrn(scale, "supervised", 0.0)
        r[f"asrn-dsl-x{scale}"] = _asrn(scale, "deep-supervision", 0.0)
        r[f"asrn-x{scale}"] = _asrn(scale, "deep-supervision", PSD_L2)
    for kind in ("bd", "dn"):  # section 4.2, degradation modes; Table 2
        r[f"asrn-x3-{kind}"] = _asrn(3, "deep-supervision", PSD_L2, degradation=kind)
    for blocks in (15, 25, 35, 45):  # section 4.2; Table 6
        for scale in (3, 4):
            r[f"asrn-{blocks}b-x{scale}"] = _asrn(scale, "supervised", 0.0, variant=f"d{blocks}")
    # DSL and PSD on another chain of blocks: "task-agnostic and model-agnostic", section 6.
    r["edsr-dsl-psd-x4"] = _asrn(
        4, "deep-supervision", PSD_L2, arch="edsr", config={"channels": 64}, variant="b16"
    )

    r["imdeception-x4"] = _imdeception("c16-nla", "sandwich")
    for point in ("c4", "c4-nla", "c8", "c12", "c16-nla"):  # Table 2
        r[f"imdeception-{point}-x4"] = _imdeception(point, "supervised")
    for name in [n for n in r if n.startswith("imdeception-")]:
        r[f"{name}-2"] = _second_phase(r[name], f"{name}-best")

    r["edsr-x4"] = _EDSR
    r["edsr-x4-2"] = replace(
        _EDSR,
        follows="edsr-x4",
        steps=1_062_400,
        lr=1e-4,
        data="LSDIR",
        source="SRN, section 4.1, teacher, stage 2: LSDIR, 200 epochs, 1e-4",
        unprinted="84,991 images / 16 = 5,312 steps an epoch",
    )
    r["edsr-x4-3"] = replace(
        _EDSR,
        follows="edsr-x4-2",
        steps=265_600,
        patch_hr=256,
        lr=2.5e-5,
        loss="l2",
        data="LSDIR",
        source="SRN, section 4.1, teacher, stage 3: L2, HR 256x256, 50 epochs, 2.5e-5",
        unprinted=r["edsr-x4-2"].unprinted,
    )
    for name in ("srn", "srn-s"):  # with and without the last convolution
        r[f"{name}-x4"] = replace(_SRN, arch=name)
        r[f"{name}-x2"] = replace(
            _SRN, arch=name, scale=2, patch_hr=128, method="supervised", teacher=""
        )
    challenge = replace(
        _SRN,
        arch="srn-s",
        variant="b4",
        data="DIV2K 0001-0800",
        source="SRN, section 4.4, stage 1: as the student, 4 blocks",
    )
    r["srn-ntire-x4"] = challenge
    r["srn-ntire-x4-2"] = replace(
        challenge, follows="srn-ntire-x4", source="SRN, section 4.4, stage 2: the same again"
    )
    r["srn-ntire-x4-3"] = replace(
        challenge,
        follows="srn-ntire-x4-2",
        patch_hr=640,
        loss="l2",
        lr=5e-5,
        schedule="constant",
        steps=100_000,
        source="SRN, section 4.4, stage 3: L2, HR 640x640, batch 32, 4,000 epochs, 5e-5",
        unprinted="the schedule: constant",
    )
    for arch, last in (("srn", "last"), ("srn-s", "no-last")):  # Tables 2 and 3
        for attention, residual in (
            ("none", True),
            ("esa-old", True),
            ("esa", True),
            ("esa", False),
        ):
            block = f"{attention}{'-residual' if residual else ''}-{last}"
            r[f"srn-ablation-{block}"] = replace(
                _SRN_ABLATION, arch=arch, config={"attention": attention, "residual": residual}
            )

    for scale in (2, 3, 4):
        at = {"scale": scale, "patch_hr": 48 * scale}
        r[f"edsr-original-256-x{scale}"] = replace(
            _ADAEDSR,
            arch="edsr-original",
            variant="b32",
            config={"channels": 256},
            elastic=False,
            method="supervised",
            depth=0.0,
            follows="",
            lr=1e-4,
            source="AdaDSR, section 5: EDSR (32), trained in its framework",
            unprinted="its schedule: AdaEDSR's, from 1e-4",
            **at,
        )
        r[f"adaedsr-x{scale}"] = replace(_ADAEDSR, follows=f"edsr-original-256-x{scale}", **at)
        r[f"adaedsr-16-x{scale}"] = replace(
            _ADAEDSR,
            variant="d16",
            config={"channels": 64, "blocks": 16},
            follows=f"edsr-original-16-x{scale}",
            **at,
        )
        r[f"edsr-original-16-x{scale}"] = replace(
            r[f"edsr-original-256-x{scale}"], variant="b16", config={"channels": 64}
        )
        r[f"rcan-x{scale}"] = replace(
            r[f"edsr-original-256-x{scale}"],
            arch="rcan",
            variant="w64",
            config={},
            source="AdaDSR, section 4.1: its backbone RCAN",
        )
        r[f"adarcan-x{scale}"] = replace(
            _ADAEDSR, arch="adarcan", variant="d20", config={}, follows=f"rcan-x{scale}", **at
        )
    for depth in (8, 16, 24, 32):  # section 5, Table 3
        r[f"fadaedsr-{depth}-x2"] = replace(
            r["adaedsr-x2"],
            variant=f"d{depth}",
            config={"channels": 256, "blocks": 32, "scaled": "none"},
            elastic=False,
            source=_ADAEDSR.source.replace(
                "d from [0, D]", f"section 5: d = {depth}, no input of the adapter"
            ),
        )

    r["msrresnet-x4"] = replace(
        _CDNSR_FIRST,
        arch="msrresnet",
        judge="",
        batch_size=16,
        source="CDNSR, section III-D: a well-trained MSRResNet",
        unprinted="all of its training: 1,000,000 steps of 16",
    )
    for arch, widths in CDNSR_WIDTHS.items():
        for number, width in enumerate(widths, 1):
            r[f"cdnsr-{arch}-{width}-x4"] = replace(
                _CDNSR_FIRST, arch=arch, variant=width, difficulty=(number, len(widths))
            )
    for widths in CDNSR_OTHER_CLASSES:
        for number, width in enumerate(widths, 1):
            r[f"cdnsr-fsrcnn-{width}-of-{len(widths)}-x4"] = replace(
                _CDNSR_FIRST, variant=width, difficulty=(number, len(widths))
            )

    r["asrn-x4-small"] = _SMALL
    # To go on with from asrn-ss-x4-small: what SS learnt is kept at full depth and given to the smaller depths.
    r["asrn-x4-small-2"] = replace(
        _SMALL, follows="asrn-ss-x4-small", steps=6_000, lr=1e-3, amp="bf16"
    )
    for scale in (2, 3):  # --init asrn_x4 gives them a start
        r[f"asrn-x{scale}-small"] = replace(
            _SMALL, scale=scale, patch_hr=32 * scale, steps=4_000, lr=1e-3, amp="bf16"
        )
    r["asrn-ss-x4-small"] = replace(_SMALL, method="supervised", psd=0.0)
    r["imdeception-x2-small"] = replace(_SMALL_WIDTH, scale=2, patch_hr=64, steps=5_000, amp="bf16")
    r["imdeception-x4-small"] = _SMALL_WIDTH
    r["imdeception-x4-small-2"] = replace(
        _SMALL_WIDTH, follows="imdeception-x4-small", steps=3_000, batch_size=16, lr=5e-4
    )
    r["edsr-x4-small"] = replace(
        _SMALL,
        arch="edsr",
        variant="b8",
        config={"channels": 64},
        method="supervised",
        psd=0.0,
        elastic=False,
        steps=6_000,
        lr=1e-3,
        amp="bf16",
    )
    # EDSR-baseline, begun from edsr-x4-small: as deep again by blocks that at first add nothing.
    r["edsr-original-x4-small"] = replace(
        r["edsr-x4-small"], arch="edsr-original", variant="b16", steps=2_200, lr=6e-4
    )
    # Five times the paper's weight, by estimate: one block more gains so small a network more than it gains the paper's.
    r["adaedsr-16-x4-small"] = replace(
        r["edsr-original-x4-small"],
        arch="adaedsr",
        variant="d16",
        config={"channels": 64, "blocks": 16},
        elastic=True,
        method="adaptive-depth",
        depth=5 * DEPTH_L1,
        follows="edsr-original-x4-small",
        steps=1_500,
        lr=4e-4,
        valid_every=300,
    )
    # A map of more blocks than wanted did not cost enough: at small desired depths it stayed too deep.
    r["adaedsr-16-x4-small-2"] = replace(
        r["adaedsr-16-x4-small"],
        depth=0.001,
        steps=900,
        lr=2e-4,
        valid_every=450,
        follows="adaedsr-16-x4-small",
    )
    for width, steps in ((16, 8_000), (36, 12_000), (56, 12_000)):
        r[f"fsrcnn-w{width}-x4-small"] = replace(
            _SMALL,
            arch="fsrcnn",
            variant=f"w{width}",
            method="supervised",
            psd=0.0,
            elastic=False,
            steps=steps,
            lr=2e-3,
            valid_every=3_000,
        )
    r["srn-ntire-x4-small"] = replace(
        _SMALL,
        arch="srn-s",
        variant="b4",
        method="distillation",
        psd=0.0,
        elastic=False,
        teacher="edsr-x4-small",
        lr=1e-3,
        amp="bf16",
    )
    for name in ("asrn-x4", "asrn-ss-x4", "imdeception-x4", "edsr-x4", "srn-ntire-x4"):
        r[f"{name}-gpu"] = replace(
            r[f"{name}-small"], teacher="edsr-x4-gpu" if name == "srn-ntire-x4" else "", **_GPU
        )  # type: ignore[arg-type]
    return r


RECIPES: Mapping[str, Recipe] = _recipes()
