import dataclasses
import json

import numpy as np
import pytest
from doubles.plans import with_parts

from sr_deploy.core.depth_plan import (
    DepthPlan,
    block_groups,
    dense_groups,
    dilate,
    executed_macs,
    reach_px,
    read_depth_plan,
    takes_block,
    tile_corners,
)
from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.jsonio import to_json

CONV = 8 * 8 * 9
ROWS = DepthPlan(
    model="ada",
    scale=4,
    blocks=3,
    way="rows",
    parent_sha256="",
    depths=(1, 2, 3),
    macs_px=6 * CONV + 500,
    conv_macs_px=CONV,
    map_macs_px=70,
)
ROWS = with_parts(ROWS)
TILES = with_parts(dataclasses.replace(ROWS, way="tiles", tile=4, depths=(1, 3)))


def test_rows_cost_what_they_compute():
    nothing = np.zeros((10, 10), np.float32)
    fixed = (500 + 70) * 100
    assert executed_macs(ROWS, nothing) == fixed
    one = nothing.copy()
    one[5, 5] = 1.5  # two blocks at one pixel: the second convolution there, the first at nine
    assert executed_macs(ROWS, one) == fixed + 2 * (9 + 1) * CONV
    one[0, 0] = 0.5  # in the corner the dilation has four
    assert executed_macs(ROWS, one) == fixed + (2 * (9 + 1) + (4 + 1)) * CONV
    dense = dataclasses.replace(ROWS, dense_above=0.0)  # the two blocks that any pixel takes
    assert (
        dense_groups(dense, one) == (True, True, False) and dense_groups(ROWS, one) == (False,) * 3
    )
    assert executed_macs(dense, one) == fixed + 2 * 2 * 100 * CONV
    in_twos = dataclasses.replace(
        dense, depths=(2, 3), dense_above=0.014
    )  # 2 % take the first block, 1 % the second
    assert executed_macs(in_twos, one) == fixed + 2 * 2 * 100 * CONV
    assert executed_macs(dataclasses.replace(in_twos, dense_above=0.015), one) == executed_macs(
        ROWS, one
    )


def test_tiles_cost_what_they_compute():
    assert block_groups(TILES) == [(0, 1), (1, 3)]
    depth_map = np.zeros(
        (9, 10), np.float32
    )  # three by three tiles, five of which reach over the image
    fixed = (500 + 70) * 90
    assert executed_macs(TILES, depth_map) == fixed
    depth_map[5, 3] = 0.5
    one_block, two_blocks = (6 * 6 + 4 * 4) * CONV, (10 * 10 + 8 * 8 + 6 * 6 + 4 * 4) * CONV
    assert tile_corners(TILES, depth_map, 0) == [(4, 0)] and tile_corners(TILES, depth_map, 1) == []
    assert executed_macs(TILES, depth_map) == fixed + one_block
    depth_map[8, 9] = 1.5
    assert tile_corners(TILES, depth_map, 0) == [(4, 0), (8, 8)] and tile_corners(
        TILES, depth_map, 1
    ) == [(8, 8)]
    assert executed_macs(TILES, depth_map) == fixed + 2 * one_block + two_blocks
    # Shares of the groups' full work: 104 of 180 convolutions' pixels, and 216 of 360.
    for above, chosen, macs in (
        (0.59, (False, True), 2 * one_block + 4 * 90 * CONV),
        (0.57, (True, True), 6 * 90 * CONV),
    ):
        plan = dataclasses.replace(TILES, dense_above=above)
        assert (
            dense_groups(plan, depth_map) == chosen
            and executed_macs(plan, depth_map) == fixed + macs
        )


def test_a_pixel_takes_every_block_that_its_depth_begins():
    depth_map = np.array([[0.0, 0.2, 1.0, 1.1, 3.0]], np.float32)
    assert [takes_block(depth_map, block)[0].tolist() for block in (1, 2, 3)] == [
        [False, True, True, True, True],
        [False, False, False, True, True],
        [False, False, False, False, True],
    ]


@pytest.mark.parametrize("px", [0, 1, 3])
@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_dilation_is_the_maximum_of_a_square(px, dtype):
    values = (np.random.default_rng(0).standard_normal((6, 9)) - 1).astype(dtype)
    expected = [
        [values[max(0, i - px) : i + px + 1, max(0, j - px) : j + px + 1].max() for j in range(9)]
        for i in range(6)
    ]
    np.testing.assert_array_equal(dilate(values, px), expected)


def test_a_pixel_reaches_through_head_blocks_and_tail():
    assert (reach_px(0), reach_px(3)) == (4, 10)


def test_parts_are_called_by_what_they_do():
    assert TILES.roles()[:4] == ["start", "end", "b1.everywhere", "b1.t4"]
    assert ROWS.roles()[-2:] == ["b3.everywhere", "b3.rows"]


@pytest.mark.parametrize("plan", [ROWS, TILES], ids=["rows", "tiles"])
def test_a_plan_is_read_as_it_was_written(plan, tmp_path):
    path = tmp_path / plan.file_name
    path.write_text(to_json(plan))
    assert path.name == f"ada.{plan.way}.json" and read_depth_plan(path) == plan


@pytest.mark.parametrize(
    "plan, change, match",
    [
        (ROWS, {"way": "lines"}, "is not a valid plan: way 'lines'"),
        (ROWS, {"way": "tiles"}, "is not a valid plan"),
        (ROWS, {"parts": {}}, "its parts are none; expected b1.everywhere, b1.rows, .* start"),
        (TILES, {"depths": [1, 2]}, "is not a valid plan"),
        (TILES, {"depths": [3, 3]}, "is not a valid plan"),
        (TILES, {"tile": 0}, "is not a valid plan"),
        (TILES, {"tile": 5}, "is not a valid plan"),
        (TILES, {"tile": 6}, "is not a valid plan"),
        (ROWS, {"depths": [2, 3]}, "is not a valid plan"),
        (ROWS, {"conv_macs_px": 0}, "is not a valid plan"),
        (ROWS, {"macs_px": -5}, "is not a valid plan"),
        (ROWS, {"dense_above": 100.0}, "is not a valid plan"),
        (ROWS, {"model": "../other"}, "is not a valid plan"),
        (ROWS, {"speed": 1}, "unknown key 'speed'"),
    ],
)
def test_a_plan_of_other_parts_is_refused(plan, change, match, tmp_path):
    path = tmp_path / "ada.json"
    path.write_text(json.dumps({**json.loads(to_json(plan)), **change}))
    with pytest.raises(ArtifactError, match=match):
        read_depth_plan(path)
    with pytest.raises(ArtifactError, match="there is no file"):
        read_depth_plan(tmp_path / "none.json")
