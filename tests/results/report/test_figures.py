from __future__ import annotations

from xml.etree import ElementTree

import pytest
from sample_rows import family, row

from sr_deploy.results.report.figures import draw_figures, figure_files
from sr_deploy.results.report.groups import cost_axes, cost_points, group_rows
from sr_deploy.results.report.page_svg import page_charts

pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the figures")


def charts(rows, name="cost"):
    """The panels of the first group as elements."""
    parts = page_charts(draw_figures(group_rows(rows))[f"g1-{name}"])
    return [ElementTree.fromstring(svg) for svg in parts.panels]


def texts(svg, colour):
    """The texts of one colour of the theme: ink for names, accent for the front."""
    return [t.text for t in svg.iter("text") if f"--{colour}" in t.get("style")]


def marks(svg, cls="mark"):
    return [g for g in svg.iter("g") if (g.get("class") or "").startswith(cls)]


def test_each_group_has_its_figures_and_they_are_the_same_every_time():
    rows = [*family(), row("d1", device="another")]
    files = figure_files(draw_figures(group_rows(rows)))
    assert sorted(files) == [
        "g1-cost.png",
        "g1-cost.svg",
        "g1-elastic.png",
        "g1-elastic.svg",
        "g2-cost.png",
        "g2-cost.svg",
    ]
    assert files["g1-cost.png"][:4] == b"\x89PNG"
    assert files == figure_files(draw_figures(group_rows(rows)))
    svg = files["g1-cost.svg"].decode()
    assert ">Latency [ms]</text>" in svg and ">FLOPs [G], counted by hooks</text>" in svg
    ids = [e.get("id") for e in ElementTree.fromstring(svg).iter() if e.get("id")]
    assert len(ids) == len(set(ids))


def test_nothing_to_draw_is_no_file():
    assert draw_figures(group_rows([row(error="crashed")])) == {}


@pytest.mark.parametrize(
    "rows",
    [family(), [row()], [row("d1"), row("d1", model="n")]],
    ids=["family", "one", "same place"],
)
def test_every_chart_is_whole_and_its_marks_are_inside(rows):
    (group,) = group_rows(rows)
    panels = charts(rows)
    assert len(panels) == len(cost_axes(group))
    for axis, svg in zip(cost_axes(group), panels):
        left, top, width, height = (float(v) for v in svg.get("viewBox").split())
        assert len(marks(svg)) == len(cost_points(group.entries, axis))
        for mark in marks(svg):
            at = mark.find(".//path[@transform]").get("transform")
            x, y = (float(v) for v in at[len("translate(") : -1].split())
            assert left < x < left + width and top < y < top + height


def test_a_chart_says_what_it_shows():
    svg = charts(family())[0]
    assert svg.get("role") == "img"
    assert "cheapest first: m_x4.d1 (torch fp32), 10.0, 30.00 dB; m_x4.d2" in svg.get("aria-label")
    best = [m.find("title").text for m in marks(svg, "mark best")]
    assert len(best) == 3 and best[0] == "m_x4.d1, torch fp32: 30.000 dB, 10.0 Latency [ms]"
    assert texts(svg, "accent") == ["d10", "d2", "d1"]


def test_a_panel_has_no_ids_and_takes_its_colours_from_the_theme():
    for svg in (*charts(family()), *charts(family(), "elastic")):
        text = ElementTree.tostring(svg, encoding="unicode")
        assert not any(e.get("id") for e in svg.iter())
        assert "href" not in text and "url(" not in text and "DejaVu" not in text
        assert "var(--accent)" in text and "#" not in text


def test_backends_are_named_where_they_differ_in_cost():
    rows = [
        row(v, ms * f, p, backend=b)
        for b, f in (("torch", 1), ("onnxruntime", 4))
        for v, ms, p in (("d1", 10.0, 30.0), ("d2", 20.0, 32.0))
    ]
    latency, _, params = (texts(svg, "ink") for svg in charts(rows))
    assert {"torch fp32", "onnxruntime fp32"} < set(latency) and "m_x4" not in latency
    assert "m_x4" in params and "torch fp32" not in params


def test_several_models_are_named_and_their_backends_differ_in_the_line():
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
    parts = page_charts(draw_figures(group_rows(rows))["g1-cost"])
    svg = ElementTree.fromstring(parts.panels[0])
    names = [t for t in texts(svg, "ink") if not t.endswith("]")]
    assert len(names) == len(set(names)) > 5 and all(n.startswith("model") for n in names)
    shapes = {m.find(".//path[@transform]").get("d") for m in marks(svg)}
    assert len(shapes) == 9, "a mark for each"
    lines = [p.get("style") for p in svg.iter("path") if "stroke: var(--line)" in p.get("style")]
    assert len(lines) == 18 and len(set(lines)) == 2
    names = ["Pareto front", *(f"model{m}_x4" for m in range(1, 10)), "torch fp32"]
    assert [text for text, _ in parts.legend] == [*names, "onnxruntime fp32"]
    assert all("<path" in sample for _, sample in parts.legend)


def test_elastic_charts_name_their_curves_and_values():
    rows = [row("c16-nla", psnr=33.0), row("c8"), row("c16", psnr=32.0), row("c4-nla")]
    (svg,) = charts(rows, "elastic")
    assert "torch fp32 nla: 4 gives 30.0, 16 gives 33.0" in svg.get("aria-label")
    assert {"m_x4", "PSNR [dB]", "Latency [ms]", "torch fp32", "torch fp32 nla"} <= set(
        texts(svg, "ink")
    )
    titles = [m.find("title").text for m in marks(svg)]
    assert len(titles) == 8 and "torch fp32 nla, 16: 33.00" in titles


@pytest.mark.parametrize("name", ["$x^2$ \\frac", "<b>&amp;", "a\x00\x1b\nb", "名前"])
def test_any_name_can_be_drawn(name, recwarn):
    rows = [row("d1", model=name), row("d2", psnr=31.0, model=name)]
    charts(rows), charts(rows, "elastic")
    assert not recwarn.list
