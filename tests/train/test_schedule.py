import math

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.train.schedule import learning_rate


def rates(schedule, steps, **options):
    return [learning_rate(schedule, n, steps, **{"lr": 2.0, **options}) for n in range(steps)]


def test_one_cycle():
    shares = rates("one-cycle", 1000)
    assert shares[0] == 0.02 and shares[25] == pytest.approx(1.0) and shares[50] == pytest.approx(2)
    assert max(shares) == pytest.approx(2) and shares[999] < 1e-4
    assert all(a >= b for a, b in zip(shares[50:], shares[51:]))


def test_cosine_is_equation_5_of_warm_restarts():
    shares = rates("cosine", 100, final_lr=0.5)
    assert (
        shares[0] == 2
        and shares[50] == pytest.approx(1.25)
        and shares[25] == pytest.approx(0.5 + 0.75 * (1 + math.cos(math.pi / 4)))
    )


def test_halving():
    shares = rates("halving", 10, periods=(3,))
    assert shares == [2, 2, 2, 1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_knee_warms_up_explores_cools_down_and_begins_again():
    shares = rates("knee", 14, periods=(2, 3, 4))
    assert shares[:9] == [1, 2, 2, 2, 2, 2, 1.5, 1, 0.5]
    assert shares[9:] == shares[:5]


@pytest.mark.parametrize(
    "schedule, periods", [("halving", ()), ("knee", (1, 2)), ("cosine", (3,)), ("knee", (0, 1, 1))]
)
def test_periods_that_do_not_fit(schedule, periods):
    with pytest.raises(InputError, match=f"the schedule '{schedule}' takes . periods"):
        learning_rate(schedule, 0, 10, lr=1.0, periods=periods)


def test_an_unknown_schedule():
    with pytest.raises(
        InputError,
        match="unknown schedule 'linear'; expected constant, one-cycle, cosine, halving, knee",
    ):
        learning_rate("linear", 0, 10, lr=1.0)
