"""Routers, run by torch with their branches: shipped names, and `NAME.router.safetensors` files."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Tuple

from sr_deploy.core.budgets import NO_BUDGET, Budget
from sr_deploy.core.routers import ROUTERS
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import Session
from sr_deploy.runtime.opener.description import Kind, NetworkDescription, Variants, describe_plan
from sr_deploy.runtime.opener.gains import describe_modules
from sr_deploy.runtime.opener.plan import ROUTED, blended_share, refuse_variants

if TYPE_CHECKING:
    from sr_deploy.nets.router import Router


class RouterKind(Kind):
    def matches(self, text: str) -> bool:
        return ROUTERS.includes(text)

    def describe(self, text: str, variants: Variants, trust: bool) -> List[NetworkDescription]:
        refuse_variants(text, variants, ROUTED)
        return [describe_router(text)]


def describe_router(text: str, budget: Budget = NO_BUDGET) -> NetworkDescription:
    """Describe a router. Raises InputError for a budget that no image can keep."""
    from sr_deploy.nets.router import load_router

    router = load_router(text)
    weights = (router.spec.weights_sha256, *router.spec.weights_sha256s)
    if router.spec.blend == "none":
        from sr_deploy.nets.routed_tiles import branches_modules

        plan, modules = branches_modules(router)
        return describe_modules("router", text, plan, modules, budget, weights)
    return _describe_blended(text, router, budget, weights)


def _describe_blended(
    text: str, router: Router, budget: Budget, weights_sha256s: Tuple[str, ...]
) -> NetworkDescription:
    """Describe a router that blends patches. Raises InputError as `blended_share`."""
    plan = router.plan()
    max_share = blended_share(plan, budget)

    def open_router(run: RunOptions) -> Session:
        from sr_deploy.nets.fuse import fuse_network
        from sr_deploy.runtime.adaptive.base import check_adaptive_run
        from sr_deploy.runtime.adaptive.patches import RoutedSession
        from sr_deploy.runtime.torch_device import torch_device
        from sr_deploy.runtime.torch_module import array_function

        # Fused as for export: the costs on the card are those of the fused networks.
        branches = [fuse_network(net)[0] for net in router.branch_networks()]
        check_adaptive_run(run)
        device = torch_device(run)
        device.reset_peak_memory()
        networks = (router.network(), *branches)
        classify, *upscale = [array_function(net, device) for net in networks]
        return RoutedSession(plan, classify, upscale, device.info(), max_share=max_share)

    return describe_plan(
        "router",
        text,
        plan,
        open_router,
        limit=str(budget),
        weights_sha256s=weights_sha256s,
    )
