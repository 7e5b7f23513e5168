import numpy as np
import pytest

from sr_deploy.core.quadtree import Quadtree, TailCost, cells_hw

COSTS = [
    TailCost(1, 30, 60, 120, 30),
    TailCost(9, 100, 700, 8000, 100),
    TailCost(17, 200, 3000, 60000, 200),
]
SIZES = [(256, 384), (131, 97), (20, 33), (1, 1), (400, 650)]


def random_gains(hw, seed=0):
    """Of two deeper depths: large in few cells, and more where both are deeper."""
    first = np.random.default_rng(seed).random((1, *cells_hw(hw))) ** 4 * 1e6
    return np.concatenate([first, 1.4 * first])


def cost_of(tiles):
    return sum(
        COSTS[d].px * h * w + COSTS[d].side * (h + w) + COSTS[d].corner
        for _, _, h, w, d in tiles.tolist()
    )


@pytest.mark.parametrize("hw", SIZES)
def test_tiles_cover_each_pixel_once_and_cost_what_is_said(hw):
    for price in (0.0, 0.01, 0.1, 1.0):
        choice = Quadtree(hw, COSTS).choose(random_gains(hw), price)
        count = np.zeros(hw, int)
        for top, left, h, w, _ in choice.tiles.tolist():
            assert top % 32 == left % 32 == 0
            count[top : top + h, left : left + w] += 1
        assert (count == 1).all()
        if not choice.whole:
            assert choice.cost == pytest.approx(cost_of(choice.tiles))
        assert sum(choice.pixels(3)) == hw[0] * hw[1]


def test_no_other_tiles_of_a_small_image_are_better():
    hw, price = (64, 64), 0.02
    for seed in range(20):
        gains = random_gains(hw, seed)
        choice = Quadtree(hw, COSTS).choose(gains, price)
        all_gains = np.concatenate([np.zeros((1, 2, 2)), gains])
        cells = sum(
            min(
                price * cost_of(np.array([[0, 0, 32, 32, d]])) - all_gains[d, i, j]
                for d in range(3)
            )
            for i in range(2)
            for j in range(2)
        )
        one = min(
            price * cost_of(np.array([[0, 0, 64, 64, d]])) - all_gains[d].sum() for d in range(3)
        )
        whole = min(price * COSTS[d].whole_px * 64**2 - all_gains[d].sum() for d in range(3))
        assert price * choice.cost - choice.gain == pytest.approx(min(cells, one, whole))


def test_an_image_is_run_whole_where_that_is_cheapest():
    gains = np.ones((2, 8, 12)) * [[[1e6]], [[2e6]]]
    choice = Quadtree((256, 384), COSTS).choose(gains, 0.1)
    assert choice.whole and choice.tiles.tolist() == [[0, 0, 256, 384, 2]]
    flat = Quadtree((256, 384), COSTS).choose(np.zeros((2, 8, 12)), 0.1)
    assert flat.whole and flat.tiles.tolist() == [[0, 0, 256, 384, 0]]


@pytest.mark.parametrize("share", [0.2, 0.3, 0.5, 0.8, 0.97])
def test_a_budget_is_nearly_used_and_never_exceeded(share):
    hw = (400, 640)
    tree, gains = Quadtree(hw, COSTS), random_gains(hw)
    budget = share * tree.whole_costs[-1]
    choice = tree.within(gains, budget)
    assert 0.97 * budget <= choice.cost <= budget
    assert choice.cost == pytest.approx(cost_of(choice.tiles))
    rates = np.full((4, 3), 0.5)  # in another unit
    halved = Quadtree(hw, COSTS, rates).within(gains, budget / 2)
    assert halved.cost == pytest.approx(choice.cost / 2)


def test_a_budget_buys_nothing_that_does_not_gain():
    tree = Quadtree((256, 384), COSTS)
    choice = tree.within(-np.ones((2, 8, 12)), float(tree.whole_costs[-1]))
    assert choice.whole and choice.pixels(3) == [256 * 384, 0, 0]
    least = tree.within(random_gains((256, 384)), 0.0)
    assert least.whole and least.pixels(3) == [256 * 384, 0, 0]
