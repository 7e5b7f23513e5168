import dataclasses
import json

import numpy as np
import pytest
from doubles.plans import with_parts

from sr_deploy.core.depth_plan import (
    DepthPlan,
    choose_windows,
    executed_macs,
    group_depths,
    plain_macs,
    reach_px,
    read_depth_plan,
    takes_block,
)
from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.jsonio import to_json

CONV = 8 * 8 * 9
PLAN = with_parts(
    DepthPlan(
        model="ada",
        scale=4,
        blocks=3,
        parent_sha256="",
        depths=(1, 3),
        macs_px=6 * CONV + 500,
        conv_macs_px=CONV,
        map_macs_px=70,
    )
)


def test_what_no_pixel_needs_costs_nothing():
    depth_map = np.zeros((90, 100), np.float32)
    choice = choose_windows(PLAN, depth_map[None])
    assert (
        choice.groups == ((), ())
        and not choice.whole
        and PLAN.groups()
        == [
            ("b1", 0, 0, 1),
            ("b3", 0, 1, 3),
        ]
    )
    assert executed_macs(PLAN, choice, 9000) == (500 + 70) * 9000


def test_a_deep_pixel_costs_the_window_of_its_cell_in_each_group():
    depth_map = np.zeros((90, 100), np.float32)
    depth_map[40, 50] = 1.5
    choice = choose_windows(PLAN, depth_map[None])
    (first,), (second,) = choice.groups
    assert (first.tile, first.corner, first.hw) == ((32, 32, 32, 32), (30, 30), (36, 36))
    assert (second.corner, second.hw) == ((28, 28), (40, 40))
    assert choice.blocks_px == 36 * 36 + 2 * 40 * 40
    macs = (500 + 70) * 9000 + 2 * CONV * choice.blocks_px
    assert executed_macs(PLAN, choice, 9000) == macs
    depth_map[40, 50] = 1.0  # the second block begins above 1
    assert choose_windows(PLAN, depth_map[None]).groups == ((first,), ())


def test_windows_at_borders_are_moved_into_the_image():
    depth_map = np.zeros((90, 100), np.float32)
    depth_map[0, 0] = depth_map[89, 99] = 0.5
    (first, last), _ = choose_windows(PLAN, depth_map[None]).groups
    assert (first.corner, first.hw) == ((0, 0), (36, 36))
    assert (last.tile, last.corner, last.hw) == ((64, 96, 26, 4), (60, 92), (30, 8))


def test_cells_side_by_side_share_larger_windows():
    depth_map = np.zeros((256, 256), np.float32)
    depth_map[:128, :128] = 0.5
    ((window,), _) = choose_windows(PLAN, depth_map[None]).groups
    assert (window.tile, window.hw) == ((0, 0, 128, 128), (132, 132))


def test_each_pixel_is_in_the_tile_of_one_window_if_it_needs_a_group():
    rng = np.random.default_rng(0)
    depth_map = (3 * rng.random((200, 150)) * (rng.random((200, 150)) > 0.999)).astype(np.float32)
    choice = choose_windows(PLAN, depth_map[None])
    for (_, _, before, _), windows in zip(PLAN.groups(), choice.groups):
        covered = np.zeros(depth_map.shape, int)
        for window in windows:
            top, left, h, w = window.tile
            covered[top : top + h, left : left + w] += 1
        assert covered.max() == 1 and covered[depth_map > before].min() == 1 and covered.min() == 0


def test_where_all_is_deep_the_whole_network_runs():
    choice = choose_windows(PLAN, np.full((1, 64, 64), 2.5, np.float32))
    assert choice.whole and choice.blocks_px == 3 * 64 * 64
    assert [windows[0].hw for windows in choice.groups] == [(64, 64)] * 2
    shallow = choose_windows(PLAN, np.full((1, 64, 64), 0.5, np.float32))
    assert not shallow.whole and shallow.blocks_px == 64 * 64


def test_a_pixel_takes_every_block_that_its_depth_begins():
    depth_map = np.array([[0.0, 0.2, 1.0, 1.1, 3.0]], np.float32)
    assert [takes_block(depth_map, block)[0].tolist() for block in (1, 2, 3)] == [
        [False, True, True, True, True],
        [False, False, False, True, True],
        [False, False, False, False, True],
    ]


def test_blocks_are_in_at_most_eight_groups():
    assert group_depths(16) == (2, 4, 6, 8, 10, 12, 14, 16) and group_depths(3) == (1, 2, 3)
    assert len(group_depths(32)) == 8


def test_a_pixel_reaches_through_head_blocks_and_tail():
    assert (reach_px(0), reach_px(3)) == (4, 10)


def test_a_plan_is_read_as_it_was_written(tmp_path):
    path = tmp_path / PLAN.file_name
    path.write_text(to_json(PLAN))
    assert path.name == "ada.adadsr.json" and read_depth_plan(path) == PLAN
    assert PLAN.roles() == ["map", "whole", "head", "end", "b1", "b3"]


@pytest.mark.parametrize("way", ["rows", "tiles"])
def test_a_plan_of_an_older_version_is_told(way, tmp_path):
    path = tmp_path / f"ada.{way}.json"
    path.write_text("{}")
    with pytest.raises(ArtifactError, match="older version, which skipped blocks by rows") as e:
        read_depth_plan(path)
    assert "srdeploy export MODEL --adaptive" in e.value.hint


@pytest.mark.parametrize(
    "change, match",
    [
        ({"parts": {}}, "its parts are none; expected b1, b3, end, head, map, whole"),
        ({"depths": [1, 2]}, "is not a valid plan"),
        ({"depths": [3, 3]}, "is not a valid plan"),
        ({"depths": []}, "is not a valid plan"),
        ({"conv_macs_px": 0}, "is not a valid plan"),
        ({"macs_px": -5}, "is not a valid plan"),
        ({"model": "../other"}, "is not a valid plan"),
        ({"speed": 1}, "unknown key 'speed'"),
    ],
)
def test_a_plan_of_other_parts_is_refused(change, match, tmp_path):
    path = tmp_path / "ada.adadsr.json"
    path.write_text(json.dumps({**json.loads(to_json(PLAN)), **change}))
    with pytest.raises(ArtifactError, match=match):
        read_depth_plan(path)
    with pytest.raises(ArtifactError, match="there is no file"):
        read_depth_plan(tmp_path / "none.json")


def test_costs_are_those_of_its_own_plan():
    larger = dataclasses.replace(PLAN, conv_macs_px=2 * CONV, macs_px=12 * CONV + 500)
    choice = choose_windows(PLAN, np.full((1, 64, 64), 0.5, np.float32))
    assert executed_macs(larger, choice, 1) - executed_macs(PLAN, choice, 1) == (
        2 * CONV * choice.blocks_px
    )


ATTENDING = with_parts(
    dataclasses.replace(
        PLAN,
        depths=(1, 2, 3),
        macs_px=2 * 3 * (2 * CONV + 8) + 500,
        maps=2,
        mean_macs_px=8,
        attention_macs=11,
    )
)


def test_with_channel_attention_each_block_of_each_map_is_by_itself():
    blocks = [f"g{group}.{part}" for group in (1, 2) for part in ("b1", "b2", "b3", "last")]
    common = ["map", "whole", "head", "end", "factors", "add"]
    assert ATTENDING.roles() == [*common, *blocks]
    depth_maps = np.zeros((2, 90, 100), np.float32)
    depth_maps[1, 40, 50] = 1.5
    choice = choose_windows(ATTENDING, depth_maps)
    (window,) = choice.groups[3]
    assert (window.tile, window.corner, window.hw) == ((32, 32, 32, 32), (30, 30), (36, 36))
    assert choice.groups == ((), (), (), (window,), (window,), ())
    # The attention of all six blocks is computed for each of two.
    macs = (500 + 70) * 9000 + (2 * CONV + 8) * 2 * 36 * 36 + 2 * 6 * 11
    assert executed_macs(ATTENDING, choice, 9000) == macs
    everywhere = choose_windows(ATTENDING, np.full((2, 64, 64), 3, np.float32))
    plain = plain_macs(ATTENDING, 4096)
    assert everywhere.whole and plain == ATTENDING.macs_px * 4096 + 6 * 11
    assert executed_macs(ATTENDING, everywhere, 4096) == plain + 70 * 4096


def test_a_block_with_attention_is_run_on_windows_even_where_all_need_it():
    depth_maps = np.zeros((2, 256, 256), np.float32)
    depth_maps[0] = 1
    choice = choose_windows(ATTENDING, depth_maps)
    assert {window.hw for window in choice.groups[0]} == {(132, 132)}
    assert choice.groups[0] and not any(choice.groups[1:])
    assert not choice.whole and choose_windows(ATTENDING, depth_maps, 0.1).whole


@pytest.mark.parametrize("change", [{"maps": 0}, {"depths": [1, 3]}, {"mean_macs_px": 0}])
def test_a_plan_of_maps_and_attention_that_do_not_fit_is_refused(change, tmp_path):
    path = tmp_path / "ada.adadsr.json"
    path.write_text(json.dumps({**json.loads(to_json(ATTENDING)), **change}))
    with pytest.raises(ArtifactError, match="is not a valid plan: depths and costs are"):
        read_depth_plan(path)
