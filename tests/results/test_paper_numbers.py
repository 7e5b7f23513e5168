"""Numbers of the papers' tables."""

from __future__ import annotations

import pytest

from sr_deploy.results.paper_numbers import (
    cells_of,
    item_of,
    printed_count,
    quantity_in,
    score_in,
)
from sr_deploy.results.reproduction import (
    OurValue,
    Paper,
    PaperColumn,
    PaperItem,
    PaperLine,
    read_paper,
)


@pytest.mark.parametrize(
    "cell, score",
    [
        ("31.65/0.8867", (31.65, 0.8867)),
        ("37.98 / 0.9605", (37.98, 0.9605)),
        ("31.9314", (31.9314, None)),
    ],
)
def test_psnr_and_ssim(cell, score):
    assert score_in(cell) == score


@pytest.mark.parametrize(
    "cell, unit, value",
    [
        ("316K", 1e3, 316e3),
        ("468M", 1, 468e6),
        ("1.15G", 1, 1.15e9),
        ("1.8", 1e6, 1.8e6),
    ],
)
def test_a_quantity_has_the_unit_of_its_cell_or_that_of_its_column(cell, unit, value):
    assert quantity_in(cell, unit) == value


def test_a_count_may_be_in_another_table_of_the_paper():
    net = PaperLine(("28.45", ""), "net_x4", "c4")
    scores = PaperItem("Table 3", "PSNR", (PaperColumn("PSNR"), PaperColumn("Params")), (net,))
    columns = (
        PaperColumn("#Params", OurValue("params", 1e3)),
        PaperColumn("FLOPs", OurValue("macs", 1e9, counter="fvcore")),
        PaperColumn("Acts", OurValue("acts", 1e6, digits=1)),
    )
    others = (
        PaperLine(("-", "-", "-")),
        PaperLine(("99K", "9", "9"), "net_x4", "c4", {"attention": "none"}),
        PaperLine(("57K", "3.7", "60.2"), "net_x4", "c4"),
    )
    paper = Paper("P", "", "", "", items=(scores, PaperItem("Table 2", "", columns, others)))
    assert printed_count(paper, net, "params") == 57e3
    assert printed_count(paper, net, "acts") == 60.2e6
    assert printed_count(paper, net, "macs") is None, "counted in another way"
    assert printed_count(paper, PaperLine((), "net_x4", "c8"), "params") is None


@pytest.mark.parametrize(
    "table, method",
    [("4", "ASRN (SS)"), ("4", "ASRN (DSL)"), ("5", "ASRN"), ("5", "ASRN (DSL)")],
)
@pytest.mark.parametrize("scale", ["x3", "x4"])
def test_more_blocks_score_higher(table, method, scale):
    """A digit copied wrongly shows here, mostly."""
    item = item_of(read_paper("asrn"), f"Table {table}")
    lines = [cells_of(item, line) for line in item.lines]
    lines = [cells for cells in lines if (cells["Method"], cells["Scale"]) == (method, scale)]
    assert [cells["Blocks"] for cells in lines] == ["5B", "4B", "3B", "2B", "1B"]
    for name in ("Set5", "Set14", "B100", "Urban100", "Manga109"):
        psnrs = [score_in(cells[name])[0] for cells in lines]
        assert psnrs == sorted(psnrs, reverse=True), name
