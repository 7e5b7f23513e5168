from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from sample_rows import family, row

from sr_deploy.results.report.charts import cost_chart, elastic_chart, elastic_curves, strips_of
from sr_deploy.results.report.groups import axes_of, group_rows
from sr_deploy.results.report.svg import Places, padded, text_width


@pytest.mark.parametrize(
    "rows",
    [family(), [row()], [row("d1"), row("d1", model="n")]],
    ids=["family", "one", "same place"],
)
def test_every_chart_is_whole_and_stays_inside(rows):
    (group,) = group_rows(rows)
    for axis in axes_of(group):
        svg = ElementTree.fromstring(cost_chart(group, axis))
        width, height = (float(v) for v in svg.get("viewBox").split()[2:])
        marks = [m for m in svg if m.tag == "path"]
        assert len(marks) == sum(r.psnr_db is not None and axis.of(r) is not None for r in rows)
        for mark in marks:
            x, y = map(float, re.findall(r"[-\d.]+", mark.get("transform")))
            assert 0 < x < width and 0 < y < height


def test_a_chart_says_what_it_shows():
    (group,) = group_rows(family())
    svg = ElementTree.fromstring(cost_chart(group, axes_of(group)[0]))
    assert svg.get(
        "role"
    ) == "img" and "cheapest first: m_x4.d1 (torch fp32), 10.0, 30.00 dB; m_x4.d2" in svg.get(
        "aria-label"
    )
    best = [m.find("title").text for m in svg if m.get("class") == "mark best"]
    assert len(best) == 3 and best[0] == "m_x4.d1, torch fp32: 30.000 dB, 10.0 Latency [ms]"


def test_backends_are_named_where_they_differ_in_cost():
    rows = [
        row(v, ms * f, p, backend=b)
        for b, f in (("torch", 1), ("onnxruntime", 4))
        for v, ms, p in (("d1", 10.0, 30.0), ("d2", 20.0, 32.0))
    ]
    (group,) = group_rows(rows)
    latency, _, params = (
        [
            t.text
            for t in ElementTree.fromstring(cost_chart(group, axis)).iter("text")
            if t.get("class") == "label"
        ]
        for axis in axes_of(group)
    )
    assert (latency, params) == (["torch fp32", "onnxruntime fp32"], ["m_x4"])


def test_several_models_are_named_and_their_backends_told_by_the_line():
    rows = [
        row(
            f"d{d}",
            10.0 * d * f,
            30.0 + d - m / 3,
            model=f"model{m}_x4",
            backend=b,
            params=1000 * m + d,
        )
        for m in range(1, 10)
        for b, f in (("torch", 1.0 + m / 9), ("onnxruntime", 2.0 + m / 7))
        for d in (1, 2, 3)
    ]
    (group,) = group_rows(rows)
    svg = ElementTree.fromstring(cost_chart(group, axes_of(group)[0]))
    labels = [t.text for t in svg.iter("text") if t.get("class") == "label"]
    assert len(labels) == len(set(labels)) > 5 and all(
        label.startswith("model") for label in labels
    )
    assert len({m.get("d") for m in svg.iter("path")}) == 9, "a mark for each"
    assert [line.get("class") for line in svg.iter("polyline")][:-1] == [
        "family line0",
        "family line1",
    ] * 9


def test_elastic_curves_are_ordered_by_size_and_split_by_backend_and_tag():
    rows = [
        row("c16-nla", psnr=33.0),
        row("c8"),
        row("c16", psnr=32.0),
        row("c4-nla"),
        row("c8", backend="onnxruntime", ms=5.0),
    ]
    (elastic,) = elastic_curves(group_rows(rows)[0])
    assert elastic.axis == "core width"
    assert [(c.how, [s for s, _ in c.points]) for c in elastic.psnr] == [
        ("torch fp32 nla", [4, 16]),
        ("torch fp32", [8, 16]),
        ("onnxruntime fp32", [8]),
    ]
    assert [c.label for c in elastic.psnr] == [c.how for c in elastic.psnr]
    svg = ElementTree.fromstring(elastic_chart(elastic.psnr, elastic.axis, "PSNR [dB]"))
    assert "torch fp32 nla: 4 gives 30.0, 16 gives 33.0" in svg.get("aria-label")
    assert elastic_curves(group_rows([row("d1"), row("")])[0]) == [], "a curve has two sizes"
    (elastic,) = elastic_curves(group_rows(rows[:4])[0])
    assert [c.label for c in elastic.psnr] == ["nla", ""], "what all share is not said"


def test_latencies_lie_on_one_scale_fastest_first():
    strips = strips_of(group_rows(family())[0])
    assert [s.time_ms for s in strips.strips] == [10.0, 20.0, 25.0, 30.0, 40.0]
    assert [s.middle for s in strips.strips] == sorted(s.middle for s in strips.strips)
    for strip in strips.strips:
        places = [strip.middle, *strip.runs, *(at for _, _, at in strip.percentiles)]
        assert len(strip.runs) == 3 and all(0 < at < 100 for at in places)
    assert strips_of(group_rows([row(ms=None)])[0]) is None


@pytest.mark.parametrize(
    "values", [[5.0], [1.0, 1.0], [0.02, 7.0, 5000.0], [99.0, 101.0], [30.1, 30.2]]
)
@pytest.mark.parametrize("log", [False, True])
def test_scales_have_ticks_inside_them(values, log):
    scale = padded(values, 0.0, 100.0, log=log)
    ticks = scale.ticks(4)
    assert 1 <= len(ticks) <= 12 and ticks == sorted(set(ticks))
    assert all(0 <= scale(v) <= 100 for v in (*values, *ticks))


def test_labels_keep_clear_of_each_other_and_of_the_points():
    places = Places((0, 0, 200, 100))
    drawn = [places.label(100, 50, f"label {i}") for i in range(30)]
    boxes = places.taken
    assert 2 < len(boxes) < 30 and [bool(d) for d in drawn].count(True) == len(boxes)
    for i, a in enumerate(boxes):
        assert all(
            a[2] <= b[0] or a[0] >= b[2] or a[3] <= b[1] or a[1] >= b[3] for b in boxes[i + 1 :]
        )
    assert (
        places.label(100, 50, "far too long for this small picture, whatever side") == ""
        and text_width("ab") > 0
    )
