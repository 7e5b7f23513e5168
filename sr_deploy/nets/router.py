"""Module-CL, CDNSR's classifier of patches (section III-A), and the checkpoint that says what it chooses between.

"Classification-based Dynamic Network for Efficient Super-Resolution". A router works on any ordered set of our networks: apart
from each other, as CDNSR's widths are, or slices of one elastic checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Sequence, Union

from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError, InputError, SrDeployError, did_you_mean
from sr_deploy.core.files import sha256_of
from sr_deploy.core.routers import (
    CELL,
    ROUTER_SUFFIX,
    RoutedPlan,
    RouterSpec,
    read_router_card,
    router_name,
    shipped_routers,
)
from sr_deploy.nets.checkpoint import (
    Checkpoint,
    check_finite,
    check_state_dict,
    load_checkpoint,
    read_safetensors,
    write_with_card,
)

WIDTH = 128
NARROW = 32


class ModuleCL(nn.Module):
    """The classifier. x: (N, 3, H, W) float, 0..1, RGB, H and W >= 4 -> (N, classes): log-odds, the smallest branch first.

    convs: all its convolutions (Table III tries 3 to 6).
    """

    def __init__(self, *, classes: int = 3, convs: int = 5) -> None:
        super().__init__()
        between = [
            m for _ in range(convs - 2) for m in (nn.Conv2d(WIDTH, WIDTH, 1), nn.LeakyReLU(0.1))
        ]
        self.features = nn.Sequential(
            nn.Conv2d(3, WIDTH, CELL, stride=CELL),
            nn.LeakyReLU(0.1),
            *between,
            nn.Conv2d(WIDTH, NARROW, 1),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classify = nn.Linear(NARROW, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x).flatten(1))


@dataclass(frozen=True)
class Router:
    """A trained Module-CL with its card. `name` is the file's without its suffix."""

    name: str
    spec: RouterSpec
    weights: dict
    path: Path

    def network(self) -> ModuleCL:
        """Return the classifier with its weights, in eval mode."""
        net = router_network(self.spec)
        net.load_state_dict(self.weights)
        return net

    def checkpoints(self) -> List[Checkpoint]:
        """Load the branches' checkpoints, smallest first: from files beside the router, else the shipped ones.

        Raises InputError when one is not there, CheckpointError when it is not the one the router was trained with.
        """
        found = []
        for branch in self.spec.branches:
            beside = self.path.parent / f"{branch.model}.safetensors"
            try:
                checkpoint = load_checkpoint(beside if beside.is_file() else branch.model)
            except InputError as e:
                raise InputError(
                    f"the router '{self.name}' chooses between {', '.join(dict.fromkeys(self.spec.models))}: there is no '{branch.model}'",
                    hint=f"put {beside.name} and its card beside {self.path.name}",
                ) from e
            if checkpoint.spec.weights_sha256 != branch.weights_sha256:
                raise CheckpointError(
                    f"the router '{self.name}' was trained for other weights of '{branch.model}' than {checkpoint.path}",
                    hint="give the checkpoint that it came with, or train a router for this one",
                )
            check_scales([checkpoint], self.spec.scale, self.name)
            checkpoint.spec.variant(branch.variant)
            found.append(checkpoint)
        return found

    def plan(self) -> RoutedPlan:
        """Return what the router and its branches are and cost when they are run."""
        spec = self.spec
        names = tuple(f"{b.model}.{b.variant}" for b in spec.branches)
        return RoutedPlan(
            self.name,
            spec.scale,
            names,
            spec.macs,
            spec.router_macs,
            min(spec.patch_hw),
            spec.weights_sha256,
        )

    def branch_networks(self) -> List[nn.Module]:
        """Return the branches' static networks with their weights, smallest first. Raises as `checkpoints` does."""
        return [c.network(b.variant) for c, b in zip(self.checkpoints(), self.spec.branches)]


def router_network(spec: RouterSpec) -> ModuleCL:
    """Return the untrained classifier of a card, in eval mode. Raises CheckpointError for a configuration that cannot be."""
    unknown = set(spec.config) - {"convs"}
    if unknown:
        raise CheckpointError(
            f"a router has no configuration key '{sorted(unknown)[0]}'; it has convs"
        )
    convs = spec.config.get("convs", 5)
    if type(convs) is not int or not 2 <= convs <= 100:
        raise CheckpointError(f"a router's convs are a whole number from 2 to 100, not {convs!r}")
    return ModuleCL(classes=len(spec.models), convs=convs).eval()


def check_scales(checkpoints: Sequence[Checkpoint], scale: int, name: str) -> None:
    """Raise InputError when a branch upscales by another factor."""
    for checkpoint in checkpoints:
        if checkpoint.spec.scale != scale:
            raise InputError(
                f"the branches of '{name}' are of different scales: '{checkpoint.name}' is x{checkpoint.spec.scale}, expected x{scale}",
                hint="a router chooses between networks of one scale",
            )


def load_router(model: Union[str, Path]) -> Router:
    """Load a router by its path (the weights or the card) or a shipped one by its name; its branches are not read.

    Raises InputError when there is none such, CheckpointError when the file is damaged, does not match its card, or was trained
    for another number of classes than the card names branches.
    """
    path = _router_path(str(model))
    spec = read_router_card(path)
    weights = read_safetensors(path)
    if spec.weights_sha256 != sha256_of(path):
        raise CheckpointError(
            f"{path} is not the file its card describes: its SHA-256 differs from the card's weights_sha256"
        )
    classes = weights["classify.bias"].shape[0] if "classify.bias" in weights else 0
    if classes and classes != len(spec.models):
        raise CheckpointError(
            f"{path} was trained for another number of classes: it tells {classes} apart, and its card names {len(spec.models)} branches",
            hint="give as many branches as it was trained for, or train a router for these",
        )
    try:
        net = router_network(spec)
    except SrDeployError as e:
        raise CheckpointError(f"the card of {path} is not usable: {e.message}", hint=e.hint) from e
    check_state_dict(net, weights, source=str(path))
    check_finite(weights, source=str(path))
    return Router(router_name(path), spec, weights, path)


def save_router(folder: Path, name: str, spec: RouterSpec, weights: dict) -> Path:
    """Write `name`.router.safetensors and its card into `folder`, each atomically; return the weights' path."""
    return write_with_card(folder / (name + ROUTER_SUFFIX), spec, weights)


def _router_path(model: str) -> Path:
    known = {router_name(p): p for p in shipped_routers()}
    if model in known:
        return known[model]
    path = Path(model)
    if path.name.endswith(ROUTER_SUFFIX.replace(".safetensors", ".json")):
        path = path.with_suffix(".safetensors")
    if not path.name.endswith(ROUTER_SUFFIX):
        raise InputError(
            f"'{model}' is no router: neither a {ROUTER_SUFFIX} file nor one of {', '.join(known) or 'the shipped routers (none)'}",
            hint=did_you_mean(model, known),
        )
    if not path.is_file():
        raise InputError(f"there is no router {path}")
    return path
