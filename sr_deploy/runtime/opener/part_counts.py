"""Counts of what routers, gains heads and plans consist of."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.errors import InputError
from sr_deploy.core.routers import RoutedPlan
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.core.spec import network_name
from sr_deploy.runtime.opener import kind_of
from sr_deploy.runtime.opener.plan import load_plan

Count = Callable[[], Dict[str, Any]]


def counts_of_parts(text: str, hw: Optional[HW] = None) -> Dict[str, Count]:
    """Return what counts each part of a router, a gains head or a plan, by its name.

    A count is as a manifest has it. Of a router they are the router and its branches, of a gains
    head it and its depths, as trained. Of a plan they are its graphs, each as if it saw the whole
    image.
    hw: the LR size; None: a patch of a router, 256x256 of others. Raises an SrDeployError.
    """
    kind = kind_of(text)
    if kind == "plan":
        return _of_plan(Path(text), hw)
    from sr_deploy.nets.complexity import count_record

    networks, usual_hw = _of_router(text) if kind == "router" else _of_gains(text)
    return {
        name: functools.partial(count_record, net, hw or usual_hw) for name, net in networks.items()
    }


def _of_router(text: str) -> Tuple[Dict[str, Any], HW]:
    """Return a router and its branches, and the size of its patches."""
    from sr_deploy.nets.router import load_router

    router = load_router(text)
    branches = dict(zip(router.branch_names, router.branch_networks()))
    return {"router": router.network(), **branches}, router.spec.patch_hw


def _of_gains(text: str) -> Tuple[Dict[str, Any], HW]:
    """Return a gains head and its depths, and the size at which they are counted."""
    from sr_deploy.nets.gains import load_gains

    gains = load_gains(text)
    checkpoint = gains.checkpoint()
    depths = {
        network_name(checkpoint.name, variant): checkpoint.network(variant)
        for variant in gains.spec.variants
    }
    return {"gains": gains.network(), **depths}, NTIRE_HW


def _of_plan(path: Path, hw: Optional[HW]) -> Dict[str, Count]:
    plan = load_plan(path)
    if plan.engine is not None:
        raise InputError(
            f"the parts of {path} are engines, which cannot be counted",
            hint="count the plan of graphs that it was built from",
        )
    if isinstance(plan, RoutedPlan):
        patch = (plan.patch, plan.patch)
        if hw not in (None, patch):
            raise InputError(
                f"{path} takes patches of {hw_text(patch)}, not {hw_text(hw or patch)}"
            )
        hw = patch
    from sr_deploy.runtime.graph_counts import count_part

    return {
        role: functools.partial(count_part, path.parent, part, hw or NTIRE_HW)
        for role, part in plan.parts.items()
    }
