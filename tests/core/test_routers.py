import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doubles.plans import with_parts

from sr_deploy.core.errors import ArtifactError, CheckpointError, InputError
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.routers import (
    ROUTERS,
    Branch,
    RoutedPlan,
    RouterSpec,
    parse_share,
    patch_spans,
    read_routed_plan,
)
from sr_deploy.core.shipped import read_card, shipped_checkpoints

SPEC = RouterSpec(
    scale=4,
    models=("a", "b", "c"),
    variants=("w16", "w36", "w56"),
    weights_sha256s=("0", "1", "2"),
    macs=(1, 2, 3),
    router_macs=1,
)


def card(folder, spec=SPEC, **changes):
    weights = folder / "r_x4.router.safetensors"
    weights.with_suffix(".json").write_text(json.dumps({**json.loads(to_json(spec)), **changes}))
    return weights


def test_a_card_is_read_as_it_was_written(tmp_path):
    weights = card(tmp_path)
    assert ROUTERS.name_of(weights) == "r_x4" and ROUTERS.read_card(weights) == SPEC
    assert SPEC.branches[1] == Branch("b", "w36", "1", 2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"macs": [3, 2, 1]}, "not sorted by size: 3, 2, 1"),
        ({"macs": [0, 2, 3]}, "not sorted by size: 0, 2, 3"),
        ({"models": ["a"]}, "it names 1 models, 3 variants, 3 checksums and 3 costs"),
        ({"patch_hw": [2, 32]}, "patches are 2x32; expected at least 4x4"),
        ({"blend": "fade"}, "its blend is 'fade'; expected one of none, average, ramp"),
        ({"overlap": 32}, "patches of 32 overlap by 32; expected 0 to 31"),
        ({"blend": "none"}, "overlap by 4 and are not blended; expected an overlap of 0"),
        ({"speed": 1}, "unknown key 'speed'"),
    ],
)
def test_cards_that_cannot_be(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        ROUTERS.read_card(card(tmp_path, **change))


def test_a_router_of_one_branch_chooses_nothing(tmp_path):
    one = replace(SPEC, models=("a",), variants=("w16",), weights_sha256s=("0",), macs=(1,))
    with pytest.raises(CheckpointError, match="it names 1 models"):
        ROUTERS.read_card(card(tmp_path, one))


def test_weights_without_a_card():
    with pytest.raises(CheckpointError, match="has no card: expected none.router.json beside it"):
        ROUTERS.read_card(Path("none.router.safetensors"))


def test_shipped_routers_choose_between_shipped_checkpoints_and_are_none():
    cards = {path.stem: read_card(path) for path in shipped_checkpoints()}
    assert ROUTERS.shipped() and not {p.name for p in ROUTERS.shipped()} & {
        p.name for p in shipped_checkpoints()
    }
    for path in ROUTERS.shipped():
        spec = ROUTERS.read_card(path)
        for branch in spec.branches:
            held = cards[branch.model]
            assert branch.variant in held.variants and (held.scale, held.weights_sha256) == (
                spec.scale,
                branch.weights_sha256,
            )


PLAN = with_parts(
    RoutedPlan(
        model="r_x4",
        scale=4,
        names=("a", "b", "c"),
        macs=(25, 50, 100),
        router_macs=5,
        patch=8,
        parent_sha256="0",
        overlap=2,
    )
)


def test_the_likeliest_branch_is_chosen_without_a_budget():
    log_odds = np.array([[1, 0, 0], [0, 2, 1], [0, 0, 0.1], [3, 3, 3]], np.float32)
    assert PLAN.classes(log_odds).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("share", [0.30, 0.4, 0.6, 0.75, 0.99])
def test_a_budget_is_kept_and_used_up(share):
    log_odds = np.random.default_rng(0).normal(size=(400, 3))
    classes = PLAN.classes(log_odds, share * 400 * 100)
    executed = np.array(PLAN.macs)[classes].mean() / 100 + 0.05
    assert share - 0.01 < executed <= share
    spared = log_odds[classes == 0, 2] - log_odds[classes == 0, 0]
    paid = log_odds[classes == 2, 2] - log_odds[classes == 2, 0]
    assert (
        not len(paid) or not len(spared) or spared.max() <= paid.min()
    )  # whoever gains most by the largest gets it


def test_a_budget_for_everything_takes_the_largest_everywhere():
    assert set(replace(PLAN, router_macs=0).classes(np.zeros((4, 3)), 400).tolist()) == {2}


def test_a_budget_below_the_smallest_branch_is_refused():
    log_odds = np.random.default_rng(0).normal(size=(9, 3))
    assert set(PLAN.classes(log_odds, 0.3 * 900).tolist()) == {0}
    message = (
        "a budget of 29.9% of 'c' on the whole image is too small: the router and 'a' everywhere "
        "take 30.0% of it on one patch and 53.3% on overlapping ones"
    )
    with pytest.raises(InputError, match=message) as caught:
        PLAN.check_budget(0.299)
    assert caught.value.hint == "give 54% or more"


@pytest.mark.parametrize("hw, patches, px", [((8, 8), 1, 64), ((14, 20), 6, 280), ((1, 3), 1, 3)])
def test_the_smallest_budget_counts_overlaps_and_mirrored_pixels(hw, patches, px):
    assert PLAN.least_share(hw) == pytest.approx(patches * 30 / (100 / 64 * px))


@pytest.mark.parametrize("text, share", [("60%", 0.6), ("0.6", 0.6), ("100%", 1.0), ("120%", 1.2)])
def test_shares_are_read(text, share):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["0", "60", "-5%", "201%", "half", "", "%", "nan", "inf%"])
def test_other_words_are_no_shares(text):
    with pytest.raises(
        InputError,
        match="is not a valid share of the plain network's work; "
        "expected a value above 0 up to 200%",
    ):
        parse_share(text)


@pytest.mark.parametrize(
    "size, patch, overlap",
    [(8, 8, 2), (9, 8, 2), (14, 8, 2), (100, 8, 2), (30, 8, 0), (30, 8, 7), (64, 32, 4)],
)
def test_patches_cover_an_axis_and_their_weights_add_up_to_one(size, patch, overlap):
    starts, weights = patch_spans(size, patch, overlap)
    assert (
        starts[0] == 0
        and starts[-1] == size - patch
        and weights.shape == (len(starts), patch)
        and weights.dtype == np.float32
    )
    total = np.zeros(size)
    for start, weight in zip(starts, weights):
        total[start : start + patch] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert all(b - a <= patch - overlap for a, b in zip(starts, starts[1:])) and (weights > 0).all()


def test_weights_fall_towards_a_neighbour():
    _, weights = patch_spans(14, 8, 2)
    np.testing.assert_allclose(weights[0], [1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3], atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["a"]},
        {"macs": [3, 2, 1]},
        {"overlap": 8},
        {"patch": 2},
        {"parts": {}},
    ],
)
def test_plans_that_cannot_be(tmp_path, change):
    path = tmp_path / "r_x4.routed.json"
    path.write_text(to_json(PLAN))
    assert read_routed_plan(path) == PLAN
    path.write_text(json.dumps({**json.loads(to_json(PLAN)), **change}))
    with pytest.raises(ArtifactError, match="is not a valid plan"):
        read_routed_plan(path)
