from __future__ import annotations

import pytest

from sr_deploy.results.report.drawing import log_ticks, new_figure, place_labels, settle_layout

pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the figures")


@pytest.mark.parametrize(
    "low, high", [(4.5, 5.5), (0.02, 5000.0), (99.0, 101.0), (30.1, 30.2), (1.0, 60.0)]
)
def test_ticks_are_round_and_inside(low, high):
    ticks = log_ticks(low, high)
    assert 1 <= len(ticks) <= 12 and ticks == sorted(set(ticks))
    assert all(low <= tick <= high for tick in ticks)


def test_labels_overlap_neither_each_other_nor_marks_nor_the_border():
    figure = new_figure(2.5, 2)
    ax = figure.subplots()
    ax.plot(1, 1)
    settle_layout(figure)
    point = (1.0, 1.0)
    too_long = (
        [point],
        "far too long for this small figure, on whatever side it may stand",
        "black",
        "",
    )
    place_labels(
        ax, [too_long, *(([point], f"label {i}", "black", "") for i in range(30))], [point]
    )
    boxes = [label.get_window_extent() for label in ax.texts]
    assert 2 < len(boxes) < 30 and ax.texts[0].get_text() == "label 0"
    border = ax.get_window_extent()
    for i, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[i + 1 :])
        assert border.x0 <= box.x0 and box.x1 <= border.x1
        assert not box.contains(*ax.transData.transform(point))
