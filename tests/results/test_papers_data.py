"""The files of `results/papers`: their format, and that what they name exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import sr_deploy.results
from sr_deploy.cli.main import main
from sr_deploy.core.counts import COUNTERS
from sr_deploy.core.shipped import read_card, shipped_checkpoints
from sr_deploy.core.spec import Variant

FILES = sorted((Path(sr_deploy.results.__file__).parent / "papers").glob("*.json"))
CARDS = {path.stem: read_card(path) for path in shipped_checkpoints()}
TEXTS = ("paper", "title", "authors", "published", "url", "code")
SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")
each_paper = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)


def items_of(file):
    return json.loads(file.read_text(encoding="utf-8"))["items"]


def lines_of(file):
    """Return the lines of all tables of a paper, with the table's name."""
    return [(item["name"], line) for item in items_of(file) for line in item["lines"]]


def is_texts(value):
    return isinstance(value, list) and all(isinstance(text, str) and text for text in value)


def checkpoint_of(line):
    """Return the name of the shipped checkpoint whose score stands in a line, or None."""
    network = line.get("network")
    return line.get("checkpoint", network if network in CARDS else None)


def test_there_are_papers():
    assert {"asrn", "adadsr"} <= {file.stem for file in FILES}


@each_paper
def test_a_paper_has_its_fields_and_each_item_once(file):
    paper = json.loads(file.read_text(encoding="utf-8"))
    assert set(paper) == {*TEXTS, "items"}
    assert all(isinstance(paper[key], str) for key in TEXTS)
    assert all(paper[key] for key in ("paper", "title", "authors", "published"))
    assert all(not paper[key] or paper[key].startswith("https://") for key in ("url", "code"))
    names = [item["name"] for item in paper["items"]]
    assert names and len(names) == len(set(names))


@each_paper
def test_an_item_is_a_table_or_says_what_can_be_made(file):
    for item in items_of(file):
        last = "ours" if item.get("ours") else "never_run"
        assert set(item) == {"name", "shows", "columns", "lines", "notes", last}, item
        assert item["name"] and item["shows"]
        assert is_texts(item["notes"]) and is_texts(item.get("never_run", [])), item["name"]
        assert bool(item["columns"]) == bool(item["lines"]), item["name"]
        assert item["lines"] or item["notes"], item["name"]


@each_paper
def test_a_column_is_named_once_and_says_what_of_ours_belongs_to_it(file):
    for item in items_of(file):
        headings = [column["heading"] for column in item["columns"]]
        assert all(headings) and len(headings) == len(set(headings)), item["name"]
        for column in item["columns"]:
            assert set(column) <= {"heading", "ours"}, column
            ours = column.get("ours", {"score": "Set5"})
            if "score" in ours:
                assert set(ours) == {"score"} and ours["score"] in SETS, column
                continue
            assert set(ours) <= {"count", "unit", "digits", "hw", "counter", "times"}, column
            assert ours["count"] in ("params", "macs", "acts", "convs"), column
            assert ours["unit"] >= 1 and ours["digits"] >= 0, column
            assert ours.get("counter", "hooks") in COUNTERS and ours.get("times", 2) == 2, column
            height, width = ours.get("hw", [256, 256])
            assert height > 0 and width > 0, column


@each_paper
def test_a_line_has_a_cell_for_each_column_and_known_keys(file):
    known = {"cells", "network", "variant", "config", "checkpoint", "degradation", "recipe"}
    known |= {"recorded"}
    for item in items_of(file):
        headings = [column["heading"] for column in item["columns"]]
        for line in item["lines"]:
            assert set(line) <= known, line
            assert len(line["cells"]) == len(headings), line
            assert all(isinstance(cell, str) for cell in line["cells"]), line
            recorded = line.get("recorded", {})
            assert set(recorded) <= set(headings) and all(recorded.values()), line
            assert ("network" in line) == ("variant" in line), line
            assert "network" in line or not {"config", "checkpoint"} & set(line), line


@each_paper
def test_a_score_is_of_the_printed_configuration(file):
    for table, line in lines_of(file):
        name = checkpoint_of(line)
        if name is None:
            continue
        assert name in CARDS, (table, line)
        card = CARDS[name]
        assert f"{card.arch}_x{card.scale}" == line["network"], (table, line)
        assert line["variant"] in card.variants, (table, line)
        assert line.get("config", {}).items() <= card.config.items(), (table, line)


@each_paper
def test_variants_are_written_as_commands_take_them(file):
    for table, line in lines_of(file):
        variant = line.get("variant", "")
        assert str(Variant.parse(variant)) == variant, (table, line)


@each_paper
def test_notes_name_commands_that_exist(file):
    texts = [
        text for item in items_of(file) for text in (*item["notes"], *item.get("never_run", []))
    ]
    commands = {name for text in texts for name in re.findall(r"srdeploy ([a-z-]+)", text)}
    assert commands <= set(main.list_commands(None))


@each_paper
def test_networks_can_be_built(file):
    torch = pytest.importorskip("torch", reason="torch builds the networks")
    from sr_deploy.nets import ARCHITECTURES

    built = set()
    for _, line in lines_of(file):
        network, variant, config = (line.get(key) for key in ("network", "variant", "config"))
        if network is None or (network, variant, str(config)) in built:
            continue
        built.add((network, variant, str(config)))
        name, _, scale = network.rpartition("_x")
        architecture = ARCHITECTURES[name]
        with torch.device("meta"):
            architecture.build(int(scale), architecture.parse(variant), config)


@each_paper
def test_recipes_train_the_network_of_their_line(file):
    pytest.importorskip("torch", reason="recipes need torch")
    from sr_deploy.nets import ARCHITECTURES
    from sr_deploy.train.recipe import Recipe, load_recipe

    for table, line in lines_of(file):
        if "recipe" not in line:
            continue
        recipe = load_recipe(line["recipe"])
        if "network" in line and isinstance(recipe, Recipe):
            assert line["network"] == f"{recipe.arch}_x{recipe.scale}", (table, line)
            trained = {**ARCHITECTURES[recipe.arch].config, **recipe.config}
            assert line.get("config", {}).items() <= trained.items(), (table, line)
