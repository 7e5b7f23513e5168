from dataclasses import replace

import pytest

from sr_deploy.train.pace import MARGIN, Pace
from tests.train.conftest import TINY


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def paced(durations, valid_s=0.0, saving_s=0.0):
    """Return the pace of steps of these durations, after a validation and saving."""
    clock = Clock()
    pace = Pace(clock)
    pace.start()
    for work, seconds in (("validation", valid_s), ("saving", saving_s)):
        with pace.between(work):
            clock.now += seconds
    for duration in durations:
        clock.now += duration
        pace.step_done()
    return pace


def test_the_rate_is_of_recent_steps_without_the_first_ones_and_other_work():
    assert Pace().step_s == 0
    assert paced([9.0, 3.0]).step_s == 6
    assert paced([9.0, 9.0, 9.0, 2.0, 4.0], valid_s=100).step_s == 3
    assert paced([9.0] * 80 + [1.0] * 50).step_s == 1


def test_the_time_left_counts_validation_and_saving():
    recipe = replace(TINY, steps=1000, valid_every=1000)  # validates after each 100 steps
    pace = paced([2.0] * 10, valid_s=30.0, saving_s=6.0)
    assert pace.seconds(recipe, 0) == pytest.approx(2000 * (1 + 6 / 120) + 10 * 30)
    assert pace.seconds(recipe, 950) == pytest.approx(100 * (1 + 6 / 120) + 30)
    assert pace.seconds(recipe, 1000) == 0


def test_as_many_steps_as_fit_in_a_time():
    recipe = replace(TINY, steps=1000, valid_every=1000)
    pace = paced([2.0] * 10, valid_s=30.0)
    assert pace.steps_that_fit(recipe, 2300) == 1000
    for seconds in (2000, 500, 70):
        steps = pace.steps_that_fit(recipe, seconds)
        assert pace.seconds(recipe.with_steps(steps), 0) <= seconds * (1 - MARGIN)
        assert pace.seconds(recipe.with_steps(steps + 1), 0) > seconds * (1 - MARGIN)
    assert pace.steps_that_fit(recipe, 0) == 1
