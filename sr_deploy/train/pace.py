"""How long the steps of a run take, how much time is left, and how many steps fit in a time."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import Callable, Deque, Dict, Iterator

from sr_deploy.train.recipe import BaseRecipe

RECENT = 50
"""Number of steps that the rate is a mean of."""
WARM_UP = 3
"""Number of first steps that are left out as soon as there are others."""
SAVE_EVERY_S = 120.0
MARGIN = 0.05
"""Share of the time that a schedule leaves free, so that it ends in the budget."""


class Pace:
    """Durations of recent steps, and of the work between them: validation and saving."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: Deque[float] = deque(maxlen=RECENT)
        self._done = 0
        self._since = clock()
        self._between: Dict[str, float] = {}

    def start(self) -> None:
        """Begin the first step."""
        self._since = self._clock()

    def step_done(self) -> None:
        """End a step, and begin the next one."""
        if self._done == WARM_UP:
            self._steps.clear()
        now = self._clock()
        self._steps.append(now - self._since)
        self._since = now
        self._done += 1

    @contextlib.contextmanager
    def between(self, work: str) -> Iterator[None]:
        """Time validation or saving, which is no part of a step."""
        began = self._clock()
        yield
        self._between[work] = self._clock() - began
        self._since += self._between[work]

    @property
    def step_s(self) -> float:
        """The mean time of the recent steps, in seconds; 0 before the first one."""
        return sum(self._steps) / max(len(self._steps), 1)

    @property
    def valid_s(self) -> float:
        """The time of the last validation, in seconds; 0 if there was none."""
        return self._between.get("validation", 0.0)

    def seconds(self, recipe: BaseRecipe, step: int) -> float:
        """Return the time from `step` to the recipe's last one, with validation and saving."""
        every = recipe.validates_every
        validations = -(-recipe.steps // every) - step // every
        steps_s = (recipe.steps - step) * self.step_s
        saving_s = steps_s / SAVE_EVERY_S * self._between.get("saving", 0.0)
        return steps_s + validations * self.valid_s + saving_s

    def steps_that_fit(self, recipe: BaseRecipe, seconds: float) -> int:
        """Return how many steps, at most the recipe's and at least 1, a run of this time can do."""
        if self.seconds(recipe, 0) <= seconds:
            return recipe.steps
        seconds *= 1 - MARGIN
        fits, too_many = 1, recipe.steps
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self.seconds(recipe.with_steps(middle), 0) <= seconds:
                fits = middle
            else:
                too_many = middle
        return fits
