"""The learning rate schedules of the papers, as functions of the step alone."""

from __future__ import annotations

import math
from typing import Callable, Dict, Sequence

from sr_deploy.core.errors import InputError

ENDING = ("one-cycle", "cosine")
"""Schedules that end with the last step: they depend on the number of steps."""


def learning_rate(
    schedule: str,
    step: int,
    steps: int,
    *,
    lr: float,
    final_lr: float = 0.0,
    periods: Sequence[int] = (),
) -> float:
    """Return the learning rate of update `step`, from 0, of a run of `steps`. Raises InputError.

    - `constant`: lr;
    - `one-cycle`: linear up to lr over the first twentieth, then a cosine down to final_lr;
    - `cosine`: from lr down to final_lr;
    - `halving`, periods (interval,): halved after each interval;
    - `knee`, periods (warm-up, explore, cooldown): linear up, constant, linear down, then repeated.
    """
    if schedule not in _SCHEDULES:
        raise InputError(f"unknown schedule '{schedule}'; expected {', '.join(_SCHEDULES)}")
    expected = {"halving": 1, "knee": 3}.get(schedule, 0)
    if len(periods) != expected or any(p < 1 for p in periods):
        raise InputError(
            f"the schedule '{schedule}' takes {expected} periods of at least one step; "
            f"got {list(periods)}"
        )
    share = _SCHEDULES[schedule](step, steps, periods)
    return final_lr + (lr - final_lr) * share if schedule in ENDING else lr * share


def knee_end(steps: int, periods: Sequence[int]) -> str:
    """Return where `steps` of a knee schedule end: in which cycle and part, at which rate."""
    warm_up, explore, _ = periods
    cycle, at = divmod(steps - 1, sum(periods))
    part = "warm-up" if at < warm_up else "explore" if at < warm_up + explore else "cooldown"
    share = _knee(steps - 1, steps, periods)
    rate = "the peak rate" if share == 1 else f"{share:.0%} of the peak rate"
    return f"in the {part} of cycle {cycle + 1}, at {rate}"


def _one_cycle(step: int, steps: int, periods: Sequence[int]) -> float:
    progress = step / steps
    if progress < 0.05:
        return max(progress / 0.05, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.05) / 0.95))


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
    "cosine": lambda step, steps, periods: 0.5 * (1 + math.cos(math.pi * step / steps)),
    "halving": lambda step, steps, periods: 0.5 ** (step // periods[0]),
    "knee": _knee,
}
