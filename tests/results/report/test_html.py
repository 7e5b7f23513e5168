from __future__ import annotations

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from sample_rows import crop_set, family, int8_record, mixed_family, row

from sr_deploy.core.errors import InputError, MissingPackageError
from sr_deploy.results.crops import WorkMap
from sr_deploy.results.report.html import check_can_render, report_html
from sr_deploy.results.report.notes import use_command

pytest.importorskip("jinja2", reason="jinja2 is not installed; it writes the page")
pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the charts")


class Page(HTMLParser):
    """The tags of a page, and its words outside of styles and scripts."""

    void = {"meta", "img", "input", "link", "br", "wbr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.mark.smoke
def test_the_page_is_whole_and_names_nothing_outside_itself():
    text = report_html(family(), [crop_set()])
    page = Page(text)
    assert (
        not re.search(r"""(src|href)=["'](?!#|data:image/png;base64,)""", text)
        and "@import" not in text
        and "url(" not in text
    )
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for t, a in page.tags if t == "a"} <= set(ids)
    assert not any(name.startswith("on") for _, a in page.tags for name in a), (
        "no script in attributes"
    )


def test_all_numbers_are_there_and_what_is_missing_is_empty():
    page = Page(report_html(family()))
    assert "5 measurements of 5 networks on a CPU, 2026-01-02." in page.text
    assert (
        "Set5, x4, 64×48 input, steady protocol" in page.text
        and "Fastest m_x4.d1 torch fp32 10.0 ms 30.00 dB" in page.text
        and "Highest PSNR at 30 frames per second m_x4.d2 torch fp32 31.00 dB 20.0 ms" in page.text
        and "Highest PSNR m_x4.d10 torch fp32 32.00 dB 40.0 ms" in page.text
    )
    cells = [a["data-value"] for t, a in page.tags if t == "td" and "data-value" in a]
    columns = len(cells) // 5  # fastest first: the third has no PSNR and no counts
    assert cells[2 * columns] == "" and cells[2 * columns + 1] == "25.0" and "0.0" not in cells
    assert "Operators that the FLOPs do not include: matmul" in page.text


def test_what_is_deployed_and_the_score_have_columns_a_reader_can_take_in():
    slow = row(ms=4000.0, protocol="ntire2025", counter="fvcore", deployed={"macs": 7_010_000_000})
    text = Page(report_html([slow])).text
    assert (
        "FLOPs as deployed [G]" in text
        and "FLOPs as trained [G]" in text
        and "7.01" in text
        and re.search(r"Score.* \d\.\de\+\d+ ", text)
    )
    assert "as trained [G]" not in Page(report_html([row()])).text


def test_the_score_by_the_baseline_measured_here_has_a_column_and_a_remark():
    span = {"name": "SPAN", "ms": 20.0, "macs_g": 9.8, "params_m": 0.15}
    shown = [row(protocol="ntire2026", counter="fvcore", baseline=b) for b in (span, None)]
    texts = [Page(report_html([one])).text for one in shown]
    assert "Score here" in texts[0] and "Score here" not in texts[1]
    assert "by the baseline measured in turns with the network" in texts[0]
    assert "the score means nothing" in texts[1] and "the score means nothing" not in texts[0]


def test_backends_are_in_the_legend_where_there_are_several():
    one = [row(), row("d2", 20.0)]
    several, single = (
        Page(report_html(rows)).text.split("PSNR against")[0].split("front, filled")[-1]
        for rows in ([*one, row(backend="onnxruntime")], one)
    )
    assert "m_x4 torch fp32 onnxruntime fp32" in several and "m_x4" in single
    assert "torch" not in single


def test_every_field_of_a_row_is_in_its_receipt():
    image = {
        "image": "bird.png",
        "split": "valid",
        "lr_hw": [4, 5],
        "psnr_db": None,
        "ssim": 1.0,
        "ms": 1.5,
    }
    facts = {
        "power_mode": "15W",
        "settings": "spin",
        "conditions": {"before": {"load_1min": 0.5}},
        "artifact_sha256": "ab" * 32,
    }
    text = Page(
        report_html(
            [row(images=(image, {**image, "image": "head.png", "psnr_db": 30.123}), **facts)]
        )
    ).text
    for words in (
        "power_mode 15W",
        "settings spin",
        "before: load_1min: 0.5",
        "ab" * 32,
        "latencies_ms 3 runs, 9.00 to 12.0",
    ):
        assert words in text
    assert (
        "params 90000" in text
        and "bird.png identical; head.png 30.12 dB" in text
        and "Images Set5 (2)" in text
    )


def test_warnings_stand_before_the_numbers():
    text = Page(
        report_html(
            [
                row(
                    warnings=("other processes kept 1.3 cores busy",),
                    tiling="tiled 8x8, overlap 2 px",
                )
            ]
        )
    ).text
    assert text.index("m_x4.d1, torch fp32: other processes kept 1.3 cores busy") < text.index(
        "All numbers"
    )
    assert "A score with * was computed by tiles" in text and "30.000*" in text


def test_warnings_that_differ_in_numbers_only_are_said_once():
    rows = [
        row(f"d{i}", warnings=(f"runs vary by {10 * i}% (x4)", "timed by wall clock"))
        for i in range(1, 6)
    ]
    rows[4] = row("d5", warnings=("timed by wall clock", "new in 1.2.3-rc1"))
    text = Page(report_html(rows)).text
    numbers = text[text.index("Conv") :] if "Conv" in text else text
    before = text[: text.index("All numbers")]
    assert "4 of 5: runs vary by 10 to 40% (x4)" in before and before.count("runs vary") == 1
    assert (
        "All: timed by wall clock" in before and "m_x4.d5, torch fp32: new in 1.2.3-rc1" in before
    )
    assert numbers.count("runs vary by 20% (x4)") == 1, "each in its receipt"


def test_headings_name_the_machine_where_there_are_several():
    text = Page(report_html([row(), row(device="another", threads=None)])).text
    assert "steady protocol, a CPU, 2 threads" in text and "steady protocol, another" in text
    assert "steady protocol, a CPU" not in Page(report_html([row()])).text


HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"&{{ 7*7 }}"


@pytest.mark.parametrize(
    "field",
    [
        "model",
        "variant",
        "backend",
        "device",
        "set",
        "artifact",
        "precision",
        "counter",
        "error",
        "timer",
        "tiling",
        "date_utc",
    ],
)
def test_nothing_of_a_row_becomes_markup(field):
    page = Page(report_html([row("d2"), row(**{field: HOSTILE})]))
    assert [t for t, _ in page.tags].count("script") == 1 and not any(
        t == "img" for t, _ in page.tags
    )
    assert HOSTILE.replace("\n", " ") in page.text


def test_nothing_of_a_crop_becomes_markup():
    hostile = replace(
        crop_set(), image=HOSTILE, crops=tuple(replace(c, name=HOSTILE) for c in crop_set().crops)
    )
    page = Page(report_html([], [hostile]))
    images = [a for t, a in page.tags if t == "img" and "src" in a]
    assert len(images) == 5 and all(a["alt"] == f"{HOSTILE}, {HOSTILE}" for a in images)


def test_protocols_stand_apart_and_their_ranks_side_by_side():
    rows = [row("d1", 1.0), row("d2", 2.0)]
    rows += [
        row(v, ms, protocol="ntire2022", input_hw=None) for v, ms in (("d1", 9.0), ("d2", 8.0))
    ]
    page = Page(report_html(rows))
    tables = [t for t, _ in page.tags].count("table")
    assert (
        tables == 3
        and "Ranks by protocol" in page.text
        and "ranked only within one set" in page.text
    )
    assert "plain mean over the images" in page.text and "median of the timed runs" in page.text


def test_errors_are_listed_with_their_reason():
    text = Page(
        report_html(
            [row(), row("d9", artifact="m_x4.d9.engine", error="needs the GPU of target 'rtx'")]
        )
    ).text
    assert "Not measured m_x4.d9.engine torch needs the GPU of target 'rtx'" in text
    only = Page(report_html([row(error="crashed")]))
    assert (
        "0 measurements of 0 networks" in only.text
        and "crashed" in only.text
        and "table" not in {t for t, _ in only.tags}
    )


def test_crops_have_names_sizes_and_their_own_psnr():
    page = Page(report_html([], [crop_set()]))
    images = [a for t, a in page.tags if t == "img" and "src" in a]
    assert [(a["data-name"], a["width"], a["height"]) for a in images] == [
        ("LR", "12", "12"),
        ("bicubic", "48", "48"),
        ("m_x4.d1", "48", "48"),
        ("m_x4.d2", "48", "48"),
        ("HR", "48", "48"),
    ]
    assert (
        "bird.png 48×48 pixels from row 8, column 16, x4" in page.text and "25.75 dB" in page.text
    )


def test_maps_of_work_have_a_legend_and_a_chosen_place_is_said():
    work = WorkMap(HOSTILE, crop_set().crops[0].png, (("d1", "#3168be"),), "50% of the work")
    page = Page(report_html([], [replace(crop_set(), maps=(work,), box_given=True)]))
    assert "50% of the work. The white frame is the crop. d1" in page.text
    assert ("rect", "#3168be") in [(t, a.get("fill")) for t, a in page.tags]
    assert "The part of each image that was asked for." in page.text
    assert "furthest from HR" in Page(report_html([], [crop_set()])).text


def test_no_rows_are_refused():
    with pytest.raises(InputError, match="no rows"):
        report_html([])


def test_a_protocol_of_another_version_is_refused():
    with pytest.raises(InputError, match="ntire2044"):
        report_html([row(protocol="ntire2044")])


def test_the_same_rows_give_the_same_page():
    assert report_html(family(), [crop_set()]) == report_html(family(), [crop_set()])


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_the_packages_of_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=package) as raised:
        check_can_render()
    assert "pip install" in raised.value.hint


def test_what_is_below_bicubic_is_named_and_recommended_by_nothing():
    rows = [row("d1", 10.0, 20.0), row("d2", 20.0, 30.0), row("d3", 30.0, 31.0)]
    page = Page(report_html([replace(r, bicubic_psnr_db=28.43) for r in rows]))
    assert "Below bicubic's 28.43 dB, so outside of the charts: m_x4.d1 20.00 dB." in page.text
    assert "Fastest m_x4.d2" in page.text


def test_what_most_choose_by_comes_first_and_every_column_knows_what_is_best():
    page = Page(report_html(family()))
    heads = [a for t, a in page.tags if t == "th" and a.get("scope") == "col"]
    assert [a.get("data-best") for a in heads[:5]] == [None, "high", "low", "low", "low"]
    assert "Network PSNR [dB] Time [ms] Params [M] FLOPs as deployed [G] SSIM" in page.text


def test_filters_are_offered_where_networks_differ():
    rows = [row("c4"), row("c4-nla", backend="onnxruntime", target="cpu", precision="fp16")]
    page = Page(report_html([*rows, row("c8", scale=2)]))
    facets = [a["data-facet"] for t, a in page.tags if t == "select" and "data-facet" in a]
    assert facets == ["group", "family", "runtime", "target", "precision"]
    assert "all 2 x4 x2" in page.text, "only what differs between groups"
    only = Page(report_html([row()]))
    assert not [a for t, a in only.tags if t == "select"]


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({}, "-m m_x4.d1 --runtime torch"),
        ({"precision_asked": "fp16"}, "-m m_x4.d1 --runtime torch --precision fp16"),
        ({"artifact": "m.onnx"}, "-m m.onnx"),
        ({"artifact": "m.engine", "target": "rtx"}, "-m engines/built/rtx/m.engine"),
        ({"artifact": "m.onnx", "target": "xavier"}, "-m engines/graphs/xavier/m.onnx"),
        (
            {"artifact": "m.engine", "target": "cpu", "model": "asrn_x4", "backend": "onnxruntime"},
            "-m asrn_x4.d1",
        ),
        (
            {"model": "adaedsr_x4", "variant": "d8", "executed": {"share": 1, "timed_share": 1}},
            "-m adaedsr_x4 --adaptive adadsr --depth 8",
        ),
        ({"artifact": "my net.py:Net"}, "-m 'my net.py:Net'"),
    ],
)
def test_the_command_that_uses_a_network(changes, command):
    assert use_command(row(**changes)) == f"srdeploy upscale PHOTO {command}"


def test_what_cannot_be_run_here_has_no_command():
    assert use_command(row(backend="published")) == use_command(row(error="crashed")) == ""


def test_what_each_precision_loses_and_gains_is_a_table_of_its_own():
    page = Page(report_html(mixed_family()))
    assert "What each precision costs" in page.text
    assert "m_x4.d2 openvino int8 0.060 45.0 8.00 20.00 torch 40%" in page.text
    assert "Loss [dB]" in page.text and "(int8 requested)" not in page.text
    values = [a["value"] for t, a in page.tags if t == "option"]
    assert {"fp32", "bf16", "int8"} <= set(values) and not any("mixed" in v for v in values)
    plain = Page(report_html(family())).text
    assert "What each precision costs" not in plain and "Loss [dB]" not in plain


def test_what_is_below_bicubic_is_named_with_its_precision():
    rows = [replace(r, bicubic_psnr_db=29.97) for r in mixed_family()]
    text = Page(report_html(rows)).text
    assert "Below bicubic's 29.97 dB, so outside of the charts: m_x4.d1 int8 29.94 dB." in text


def test_the_curves_of_int8_have_a_section():
    rows = [replace(r, int8=int8_record()) if "int8" in r.precision else r for r in mixed_family()]
    text = Page(report_html(rows)).text
    assert "INT8: layers kept in floating point" in text
    assert "INT8: layers kept" not in Page(report_html(mixed_family())).text


def test_a_network_in_a_lower_precision_is_used_by_its_file():
    engine = row(
        artifact="asrn_x4.d1.int8.engine", target="cpu", model="asrn_x4", backend="openvino"
    )
    assert use_command(engine).endswith("-m asrn_x4.d1")
    used = use_command(replace(engine, precision="int8", precision_asked="int8"))
    assert used.endswith("-m engines/built/cpu/asrn_x4.d1.int8.engine")
