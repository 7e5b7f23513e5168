"""Plans of exported adaptive networks.

`NAME.elastic.json` is a gains head's, `NAME.branches.json` a router's, `NAME.routed.json` that of a
router whose patches are blended, `NAME.adadsr.json` an AdaEDSR's or AdaRCAN's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List, Optional, Union

from sr_deploy.core.budgets import NO_BUDGET, Budget
from sr_deploy.core.depth_plan import DepthPlan, is_depth_plan, parse_depth, read_depth_plan
from sr_deploy.core.elastic_plan import ElasticPlan, is_elastic_plan, read_elastic_plan
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import sha256_of
from sr_deploy.core.routers import PLAN_SUFFIX, RoutedPlan, read_routed_plan
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import Session
from sr_deploy.core.spec import listed_variants
from sr_deploy.runtime.opener.description import Kind, NetworkDescription, Variants, describe_plan

ROUTED = "chooses a branch for each patch"
TILES = "chooses for each tile"
Plan = Union[ElasticPlan, RoutedPlan, DepthPlan]


class PlanKind(Kind):
    """The variants of an AdaDSR's plan are desired depths, `d8`."""

    def matches(self, text: str) -> bool:
        path = Path(text)
        return text.endswith(PLAN_SUFFIX) or is_depth_plan(path) or is_elastic_plan(path)

    def describe(self, text: str, variants: Variants, trust: bool) -> List[NetworkDescription]:
        path = Path(text)
        plan = load_plan(path)
        if isinstance(plan, ElasticPlan):
            refuse_variants(text, variants, TILES)
            return [describe_elastic_plan(path, plan)]
        if isinstance(plan, RoutedPlan):
            refuse_variants(text, variants, ROUTED)
            return [describe_routed_plan(path, plan)]
        if plan.fixed:
            refuse_variants(text, variants, "was trained for one depth")
            return [describe_depth_plan(path, plan)]
        names = listed_variants(variants) or [f"d{plan.blocks / 2:g}"]
        return [
            describe_depth_plan(path, plan, parse_depth(name, plan.blocks), name) for name in names
        ]


def load_plan(path: Path) -> Plan:
    """Read a plan of any kind. Raises ArtifactError if it is missing or malformed."""
    if is_elastic_plan(path):
        return read_elastic_plan(path)
    return read_depth_plan(path) if is_depth_plan(path) else read_routed_plan(path)


def refuse_variants(text: str, variants: Variants, reason: str) -> None:
    """Raise InputError if variants are chosen of a network without variants."""
    if variants not in (None, "all"):
        raise InputError(f"'{text}' {reason}: it has no variants", hint="omit --variants")


def describe_elastic_plan(
    path: Path, plan: ElasticPlan, budget: Budget = NO_BUDGET
) -> NetworkDescription:
    """Describe a plan of tiles. Raises InputError for a budget that no image can keep."""
    plan.check_budget(budget.max_share)

    def open_plan(run: RunOptions) -> Session:
        from sr_deploy.runtime.adaptive.elastic import ElasticSession

        return ElasticSession.from_plan(path, budget=budget, run=run)

    return _describe_file(path, plan, open_plan, limit=str(budget))


def describe_routed_plan(
    path: Path, plan: RoutedPlan, budget: Budget = NO_BUDGET
) -> NetworkDescription:
    """Describe an exported router of blended patches. Raises InputError as `blended_share`."""
    max_share = blended_share(plan, budget)

    def open_plan(run: RunOptions) -> Session:
        from sr_deploy.runtime.adaptive.patches import RoutedSession

        return RoutedSession.from_plan(path, max_share=max_share, run=run)

    return _describe_file(path, plan, open_plan, limit=str(budget))


def blended_share(plan: RoutedPlan, budget: Budget) -> Optional[float]:
    """Return the work that a budget allows to blended patches, as a share; None for no budget.

    Raises InputError for a budget that no image can keep, and for one of time.
    """
    if budget.max_ms is not None:
        raise InputError(
            f"'{plan.model}' blends patches, which is for reproducing the paper: "
            "it keeps no budget of time",
            hint="give --max-flops",
        )
    plan.check_budget(budget.max_share)
    return budget.max_share


def describe_depth_plan(
    path: Path, plan: DepthPlan, depth: Optional[float] = None, variant: str = ""
) -> NetworkDescription:
    """Describe an exported AdaDSR at a desired depth, half of all blocks for None.

    Raises VariantError for a depth that the plan does not have.
    """
    limit = f"depth {plan.desired_depth(depth):g}"

    def open_plan(run: RunOptions) -> Session:
        from sr_deploy.runtime.adaptive.adadsr import AdaDSR

        return AdaDSR.from_plan(path, depth=depth, run=run)

    return _describe_file(path, plan, open_plan, limit=limit, variant=variant)


def _describe_file(
    path: Path, plan: Plan, opener: Callable[[RunOptions], Session], **fields: str
) -> NetworkDescription:
    file = {"artifact": path.name, "sha256": sha256_of(path)}
    return describe_plan("plan", str(path), plan, opener, **file, **fields)
