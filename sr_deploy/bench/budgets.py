"""Adaptive networks with budgets: `--max-flops 70%` of `bench` and `eval`."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Iterator, List, Sequence

from sr_deploy.core.budgets import Budget
from sr_deploy.core.elastic_plan import ElasticPlan
from sr_deploy.core.errors import CannotRunHereError, InputError
from sr_deploy.core.routers import RoutedPlan, parse_share
from sr_deploy.runtime.opener import NetworkDescription
from sr_deploy.runtime.opener.adaptive import describe_chooser


def with_budgets(
    networks: Sequence[NetworkDescription], budgets: Sequence[str]
) -> List[NetworkDescription]:
    """Return the networks, each that takes a budget once for each of `budgets`, such as `70%`.

    The budget, in percent, is their variant. Without budgets, and all other networks: as they are.
    Raises InputError if none takes one, or for one that no image can keep.
    """
    if not budgets:
        return list(networks)
    takers = [isinstance(network.plan, (RoutedPlan, ElasticPlan)) for network in networks]
    if not any(takers):
        raise InputError(
            "--max-flops is for networks that route patches or choose depths, and none is given",
            hint="omit it, or give for example cdnsr-fsrcnn_x4; AdaDSR has --variants d4,d8",
        )
    shares = [f"{100 * parse_share(budget):g}%" for budget in budgets]
    result: List[NetworkDescription] = []
    for network, takes_one in zip(networks, takers):
        chosen = dict.fromkeys(shares) if takes_one else {}
        result += [budgeted(network.source, budget) for budget in chosen] or [network]
    return result


def budgeted(source: str, budget: str) -> NetworkDescription:
    """Return an adaptive network with a budget, such as `70%`. Raises as `describe_chooser`."""
    described = describe_chooser(source, Budget(parse_share(budget)))
    return replace(described, variant=budget)


@contextlib.contextmanager
def budget_refused(network: NetworkDescription) -> Iterator[None]:
    """Raise CannotRunHereError where an image cannot keep a network's budget: one network fails."""
    try:
        yield
    except InputError as e:
        if network.variant.endswith("%"):
            raise CannotRunHereError(e.message, hint=e.hint) from e
        raise
