import json
from dataclasses import replace
from pathlib import Path

import pytest

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.routing import Branch, RouterSpec, read_router_card, router_name, shipped_routers
from sr_deploy.core.shipped import read_card, shipped

SPEC = RouterSpec(
    scale=4, models=("a", "b", "c"), variants=("w16", "w36", "w56"), weights_sha256s=("0", "1", "2"), macs=(1, 2, 3), router_macs=1,
)  # fmt: skip


def card(folder, spec=SPEC, **changes):
    weights = folder / "r_x4.router.safetensors"
    weights.with_suffix(".json").write_text(json.dumps({**json.loads(to_json(spec)), **changes}))
    return weights


def test_a_card_is_read_as_it_was_written(tmp_path):
    weights = card(tmp_path)
    assert router_name(weights) == "r_x4" and read_router_card(weights) == SPEC
    assert SPEC.branches[1] == Branch("b", "w36", "1", 2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"macs": [3, 2, 1]}, "not from the smallest to the largest: 3, 2, 1"),
        ({"macs": [0, 2, 3]}, "not from the smallest to the largest"),
        ({"models": ["a"]}, "it names 1 models, 3 variants, 3 checksums and 3 costs"),
        ({"patch_hw": [2, 32]}, "patches are 2x32; the smallest is 4x4"),
        ({"speed": 1}, "unknown key 'speed'"),
    ],
)
def test_cards_that_cannot_be(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        read_router_card(card(tmp_path, **change))


def test_a_router_of_one_branch_chooses_nothing(tmp_path):
    one = replace(SPEC, models=("a",), variants=("w16",), weights_sha256s=("0",), macs=(1,))
    with pytest.raises(CheckpointError, match="it names 1 models"):
        read_router_card(card(tmp_path, one))


def test_weights_without_a_card():
    with pytest.raises(CheckpointError, match="has no card: expected none.router.json beside it"):
        read_router_card(Path("none.router.safetensors"))


def test_shipped_routers_choose_between_shipped_checkpoints_and_are_none():
    cards = {path.stem: read_card(path) for path in shipped()}
    assert shipped_routers() and not {p.name for p in shipped_routers()} & {p.name for p in shipped()}
    for path in shipped_routers():
        spec = read_router_card(path)
        for branch in spec.branches:
            held = cards[branch.model]
            assert branch.variant in held.variants and (held.scale, held.weights_sha256) == (spec.scale, branch.weights_sha256)
