"""The choice among the rows of a deployment, with and without times and limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError, TargetError
from sr_deploy.deploy.choice import choose
from sr_deploy.deploy.options import DeployOptions
from sr_deploy.results.rows import BenchmarkRow


def row(variant, ms, psnr, gflops):
    return BenchmarkRow(
        model="net_x4",
        variant=variant,
        backend="onnxruntime",
        target="xavier",
        scale=4,
        input_hw=(256, 512) if ms else None,
        set="Set5",
        metric="y",
        latency_ms_median=ms,
        psnr_db=psnr,
        macs_g=gflops,
    )


TIMED = [row("d1", 10.0, 30.1, 1), row("d2", 20.0, 30.4, 2), row("d3", 40.0, 30.6, 3)]
UNTIMED = [row("d1", None, 30.1, 1), row("d2", None, 30.4, 2), row("d3", None, 30.6, 3)]


def options(**limits):
    return DeployOptions("xavier", **limits)


@pytest.mark.smoke
def test_a_limit_of_the_time_chooses_the_best_within_it():
    for limits in ({"fps": 30}, {"max_ms": 33}):
        choice = choose(TIMED, options(**limits))
        assert choice.name == "net_x4.d2" and choice.by_time
        assert "highest PSNR of 2 that meet the limits" in choice.why
        assert any("net_x4.d3: 40.000 ms is above 33" in remark for remark in choice.remarks)


def test_a_limit_of_the_psnr_chooses_the_fastest():
    assert choose(TIMED, options(min_psnr=30.3)).name == "net_x4.d2"


def test_without_a_limit_the_highest_psnr_is_chosen_and_the_rule_is_said():
    choice = choose(TIMED, options())
    assert choice.name == "net_x4.d3"
    assert choice.why.startswith("the highest PSNR of 3, as no limit was given: 30.60 dB, 40.0 ms")
    assert "net_x4.d1 is 4.0 times as fast" in choice.remarks[0] and "--fps" in choice.remarks[0]


def test_of_an_equal_psnr_the_fastest_is_chosen():
    equal = [row("d1", 20.0, 30.6, 1), row("d2", 10.0, 30.6, 2), row("d3", 40.0, 30.6, 3)]
    assert choose(equal, options()).name == "net_x4.d2"


def test_limits_that_none_meets_are_told_with_the_nearest():
    choice = choose(TIMED, options(fps=200))
    assert (choice.name, choice.by_time) == ("", True)
    assert "none of 3 rows meets the limits" in choice.why
    assert choice.hint == "the lowest time is 10.000 ms (net_x4.d1)"
    choice = choose(UNTIMED, options(min_psnr=40))
    assert choice.why == "none of 3 networks has 40 dB"
    assert choice.hint == "the highest PSNR is 30.600 dB (net_x4.d3)"


def test_without_times_a_limit_of_the_time_chooses_nothing_and_is_no_error():
    choice = choose(UNTIMED, options(fps=30))
    assert (choice.name, choice.by_time, choice.hint) == ("", False, "")
    assert "nothing was timed on 'xavier' yet (Jetson AGX Xavier" in choice.why
    assert "which variant takes at most 33.33 ms" in choice.why


def test_without_times_psnr_and_work_choose_and_this_is_said():
    choice = choose(UNTIMED, options())
    assert choice.name == "net_x4.d3" and not choice.by_time
    assert choice.remarks[0].startswith("nothing was timed on 'xavier' yet")
    choice = choose(UNTIMED, options(min_psnr=30.3))
    assert choice.name == "net_x4.d2"
    assert "the fewest multiply-accumulates of 2 with at least 30.3 dB" in choice.why


def test_variants_without_a_time_are_left_out_beside_timed_ones_and_named():
    for limits in ({}, {"fps": 30}):
        choice = choose([TIMED[0], *UNTIMED[1:]], options(**limits))
        assert choice.name == "net_x4.d1"
        assert choice.remarks[0] == "not timed on 'xavier', so left out: net_x4.d2, net_x4.d3"


def test_rows_that_failed_are_never_chosen():
    failed = [BenchmarkRow("net_x4", "d1", "tensorrt", error="no GPU")]
    assert choose(failed, options()).why == "no network could be measured"
    assert choose([*failed, *TIMED], options()).name == "net_x4.d3"


def test_among_several_precisions_the_choice_names_one_and_what_it_loses():
    int8 = [replace(r, precision="int8", latency_ms_median=r.latency_ms_median / 2) for r in TIMED]
    rows = [
        *(replace(r, precision="fp32") for r in TIMED),
        *(replace(r, psnr_db=r.psnr_db - 0.05) for r in int8),
    ]
    choice = choose(rows, options(fps=60))
    assert choice.name == "net_x4.d2 int8" and choice.row is rows[4]
    assert "net_x4.d2 int8 loses 0.050 dB against FP32, which takes 20.00 ms" in choice.remarks
    assert choose(rows, options(min_psnr=30.04)).name == "net_x4.d1 int8"
    assert choose(rows, options()).name == "net_x4.d3 fp32"
    untimed = [replace(r, latency_ms_median=None) for r in rows]
    assert choose(untimed, options(min_psnr=30.5)).name == "net_x4.d3 fp32"


def test_precisions_are_those_of_the_target_each_once():
    assert options().precisions == ("fp16",)
    assert DeployOptions("xavier", precision="fp32,fp16,fp32").precisions == ("fp32", "fp16")
    with pytest.raises(TargetError, match="builds .* engines, not fp8"):
        DeployOptions("xavier", precision="fp16,fp8")
    with pytest.raises(InputError, match="--calibrate is for INT8 graphs"):
        DeployOptions("xavier", calibrate="photos")


def test_wrong_options_are_refused():
    for wrong, match in (
        ({"fps": 30, "max_ms": 33}, "same limit"),
        ({"fps": 0}, "expected a number above 0"),
        ({"max_ms": -1}, "limit of the time is -1"),
        ({"min_psnr": float("nan")}, "PSNR"),
        ({"size": "256"}, "not a size"),
    ):
        with pytest.raises(InputError, match=match):
            options(**wrong)
    with pytest.raises(TargetError, match="unknown target"):
        DeployOptions("xavir")


def test_a_size_that_the_target_holds_leaves_its_dynamic_graphs():
    assert DeployOptions("cpu", size="540x960").graph_sizes == ""
    assert DeployOptions("cpu", size="1080x1920").graph_sizes == "1080x1920"
    assert DeployOptions("xavier", size="270x480").graph_sizes == "270x480"
    assert DeployOptions("xavier").graph_sizes == ""
