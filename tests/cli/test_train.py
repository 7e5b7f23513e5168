from __future__ import annotations

import pytest

from sr_deploy.core.errors import InputError


@pytest.mark.parametrize("text, seconds", [(None, float("inf")), ("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_a_budget(text, seconds):
    from sr_deploy.cli.train import _seconds

    assert _seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "10 m", "m", "-5s", "1d"])
def test_what_is_no_budget(text):
    from sr_deploy.cli.train import _seconds

    with pytest.raises(InputError, match="is not a time; expected 90s, 10m or 2h"):
        _seconds(text)


def test_an_unknown_recipe_is_refused_and_the_nearest_suggested(fails, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; it trains")
    from sr_deploy.train.recipes import RECIPES

    name = sorted(RECIPES)[0]
    error = fails("train", name[:-1], "--data", tmp_path, "-o", tmp_path / "out")
    assert f"unknown recipe '{name[:-1]}'; known are" in error and "hint: did you mean '" in error
    assert not (tmp_path / "out").exists()
