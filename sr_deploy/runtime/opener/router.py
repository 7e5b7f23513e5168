"""Routers, run by torch with their branches: shipped names, and `NAME.router.safetensors` files."""

from __future__ import annotations

from typing import List, Optional

from sr_deploy.core.routers import budget_text, is_router
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import Session
from sr_deploy.runtime.opener.description import Kind, NetworkDescription, Variants, describe_plan
from sr_deploy.runtime.opener.plan import ROUTED, refuse_variants


class RouterKind(Kind):
    def matches(self, text: str) -> bool:
        return is_router(text)

    def describe(self, text: str, variants: Variants, trust: bool) -> List[NetworkDescription]:
        refuse_variants(text, variants, ROUTED)
        return [describe_router(text)]


def describe_router(text: str, max_share: Optional[float] = None) -> NetworkDescription:
    """Describe a router. Raises InputError for a budget that no image can keep."""
    from sr_deploy.nets.router import load_router

    router = load_router(text)
    plan = router.plan()
    plan.check_budget(max_share)

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

    weights = (router.spec.weights_sha256, *router.spec.weights_sha256s)
    return describe_plan(
        "router", text, plan, open_router, limit=budget_text(max_share), weights_sha256s=weights
    )
