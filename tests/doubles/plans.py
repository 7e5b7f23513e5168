"""Plans of adaptive networks without files."""

from __future__ import annotations

from dataclasses import replace

from sr_deploy.core.parts import PlanPart


def with_parts(plan):
    """Return a plan with an entry for each of its parts."""
    shape = {"N": (1, 2, 3)}
    parts = {
        role: PlanPart(plan.graph_name(role), "0", {"x": ("N", 3)}, {"y": ("N", "4*N")}, shape)
        for role in plan.roles()
    }
    return replace(plan, parts=parts)
