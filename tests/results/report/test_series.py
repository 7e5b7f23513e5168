from __future__ import annotations

import pytest
from sample_rows import family, row

from sr_deploy.results.report.groups import group_rows
from sr_deploy.results.report.series import elastic_curves, latency_strips

pytest.importorskip("matplotlib", reason="matplotlib is not installed; it finds the ticks")


def test_elastic_curves_are_ordered_by_size_and_split_by_backend_and_tag():
    rows = [
        row("c16-nla", psnr=33.0),
        row("c8"),
        row("c16", psnr=32.0),
        row("c4-nla"),
        row("c8", backend="onnxruntime", ms=5.0),
    ]
    (curves,) = elastic_curves(group_rows(rows)[0])
    assert curves.axis == "Core width"
    assert [(how, [s for s, _ in points]) for how, points in curves.psnr.items()] == [
        ("torch fp32 nla", [4, 16]),
        ("torch fp32", [8, 16]),
        ("onnxruntime fp32", [8]),
    ]
    assert elastic_curves(group_rows([row("d1"), row("")])[0]) == [], "a curve has two sizes"


def test_latencies_lie_on_one_scale_fastest_first():
    strips = latency_strips(group_rows(family())[0])
    assert [s["time_ms"] for s in strips["strips"]] == [10.0, 20.0, 25.0, 30.0, 40.0]
    assert [s["place"] for s in strips["strips"]] == sorted(s["place"] for s in strips["strips"])
    for strip in strips["strips"]:
        places = [strip["place"], *strip["runs"], *(at for _, _, at in strip["percentiles"])]
        assert len(strip["runs"]) == 3 and all(0 < at < 100 for at in places)
    assert all(0 < at < 100 for _, at in strips["ticks"]) and len(strips["ticks"]) > 1
    assert latency_strips(group_rows([row(ms=None)])[0]) is None


@pytest.mark.parametrize("values", [[5.0], [1.0, 1.0], [0.02, 7.0, 5000.0]])
def test_any_latencies_have_places_on_the_scale(values):
    rows = [row(f"d{i}", ms) for i, ms in enumerate(values, 1)]
    strips = latency_strips(group_rows(rows)[0])
    places = [p for s in strips["strips"] for p in (s["place"], *s["runs"])]
    assert all(0 < p < 100 for p in (*places, *(at for _, at in strips["ticks"])))
