"""Training recipes: all settings of a run except the images, the seed and the initial weights.

The recipes themselves are JSON files in the folder `recipes`, one folder for each paper; see its
README.md.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Collection,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
    cast,
)

import torch

from sr_deploy.core.degradation import check_degradation
from sr_deploy.core.errors import InputError, SrDeployError, did_you_mean
from sr_deploy.core.gains import CELL_PX
from sr_deploy.core.jsonio import from_dict, read_json
from sr_deploy.core.routers import BLENDS, CELL, OVERLAP_PX, blend_problems
from sr_deploy.core.spec import ModelSpec
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.router import MOBILENETV2
from sr_deploy.train.contrast import DISTILLATION
from sr_deploy.train.losses import METHODS, PIXEL_LOSSES
from sr_deploy.train.schedule import ENDING, knee_end, learning_rate

AMP = ("off", "bf16", "fp16")
INT8 = "int8"
"""The method that trains a checkpoint for INT8; architecture and scale are the checkpoint's."""
STAGES = ("router", "distil", "joint")
OBJECTIVES = ("cdnsr", "expected", "classsr", "labels")
COUNTINGS = ("deployed", "paper")
_PAPERS = {
    "ASRN": ("; the paper flips only", ""),
    "IMDeception": ("; the paper prints none", "; the paper pads with zeros"),
    "CDNSR": ("; the paper flips or rotates", ""),
}
"""Where a paper's augmentation and small images differ. AdaDSR and SRN flip both ways and rotate by
90 degrees, which gives the same eight orientations."""
MAX_NUMBER = 10**9
"""Upper bound of any number in a recipe and of the number of trained parameters."""


R = TypeVar("R", bound="BaseRecipe")


class BaseRecipe:
    """Fields and checks that all recipes share.

    The optimiser is Adam with PyTorch's betas. Patches are flipped and transposed at random, images
    smaller than a patch are left out: `notes` says where a paper does otherwise.
    """

    CHOICES: ClassVar[Dict[str, Collection[str]]]  # the allowed values of fields that hold a name
    trains: ClassVar[str]  # what a run makes
    scale: int
    steps: int
    patch_hr: int  # HR pixels per side
    batch_size: int
    lr: float
    schedule: str  # constant, one-cycle, cosine, halving or knee: see `learning_rate`
    periods: Tuple[int, ...]
    final_lr: float
    degradation: str
    ema: float  # decay of the averaged weights, which are validated and saved; 0: no average
    clip_norm: float  # largest norm of the gradient; 0: not clipped
    amp: str
    valid_every: int  # at most: see `validates_every`
    follows: str  # the recipe whose result this one starts from (--init); `-best`: its best weights
    data: str  # the images that the paper trains on
    source: str
    unprinted: str  # values that the source does not print

    @property
    def patch_hw(self) -> Tuple[int, int]:
        """Size of the LR patches, (h, w) in pixels."""
        return self.patch_hr // self.scale, self.patch_hr // self.scale

    @property
    def validates_every(self) -> int:
        """Number of steps from one validation to the next: there are ten in a run, or more."""
        return min(self.valid_every, max(self.steps // 10, 1))

    @property
    def has_end(self) -> bool:
        """Whether what a step does depends on the number of steps."""
        return self.schedule in ENDING

    def with_steps(self: R, steps: int) -> R:
        """Return the recipe with another number of steps, which is not checked."""
        changed: R = replace(cast(Any, self), steps=steps)
        return changed

    def defaults(self) -> Dict[str, Any]:
        """Return the values of the fields that a recipe need not have."""
        values = {f.name: f.default for f in fields(cast(Any, self))}
        values.update(
            (f.name, f.default_factory())
            for f in fields(cast(Any, self))
            if f.default_factory is not MISSING
        )
        return {name: value for name, value in values.items() if value is not MISSING}

    def notes(self) -> Dict[str, str]:
        """Return what all runs do, by subject, and where the paper of `source` does otherwise."""
        paper = self.source.partition(",")[0].partition(":")[0]
        augmentation, small = _PAPERS.get(paper, ("", ""))
        notes = {
            "augmentation": "flipped both ways and transposed at random" + augmentation,
            "small images": f"images of less than {self.patch_hr} pixels a side are left out"
            + small,
        }
        if self.schedule == "knee":
            starts = "starts anew with this recipe, " if self.follows else ""
            where = f"repeats every {sum(self.periods):,} steps and ends "
            where += knee_end(self.steps, self.periods)
            unsaid = "; the paper does not say" if paper in _PAPERS else ""
            notes["knee"] = f"the schedule {starts}{where}{unsaid}"
        return notes

    def check(self, source: str) -> None:
        """Raise InputError, naming `source`, for an unknown name or a value out of range."""
        try:
            self._check()
        except SrDeployError as e:
            raise InputError(f"{source}: {e.message}", hint=e.hint) from e

    def _check(self) -> None:
        raise NotImplementedError

    def _check_names_and_numbers(self) -> None:
        for key, choices in self.CHOICES.items():
            value = getattr(self, key)
            if value not in choices:
                expected = ", ".join(choices)
                hint = did_you_mean(value, choices)
                raise InputError(f"{key} is '{value}'; expected {expected}", hint=hint)
        for key, value in vars(self).items():
            values = value.values() if isinstance(value, dict) else value
            for v in values if isinstance(value, (dict, tuple)) else (value,):
                if isinstance(v, (int, float)) and not abs(v) <= MAX_NUMBER:
                    raise InputError(f"{key} is not finite, or above 10**9")

    def _expect(self, valid: bool, expected: str, *keys: str) -> None:
        """Raise InputError with the values of the fields `keys` unless `valid`."""
        if not valid:
            values = ", ".join(f"{key} {getattr(self, key)!r}" for key in keys)
            raise InputError(f"expected {expected}; got {values}")

    def _check_training(self) -> None:
        counts = ("scale", "steps", "patch_hr", "batch_size", "valid_every")
        at_least_1 = f"{', '.join(counts)} of at least 1"
        self._expect(min(getattr(self, key) for key in counts) >= 1, at_least_1, *counts)
        is_multiple = self.patch_hr % self.scale == 0
        self._expect(is_multiple, "patch_hr to be a multiple of the scale", "patch_hr", "scale")
        self._expect(
            self.lr > 0 and 0 <= self.ema < 1 and min(self.final_lr, self.clip_norm) >= 0,
            "lr > 0, 0 <= ema < 1, final_lr >= 0 and clip_norm >= 0",
            *("lr", "ema", "final_lr", "clip_norm"),
        )
        self.learning_rate(0)
        check_degradation(self.degradation, self.scale)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of update `step`, counted from 0."""
        rates = {"lr": self.lr, "final_lr": self.final_lr}
        return learning_rate(self.schedule, step, self.steps, periods=self.periods, **rates)


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """Trains one network."""

    arch: str
    scale: int
    method: str
    """supervised, deep-supervision (DSL; with psd > 0 also PSD), sandwich (elastic
    width), adaptive-depth or int8 (arch is then empty, and scale 0: the checkpoint decides)."""
    steps: int
    patch_hr: int
    batch_size: int
    lr: float
    schedule: str
    variant: str = ""  # the largest variant that is trained; empty: that of the architecture
    config: dict = field(default_factory=dict)
    elastic: bool = False  # whether the card lists all variants the checkpoint can be cut to
    periods: Tuple[int, ...] = ()
    final_lr: float = 0.0
    loss: str = "l1"
    psd: float = 0.0  # weight of PSD, for images in 0..1
    psd_detached: bool = True
    first: float = 1.0  # ours, deep-supervision: weight of the losses of the first depth
    depth: float = 0.0  # weight of AdaDSR's network depth loss, for images in 0..1
    follow: float = 0.0  # ours: weight of the distance of mean depths from the desired ones
    level: float = 0.0  # ours: weight of how much deeper than the mean a tile's deepest pixel is
    difficulty: Tuple[int, ...] = ()
    """(class, number of classes): train on patches of this class of difficulty, 1 the easiest.
    Empty: on all patches."""
    judge: str = ""  # the recipe whose result measures the difficulty of patches (--judge)
    degradation: str = "bi"
    ema: float = 0.0
    clip_norm: float = 0.0
    amp: str = "off"
    valid_every: int = 1000
    follows: str = ""
    teacher: str = ""
    """The recipe whose result is the teacher (--teacher), or the kind of an official checkpoint."""
    data: str = ""
    source: str = ""
    unprinted: str = ""

    trains = "one network"
    CHOICES = {
        "arch": ARCHITECTURES,
        "method": (*METHODS, INT8),
        "loss": PIXEL_LOSSES,
        "amp": AMP,
    }

    def _check(self) -> None:
        if self.method == INT8:
            self._expect(self.amp == "off", "amp off with the method int8", "amp")
            if not self.arch:  # the checkpoint's: any will do until it is known
                recipe = replace(self, arch="asrn", scale=self.scale or 1)
                recipe._check_names_and_numbers()
                return recipe._check_numbers()
        self._check_names_and_numbers()
        self._check_network()
        self._check_numbers()

    def _check_network(self) -> None:
        network = self.build()
        if self.method == "deep-supervision" and not hasattr(network, "forward_depths"):
            able = [
                a.name
                for a in (ARCHITECTURES[name] for name in ARCHITECTURES)
                if hasattr(a.build(4, a.parse(None)), "forward_depths")
            ]
            raise InputError(f"{self.arch} cannot be cut in depth; {', '.join(able)} can")
        if self.method in ("adaptive-depth", "adapter") and not hasattr(network, "forward_at"):
            raise InputError(f"{self.arch} has no adapter; adaedsr and adarcan have one")
        side = max(ARCHITECTURES[self.arch].min_hw)
        if min(self.patch_hw) < side:
            raise InputError(
                f"{self.arch} takes at least {side} LR pixels a side; got {min(self.patch_hw)}"
            )

    def _check_numbers(self) -> None:
        self._check_training()
        weights = ("psd", "first", "depth", "follow", "level")
        for key in weights:
            self._expect(getattr(self, key) >= 0, f"{key} >= 0", key)
        if self.difficulty:
            valid = len(self.difficulty) == 2 and 1 <= self.difficulty[0] <= self.difficulty[1]
            self._expect(valid, "difficulty (class, number of classes), as (1, 3)", "difficulty")

    @property
    def card(self) -> ModelSpec:
        """The card of what it trains, without facts about weights. Raises InputError for int8."""
        if not self.arch:
            raise InputError(
                "this recipe trains any checkpoint: it has no network of its own",
                hint="name the checkpoint",
            )
        architecture = ARCHITECTURES[self.arch]
        largest = architecture.parse(self.variant or None)
        return architecture.spec(self.scale, largest, elastic=self.elastic, config=self.config)

    def variants(self, names: Union[str, Sequence[str], None]) -> List[str]:
        """Return those of the variants that it trains, as `Checkpoint.variants`."""
        return [str(variant) for variant in Checkpoint("", self.card, {}).variants(names)]

    def build(self, variant: Optional[str] = None) -> torch.nn.Module:
        """Return the network of a variant without numbers, on the meta device; None: the largest.

        Raises SrDeployError when it cannot be built.
        """
        card, architecture = self.card, ARCHITECTURES[self.arch]
        for key, value in self.config.items():
            default = architecture.config.get(key, value)
            if type(value) is not type(default) or (type(value) is int and value < 1):
                is_count = type(default) is int
                kind = "a number of at least 1" if is_count else f"a {type(default).__name__}"
                raise InputError(
                    f"config: {key} is {value!r}; expected {kind}, such as {default!r}"
                )
        try:
            with torch.device("meta"):
                network = architecture.build(self.scale, card.variant(variant), self.config)
        except (LookupError, TypeError, ValueError, RuntimeError) as e:
            raise InputError(f"cannot build {self.arch} with config {self.config}: {e}") from e
        if sum(p.numel() for p in network.parameters()) > MAX_NUMBER:
            raise InputError("the network has more than 10**9 parameters")
        return network


@dataclass(frozen=True)
class RouterRecipe(BaseRecipe):
    """Trains a router and the networks it chooses between: CDNSR's steps two to four.

    Step one, each branch on the patches of its class of difficulty, is done by recipes of networks:
    see `difficulty` in Recipe.
    """

    stage: str
    """router: it alone, with frozen branches; distil: branches with a frozen router; joint: all."""
    scale: int
    steps: int
    patch_hr: int
    batch_size: int
    lr: float
    schedule: str
    classes: int = 3  # M, the number of branches
    network: str = "module-cl"  # the router's; mobilenetv2 (Table III)
    convs: int = 5  # of Module-CL
    overlap: int = OVERLAP_PX  # LR pixels shared by neighbouring patches when the router runs
    blend: str = "ramp"
    """How they are blended, see BLENDS. With `none` a branch sees a patch's surroundings, in the
    bank and in validation too."""
    objective: str = "cdnsr"
    """cdnsr: eq. 4; expected (ours): eq. 4 with the mean of the branches' L1 distances by p in the
    place of the L1 distance of their mean image; classsr: 1000 times L1, the class loss and the
    average loss; labels (ours, stage router): the best branch of each patch. `labels` and, at the
    stage router, `expected` learn from errors computed once (see bank.py)."""
    alpha: float = 0.0  # share of the largest branch's cost on its patches that is not penalised
    lambda_reg: float = 2e-4
    share: float = 0.0
    """cdnsr, expected: the mean cost, as a share of the largest, that lambda_reg is fitted to (see
    bank.py), instead of the number given. 0: not fitted."""
    counting: str = "deployed"
    """The costs of eq. 2. deployed: multiply-accumulates as exported; paper: with transposed
    convolutions at the resolution of their output, four times as much for FSRCNN's."""
    bank: int = 4096  # labels, share and values: number of patches whose errors are computed
    values: int = 0
    """cdnsr, stage router: eq. 4 is estimated from this many values of each patch of the bank,
    whose images the branches compute once. 0: the branches run at every step, on whole patches."""
    softness: float = 0.0
    """labels: see soft_labels; lambda_reg is then a squared error of images in 0..1. cdnsr and
    expected (ours): weight of the entropy of p, in lambda_reg. Without it p is soon 1 for the
    branch that is best on average, and the softmax has no gradient left to tell patches apart."""
    target_db: float = 0.027
    """labels: PSNR that all routed patches together may lose against the largest branch."""
    distillation: str = "none"
    """While branches train: contrastive (eq. 8), or pixel, perceptual, csd, none (Table V)."""
    lambda_ct: float = 1e-3
    negatives: int = 6  # S, the number of negative samples of each patch
    degradation: str = "bi"
    periods: Tuple[int, ...] = ()
    final_lr: float = 0.0
    ema: float = 0.0
    clip_norm: float = 0.0
    amp: str = "off"
    valid_every: int = 1000
    branches: Tuple[str, ...] = ()
    """The recipes whose results are the branches (--branch), smallest first."""
    follows: str = ""
    data: str = ""
    source: str = ""
    unprinted: str = ""

    trains = "a router"
    CHOICES = {
        "stage": STAGES,
        "network": ("module-cl", MOBILENETV2),
        "objective": OBJECTIVES,
        "counting": COUNTINGS,
        "blend": BLENDS,
        "distillation": ("none", *DISTILLATION),
        "amp": AMP,
    }

    @property
    def router_config(self) -> Dict[str, Any]:
        """The configuration of the router's network on its card."""
        if self.network == MOBILENETV2:
            return {"network": self.network}
        return {"convs": self.convs}

    @property
    def has_end(self) -> bool:
        return True  # the temperature of the softmax falls until the last step

    @property
    def learns_from_bank(self) -> bool:
        """Whether the branches do not run while the router learns."""
        always = self.objective in ("labels", "expected")
        return self.stage == "router" and (always or self.values > 0)

    @property
    def distils(self) -> bool:
        """Whether the larger branches are teachers of the smaller ones."""
        return self.stage != "router" and self.distillation != "none"

    def _check(self) -> None:
        self._check_names_and_numbers()
        self._check_training()
        if min(self.patch_hw) < CELL:
            raise InputError(
                f"a router takes at least {CELL} LR pixels a side; got {min(self.patch_hw)}"
            )
        for problem in blend_problems(self.blend, self.overlap, min(self.patch_hw)):
            raise InputError(problem)
        valid = self.classes >= 2 and 2 <= self.convs <= 100
        self._expect(valid, "classes >= 2 and convs from 2 to 100", "classes", "convs")
        can_be_tiled = self.network == "module-cl" or self.blend != "none"
        self._expect(can_be_tiled, "the network module-cl with the blend none", "network", "blend")
        not_negative = min(self.lambda_reg, self.lambda_ct) >= 0
        weights = ("lambda_reg", "lambda_ct")
        self._expect(not_negative, "lambda_reg >= 0 and lambda_ct >= 0", *weights)
        self._expect(0 <= self.alpha <= 1, "alpha to be a share from 0 to 1", "alpha")
        self._expect(
            0 <= self.share < 1 and self.values >= 0,
            "share from 0 to below 1, and values >= 0",
            *("share", "values"),
        )
        if self.share or self.learns_from_bank:
            self._expect(self.bank >= 64, "a bank >= 64", "bank")
        self._expect(
            not self.share or self.objective in ("cdnsr", "expected"),
            "share with the objective 'cdnsr' or 'expected'",
            *("share", "objective"),
        )
        if self.objective == "labels":
            self._expect(
                self.stage == "router" and self.bank >= 64 and self.softness * self.lambda_reg > 0,
                "for labels the stage 'router', a bank >= 64, softness > 0 and lambda_reg > 0",
                *("stage", "bank", "softness", "lambda_reg"),
            )
        if self.distils:
            valid = 1 <= self.negatives < self.batch_size
            keys = ("negatives", "batch_size")
            self._expect(valid, "at least 1 of negatives, and fewer than the batch", *keys)


@dataclass(frozen=True)
class GainsRecipe(BaseRecipe):
    """Trains a gains head, which predicts where an elastic network should go deeper, for the
    checkpoint that it starts from (--init).

    An example is one cell of an image: the network runs once on each image, before the training.
    """

    depths: Tuple[str, ...]
    """The variants of the checkpoint to choose between, smallest first."""
    scale: int
    steps: int
    patch_hr: int  # smallest side of an image; the side of a cell in HR pixels
    batch_size: int  # cells
    lr: float
    schedule: str
    resized: Tuple[float, ...] = (1.0,)
    """Factors by which images are made smaller or larger: photographs are less sharp than the
    images that networks learn from."""
    hidden: int = 32  # channels between the head's layers
    share: float = 0.5
    """The default price is that with which the held-out cells take this share of the largest
    depth's multiply-accumulates."""
    degradation: str = "bi"
    periods: Tuple[int, ...] = ()
    final_lr: float = 0.0
    ema: float = 0.0
    clip_norm: float = 0.0
    amp: str = "off"
    valid_every: int = 1000
    follows: str = ""
    data: str = ""
    source: str = ""
    unprinted: str = ""

    trains = "a gains head"
    CHOICES = {"amp": AMP}

    def _check(self) -> None:
        self._check_names_and_numbers()
        self._check_training()
        cell = CELL_PX * self.scale
        self._expect(self.patch_hr == cell, f"patch_hr {cell}, the side of a cell", "patch_hr")
        self._expect(len(self.depths) >= 2, "at least two depths", "depths")
        valid = bool(self.resized) and 0.1 <= min(self.resized) <= max(self.resized) <= 10
        self._expect(valid, "factors from 0.1 to 10", "resized")
        self._expect(
            0 < self.share < 1 and 1 <= self.hidden <= 4096,
            "a share between 0 and 1, and 1 to 4096 hidden channels",
            *("share", "hidden"),
        )


AnyRecipe = Union[Recipe, RouterRecipe, GainsRecipe]
_NOTES = ("extends", "comment", "printed")
"""Keys of a recipe file that are no fields of the recipe."""


def _shipped_fields() -> Dict[str, Dict[str, Dict[str, Any]]]:
    """Return the objects of the shipped recipe files, by folder and by the recipes' names."""
    objects: Dict[str, Dict[str, Dict[str, Any]]] = {}
    for path in sorted((Path(__file__).parent / "recipes").glob("*/*.json")):
        objects.setdefault(path.parent.name, {}).update(read_json(path, InputError))
    return objects


_FOLDERS = _shipped_fields()
_SHIPPED = {name: fields for recipes in _FOLDERS.values() for name, fields in recipes.items()}


def _inherited(
    data: Dict[str, Any], folder: Path = Path(), chain: Tuple[str, ...] = ()
) -> Dict[str, Any]:
    """Return the fields of a recipe's object and of those it extends. folder: of its file."""
    fields = {key: value for key, value in data.items() if key not in _NOTES}
    parent = data.get("extends")
    if parent is None:
        return fields
    if not isinstance(parent, str):
        raise InputError(f"extends is {parent!r}; expected the name of a recipe or a .json file")
    if parent.endswith(".json"):
        path = (folder / parent).resolve()
        key, folder, base = str(path), path.parent, read_json(path, InputError)
    elif parent in _SHIPPED:
        key, base = parent, _SHIPPED[parent]
    else:
        raise _unknown(parent)
    if key in chain:
        raise InputError(f"recipes extend each other: {' -> '.join((*chain, key))}")
    return {**_inherited(base, folder, (*chain, key)), **fields}


def _recipe_from(fields: Dict[str, Any], source: Union[str, Path]) -> AnyRecipe:
    cls: Type[Any] = Recipe
    if "stage" in fields or "depths" in fields:
        cls = RouterRecipe if "stage" in fields else GainsRecipe
    return from_dict(cls, fields, source=source, error=InputError)


RECIPES: Mapping[str, AnyRecipe] = {
    name: _recipe_from(_inherited(fields), name) for name, fields in _SHIPPED.items()
}


_TITLES = {
    "small": "Small: hours on one or two CPU cores",
    "int8": "INT8: for any checkpoint, half an hour on a CPU core",
    "gpu": "GPU: planned for half an hour on one GPU; none has been run on one",
    "asrn": "ASRN, as printed",
    "imdeception": "IMDeception, as printed",
    "srn": "SRN, as printed",
    "cdnsr": "CDNSR, as printed",
    "adadsr": "AdaDSR, as printed",
    "ntire": "Networks of the NTIRE challenges, as printed",
}
"""Of the folders of recipes, in the order in which they are listed."""
_FOR_CPU = ("small", "int8")


def recipe_groups(machine: str = "") -> Dict[str, Dict[str, AnyRecipe]]:
    """Return the shipped recipes by name, in groups by the title of their folder.

    machine: cpu, those that end in hours on one or two cores; gpu, the others; empty: all.
    """
    folders = [*(f for f in _TITLES if f in _FOLDERS), *(f for f in _FOLDERS if f not in _TITLES)]
    if machine:
        folders = [f for f in folders if (f in _FOR_CPU) == (machine == "cpu")]
    return {_TITLES.get(f, f): {name: RECIPES[name] for name in _FOLDERS[f]} for f in folders}


def load_recipe(name: str) -> AnyRecipe:
    """Return a shipped recipe by its name, or the recipe of a .json file. Raises InputError."""
    if name.endswith(".json"):
        path = Path(name)
        data = read_json(path, InputError)
        try:
            fields = _inherited(data, path.parent, (str(path.resolve()),))
        except InputError as e:
            raise InputError(f"{path}: {e.message}", hint=e.hint) from e
        recipe = _recipe_from(fields, path)
    elif name in RECIPES:
        recipe = RECIPES[name]
    else:
        raise _unknown(name)
    recipe.check(name)
    return recipe


def _unknown(name: str) -> InputError:
    return InputError(
        f"unknown recipe '{name}'; srdeploy recipes lists the {len(_SHIPPED)} known ones",
        hint=did_you_mean(name, _SHIPPED) or "a recipe of your own is a .json file",
    )
