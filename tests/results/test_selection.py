from __future__ import annotations

from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.results.selection import Limits, select_network


def row(variant, ms, psnr, gflops, **changes):
    values = {
        "model": "asrn_x4",
        "backend": "onnxruntime",
        "target": "cpu",
        "device": "CPU",
        "scale": 4,
        "input_hw": (64, 64),
        "set": "Set5",
        "metric": "y",
        "latency_ms_median": ms,
        "latency_ms_p95": ms * 1.1,
        "latency_cv": 0.01,
        "psnr_db": psnr,
        "macs_g": gflops,
        "params": int(gflops * 10_000),
        "mem_peak_mib": ms,
    }
    return BenchmarkRow(variant=variant, **{**values, **changes})


ROWS = [
    row("d1", 10, 30.4, 26),
    row("d2", 20, 30.7, 29),
    row("d3", 29, 30.9, 31),
    row("d4", 40, 31.1, 34),
]


def choose(*rows, **limits):
    return select_network(rows or ROWS, target="cpu", limits=Limits(**limits))


@pytest.mark.parametrize(
    "limits, best, second",
    [
        ({"max_ms": 33}, "asrn_x4.d3", "asrn_x4.d2"),
        ({"max_ms": 20}, "asrn_x4.d2", "asrn_x4.d1"),
        ({"max_gflops": 27}, "asrn_x4.d1", ""),
        ({"max_params_k": 290}, "asrn_x4.d2", "asrn_x4.d1"),
        ({"max_mem_mib": 100}, "asrn_x4.d4", "asrn_x4.d3"),
        ({"min_psnr_db": 30.8}, "asrn_x4.d3", "asrn_x4.d4"),
        ({"min_psnr_db": 30.5, "max_ms": 100}, "asrn_x4.d4", "asrn_x4.d3"),
    ],
)
def test_the_best_within_the_limits_and_the_runner_up(limits, best, second):
    choice = choose(**limits)
    assert (choice.best, choice.runner_up) == (best, second)
    assert choice.row.variant == best.rpartition(".")[2]


def test_it_says_why():
    choice = choose(max_ms=33)
    assert choice.why.startswith("the highest PSNR of 3 that meet the limits: 30.900 dB, 29.00 ms")
    assert choice.why.endswith("ms, 31.00 G FLOPs")
    assert choice.rejected == ("asrn_x4.d4: 40.000 ms is above 33 ms",)
    assert choice.remarks == ("the runner-up, asrn_x4.d2: 30.700 dB, 20.00 ms, 29.00 G FLOPs",)
    assert choose(min_psnr_db=30.8).why.startswith("the shortest time of 2 ")
    assert choose(min_psnr_db=30.8).rejected[0] == "asrn_x4.d1: 30.400 dB is below 30.8 dB"


def test_remarks_on_what_the_median_hides():
    tight = choose(max_ms=30).remarks
    assert tight[0] == "1 run in 20 takes longer than 30 ms: p95 is 31.90 ms"
    close = choose(
        row("a", 10, 30, 1, latency_cv=0.2), row("b", 11, 30.1, 1, warnings=("drift",)), max_ms=50
    )
    assert (
        "their times differ by less than single runs vary" in close.remarks
        and close.remarks[-1] == "drift"
    )


def test_copies_belong_to_a_frame():
    with pytest.raises(InputError, match="34.000 ms is above 33"):
        choose(row("d3", 29, 30.9, 31, copies_ms=5.0), max_ms=33)


def test_what_lacks_the_number_is_not_taken():
    small = row("d4", 1, 40, 1, counted_hw=(48, 64))
    choice = choose(*ROWS[:3], row("d5", 1, 40, 1, macs_g=None), small, max_gflops=27)
    assert "asrn_x4.d4: FLOPs at 256x256: not known" in choice.rejected
    assert (
        choice.best == "asrn_x4.d1" and "asrn_x4.d5: FLOPs at 256x256: not known" in choice.rejected
    )


@pytest.mark.parametrize(
    "rows, limits, words",
    [
        ([], {"max_ms": 33}, "no row was measured for target 'cpu'"),
        (
            [replace(ROWS[0], target="xavier")],
            {"max_ms": 33},
            "no row was measured for target 'cpu'",
        ),
        ([replace(ROWS[0], error="crash")], {"max_ms": 33}, "all rows are failed measurements"),
        (ROWS, {"max_ms": 5}, "none of 4 rows meets the limits: asrn_x4.d1: 10.000 ms is above 5"),
        (ROWS, {}, "no limit is given to select by"),
        ([ROWS[0], replace(ROWS[1], protocol="ntire2025")], {"max_ms": 33}, "different protocol"),
        (
            [ROWS[0], replace(ROWS[1], input_hw=(8, 8))],
            {"max_ms": 33},
            "different input_hw cannot be compared: 64x64, 8x8",
        ),
        (ROWS, {"max_ms": float("nan")}, "the limit of the time is nan; expected a number above 0"),
        (ROWS, {"max_loss_db": -1}, "the limit of the loss is -1; expected 0 or more"),
        (ROWS, {"min_psnr_db": -3}, "the limit of the PSNR is -3"),
        ([ROWS[0], replace(ROWS[1], device="other")], {"max_ms": 33}, "different device"),
        ([ROWS[0], replace(ROWS[1], scale=2)], {"max_ms": 33}, "different scale"),
        ([replace(ROWS[0], psnr_db=None)], {"max_ms": 33}, "lack a PSNR or a time"),
    ],
)
def test_without_rows_that_tell_nothing_is_recommended(rows, limits, words):
    with pytest.raises(InputError, match=words):
        select_network(rows, target="cpu", limits=Limits(**limits))


def test_what_comes_nearest_is_told():
    with pytest.raises(InputError) as raised:
        choose(*ROWS, max_ms=5, min_psnr_db=99)
    fastest, best = min(ROWS, key=lambda r: r.latency_ms_median), max(ROWS, key=lambda r: r.psnr_db)
    assert f"the lowest time is {fastest.latency_ms_median:.3f} ms" in raised.value.hint
    assert f"the highest PSNR is {best.psnr_db:.3f} dB" in raised.value.hint


FP32 = [row("d1", 10, 30.4, 26, precision="fp32"), row("d2", 20, 30.7, 29, precision="fp32")]
INT8 = [
    row("d1", 5, 30.35, 26, precision="mixed: 2 fp32, 10 int8", precision_asked="int8"),
    row("d2", 9, 30.5, 29, precision="int8", precision_asked="int8"),
]


def test_the_precision_is_chosen_too():
    choice = choose(*FP32, *INT8, max_ms=15)
    assert (choice.best, choice.runner_up) == ("asrn_x4.d2 int8", "asrn_x4.d1 fp32")
    assert choice.remarks[0] == (
        "asrn_x4.d2 int8 loses 0.200 dB against FP32, which takes 20.00 ms"
    )
    choice = choose(*FP32, *INT8, max_ms=15, max_loss_db=0.1)
    assert choice.best == "asrn_x4.d1 fp32" and not choice.remarks[0].endswith("against FP32")
    assert "asrn_x4.d2 int8: a loss of 0.200 dB is above 0.1 dB" in choice.rejected


def test_under_limits_of_the_quality_only_the_fastest_is_selected():
    assert choose(*FP32, *INT8, max_loss_db=0.1).best == "asrn_x4.d1 int8"
    choice = choose(*FP32, *INT8, min_psnr_db=30.45, max_loss_db=0.3)
    assert choice.best == "asrn_x4.d2 int8" and choice.why.startswith("the shortest time of 2 ")


def test_a_loss_needs_an_fp32_row_of_the_same_images():
    said = "asrn_x4.d1 int8: loss: not known, as no FP32 row of it is of the same images"
    other = replace(INT8[0], set="Set14")
    assert said in choose(FP32[1], INT8[0], INT8[1], max_loss_db=0.3).rejected
    # The rows of other images do not compare at all; those of another target do.
    assert choose(replace(FP32[0], target="gpu"), INT8[0], max_loss_db=0.1).best == "asrn_x4.d1"
    with pytest.raises(InputError, match="different set"):
        choose(FP32[0], other, max_loss_db=0.1)
    alone = choose(INT8[0], max_ms=15)
    assert alone.remarks == (
        "what asrn_x4.d1 in int8 loses against FP32 is not known, as no FP32 row of it is of the "
        "same images",
    )
    # Not to be told by the time of another device.
    gpu = choose(replace(FP32[0], target="gpu"), INT8[0], max_ms=15)
    assert gpu.remarks == ("asrn_x4.d1 in int8 loses 0.050 dB against FP32",)


def test_a_gain_is_named_as_one_and_is_within_a_limit_of_0():
    better = replace(INT8[1], psnr_db=30.75)
    choice = choose(*FP32, INT8[0], better, max_loss_db=0)
    assert choice.best == "asrn_x4.d2 int8"
    assert choice.remarks[0].startswith("asrn_x4.d2 int8 gains 0.050 dB against FP32")
