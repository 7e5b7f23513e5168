from __future__ import annotations

import math

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.runtime.tiling import plan_tiles, smallest_px, smallest_tile


def opened(sessions, kind, low=(1, 1), high=None):
    session = sessions[kind]()
    session.min_hw, session.max_hw = low, high
    return session


def check_partition(spans, n):
    assert [s.core_start for s in spans] == [0, *(s.core_stop for s in spans[:-1])] and spans[
        -1
    ].core_stop == n
    assert all(s.start <= s.core_start < s.core_stop <= s.stop for s in spans)


@pytest.mark.parametrize("kind", ["blur", "windows", "whole"])
@pytest.mark.parametrize("limit", [0, 1, 8, 21])
def test_cores_partition_the_image_and_no_tile_is_larger_than_asked(sessions, kind, limit):
    session = opened(sessions, kind)
    tile = smallest_tile(session, 0) + limit
    for n in (1, 5, tile - 1, tile, tile + 1, tile + 7, 2 * tile, 3 * tile - 1, 137, 1000):
        plan = plan_tiles((n, 2 * tile + 3), session, tile=tile)
        for spans, size in ((plan.y_spans, n), (plan.x_spans, 2 * tile + 3)):
            check_partition(spans, size)
            assert all(0 <= s.start and s.stop <= size and s.size <= tile for s in spans)
            for s in spans:
                assert s.start % session.align_px == 0
                assert s.stop % session.align_px == 0 or s.stop == size
        assert plan.exact == (kind != "whole" or plan.whole)
        assert plan.whole == (n <= tile and 2 * tile + 3 <= tile)


def test_an_image_that_fits_is_run_whole(sessions):
    plan = plan_tiles((7, 9), opened(sessions, "whole"))
    assert plan.whole and plan.exact and str(plan) == "7x9 whole"


@pytest.mark.smoke
def test_tiles_are_balanced(sessions):
    plan = plan_tiles((101, 20), opened(sessions, "blur"), tile=100)
    assert [s.size for s in plan.y_spans] == [54, 54]
    assert "2x1 tiles of at most 54x20" in str(plan)


def test_few_pixels_are_fed_twice(sessions):
    """With a quarter megapixel, little more than the image itself is fed."""
    session = opened(sessions, "blur")
    plan = plan_tiles((3000, 2000), session, max_px=1 << 18)
    assert math.prod(plan.tile_hw) <= 1 << 18
    assert plan.fed_px < 1.05 * 3000 * 2000


@pytest.mark.parametrize("kind, smallest", [("blur", 7), ("windows", 32), ("whole", 33)])
def test_a_tile_smaller_than_the_receptive_field_is_refused_and_the_smallest_named(
    sessions, kind, smallest
):
    session = opened(sessions, kind)
    assert smallest_tile(session, 0) == smallest
    plan_tiles((100, 100), session, tile=smallest)
    with pytest.raises(
        InputError, match=f"{smallest - 1} are too small.*smallest is {smallest}"
    ) as caught:
        plan_tiles((100, 100), session, tile=smallest - 1)
    assert caught.value.hint == f"give {smallest}"


def test_a_small_tile_is_allowed_for_an_image_that_fits_it(sessions):
    assert plan_tiles((5, 4), opened(sessions, "windows"), tile=5).whole


def test_too_few_pixels_are_refused(sessions):
    session = opened(sessions, "blur")
    assert smallest_px((100, 3), session) == 21
    assert plan_tiles((100, 3), session, max_px=21).exact
    with pytest.raises(InputError, match="the smallest has 21"):
        plan_tiles((100, 3), session, max_px=20)


def test_a_static_session_gets_its_size_only(sessions):
    session = opened(sessions, "blur", (16, 24), (16, 24))
    plan = plan_tiles((30, 60), session)
    assert {(r.size, c.size) for r in plan.y_spans for c in plan.x_spans} == {
        (16, 24)
    } and plan.exact
    with pytest.raises(InputError, match="takes 16x24 only, not tiles of 20"):
        plan_tiles((30, 60), session, tile=20)


@pytest.mark.parametrize(
    "kind, size, n, exact",
    [
        ("blur", 16, 16, True),
        ("blur", 16, 200, True),
        ("blur", 16, 6, True),  # twice, once at either end
        ("blur", 16, 5, False),  # no pixel is 3 away from both ends of the mirrored part
        ("blur", 6, 20, False),  # smaller than the halo on both sides
        ("windows", 32, 64, True),
        ("windows", 32, 60, False),  # the last tile does not start on the grid
        ("windows", 32, 24, True),
        ("windows", 32, 23, False),
        ("windows", 36, 76, False),
        ("whole", 16, 16, True),
        ("whole", 16, 17, False),
    ],
)
def test_a_static_session_is_exact_where_tiles_can_end_at_the_border_on_the_grid(
    sessions, kind, size, n, exact
):
    session = opened(sessions, kind, (size, size), (size, size))
    plan = plan_tiles((n, size), session)
    check_partition(plan.y_spans, n)
    assert all(s.size == size for s in plan.y_spans)
    assert plan.exact == exact


def test_an_image_too_small_to_be_exact_is_mirrored_once_without_a_seam(sessions):
    plan = plan_tiles((3, 2), opened(sessions, "blur", (16, 16), (64, 64)))
    assert (
        len(plan.y_spans) == len(plan.x_spans) == 1
        and not plan.exact
        and str(plan) == "3x2 mirrored to 16x16"
    )


def test_a_range_of_sizes_is_kept(sessions):
    session = opened(sessions, "blur", (10, 10), (20, 30))
    for hw in ((3, 3), (10, 30), (15, 200), (400, 12), (21, 31)):
        plan = plan_tiles(hw, session)
        check_partition(plan.y_spans, hw[0])
        assert all(10 <= r.size <= 20 for r in plan.y_spans) and all(
            10 <= c.size <= 30 for c in plan.x_spans
        )


def test_sizes_far_larger_than_the_image_do_not_use_up_the_pixels(sessions):
    session = opened(sessions, "blur", high=(16384, 16384))
    plan = plan_tiles((120, 160), session, max_px=1 << 20)
    assert plan.whole and plan == plan_tiles((120, 160), opened(sessions, "blur"), max_px=1 << 20)


def test_a_graph_smaller_than_the_surroundings_of_an_output_gets_inexact_tiles(sessions):
    session = opened(sessions, "windows", (8, 8), (24, 24))
    plan = plan_tiles((50, 60), session)
    assert not plan.exact and plan.tile_hw == (24, 24)
    assert smallest_px((50, 60), session) == 24 * 24


def test_one_side_may_be_fixed(sessions):
    session = opened(sessions, "blur", (16, 1), (16, 500))
    plan = plan_tiles((40, 60), session)
    assert {s.size for s in plan.y_spans} == {16} and plan.x_spans[0].size == 60 and plan.exact
    assert smallest_px((40, 60), session) == 16 * 7
    with pytest.raises(InputError, match="takes a height of 16 only, not tiles of 12"):
        plan_tiles((40, 60), session, tile=12)
    assert plan_tiles((40, 60), session, tile=20).tile_hw == (16, 20)


@pytest.mark.parametrize("n", [50, 96, 101])
def test_tiles_lie_on_multiples_of_the_grid_and_of_the_sizes_that_the_network_takes(sessions, n):
    session = opened(sessions, "windows")
    session.align_px, session.multiple = 6, 4
    plan = plan_tiles((n, n), session, tile=36)
    check_partition(plan.y_spans, n)
    assert plan.exact and smallest_tile(session, 0) == 36
    assert all(s.start % 12 == 0 and (s.stop % 12 == 0 or s.stop == n) for s in plan.y_spans)


def test_the_last_tile_reaches_the_border(sessions):
    """Though it must start on the grid, and be long enough to be mirrored as the image is."""
    session = opened(sessions, "blur", (3, 3))
    session.halo_px, session.align_px = 0, 4
    for low, high, multiple in (((3, 3), None, 1), ((1, 1), None, 4), ((62, 62), (64, 64), 1)):
        session.min_hw, session.max_hw, session.multiple = low, high, multiple
        for n in (129, 130, 131, 133):
            tile = 64 if high else smallest_tile(session, 0)
            spans = plan_tiles((n, n), session, tile=tile).y_spans
            check_partition(spans, n)
            assert max(low[0], -n % multiple) <= spans[-1].size <= tile
            on_grid = all(span.start % 4 == 0 for span in spans)
            assert plan_tiles((n, n), session, tile=tile).exact == on_grid
