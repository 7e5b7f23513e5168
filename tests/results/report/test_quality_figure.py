from __future__ import annotations

import sys
from xml.etree import ElementTree

import pytest

from sr_deploy.core.errors import MissingPackageError
from sr_deploy.results.report.drawing import check_can_draw
from sr_deploy.results.report.quality_figure import quality_figure
from sr_deploy.results.rows import QualityRow


def row(variant="d1", **changes):
    values = {
        "model": "m_x4",
        "variant": variant,
        "backend": "torch",
        "artifact": "",
        "set": "Set5",
        "metric": "y",
        "border_px": 4,
        "psnr_db": 30.0,
        "ssim": 0.8,
        "degradation": "bi",
        "scale": 4,
        "params": 90_000,
        "macs_g": 26.0,
        "counter": "hooks",
        "counted_hw": (256, 256),
        "tiling": "whole",
        "images": (),
    }
    return QualityRow(**{**values, **changes})


@pytest.fixture()
def texts():
    """The texts of a figure's SVG."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the figure")

    def of(rows):
        svg = ElementTree.fromstring(quality_figure(rows)["psnr.svg"])
        return ["".join(e.itertext()) for e in svg.iter("{http://www.w3.org/2000/svg}text")]

    return of


def test_ours_are_said_to_be_measured_and_the_papers_printed(texts):
    found = texts([row(), row("d2", psnr_db=30.4, params=125_000, macs_g=29.0)])
    assert "m_x4 (torch, measured)" in found and "ASRN (printed, not measured)" in found
    assert found.count("d1") == 2 and found.count("d2") == 2, "each variant is named in both panels"
    assert not any(
        "measured" in t and "m_x4" not in t and "printed, not measured" not in t for t in found
    )
    assert "IMDeception (printed, not measured)" in found and "SRN (printed, not measured)" in found


def test_a_row_of_panels_for_each_set_and_scale(texts):
    found = texts([row(), row(set="Mine"), row(model="m_x3", scale=3)])
    assert [found.count(title) for title in ("Set5, x4", "Mine, x4", "Set5, x3")] == [2, 2, 2]


@pytest.mark.parametrize(
    "changes", [{"metric": "rgb"}, {"set": "Mine"}, {"degradation": "bd", "scale": 3}]
)
def test_nothing_printed_is_drawn_under_other_conditions(texts, changes):
    found = texts([row(**changes)])
    assert not any("printed" in t for t in found) and "m_x4 (torch, measured)" in found


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(psnr_db=None)],
        [row(params=None, macs_g=None)],
        [row(backend="bicubic", params=None)],
    ],
)
def test_nothing_to_draw_is_said(texts, rows):
    assert "no row has both PSNR and counts" in texts(rows)


def test_the_same_rows_give_the_same_files():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the figure")
    first, second = quality_figure([row()]), quality_figure([row()])
    assert (
        first == second
        and first["psnr.png"][:4] == b"\x89PNG"
        and first["psnr.svg"].startswith(b"<?xml")
    )


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match="matplotlib") as raised:
        check_can_draw()
    assert "pip install" in raised.value.hint
