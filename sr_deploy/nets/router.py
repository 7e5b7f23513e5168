"""Routers: Module-CL, CDNSR's classifier of patches (section III-A), and checkpoints of routers.

"Classification-based Dynamic Network for Efficient Super-Resolution". A router chooses between any
ordered set of networks: separate ones, such as CDNSR's widths, or slices of an elastic checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Mapping, Sequence, Tuple, Union

from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError, InputError
from sr_deploy.core.gains import CELL_PX
from sr_deploy.core.routers import CELL, ROUTERS, RoutedPlan, RouterSpec
from sr_deploy.core.spec import network_name
from sr_deploy.nets.checkpoint import (
    Checkpoint,
    write_with_card,
)
from sr_deploy.nets.chooser import check_weights, load_chosen, read_weights
from sr_deploy.nets.gains import GainsHead
from sr_deploy.nets.mobilenetv2 import MobileNetV2

MOBILENETV2 = "mobilenetv2"
WIDTH = 128
NARROW = 32


class ModuleCL(nn.Module):
    """The classifier.

    x: (N, 3, H, W) float, 0..1, RGB, H and W >= 4 -> log-odds (N, classes), smallest branch first.
    convs: the number of convolutions (Table III compares 3 to 6; its 5.934 M
    FLOPs of 6 are 4.934 M).
    """

    def __init__(self, *, classes: int = 3, convs: int = 5) -> None:
        super().__init__()
        inner = [
            layer
            for _ in range(convs - 2)
            for layer in (nn.Conv2d(WIDTH, WIDTH, 1), nn.LeakyReLU(0.1))
        ]
        self.features = nn.Sequential(
            nn.Conv2d(3, WIDTH, CELL, stride=CELL),
            nn.LeakyReLU(0.1),
            *inner,
            nn.Conv2d(WIDTH, NARROW, 1),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classify = nn.Linear(NARROW, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x).flatten(1))


RouterNetwork = Union[ModuleCL, MobileNetV2, GainsHead]


@dataclass(frozen=True)
class Router:
    """A trained router or gains head of branches, with its card.

    `name` is its file's name without the suffix.
    """

    name: str
    spec: RouterSpec
    weights: dict
    path: Path

    def __repr__(self) -> str:
        return f"<Router {self.name} x{self.spec.scale} {', '.join(self.branch_names)}>"

    @property
    def branch_names(self) -> Tuple[str, ...]:
        """The branches, such as `asrn_x4.d1`, smallest first."""
        return tuple(network_name(b.model, b.variant) for b in self.spec.branches)

    def network(self) -> RouterNetwork:
        """Return the router with its weights, in eval mode."""
        net = router_network(self.spec)
        net.load_state_dict(self.weights)
        return net

    def checkpoints(self) -> List[Checkpoint]:
        """Load the checkpoints of the branches, smallest first.

        A file in the router's folder takes precedence over a shipped checkpoint. Raises InputError
        when one is missing, CheckpointError when the router was trained with other weights.
        """
        checkpoints = []
        for branch in self.spec.branches:
            checkpoint = load_chosen(
                self.path,
                branch.model,
                branch.weights_sha256,
                name=self.name,
                kind=ROUTERS.title,
                missing=f"the router '{self.name}' chooses between "
                f"{', '.join(dict.fromkeys(self.spec.models))}, but '{branch.model}' was not found",
            )
            check_scales([checkpoint], self.spec.scale, self.name)
            checkpoint.spec.variant(branch.variant)
            checkpoints.append(checkpoint)
        return checkpoints

    def plan(self) -> RoutedPlan:
        """Return the branches and costs of a router that blends patches as a plan without parts."""
        spec = self.spec
        return RoutedPlan(
            model=self.name,
            scale=spec.scale,
            names=self.branch_names,
            macs=spec.macs,
            router_macs=spec.router_macs,
            patch=min(spec.patch_hw),
            overlap=spec.overlap,
            blend=spec.blend,
            parent_sha256=spec.weights_sha256,
        )

    def branch_networks(self) -> List[nn.Module]:
        """Return the static networks of the branches, smallest first. Raises as `checkpoints`."""
        return [c.network(b.variant) for c, b in zip(self.checkpoints(), self.spec.branches)]


def classifier(config: Mapping[str, Any], classes: int) -> Union[ModuleCL, MobileNetV2]:
    """Return the untrained router of classes of a configuration.

    It is {"network": "mobilenetv2"}, or Module-CL's {"convs": 5}. Raises CheckpointError.
    """
    if "network" not in config:
        return ModuleCL(classes=classes, convs=config.get("convs", 5))
    if config != {"network": MOBILENETV2}:
        raise CheckpointError(
            f"'network' of a router must be {MOBILENETV2} and the only key, got {dict(config)}"
        )
    return MobileNetV2(classes=classes)


def router_network(spec: RouterSpec) -> RouterNetwork:
    """Return the untrained router of a card: a gains head with `hidden` in its configuration, else
    a `classifier`. Raises CheckpointError for a bad configuration.
    """
    for key in sorted(set(spec.config) - {"network", "convs", "hidden"}):
        raise CheckpointError(
            f"unknown configuration key '{key}' of a router; expected network, convs or hidden"
        )
    for key in ("convs", "hidden"):
        value = spec.config.get(key, 2)
        if type(value) is not int or not 2 <= value <= 100:
            raise CheckpointError(
                f"'{key}' of a router must be an integer from 2 to 100, got {value!r}"
            )
    if "hidden" not in spec.config:
        net = classifier(spec.config, len(spec.models))
        if spec.blend == "none" and not isinstance(net, ModuleCL):
            raise CheckpointError(f"a router {MOBILENETV2} takes patches that are blended")
        return net.eval()
    if spec.blend != "none" or spec.patch_hw != (CELL_PX, CELL_PX) or len(spec.config) > 1:
        raise CheckpointError(
            f"a router that predicts gains takes cells of {CELL_PX}x{CELL_PX} without blending"
        )
    return GainsHead(depths=len(spec.models) - 1, hidden=spec.config["hidden"]).eval()


def check_scales(checkpoints: Sequence[Checkpoint], scale: int, name: str) -> None:
    """Raise InputError when a branch has another scale."""
    for checkpoint in checkpoints:
        if checkpoint.spec.scale != scale:
            raise InputError(
                f"the branches of '{name}' must have the same scale: "
                f"'{checkpoint.name}' is x{checkpoint.spec.scale}, expected x{scale}",
                hint="a router chooses between networks of one scale",
            )


def load_router(model: Union[str, Path]) -> Router:
    """Load a router by its path (of the weights or the card), or a shipped one by its name.

    The branches are not read. Raises InputError when there is no such router, CheckpointError when
    the file is damaged, does not match its card, or has another number of classes.
    """
    path = ROUTERS.path_of(str(model))
    spec = ROUTERS.read_card(path)
    weights = read_weights(path, spec.weights_sha256)
    classes = weights["classify.bias"].shape[0] if "classify.bias" in weights else 0
    if classes and classes != len(spec.models):
        raise CheckpointError(
            f"{path} predicts {classes} classes, but its card names {len(spec.models)} branches",
            hint=f"name {classes} branches, or train a router for these",
        )
    check_weights(path, weights, lambda: router_network(spec))
    return Router(ROUTERS.name_of(path), spec, weights, path)


def save_router(folder: Path, name: str, spec: RouterSpec, weights: dict) -> Path:
    """Write `name`.router.safetensors and its card to `folder`; return the path of the weights."""
    return write_with_card(folder / (name + ROUTERS.suffix), spec, weights)
