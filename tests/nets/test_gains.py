import json
import re
from dataclasses import replace

import pytest
import torch

from sr_deploy.core.errors import CheckpointError, InputError
from sr_deploy.core.gains import GainsSpec
from sr_deploy.nets.gains import GainsHead, load_gains, save_gains

SPEC = GainsSpec(
    model="asrn_x4",
    model_sha256="0",
    scale=4,
    variants=("d1", "d2"),
    price=1e-9,
    config={"hidden": 5},
)


def head(seed=0):
    torch.manual_seed(seed)
    return GainsHead(depths=1, hidden=5).eval()


def test_a_cell_is_seen_by_its_own_pixels_and_cut_blocks_are_left_out():
    lr = torch.rand(1, 3, 70, 45)
    statistics, area = head().statistics(lr)
    assert statistics.shape == (1, 30, 3, 2)
    torch.testing.assert_close(area[0, 0, 2], torch.tensor([6 / 32, 6 * 13 / 32**2]))
    corner, _ = head().statistics(lr[:, :, 64:68, 32:44])
    torch.testing.assert_close(statistics[:, :, 2:, 1:], corner)
    flat, _ = head().statistics(torch.zeros(1, 3, 32, 32))
    torch.testing.assert_close(head().statistics(lr[:, :, :3])[0][:, :, :, :1], flat)


def test_gains_are_shares_of_the_error_of_the_image():
    dull, busy = 0.01 * torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 48)
    lr = torch.cat([dull, busy], dim=3)
    with torch.no_grad():
        gains = head()(lr)
        parts = [head().predict(head().statistics(part)[0]) for part in lr.split(32, dim=3)]
    assert gains.shape == (1, 1, 1, 3)
    area = torch.tensor([1, 1, 0.5])
    error = sum(part[0] * share for part, share in zip(parts, area)) / area.sum()
    expected = [
        change * worth * share / (error + 1) for (_, change, worth), share in zip(parts, area)
    ]
    torch.testing.assert_close(gains, torch.cat(expected, dim=3))


def saved(folder, spec=SPEC):
    return save_gains(folder, "e_x4", spec, head().state_dict())


def test_a_saved_head_is_loaded(tmp_path):
    path = saved(tmp_path)
    assert path.name == "e_x4.gains.safetensors"
    gains = load_gains(path)
    assert gains.name == "e_x4" and replace(gains.spec, weights_sha256="") == SPEC
    assert load_gains(tmp_path / "e_x4.gains.json").spec == gains.spec
    lr = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(gains.network()(lr), head()(lr))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"config": {"hidden": 0}}, "'hidden' of a gains head must be an integer from 1 to 4096"),
        ({"config": {"depth": 1}}, "unknown configuration key 'depth'"),
        ({"config": {}}, "does not fit its network"),
        ({"weights_sha256": "0"}, "does not match its card"),
        ({"variants": ["d1"]}, "its depths are d1; expected at least two"),
        ({"cell": 16}, "its cells have 16 LR pixels a side; expected 32"),
        ({"price": -1.0}, "its price is -1.0; expected a number of at least 0"),
    ],
)
def test_cards_that_cannot_be(tmp_path, change, message):
    path = saved(tmp_path)
    card = tmp_path / "e_x4.gains.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_gains(path)


def test_files_that_are_missing(tmp_path):
    with pytest.raises(InputError, match="'nope' is not a gains head; expected a .gains.safet"):
        load_gains("nope")
    with pytest.raises(InputError, match="there is no gains head"):
        load_gains(tmp_path / "e.gains.safetensors")
    path = saved(tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match="has no card: expected e_x4.gains.json beside it"):
        load_gains(path)


def test_the_checkpoint_of_its_depths(tmp_path):
    with pytest.raises(CheckpointError, match="was trained with other weights of 'asrn_x4'"):
        load_gains(saved(tmp_path)).checkpoint()
    missing = saved(tmp_path, replace(SPEC, model="none_x4"))
    hint = re.escape("put none_x4.safetensors and its card into the folder of e_x4.gains.safetens")
    with pytest.raises(InputError, match="between depths of 'none_x4', which was not found") as e:
        load_gains(missing).checkpoint()
    assert re.search(hint, e.value.hint)
