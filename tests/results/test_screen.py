from __future__ import annotations

from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.results.render import make_table
from sr_deploy.results.rows import BICUBIC, BenchmarkRow, QualityRow
from sr_deploy.results.screen import (
    fill,
    fps_text,
    in_one_line,
    layout_text,
    quality_text,
    rows_text,
    shortened,
    table_text,
)

ROW = BenchmarkRow(
    model="asrn_x4",
    variant="d1",
    backend="onnxruntime",
    backend_version="1.31.1",
    target="cpu",
    device="AMD EPYC, 2 cores",
    threads=2,
    precision="fp32",
    input_hw=(256, 256),
    set="Set5",
    metric="y",
    border_px=4,
    latency_ms_median=40.0,
    psnr_db=30.4,
    params=86_339,
    macs_g=26.6,
    mem_peak_mib=184.2,
)
DEEP = replace(ROW, variant="d5", latency_ms_median=160.0, psnr_db=31.162)


def lines(rows, width=100):
    text = rows_text(rows, width=width, details="srdeploy table rows.jsonl --format markdown")
    assert all(len(line) <= width for line in text.splitlines()), text
    return text.splitlines()


def test_what_all_rows_share_is_above_and_the_rest_are_columns():
    shared, more, empty, headings, rule, first, second, gap, last = lines([ROW, DEEP])
    assert (empty, gap) == ("", "") and set(rule) == {"-", " "}
    assert f"{shared} {more.strip()}" == (
        "Set5, PSNR of Y; LR 256x256; steady, median time; onnxruntime 1.31.1, target cpu, fp32; "
        "AMD EPYC, 2 cores, 2 threads"
    )
    assert headings.split("  ")[0] == "model" and "runtime" not in headings
    assert first.split() == ["asrn_x4.d1", "30.40", "40.00", "25.0", "0.086", "184"]
    assert second.split() == ["asrn_x4.d5", "31.16", "160.00", "6.2", "0.086", "184"]
    assert last == "all columns and conditions: srdeploy table rows.jsonl --format markdown"


@pytest.mark.parametrize(
    "change, heading, cell",
    [
        ({"backend": "torch", "target": ""}, "runtime", "torch"),
        ({"target": "cuda"}, "target", "cuda"),
        ({"precision": "fp16"}, "precision", "fp16"),
        ({"input_hw": (64, 64)}, "LR size", "64x64"),
        ({"cadence_hz": 30.0}, "rate [Hz]", "30"),
        ({"threads": 1}, "device", "AMD EPYC, 2 cores, 1 threads"),
        ({"settings": "one CUDA graph"}, "settings", "CUDA graph"),
    ],
)
def test_a_condition_that_differs_is_a_column(change, heading, cell):
    text = "\n".join(lines([ROW, replace(ROW, **change)]))
    assert heading in text and cell in text
    assert ("target" in text) == (heading != "runtime"), "torch has none"


def test_rows_that_differ_in_their_file_only_are_told_apart():
    text = "\n".join(lines([replace(ROW, artifact="a.onnx"), replace(ROW, artifact="b.engine")]))
    assert "asrn_x4.d1 (a.onnx)" in text and "asrn_x4.d1 (b.engine)" in text


def test_missing_values_are_empty_and_columns_without_any_are_left_out():
    bare = BenchmarkRow(model="m_x4", variant="", backend="torch", latency_ms_median=2000.0)
    text = "\n".join(lines([bare]))
    assert "PSNR" not in text and "memory" not in text and "0.50" in text
    row = next(
        line for line in lines([ROW, replace(bare, set="Set5", metric="y")]) if "m_x4" in line
    )
    assert row.split() == ["m_x4", "torch", "own", "size", "2000.00", "0.50"] or "m_x4" in row


def test_warnings_take_one_line():
    noisy = replace(ROW, warnings=("single runs vary by 30% " * 10, "the clock fell"))
    (warning,) = [line for line in lines([noisy, DEEP]) if line.startswith("warnings")]
    assert warning.startswith("warnings: 2, the first: single runs vary") and len(warning) <= 100
    assert warning.endswith("...")
    assert in_one_line("rejected", ["a\nb"], 80) == ["rejected: 1: a b"]
    assert in_one_line("rejected", [], 80) == []


def test_a_star_marks_scores_of_tiles_and_is_explained():
    text = "\n".join(lines([replace(ROW, tiling="tiled 64x64, overlap 8")]))
    assert "30.40*" in text and "\n* tiled 64x64, overlap 8" in text


@pytest.mark.parametrize("layout", ["ntire", "srn5", "imdeception2", "imdeception4"])
@pytest.mark.parametrize("width", [40, 80, 100])
def test_layouts_of_papers_fit_and_say_what_is_left_out(layout, width):
    rows = [replace(ROW, model=f"network-{i}_x4", uncounted={"add": 1}) for i in range(12)]
    text = layout_text(rows, layout, width=width, details="--format markdown")
    assert all(len(line) <= width for line in text.splitlines()), text
    assert ("left out" in text) == (width == 40 and layout != "imdeception4" or "n2" in layout)
    assert "† operators" in text or layout == "imdeception4", "it has no FLOPs"
    assert "PSNR [test]" not in text, "a column of empty cells"


def test_rows_that_do_not_compare_are_refused():
    with pytest.raises(InputError, match="rows of different protocol"):
        rows_text([ROW, replace(ROW, protocol="ntire2025")], width=100, details="")


def test_a_table_loses_its_last_columns_and_a_long_name_its_middle():
    table = make_table(["name", "first [ms]", "second [ms]"], [["n" * 60, "1", "22"]], ["a note"])
    assert table_text(table, 100).splitlines()[2].split() == ["n" * 60, "1", "22"]
    text = table_text(table, 40)
    assert all(len(line) <= 40 for line in text.splitlines())
    assert "left out: second [ms]" in text and "nnn...nnn" in text and "a note" in text
    assert shortened("abcdefghijklmnop", 10) == "abc...mnop" and shortened("abc", 10) == "abc"


def test_words_are_not_broken():
    word = "x" * 50
    assert fill(f"a {word} b", 20).splitlines() == ["a", f"  {word}", "  b"]


def test_frames_a_second_have_three_digits():
    assert [fps_text(v) for v in (None, 0.456, 6.118, 250.4)] == ["", "0.46", "6.1", "250"]


SCORED = QualityRow(
    model="asrn_x4",
    variant="d1",
    backend="torch",
    artifact="",
    set="Set5",
    metric="y",
    border_px=4,
    psnr_db=30.375,
    ssim=0.8627,
    degradation="bi",
    scale=4,
    params=86_339,
    macs_g=1.0,
    counter="hooks",
    counted_hw=None,
    tiling="whole",
    images=({"image": "a", "psnr_db": 30.375, "ssim": 0.8627},),
    backend_version="2.13",
    precision="fp32",
)


def test_quality_has_a_column_for_each_set_and_ssim_where_it_fits():
    bicubic = replace(SCORED, model=BICUBIC, variant="", backend=BICUBIC, psnr_db=28.4, params=None)
    sets = ["Set5", "Set14", "B100", "Urban100", "Manga109"]
    rows = [replace(r, set=name) for name in sets for r in (bicubic, SCORED)]
    failed = replace(SCORED, variant="d9", error="needs a GPU", artifact="d9.engine")
    wide, narrow = (
        quality_text([*rows, failed], width=w, details="--format markdown") for w in (100, 60)
    )
    assert "30.375/0.8627" in wide and "left out" not in wide
    assert "30.375/0.8627" not in narrow and "left out: SSIM" in narrow
    for text, width in ((wide, 100), (narrow, 60)):
        assert all(len(line) <= width for line in text.splitlines()), text
        assert "Set5 (1 image)" in text and "torch 2.13, fp32" in text
        assert "not run: d9.engine (torch): needs a GPU" in text
        assert text.index("bicubic ") < text.index("asrn_x4.d1")
    assert quality_text([failed], width=80, details="").startswith("not run: d9.engine")
