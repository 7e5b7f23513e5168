import dataclasses
import json

import numpy as np
import pytest

from sr_deploy.core.depths import DepthPlan, dilated, everywhere, plan_path, reach_px, read_plan, rows_macs, taken
from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.jsonio import to_json

CONV = 8 * 8 * 9
ROWS = DepthPlan(
    model="ada", scale=4, blocks=3, way="rows", parent_sha256="", graphs=dict.fromkeys("abcdefgh", "0"), depths=(1, 2, 3),
    macs_px=6 * CONV + 500, conv_macs_px=CONV, map_macs_px=70,
)  # fmt: skip
TILES = dataclasses.replace(
    ROWS, way="tiles", graphs={"ada.map.onnx": "0", "ada.k1.onnx": "1", "ada.k3.onnx": "2"}, tile=7, depths=(1, 3), tile_macs=(10, 20)
)


def test_rows_cost_what_they_compute():
    nothing = np.zeros((10, 10), np.float32)
    fixed = (500 + 70) * 100
    assert rows_macs(ROWS, nothing) == fixed
    one = nothing.copy()
    one[5, 5] = 1.5  # two blocks at one pixel: the second convolution there, the first at nine
    assert rows_macs(ROWS, one) == fixed + 2 * (9 + 1) * CONV
    one[0, 0] = 0.5  # in the corner the dilation has four
    assert rows_macs(ROWS, one) == fixed + (2 * (9 + 1) + (4 + 1)) * CONV
    dense = dataclasses.replace(ROWS, dense_above=0.0)  # the two blocks that any pixel takes
    assert everywhere(dense, one) == (True, True, False) and everywhere(ROWS, one) == (False,) * 3
    assert rows_macs(dense, one) == fixed + 2 * 2 * 100 * CONV
    in_twos = dataclasses.replace(dense, depths=(2, 3), dense_above=0.014)  # 2 % take the first block, 1 % the second
    assert rows_macs(in_twos, one) == fixed + 2 * 2 * 100 * CONV
    assert rows_macs(dataclasses.replace(in_twos, dense_above=0.015), one) == rows_macs(ROWS, one)


def test_a_pixel_takes_every_block_that_its_depth_begins():
    depth_map = np.array([[0.0, 0.2, 1.0, 1.1, 3.0]], np.float32)
    assert [taken(depth_map, block)[0].tolist() for block in (1, 2, 3)] == [
        [False, True, True, True, True], [False, False, False, True, True], [False, False, False, False, True]
    ]  # fmt: skip


@pytest.mark.parametrize("px", [0, 1, 3])
@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_dilation_is_the_maximum_of_a_square(px, dtype):
    values = (np.random.default_rng(0).standard_normal((6, 9)) - 1).astype(dtype)
    expected = [[values[max(0, i - px) : i + px + 1, max(0, j - px) : j + px + 1].max() for j in range(9)] for i in range(6)]
    np.testing.assert_array_equal(dilated(values, px), expected)


def test_a_pixel_reaches_through_head_blocks_and_tail():
    assert (reach_px(0), reach_px(3)) == (4, 10)


@pytest.mark.parametrize("plan", [ROWS, TILES], ids=["rows", "tiles"])
def test_a_plan_is_read_as_it_was_written(plan, tmp_path):
    path = plan_path(tmp_path, "ada", plan.way)
    path.write_text(to_json(plan))
    assert path.name == f"ada.{plan.way}.json" and read_plan(path) == plan


@pytest.mark.parametrize(
    "plan, change, match",
    [
        (ROWS, {"way": "lines"}, "is no plan of ours: its way 'lines'"),
        (ROWS, {"way": "tiles"}, "is no plan of ours"),
        (ROWS, {"graphs": {"../up.onnx": "0"}}, "is no plan of ours"),
        (ROWS, {"graphs": {}}, "is no plan of ours"),
        (TILES, {"depths": [1, 2]}, "is no plan of ours"),
        (TILES, {"depths": [3, 3]}, "is no plan of ours"),
        (TILES, {"tile": 0}, "is no plan of ours"),
        (TILES, {"tile_macs": [10]}, "is no plan of ours"),
        (ROWS, {"speed": 1}, "unknown key 'speed'"),
    ],
)
def test_a_plan_of_other_parts_is_refused(plan, change, match, tmp_path):
    path = tmp_path / "ada.json"
    path.write_text(json.dumps({**json.loads(to_json(plan)), **change}))
    with pytest.raises(ArtifactError, match=match):
        read_plan(path)
    with pytest.raises(ArtifactError, match="there is no file"):
        read_plan(tmp_path / "none.json")
