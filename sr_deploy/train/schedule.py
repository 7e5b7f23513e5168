"""Learning rates over a run, as the papers name them. All are functions of the step alone."""

from __future__ import annotations

import math
from typing import Callable, Dict, Sequence

from sr_deploy.core.errors import InputError


def learning_rate(
    schedule: str,
    step: int,
    steps: int,
    *,
    lr: float,
    final_lr: float = 0.0,
    periods: Sequence[int] = (),
) -> float:
    """Return the learning rate of update `step`, counted from 0, of a run of `steps`. Raises InputError.

    - `constant`: lr;
    - `one-cycle`: linear up to lr over the first twentieth, then a cosine down to final_lr;
    - `cosine`: lr down to final_lr;
    - `halving`, periods (every,): halved after each `every` steps;
    - `knee`, periods (warm-up, explore, cooldown): linear up, constant, linear down; begins again after that.
    """
    if schedule not in _SCHEDULES:
        raise InputError(f"unknown schedule '{schedule}'; expected {', '.join(_SCHEDULES)}")
    wanted = {"halving": 1, "knee": 3}.get(schedule, 0)
    if len(periods) != wanted or any(p < 1 for p in periods):
        raise InputError(
            f"the schedule '{schedule}' takes {wanted} periods of at least one step, not {list(periods)}"
        )
    share = _SCHEDULES[schedule](step, steps, periods)
    return final_lr + (lr - final_lr) * share if schedule in ("one-cycle", "cosine") else lr * share


def _one_cycle(step: int, steps: int, periods: Sequence[int]) -> float:
    progress = step / steps
    if progress < 0.05:
        return max(progress / 0.05, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.05) / 0.95))


def _cosine(step: int, steps: int, periods: Sequence[int]) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def _halving(step: int, steps: int, periods: Sequence[int]) -> float:
    return 0.5 ** (step // periods[0])


def _knee(step: int, steps: int, periods: Sequence[int]) -> float:
    warm_up, explore, cooldown = periods
    step %= warm_up + explore + cooldown
    if step < warm_up:
        return (step + 1) / warm_up
    if step < warm_up + explore:
        return 1.0
    return 1 - (step - warm_up - explore) / cooldown


_SCHEDULES: Dict[str, Callable[[int, int, Sequence[int]], float]] = {
    "constant": lambda step, steps, periods: 1.0,
    "one-cycle": _one_cycle,
    "cosine": _cosine,
    "halving": _halving,
    "knee": _knee,
}
