from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from sample_rows import family, int8_record, mixed_family, row

from sr_deploy.core.errors import InputError
from sr_deploy.results.report.figures import (
    draw_figures,
    executed_figure,
    figure_files,
    latency_figure,
)
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
    rows = [*family(), row("d1", device="another"), row("d1", 5.0, model="n", device="another")]
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
    assert ">Latency [ms]</text>" in svg and ">FLOPs as deployed [G], hooks</text>" in svg
    ids = [e.get("id") for e in ElementTree.fromstring(svg).iter() if e.get("id")]
    assert len(ids) == len(set(ids))


def test_nothing_to_draw_is_no_file():
    assert draw_figures(group_rows([row(error="crashed")])) == {}


@pytest.mark.parametrize(
    "rows",
    [family(), [row(), row("d2", 20.0)], [row("d1"), row("d1", model="n"), row("d2", 9.0)]],
    ids=["family", "two", "same place"],
)
def test_every_chart_is_whole_and_its_marks_are_inside(rows):
    (group,) = group_rows(rows)
    panels = charts(rows)
    assert len(panels) == len(cost_axes(group))
    for axis, svg in zip(cost_axes(group), panels):
        left, top, width, height = (float(v) for v in svg.get("viewBox").split())
        assert len(marks(svg)) == len(cost_points(group, axis))
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
    assert texts(svg, "family0") == ["d10", "d2", "d1", "m_x4"]
    assert texts(svg, "family1") == ["other_x4"]


def test_a_panel_has_no_ids_and_takes_its_colours_from_the_theme():
    for svg in (*charts(family()), *charts(family(), "elastic")):
        text = ElementTree.tostring(svg, encoding="unicode")
        assert not any(e.get("id") for e in svg.iter())
        assert "href" not in text and "url(" not in text and "DejaVu" not in text
        assert "var(--family0)" in text and "#" not in text


def test_backends_are_named_where_they_differ_in_cost():
    rows = [
        row(v, ms * f, p, backend=b)
        for b, f in (("torch", 1), ("onnxruntime", 4))
        for v, ms, p in (("d1", 10.0, 30.0), ("d2", 20.0, 32.0))
    ]
    rows += [replace(rows[1], variant="d3", params=1)]
    latency, _, params = (texts(svg, "family0") for svg in charts(rows))
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
    named = [t for i in range(8) for t in texts(svg, f"family{i}")]
    names = [t for t in named if not t.startswith("d")]
    assert len(names) == len(set(names)) > 5 and all(n.startswith("model") for n in names)
    shapes = {m.find(".//path[@transform]").get("d") for m in marks(svg)}
    assert len(shapes) == 9, "a mark for each"
    curves = [g for g in svg.iter("g") if g.get("data-id") and g.get("class") is None]
    lines = [g.find("path").get("style") for g in curves if g.find("path") is not None]
    dashes = {"dasharray" in line for line in lines}
    colours = {line.partition("stroke: ")[2].partition(";")[0] for line in lines}
    assert len(lines) == 18 and dashes == {True, False} and len(colours) == 8
    names = ["Pareto front, filled", *(f"model{m}_x4" for m in range(1, 10)), "torch fp32"]
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


def test_bicubic_and_the_rates_of_video_are_lines_and_the_axis_starts_there():
    rows = [row("d1", 10.0, 12.0), row("d2", 20.0, 31.0), row("d3", 50.0, 32.0)]
    svg = charts([replace(r, bicubic_psnr_db=28.4) for r in rows])[0]
    soft = texts(svg, "soft")
    assert {"bicubic 28.40", "30 fps", "24"} <= set(soft) and "60 fps" not in soft, "outside"
    ticks = [t.text for t in svg.iter("text") if t.text.isdigit() and 11 < int(t.text) < 33]
    assert "12" not in ticks and len(marks(svg)) == 2
    assert "bicubic" not in " ".join(texts(charts(rows)[0], "soft"))


def test_what_belongs_to_a_row_names_it_so_that_the_page_can_filter_it():
    svg = charts(family())[0]
    named = [g.get("data-id") for g in svg.iter("g") if g.get("data-id")]
    assert {g.get("data-id") for g in marks(svg)} == {"r1", "r2", "r3", "r4"} == set(named)


def shapes(svg):
    """The outline of each mark, by what its title begins with."""
    found = {
        m.find("title").text.partition(":")[0]: m.find(".//path[@transform]") for m in marks(svg)
    }
    return {name: path.get("d") for name, path in found.items()}


def test_precisions_have_their_own_marks_and_runtimes_their_lines():
    parts = page_charts(draw_figures(group_rows(mixed_family()))["g1-cost"])
    legend = [text for text, _ in parts.legend]
    assert legend == ["Pareto front, filled", "m_x4", "fp32", "bf16", "int8", "torch", "openvino"]
    svg = ElementTree.fromstring(parts.panels[0])
    outlines = shapes(svg)
    int8, bf16, ov, torch = (
        outlines[f"m_x4.d2, {how}"]
        for how in ("openvino int8", "openvino bf16", "openvino fp32", "torch fp32")
    )
    assert len({int8, bf16, torch}) == 3 and ov == torch
    assert {"d1 int8", "d2 bf16", "d2 fp32"} <= set(texts(svg, "family0"))


def test_the_chart_of_latency_alone():
    (group,) = group_rows(mixed_family())
    figure = latency_figure(group, (7.5, 4.6))
    assert list(figure.descriptions) == ["panel-0"]
    assert (
        "cheapest first: m_x4.d1 (openvino int8), 4.00, 29.94 dB" in figure.descriptions["panel-0"]
    )
    with pytest.raises(InputError, match="fewer than two rows have both"):
        latency_figure(group_rows([row()])[0], (7.5, 4.6))


def test_the_loss_over_the_layers_that_int8_keeps():
    rows = [
        replace(r, int8=int8_record()) if r.precision_asked == "int8" else r for r in mixed_family()
    ]
    (svg,) = charts([*rows, row("d1", model="other_x4")], "int8")
    titles = [mark.find("title").text for mark in marks(svg)]
    assert len(titles) == 8 and titles[2] == "m_x4.d1, openvino, 2 layers kept: 0.067 dB lost"
    assert "m_x4.d2 (openvino): 0 kept lose 0.200 dB, 1 kept" in svg.get("aria-label")
    assert {"d1", "d2"} <= set(texts(svg, "ink"))
    assert "g1-int8" not in draw_figures(group_rows(mixed_family()))
    one = {**int8_record(), "curve": [{"kept": 0, "loss_db": 0.05}]}
    assert "g1-int8" not in draw_figures(group_rows([replace(r, int8=one) for r in rows]))


def test_executed_work_of_slices_and_of_an_adaptive_network_is_in_one_chart():
    share = {"share": 0.5, "timed_share": 0.6, "ways": {}}
    slices = [row(f"d{i}", psnr=30.0 + i, executed_g=10.0 * i) for i in (1, 3, 5)]
    curve = [
        row(
            f"{20 * i}%",
            psnr=31.0 + i,
            model="elastic-m_x4",
            executed={"macs_g": 12.0 * i, **share},
        )
        for i in (2, 3)
    ]
    (group,) = group_rows([*slices, *curve])
    titles = executed_figure(group, (7.5, 4.4)).titles.values()
    assert (
        "elastic-m_x4.40%, torch fp32: 33.000 dB, 24.0 Multiply-accumulates executed [G]" in titles
    )
    assert len(titles) == 5
    with pytest.raises(InputError, match="fewer than two rows have both executed multiply"):
        executed_figure(group_rows(slices)[0], (7.5, 4.4))
