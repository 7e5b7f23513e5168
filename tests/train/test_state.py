from dataclasses import replace

import pytest
import torch

from sr_deploy.core.errors import CheckpointError, InputError
from tests.train.conftest import TINY


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


def narrower(state):
    """Adam's averages of another network."""
    optimiser = state["optimiser"]
    kept = {
        n: {k: v[:1] if v.ndim else v for k, v in of.items()}
        for n, of in optimiser["state"].items()
    }
    return {**state, "optimiser": {**optimiser, "state": kept}}


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda s: [], "it is not the state of a run"),
        (lambda s: without(s, "card"), "it has no 'card': another version"),
        (lambda s: {**s, "step": "3"}, "its 'step' has the wrong type"),
        (lambda s: {**s, "step": 7}, "its step is 7 of 6"),
        (
            lambda s: {**s, "net": without(s["net"], "head.0.weight")},
            "its 'net' does not fit its network: 1 tensors are missing",
        ),
        (
            lambda s: {**s, "ema": {**s["ema"], "head.0.weight": torch.ones(1)}},
            "its 'ema' does not fit its network: 1 tensors have the wrong shape",
        ),
        (lambda s: {**s, "optimiser": {}}, "its optimiser does not fit"),
        (narrower, "its optimiser does not fit"),
        (lambda s: {**s, "recipe": without(s["recipe"], "steps")}, "its step is 6 of None"),
    ],
)
def test_a_state_of_another_network_or_version(train, tmp_path, whole, change, reason):
    torch.save(
        change(torch.load(whole[0] / "net.state.pt", weights_only=True)), tmp_path / "net.state.pt"
    )
    with pytest.raises(CheckpointError, match=f"cannot resume from .*net.state.pt: {reason}") as e:
        train(resume=True)
    assert len(e.value.message) < 400 and "\n" not in e.value.message


def test_a_state_from_before_a_field_of_the_recipe_has_its_default(train, tmp_path, whole):
    state = torch.load(whole[0] / "net.state.pt", weights_only=True)
    older = {**state, "recipe": without(without(state["recipe"], "follow"), "level"), "step": 5}
    torch.save(older, tmp_path / "net.state.pt")
    with pytest.raises(InputError, match="it differs in level$"):
        train(replace(TINY, level=0.5), resume=True)
    train(resume=True)
    assert torch.load(tmp_path / "net.state.pt", weights_only=True)["step"] == 6


@pytest.mark.parametrize("content", [b"", b"no state at all", "cut"])
def test_a_damaged_state_is_refused_in_one_line(train, tmp_path, whole, content):
    data = (whole[0] / "net.state.pt").read_bytes()
    (tmp_path / "net.state.pt").write_bytes(data[: len(data) // 2] if content == "cut" else content)
    with pytest.raises(
        CheckpointError, match="cannot resume from .*: it is damaged, or not the state of a run$"
    ):
        train(resume=True)
