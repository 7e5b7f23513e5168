"""`--adaptive`: networks that decide how much they compute, with a budget or a desired depth."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from sr_deploy.core.budgets import Budget
from sr_deploy.core.depth_plan import DepthPlan
from sr_deploy.core.elastic_plan import ElasticPlan
from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.core.routers import RoutedPlan, parse_share
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import Session
from sr_deploy.runtime.opener import kind_of
from sr_deploy.runtime.opener.description import NetworkDescription, describe_plan
from sr_deploy.runtime.opener.folder import plans_in
from sr_deploy.runtime.opener.gains import describe_gains
from sr_deploy.runtime.opener.plan import (
    describe_depth_plan,
    describe_elastic_plan,
    describe_routed_plan,
    load_plan,
)
from sr_deploy.runtime.opener.router import describe_router

DEFAULTS = {
    "cdnsr": "cdnsr-fsrcnn-gains_x4",
    "elastic": "elastic-asrn_x4",
    "adadsr": "adaedsr_x4",
}
"""The shipped network of each kind."""


@dataclass(frozen=True)
class AdaptiveOptions:
    """A kind of adaptive network and its budget. Raises InputError for options of another kind."""

    kind: str
    max_flops: Optional[str] = None
    """`60%` of the plain network on the whole image; not of `adadsr`."""
    depth: Optional[float] = None
    """The desired depth of `adadsr` in blocks; None: half of all."""
    max_ms: Optional[float] = None
    """The time of each image in ms; not of `adadsr`."""

    def __post_init__(self) -> None:
        if self.kind not in DEFAULTS:
            raise InputError(f"unknown kind '{self.kind}'; expected {', '.join(DEFAULTS)}")
        if self.kind == "adadsr" and (self.max_flops is not None or self.max_ms is not None):
            raise InputError(
                "a budget is for cdnsr and elastic; AdaDSR has a desired depth",
                hint="give for example --depth 8",
            )
        if self.kind != "adadsr" and self.depth is not None:
            raise InputError(
                f"a desired depth is for AdaDSR; '{self.kind}' takes a budget",
                hint="give for example --max-flops 60%",
            )

    @property
    def budget(self) -> Budget:
        """The bound on an image's work or time."""
        share = None if self.max_flops is None else parse_share(self.max_flops)
        return Budget(share, self.max_ms)

    @property
    def default(self) -> str:
        """The shipped network of this kind."""
        return DEFAULTS[self.kind]


def describe_adaptive(options: AdaptiveOptions, text: Optional[str] = None) -> NetworkDescription:
    """Describe an adaptive network: a router, a checkpoint or a plan; the shipped default for None.

    Raises an SrDeployError for another kind of network, a budget that no image can keep, or a
    depth beyond the backbone.
    """
    text = options.default if text is None else text
    if kind_of(text) == "folder":
        text = _plan_of_folder(Path(text))
    if options.kind == "adadsr":
        return _describe_adadsr(text, options.depth)
    description = describe_chooser(text, options.budget)
    plan = description.plan
    assert isinstance(plan, (ElasticPlan, RoutedPlan))
    kind = "elastic" if plan.elastic else "cdnsr"
    if kind != options.kind:
        raise InputError(
            f"'{text}' chooses between {', '.join(plan.names)}: that is {kind}, not {options.kind}",
            hint=f"give --adaptive {kind}",
        )
    return description


def describe_chooser(text: str, budget: Budget) -> NetworkDescription:
    """Describe what chooses between networks: a router, a gains head, or the plan of one.

    Raises an SrDeployError for another kind of network, or a budget that no image can keep.
    """
    kind = kind_of(text)
    if kind == "gains":
        return describe_gains(text, budget)
    if kind == "router":
        return describe_router(text, budget)
    if kind != "plan":
        raise InputError(
            f"'{text}' is neither a router nor a gains head, nor the plan of one",
            hint=did_you_mean(text, (DEFAULTS["cdnsr"], DEFAULTS["elastic"])),
        )
    path, plan = Path(text), load_plan(Path(text))
    if isinstance(plan, DepthPlan):
        raise InputError(
            f"{text} is the plan of an AdaDSR, not of a router", hint="give --adaptive adadsr"
        )
    if isinstance(plan, ElasticPlan):
        return describe_elastic_plan(path, plan, budget)
    return describe_routed_plan(path, plan, budget)


def _plan_of_folder(folder: Path) -> str:
    """Return the plan in a folder."""
    plans = {path: load_plan(path) for path in plans_in(folder)}
    if not plans:
        raise InputError(
            f"the folder {folder} contains no plan of an adaptive network",
            hint="srdeploy export MODEL --adaptive -o DIR",
        )
    if len({plan.model for plan in plans.values()}) > 1:
        names = ", ".join(path.name for path in plans)
        raise InputError(
            f"{folder} contains plans of several networks: {names}", hint="give one file"
        )
    return str(next(iter(plans)))


def _describe_adadsr(text: str, depth: Optional[float]) -> NetworkDescription:
    if kind_of(text) == "plan":
        plan = load_plan(Path(text))
        if isinstance(plan, DepthPlan):
            return describe_depth_plan(Path(text), plan, depth)
    if kind_of(text) in ("plan", "router", "gains"):
        raise InputError(f"'{text}' is no AdaDSR", hint="give --adaptive cdnsr or elastic")
    return _describe_adadsr_checkpoint(text, depth)


def _describe_adadsr_checkpoint(text: str, depth: Optional[float]) -> NetworkDescription:
    from sr_deploy.nets.sparse import depth_plan, load_adadsr, split_network

    checkpoint, network = load_adadsr(text)
    plan = depth_plan(checkpoint, network)
    limit = f"depth {plan.desired_depth(depth):g}"

    def open_checkpoint(run: RunOptions) -> Session:
        from sr_deploy.core.parts import OpenParts
        from sr_deploy.runtime.adaptive.adadsr import AdaDSR
        from sr_deploy.runtime.adaptive.base import check_adaptive_run
        from sr_deploy.runtime.torch_device import torch_device
        from sr_deploy.runtime.torch_module import tensor_part

        check_adaptive_run(run)
        device = torch_device(run)
        device.reset_peak_memory()
        # The device gets a copy: fusing may return the network itself.
        modules = split_network(copy.deepcopy(network), plan)
        parts = {role: tensor_part(module, device) for role, module in modules.items()}
        return AdaDSR(plan, OpenParts(parts, device.info()), depth=depth)

    return describe_plan(
        "checkpoint",
        text,
        plan,
        open_checkpoint,
        limit=limit,
        sha256=checkpoint.spec.weights_sha256,
        weights_sha256s=(checkpoint.spec.weights_sha256,),
    )
