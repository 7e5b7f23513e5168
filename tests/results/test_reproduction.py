"""The tables of papers, with our values beside the printed ones."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.results import reproduction
from sr_deploy.results.reproduction import (
    OurValue,
    PaperColumn,
    PaperItem,
    PaperLine,
    introduction,
    item_table,
    paper_names,
    read_paper,
    scores_of,
    slips,
)
from sr_deploy.results.rows import BenchmarkRow

COLUMNS = (
    PaperColumn("Model"),
    PaperColumn("FLOPs [M]", OurValue(count="macs", unit=1e6, times=2)),
    PaperColumn("Set5", OurValue(score="Set5")),
)
OTHER = PaperLine(("VDSR", "10", "31.35/0.8830"))
OURS = PaperLine(("ASRN", "4", "31.65/0.8867"), "asrn_x4", "d5", recipe="asrn-x4")
ITEM = PaperItem("Table 1", "PSNR", COLUMNS, (OTHER, OURS), ("a note",), ("Set14",))
SCORES = {("asrn_x4.d5", "set5", "bi"): (31.162, 0.88041)}


def two_million(line, ours):
    assert ours.count == "macs"
    return 2_000_000


def test_our_values_stand_after_the_printed_ones_and_only_of_our_networks():
    table = item_table(ITEM, two_million, SCORES)
    headings = ("Model", "FLOPs [M]", "FLOPs [M], here", "Set5", "Set5, here", "recipe")
    assert table.headings == headings
    assert table.cells == (
        ("VDSR", "10", "", "31.35/0.8830", "", ""),
        ("ASRN", "4", "4", "31.65/0.8867", "31.16/0.8804", "asrn-x4"),
    )
    assert table.notes == ("a note", "never run here: Set14")


def test_a_column_without_a_value_of_ours_has_no_second_one():
    table = item_table(replace(ITEM, lines=(OTHER,)), two_million, SCORES)
    assert table.headings == ("Model", "FLOPs [M]", "Set5")


def test_ssim_only_where_it_is_printed():
    line = replace(OURS, cells=("ASRN", "4", "31.65"))
    table = item_table(replace(ITEM, lines=(line,)), two_million, SCORES)
    assert table.cells[0][4] == "31.16"


def test_a_recorded_value_is_taken_as_it_is():
    line = replace(OTHER, recorded={"Set5": "31.30"})
    table = item_table(replace(ITEM, lines=(line,)), two_million, SCORES)
    assert table.headings[-1] == "Set5, here" and table.cells[0][-1] == "31.30"


def test_another_configuration_has_not_the_score_of_the_shipped_one():
    line = replace(OURS, config={"activation": "leaky_relu"})
    cells = item_table(replace(ITEM, lines=(line,)), two_million, SCORES).cells[0]
    assert cells == ("ASRN", "4", "4", "31.65/0.8867", "asrn-x4")
    untrained = replace(OURS, checkpoint=None)
    assert item_table(replace(ITEM, lines=(untrained,)), two_million, SCORES).cells[0] == cells
    named = replace(line, checkpoint="asrn_x4")
    assert "31.16/0.8804" in item_table(replace(ITEM, lines=(named,)), two_million, SCORES).cells[0]


def test_measured_rows_replace_and_add_scores():
    row = BenchmarkRow(
        model="asrn_x4", variant="d5", backend="torch", set="Set14", metric="y", psnr_db=28.0
    )
    on_rgb, failed = replace(row, metric="rgb", set="B100"), replace(row, set="X", error="no")
    scores = scores_of([row, replace(row, set="Set5", psnr_db=31.0), on_rgb, failed])
    assert scores["asrn_x4.d5", "set14", "bi"][0] == 28.0
    assert scores["asrn_x4.d5", "set5", "bi"][0] == 31.0
    assert not {("asrn_x4.d5", "b100", "bi"), ("asrn_x4.d5", "x", "bi")} & set(scores)
    assert ("asrn_x4.d5", "b100", "bi") in scores_of([replace(row, set="BSD100")])
    blurred = scores_of([replace(row, set="B100", degradation="bd")])
    assert ("asrn_x4.d5", "b100", "bd") in blurred and ("asrn_x4.d5", "b100", "bi") not in blurred


@pytest.mark.parametrize("name", paper_names())
def test_each_paper_is_read(name):
    paper = read_paper(name)
    assert paper.items and paper.title and paper.authors and paper.published
    assert introduction(paper)[0].startswith(paper.authors)
    for item in paper.items:
        table = item_table(item, lambda line, ours: 0, {})
        assert item.shows and (table.cells or table.notes), item.name
        for line in item.lines:
            assert len(line.cells) == len(item.columns), (item.name, line.cells)
            assert set(line.recorded) <= {column.heading for column in item.columns}


def test_slips_of_the_paper():
    assert any(text.startswith("Table 7") for text in slips(read_paper("asrn")))


def test_an_unknown_paper_and_a_damaged_file(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="unknown paper 'arsn'; expected .*asrn") as e:
        read_paper("arsn")
    assert "asrn" in e.value.hint
    monkeypatch.setattr(reproduction, "FOLDER", tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps({"paper": "Mine", "items": [{"extra": "x"}]}))
    with pytest.raises(InputError, match="unknown key 'extra'"):
        read_paper("mine")
