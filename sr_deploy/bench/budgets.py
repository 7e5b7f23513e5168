"""Adaptive networks with budgets: `--max-flops 70%` of `bench` and `eval`."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Iterator, List, Optional, Sequence

from sr_deploy.core.elastic_plan import ElasticPlan
from sr_deploy.core.errors import CannotRunHereError, InputError
from sr_deploy.core.routers import RoutedPlan
from sr_deploy.runtime.opener import NetworkDescription
from sr_deploy.runtime.opener.adaptive import AdaptiveOptions, describe_adaptive


def with_budgets(
    networks: Sequence[NetworkDescription], budgets: Sequence[str]
) -> List[NetworkDescription]:
    """Return the networks, each that takes a budget once for each of `budgets`, such as `70%`.

    The budget is their variant. Without budgets, and all other networks: as they are. Raises
    InputError if none takes one, or for one that no image can keep.
    """
    if not budgets:
        return list(networks)
    kinds = [_kind(network) for network in networks]
    if not any(kinds):
        raise InputError(
            "--max-flops is for networks that route patches or choose depths, and none is given",
            hint="omit it, or give for example cdnsr-fsrcnn_x4; AdaDSR has --variants d4,d8",
        )
    result: List[NetworkDescription] = []
    for network, kind in zip(networks, kinds):
        chosen = dict.fromkeys(budgets) if kind else {}
        result += [budgeted(network.source, kind, budget) for budget in chosen] or [network]
    return result


def budgeted(source: str, kind: Optional[str], budget: str) -> NetworkDescription:
    """Return an adaptive network with a budget. kind: `cdnsr` or `elastic`; None: either."""
    if kind is None:
        try:
            return budgeted(source, "cdnsr", budget)
        except InputError:
            return budgeted(source, "elastic", budget)
    return replace(describe_adaptive(AdaptiveOptions(kind, budget), source), variant=budget)


@contextlib.contextmanager
def budget_refused(network: NetworkDescription) -> Iterator[None]:
    """Raise CannotRunHereError where an image cannot keep a network's budget: one network fails."""
    try:
        yield
    except InputError as e:
        if network.variant.endswith("%"):
            raise CannotRunHereError(e.message, hint=e.hint) from e
        raise


def _kind(network: NetworkDescription) -> Optional[str]:
    if not isinstance(network.plan, (RoutedPlan, ElasticPlan)):
        return None
    of_one_network = len({name.rpartition(".")[0] for name in network.plan.names}) == 1
    return "elastic" if of_one_network else "cdnsr"
