from __future__ import annotations

from dataclasses import replace

import pytest

from sr_deploy.core.precisions import lowest_precision
from sr_deploy.results.columns import labels, names_of
from sr_deploy.results.precisions import fp32_partners, losses_db, precision_of
from sr_deploy.results.rows import BICUBIC, PUBLISHED, BenchmarkRow, filter_rows
from sr_deploy.results.screen import rows_text
from sr_deploy.results.tables import bench_table

IMAGE = {"image": "a", "split": "valid", "lr_hw": [8, 8], "psnr_db": 1.0, "ssim": 1.0, "ms": 1.0}
FP32 = BenchmarkRow(
    model="m_x4",
    variant="d1",
    backend="onnxruntime",
    target="cpu",
    device="CPU",
    precision="fp32",
    precision_asked="fp32",
    scale=4,
    set="Set5",
    images=(IMAGE,),
    metric="y",
    border_px=4,
    psnr_db=30.0,
    tiling="whole",
    latency_ms_median=10.0,
)
INT8 = replace(FP32, precision="mixed: 2 fp32, 9 int8", precision_asked="int8", psnr_db=29.9404)
BF16 = replace(FP32, precision="bf16", precision_asked="bf16", psnr_db=30.0001)


@pytest.mark.parametrize(
    "text, lowest",
    [
        ("fp32", "fp32"),
        ("mixed: 165 fp16, 3 fp32", "fp16"),
        ("mixed: 20 fp32, 31 int8", "int8"),
        ("mixed: 3 bf16, 4 fp32", "bf16"),
        ("", ""),
        ("fp64", "fp64"),
    ],
)
def test_the_lowest_precision_stands_for_a_mixture(text, lowest):
    assert lowest_precision(text) == lowest
    assert precision_of(replace(FP32, precision=text)) == lowest


def test_bicubic_and_published_numbers_have_none():
    assert precision_of(replace(FP32, backend=BICUBIC, precision="fp64")) == ""
    assert names_of([FP32, replace(FP32, backend=PUBLISHED)]) == ["m_x4.d1", "m_x4.d1 (published)"]


def test_a_name_has_the_precision_where_rows_have_several():
    assert names_of([FP32, replace(FP32, variant="d2")]) == ["m_x4.d1", "m_x4.d2"]
    assert labels([FP32, BF16, INT8]) == ["m_x4.d1 fp32", "m_x4.d1 bf16", "m_x4.d1 int8"]
    other = replace(INT8, precision="int8")
    assert labels([FP32, INT8, other])[1:] == [
        "m_x4.d1 int8 (mixed: 2 fp32, 9 int8)",
        "m_x4.d1 int8 (int8)",
    ]


def test_losses_are_against_the_fp32_row_of_the_same_network_and_images():
    losses = losses_db([FP32, INT8, BF16])
    assert losses == [0.0, pytest.approx(0.0596), pytest.approx(-0.0001)]
    for change in (
        {"variant": "d2"},
        {"model": "n_x4"},
        {"set": "Set14"},
        {"metric": "rgb"},
        {"tiling": "tiled 8x8"},
        {"images": ({**IMAGE, "image": "b"},)},
        {"error": "crash"},
        {"precision_asked": "fp16"},  # an FP16 graph, computed in FP32
    ):
        assert losses_db([replace(FP32, **change), INT8])[1] is None, change
    assert losses_db([replace(FP32, psnr_db=None), INT8])[1] is None


def test_the_partner_is_of_the_same_target_where_there_is_one():
    other = replace(FP32, backend="openvino", target="cpu-openvino")
    torch = replace(FP32, backend="torch", target="")
    assert fp32_partners([FP32, torch, other, INT8])[-1] is FP32
    assert fp32_partners([FP32, replace(INT8, target="x", backend="torch"), torch])[1] is torch


def test_tables_show_the_loss_where_precisions_differ():
    table = bench_table([FP32, INT8, BF16])
    at = table.headings.index("loss [dB]")
    assert table.headings[at - 1] == "PSNR [dB]"
    assert [row[at] for row in table.cells] == ["0.000", "0.060", "0.000"]
    assert [row[3] for row in table.cells] == ["fp32", "mixed: 2 fp32, 9 int8", "bf16"]
    assert "loss [dB]" not in bench_table([INT8, replace(INT8, variant="d2")]).headings
    assert "loss [dB]" not in bench_table([INT8, replace(BF16, variant="d2")]).headings
    text = rows_text([FP32, INT8], width=100, details="")
    (line,) = [line for line in text.splitlines() if "int8" in line]
    assert line.split() == ["m_x4.d1", "int8", "29.94", "0.060", "10.00", "100"]


def test_rows_are_selected_by_the_precision_or_by_all_its_parts():
    rows = [FP32, INT8, BF16]
    assert filter_rows(rows, ["precision=int8"]) == [INT8]
    assert filter_rows(rows, ["precision=int8,bf16"]) == [INT8, BF16]
    assert filter_rows(rows, [f"precision={INT8.precision}"]) == [INT8]
