from __future__ import annotations

import pytest
from sample_rows import family, row

from sr_deploy.results.report.paper import paper_figures

pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the figures")


def test_each_group_has_its_figures_and_they_are_the_same_every_time():
    rows = [*family(), row("d1", device="another")]
    files = paper_figures(rows)
    assert sorted(files) == [
        "g1-cost.png",
        "g1-cost.svg",
        "g1-elastic.png",
        "g1-elastic.svg",
        "g2-cost.png",
        "g2-cost.svg",
    ]
    assert files["g1-cost.png"][:4] == b"\x89PNG" and files == paper_figures(rows)
    svg = files["g1-cost.svg"].decode()
    assert "<!-- Latency [ms] -->" in svg
    assert "<!-- FLOPs [G], counted by hooks -->" in svg


def test_nothing_to_draw_is_no_file():
    assert paper_figures([row(error="crashed")]) == {}
