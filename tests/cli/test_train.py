from __future__ import annotations

import json

import pytest

from sr_deploy.core.errors import InputError


@pytest.mark.parametrize(
    "text, seconds", [(None, float("inf")), ("90s", 90), ("10m", 600), ("1.5h", 5400)]
)
def test_a_budget(text, seconds):
    from sr_deploy.cli.train import _seconds

    assert _seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "10 m", "m", "-5s", "1d"])
def test_invalid_budgets(text):
    from sr_deploy.cli.train import _seconds

    with pytest.raises(InputError, match="is not a time; expected 90s, 10m or 2h"):
        _seconds(text)


def test_an_unknown_recipe_is_refused_and_the_nearest_suggested(fails, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; it trains")
    from sr_deploy.train.recipe import RECIPES

    name = sorted(RECIPES)[0]
    error = fails("train", name[:-1], "--data", tmp_path, "-o", tmp_path / "out")
    assert (
        f"unknown recipe '{name[:-1]}'; srdeploy recipes lists" in error
        and "hint: did you mean '" in error
    )
    assert not (tmp_path / "out").exists()


def test_recipes_are_listed_and_shown_with_their_sources(run_cli, fails):
    pytest.importorskip("torch", reason="torch is not installed; it trains")
    from sr_deploy.train.recipe import RECIPES

    listed = run_cli("recipes").stdout.splitlines()
    names = [line.split()[0] for line in listed if line.startswith("  ")]
    assert sorted(names) == sorted(RECIPES)
    titles = [line for line in listed if not line.startswith("  ")]
    assert titles[0] == "Small: hours on one or two CPU cores" and "ASRN, as printed" in titles
    shown = run_cli("recipes", "imdeception-x4-2").stdout
    assert (
        "follows: imdeception-x4-best" in shown
        and "source: IMDeception, section 4.2, second phase" in shown
    )
    as_json = json.loads(run_cli("recipes", "--json").stdout)
    assert as_json["asrn-x4"]["lr"] == 1e-4 and as_json["asrn-x4"]["periods"] == [200000]
    assert (
        json.loads(run_cli("recipes", "--json", "asrn-x4").stdout) == as_json["asrn-x4"]
    )  # a recipe file
    assert "unknown recipe 'asrn'" in fails("recipes", "asrn")


def test_recipes_for_a_machine(run_cli, fails):
    pytest.importorskip("torch", reason="torch is not installed; it trains")
    from sr_deploy.train.recipe import RECIPES

    cpu, gpu = (json.loads(run_cli("recipes", "--json", "--for", m).stdout) for m in ("cpu", "gpu"))
    assert {**cpu, **gpu}.keys() == RECIPES.keys() and not cpu.keys() & gpu.keys()
    assert {"asrn-x4-small", "int8"} <= cpu.keys() and {"asrn-x4", "asrn-x4-gpu"} <= gpu.keys()
    assert "give it, or names" in run_cli("recipes", "asrn-x4", "--for", "cpu").stderr


def test_a_recipe_of_ones_own_is_trained_and_exported(run_cli, fails, tmp_path):
    """From nothing to a checkpoint that the next command takes."""
    for package in ("torch", "lightning", "cv2", "safetensors"):
        pytest.importorskip(package, reason=f"{package} is not installed; training needs it")
    cv2, np = pytest.importorskip("cv2"), pytest.importorskip("numpy")
    from sr_deploy.train.recipe import RECIPES

    (tmp_path / "hr").mkdir()
    cv2.imwrite(
        str(tmp_path / "hr" / "a.png"),
        np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8),
    )
    recipe = json.loads(run_cli("recipes", "--json", "asrn-x2-small").stdout)
    recipe.update(variant="d1", patch_hr=16, batch_size=2)
    (tmp_path / "mine.json").write_text(json.dumps(recipe))
    result = run_cli(
        *("train", tmp_path / "mine.json", "--data", tmp_path / "hr", "-o", tmp_path / "out"),
        *("--steps", 2),
    )
    assert result.exit_code == 0, result.stderr
    assert "mine: 1 images, steps 0 to 2\n" in result.stderr
    assert result.stdout.strip() == str(tmp_path / "out" / "mine.safetensors")
    shown = run_cli("complexity", tmp_path / "out" / "mine.safetensors")
    assert shown.exit_code == 0, shown.stderr
    error = fails(
        "train", tmp_path / "mine.json", "--data", tmp_path / "hr", "-o", tmp_path / "out"
    )
    assert "a run of this name exists" in error and "--resume" in error
    (tmp_path / "mine.json").write_text(json.dumps({**recipe, "learning_rate": 1}))
    assert "unknown key 'learning_rate'" in fails(
        "train", tmp_path / "mine.json", "--data", tmp_path / "hr", "-o", tmp_path / "new"
    )
    assert RECIPES["asrn-x2-small"].steps > 2


@pytest.mark.parametrize("option", ["--data", "--lr-data", "--valid", "--cache", "-o"])
def test_empty_paths_are_refused(fails, tmp_path, option):
    for package in ("torch", "lightning"):
        pytest.importorskip(package, reason=f"{package} is not installed; training needs it")
    given = {"--data": tmp_path, "-o": tmp_path / "out", option: ""}
    error = fails("train", "asrn-x2-small", *(text for pair in given.items() for text in pair))
    assert "is empty; expected a folder" in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "recipe, option, message",
    [
        ("cdnsr-r-fsrcnn-x4", "--teacher", "this recipe trains a router"),
        ("cdnsr-r-fsrcnn-x4", "--judge", "this recipe trains a router"),
        ("asrn-x4-small", "--branch", "this recipe trains one network"),
        ("asrn-x4-small", "--vgg", "this recipe trains one network"),
        ("asrn-x4-small", "--judge", "trains on patches of every difficulty"),
    ],
)
def test_options_of_other_recipes(fails, tmp_path, recipe, option, message):
    pytest.importorskip("torch", reason="torch is not installed; it trains")
    error = fails("train", recipe, "--data", tmp_path, "-o", tmp_path / "out", option, "asrn_x4")
    assert message in error and f"hint: remove {option}" in error
    assert not (tmp_path / "out").exists()


def test_all_steps_have_no_name_of_their_own(fails, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; it trains")
    given = ("--data", tmp_path, "-o", tmp_path / "out", "--all-steps")
    error = fails("train", "cdnsr-m-fsrcnn-x4-small-3", *given, "--name", "mine")
    assert "no --name" in error and "hint: remove --name" in error
    error = fails("train", "cdnsr-m-fsrcnn-x4-small-3", *given, "--branch", "fsrcnn-w16_x4")
    assert "1 branches; the recipe has 3" in error and "cdnsr-fsrcnn-w36-x4-small" in error
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_a_router_is_shown(run_cli):
    pytest.importorskip("torch", reason="torch is not installed; it trains")
    shown = json.loads(run_cli("recipes", "--json", "cdnsr-s-fsrcnn-x4").stdout)
    assert (shown["stage"], shown["share"], shown["counting"]) == ("router", 0.52, "paper")
