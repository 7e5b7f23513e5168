import dataclasses
import json
import math

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.nets.checkpoint import load_checkpoint
from sr_deploy.train.options import FILE_SUFFIXES
from sr_deploy.train.recipe import RECIPES
from tests.train.conftest import TINY


@pytest.mark.parametrize(
    "options, message",
    [
        ({"folders": []}, "no folder of HR images"),
        ({"folders": "none"}, "there is no folder none"),
        ({"folders": [""]}, "--data is empty"),
        ({"lr_folders": ""}, "--lr-data is empty"),
        ({"valid": ""}, "--valid is empty"),
        ({"output": ""}, "--output is empty"),
        ({"cache": ""}, "--cache is empty"),
        ({"seed": -1}, "is out of range; expected 0 to 2"),
        ({"seed": 10**30}, "is out of range; expected 0 to 2"),
        ({"workers": -1}, "-1 workers"),
        ({"budget_s": math.nan}, "a budget of nan s"),
        ({"steps": 0}, "0 steps; expected at least 1"),
        ({"budget_s": -1}, "a budget of -1 s"),
        (
            {"accumulate": 3},
            "a batch of 4 cannot be divided evenly between 1 processes x 3 micro-batches",
        ),
        (
            {"devices": 3},
            "a batch of 4 cannot be divided evenly between 3 processes|this machine has",
        ),
        ({"name": ""}, "cannot be used as the name of a checkpoint"),
        ({"name": "a/b"}, "cannot be used as the name of a checkpoint"),
        ({"name": "../net"}, "cannot be used as the name of a checkpoint"),
        ({"name": "x" * 300}, "a name of 300 characters is too long for a file"),
        ({"resume": True}, "cannot resume: there is no .*net.state.pt"),
    ],
)
def test_invalid_options_leave_no_files(train, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train(**{"output": tmp_path / "a" / "out", **options})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("end", FILE_SUFFIXES)
def test_a_new_run_never_overwrites_an_existing_one(train, tmp_path, end):
    (tmp_path / f"net{end}").write_bytes(b"mine")
    with pytest.raises(InputError, match=f"a run of this name exists: .*net{end}") as e:
        train()
    assert ("--resume" in e.value.hint) == (end == ".state.pt")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(f"net{end}", b"mine")]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["net", "net-best"])
def test_a_run_never_overwrites_its_recipe(train, tmp_path, resume, name):
    recipe = tmp_path / f"{name}.json"
    recipe.write_text(json.dumps(dataclasses.asdict(TINY)))
    with pytest.raises(InputError, match="would overwrite its recipe"):
        train(recipe, resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == [recipe.name]


def test_a_folder_in_place_of_a_file_and_the_reverse(train, tmp_path):
    (tmp_path / "net.logs").touch()
    with pytest.raises(InputError, match="net.logs is a file; expected a folder or nothing"):
        train()
    (tmp_path / "net.safetensors").mkdir()
    with pytest.raises(InputError, match="net.safetensors is a folder; expected a file or nothing"):
        train()


@pytest.mark.parametrize(
    "spoil, message",
    [(b"no image", "bad.png is not an image"), ("small", "0.png is too small to be scored")],
)
def test_images_to_validate_on_are_read_before_the_run(train, tmp_path, spoil, message):
    from tests.train.conftest import write_images

    valid = write_images(tmp_path / "valid", [(14, 40) if spoil == "small" else (40, 40)])
    if spoil != "small":
        (valid / "bad.png").write_bytes(spoil)
    with pytest.raises(InputError, match=message):
        train(output=tmp_path / "out", valid=valid)
    assert not (tmp_path / "out").exists()


def test_a_run_of_a_shipped_recipe_resumes(train, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    path = train("tiny", name=None, steps=TINY.steps, budget_s=0)
    assert path == tmp_path / "tiny.safetensors"
    train("tiny", name=None, resume=True)
    assert load_checkpoint(path).spec.training["steps_done"] == TINY.steps


def test_a_recipe_may_be_a_path_and_a_folder_a_text(train, images, tmp_path):
    recipe = tmp_path / "mine.json"
    recipe.write_text(
        "\ufeff" + json.dumps(dataclasses.asdict(dataclasses.replace(TINY, steps=1))),
        encoding="utf-8",
    )  # as Notepad saves
    path = train(recipe, tmp_path / "out", folders=str(images), name=None)
    assert (
        path == tmp_path / "out" / "mine.safetensors"
        and load_checkpoint(path).spec.trained_on == images.name
    )
