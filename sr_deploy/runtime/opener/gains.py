"""Gains heads, run by torch with the depths of their checkpoint: shipped names, and files."""

from __future__ import annotations

from typing import Any, List, Mapping, Tuple

from sr_deploy.core.budgets import NO_BUDGET, Budget
from sr_deploy.core.elastic_plan import ElasticPlan
from sr_deploy.core.gains import GAINS
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import Session
from sr_deploy.runtime.opener.description import Kind, NetworkDescription, Variants, describe_plan
from sr_deploy.runtime.opener.plan import TILES, refuse_variants


class GainsKind(Kind):
    def matches(self, text: str) -> bool:
        return GAINS.includes(text)

    def describe(self, text: str, variants: Variants, trust: bool) -> List[NetworkDescription]:
        refuse_variants(text, variants, TILES)
        return [describe_gains(text)]


def describe_gains(text: str, budget: Budget = NO_BUDGET) -> NetworkDescription:
    """Describe an elastic network. Raises InputError for a budget that no image can keep."""
    from sr_deploy.nets.elastic import elastic_modules
    from sr_deploy.nets.gains import load_gains

    gains = load_gains(text)
    weights = (gains.spec.weights_sha256, gains.spec.model_sha256)
    return describe_modules("gains", text, *elastic_modules(gains), budget, weights)


def describe_modules(
    kind: str,
    text: str,
    plan: ElasticPlan,
    modules: Mapping[str, Any],
    budget: Budget,
    weights_sha256s: Tuple[str, ...],
) -> NetworkDescription:
    """Describe a start and tails that torch runs.

    modules: by the plan's roles. Raises InputError for a budget that no image can keep.
    """
    plan.check_budget(budget.max_share)

    def open_modules(run: RunOptions) -> Session:
        import copy

        from sr_deploy.core.parts import OpenParts
        from sr_deploy.runtime.adaptive.base import check_adaptive_run
        from sr_deploy.runtime.adaptive.elastic import ElasticSession
        from sr_deploy.runtime.torch_device import torch_device
        from sr_deploy.runtime.torch_module import tensor_part

        check_adaptive_run(run)
        device = torch_device(run)
        device.reset_peak_memory()
        # The device gets copies: the network may be opened again on another one.
        parts = {
            role: tensor_part(copy.deepcopy(module), device) for role, module in modules.items()
        }
        opened = OpenParts(parts, device.info())
        return ElasticSession(plan, opened, budget=budget)

    return describe_plan(
        kind, text, plan, open_modules, limit=str(budget), weights_sha256s=weights_sha256s
    )
