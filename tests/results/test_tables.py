from __future__ import annotations

import re
from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.results.rows import BenchmarkRow, QualityRow
from sr_deploy.results.tables import comparable, ntire_table, quality_table

FULL = BenchmarkRow(
    model="asrn_x4",
    variant="d3",
    backend="torch",
    artifact_sha256="ab12",
    backend_version="2.9",
    device="AMD, 2 cores",
    threads=2,
    precision="fp32",
    scale=4,
    input_hw=(256, 512),
    warmup=3,
    runs=7,
    latency_ms_median=12.346,
    latency_ms_p95=13.5,
    mem_peak_mib=80.06,
    params=1234567,
    macs_g=1.5,
    acts_m=2.25,
    convs=17,
    counter="hooks",
    counted_hw=(256, 256),
    set="Set5",
    images=tuple(
        {
            "image": f"{i}.png",
            "split": "valid",
            "lr_hw": [8, 8],
            "psnr_db": 30.0,
            "ssim": 0.9,
            "ms": 1.0,
        }
        for i in range(5)
    ),
    metric="y",
    border_px=4,
    psnr_db=31.93456,
    ssim=0.89,
    tiling="whole",
)
BARE = BenchmarkRow(
    model="other", variant="", backend="onnxruntime", device="AMD, 2 cores", threads=2
)


def cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    return [dict(zip(table[0], row)) for row in table[2:]]


@pytest.mark.smoke
def test_the_challenge_s_columns_and_units():
    (row,) = cells(ntire_table([FULL]))
    assert row == {
        "Model": "asrn_x4.d3",
        "Backend": "torch",
        "From": "checkpoint",
        "Precision": "fp32",
        "PSNR [dB]": "31.935",
        "SSIM": "0.8900",
        "Input": "256x512",
        "Time [ms]": "12.35",
        "p95 [ms]": "13.50",
        "#Params [M]": "1.235",
        "FLOPs [G]": "1.50",
        "#Acts [M]": "2.25",
        "Mem [MiB]": "80.1",
        "#Conv": "17",
    }


def test_what_is_missing_is_blank_and_a_real_zero_is_not():
    first, second = cells(ntire_table([BARE, replace(BARE, psnr_db=0.0, convs=0, params=0)]))
    numbers = [k for k in first if "[" in k or k in ("SSIM", "#Conv", "Input")]
    assert len(numbers) == 10 and all(first[k] == "" for k in numbers)
    assert (second["PSNR [dB]"], second["#Conv"], second["#Params [M]"]) == ("0.000", "0", "0.000")


def test_the_conditions_are_below_and_differences_are_listed():
    text = ntire_table(
        [
            FULL,
            replace(
                FULL, backend="onnxruntime", backend_version="1.22", runs=9, tiling="tiled 64x64"
            ),
        ]
    )
    for line in (
        "images: Set5 (5)",
        "PSNR, SSIM: y, border 4",
        "evaluated: whole; * tiled 64x64",
        "counted: hooks at 256x256, multiply-accumulates",
        "runs: 3 warm-up; 7 to 9 timed",
        "device: AMD, 2 cores, 2 threads",
        "software: torch 2.9; onnxruntime 1.22",
    ):
        assert f"- {line}" in text.splitlines()


def test_counts_at_different_sizes_are_told_with_their_owners():
    text = ntire_table([FULL, replace(FULL, model="net", variant="", counted_hw=(48, 64))])
    assert re.search(
        r"- counted: hooks at 256x256, .* \(asrn_x4.d3\); hooks at 48x64, .* \(net\)", text
    )


def test_what_could_not_run_is_listed_with_its_reason():
    failed = replace(BARE, artifact="net.engine", backend="tensorrt-rtx", error="needs an RTX GPU")
    text = ntire_table([FULL, failed])
    assert len(cells(text)) == 1
    assert (
        text.splitlines()[-1].startswith("not run: net.engine")
        and "(tensorrt-rtx): needs an RTX GPU" in text
    )
    assert ntire_table([failed]).startswith("not run: net.engine")
    asked = replace(failed, artifact="", precision_asked="int8", error="no rules")
    assert ntire_table([asked]) == "not run: other in int8 (tensorrt-rtx): no rules"


@pytest.mark.parametrize(
    "change, column, shown",
    [
        ({"artifact": "m.d3.8x8.fp16.onnx"}, "From", "onnx"),
        ({"artifact": "m.d3.8x8.fp16.engine"}, "From", "engine"),
        ({"artifact": "mynet.py:Net --weights w.pth"}, "From", "code"),
        ({"precision_asked": "fp32"}, "Precision", "fp32"),
        ({"precision_asked": "fp16"}, "Precision", "fp32 (fp16 asked)"),
    ],
)
def test_where_it_comes_from_and_a_precision_that_was_not_obtained(change, column, shown):
    (row,) = cells(ntire_table([replace(FULL, **change)]))
    assert row[column] == shown


def quality(model, variant="", set="A", **changes):
    values = {
        "backend": "torch",
        "artifact": "",
        "metric": "y",
        "border_px": 4,
        "psnr_db": 31.6543,
        "ssim": 0.88671,
        "degradation": "bi",
        "scale": 4,
        "params": 244_200,
        "macs_g": 36.9,
        "counter": "hooks",
        "counted_hw": (256, 256),
        "tiling": "whole",
        "images": ({}, {}),
        "backend_version": "2.13",
        "precision": "fp32",
    }
    return QualityRow(model=model, variant=variant, set=set, **{**values, **changes})


def bicubic(**changes):
    return quality(
        "bicubic",
        backend="bicubic",
        params=None,
        macs_g=None,
        counter="",
        counted_hw=None,
        precision="fp64",
        **changes,
    )


def test_papers_layout_a_column_per_set_and_bicubic_first():
    text = quality_table(
        [
            quality("m_x4", "d5"),
            quality("m_x4", "d5", set="B", psnr_db=None, ssim=1.0),
            bicubic(),
            bicubic(set="B"),
        ]
    )
    assert text.splitlines()[:4] == [
        "| x4, y, bi | #Params [K] |   A PSNR/SSIM |   B PSNR/SSIM |",
        "|-----------|------------:|--------------:|--------------:|",
        "| bicubic   |             | 31.654/0.8867 | 31.654/0.8867 |",
        "| m_x4.d5   |       244.2 | 31.654/0.8867 |    inf/1.0000 |",
    ]
    assert text.splitlines()[5:] == [
        "images: A (2); B (2)",
        "PSNR, SSIM: y, border 4",
        "LR: bi: MATLAB's bicubic",
        "evaluated: whole",
        "software: torch 2.13, fp32",
    ]


def test_each_scale_and_metric_has_a_table_and_what_was_not_scored_is_blank():
    rows = [
        quality("m_x4", "d1"),
        quality("m_x4", "d2", set="B"),
        quality("m_x4", "d1", metric="rgb"),
        quality("m_x2", "d1", scale=2),
    ]
    text = quality_table(rows)
    headings = [line.split("|")[1].strip() for line in text.splitlines() if "#Params" in line]
    assert headings == ["x4, y, bi", "x4, rgb, bi", "x2, y, bi"]
    assert "| m_x4.d1   |       244.2 | 31.654/0.8867 |               |" in text


def test_tiled_scores_are_marked_and_those_not_run_listed_once():
    tiled = quality("m_x4", "d1", artifact="m_x4.d1.onnx", tiling="tiled 64x64, overlap 6 px")
    failed = [
        quality(
            "m_x4", "d1", artifact="m.engine", set=s, ssim=None, psnr_db=None, error="needs a GPU"
        )
        for s in "AB"
    ]
    text = quality_table([bicubic(), tiled, *failed])
    assert (
        "31.654/0.8867* |" in text and "evaluated: * tiled 64x64, overlap 6 px" in text.splitlines()
    )
    assert text.count("not run: m.engine (torch): needs a GPU") == 1
    assert quality_table(failed) == "not run: m.engine (torch): needs a GPU"


def test_scores_in_another_precision_or_layout_get_a_line_each():
    rows = [
        quality("m_x4", "d1", precision="fp32"),
        quality("m_x4", "d1", precision="bf16", psnr_db=31.0),
        quality("m_x4", "d1", precision="fp32", settings="eager, channels-last", psnr_db=30.0),
    ]
    lines = quality_table(rows).splitlines()[2:5]
    assert [line.split("|")[1].strip() for line in lines] == [
        "m_x4.d1 (torch, fp32)",
        "m_x4.d1 bf16",
        "m_x4.d1 (torch, fp32, channels-last)",
    ]
    assert [line.split("|")[3].strip()[:6] for line in lines] == ["31.654", "31.000", "30.000"]


def test_executed_work_of_older_rows_is_marked_as_of_the_same_patches():
    executed = {"share": 0.88, "timed_share": 0.9, "ways": {"d1": 1.0}}
    old = replace(FULL, variant="d5", executed=executed, schema=2)
    table = ntire_table([replace(FULL, executed=executed), old])
    assert [c["executed, timed / set"] for c in cells(table)] == [
        "90.0% / 88.0%",
        "90.0% / 88.0% (of the same patches)",
    ]
    assert "executed: of the plain network's multiply-accumulates on the whole image" in table
    assert "an older row, of the largest branch's on the same overlapping patches" in table


def test_rows_of_two_folders_of_the_same_name_do_not_compare():
    twenty = tuple({**FULL.images[0], "image": f"{i}_lr.png"} for i in range(20))
    with pytest.raises(InputError, match=r"different images \(5 by asrn_x4.d3, 20 by asrn_x4.d1\)"):
        comparable([FULL, replace(FULL, variant="d1", images=twenty)])
    resized = tuple({**image, "lr_hw": [4, 4]} for image in FULL.images)
    comparable([FULL, replace(FULL, scale=8, images=resized), BARE])
    with pytest.raises(InputError, match="different images"):
        comparable([FULL, replace(FULL, variant="d1", images=resized)])


def test_a_tag_that_gains_nothing_is_noted():
    plain = replace(FULL, model="imdeception_x4", variant="c4", psnr_db=30.462)
    tagged = replace(plain, variant="c4-nla", psnr_db=30.461, latency_ms_median=2 * 12.346)
    note = (
        "note: imdeception_x4.c4-nla gains -0.001 dB over imdeception_x4.c4, and takes +100% time"
    )
    assert note in ntire_table([plain, tagged])
    assert "gains" not in ntire_table([plain, replace(tagged, psnr_db=30.6)])
    assert "gains" not in ntire_table([plain, replace(tagged, set="Set14")])


def test_a_tag_is_compared_within_graphs_and_within_engines():
    plain = replace(FULL, model="imdeception_x4", variant="c4", psnr_db=30.462)
    tagged = replace(plain, variant="c4-nla", psnr_db=30.461)
    rows = [
        replace(row, artifact=f"{row.variant}.{kind}", latency_ms_median=ms)
        for kind, faster in (("onnx", 1), ("engine", 2))
        for row, ms in ((plain, 10 / faster), (tagged, 11 / faster))
    ]
    notes = [line for line in ntire_table(rows).splitlines() if "gains" in line]
    assert notes == [
        "- note: imdeception_x4.c4-nla gains -0.001 dB over imdeception_x4.c4, and takes +10% time"
    ]
    assert "gains" not in ntire_table([row for row in rows if row.variant == "c4"])
