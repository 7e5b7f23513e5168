from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.results.protocols import (
    PROTOCOL_NAMES,
    PROTOCOLS,
    deviations,
    get_protocol,
    misses_min_psnr,
    protocol_of,
    scores,
    time_ms,
)
from sr_deploy.results.rows import BenchmarkRow

ROW = BenchmarkRow(
    model="m",
    variant="",
    backend="torch",
    latency_ms_median=2.0,
    latency_ms_mean=3.0,
    macs_g=9.83,
    params=151_000,
)
SCORED = [p for p in PROTOCOLS.values() if p.baseline]


def test_the_years_and_what_they_have_in_common():
    years = [p for p in PROTOCOLS.values() if p.of_images]
    assert [p.name for p in years] == [f"ntire{y}" for y in range(2022, 2027)]
    assert {(p.metric, p.precision, p.timer, p.scale, len(p.sets)) for p in years} == {
        ("rgb", "fp32", "device events", 4, 2)
    }
    assert [p.counter for p in years] == ["hooks", "hooks", "fvcore", "fvcore", "fvcore"]
    assert [p.name for p in SCORED] == ["ntire2024", "ntire2025", "ntire2026"]


@pytest.mark.parametrize("protocol", SCORED, ids=lambda p: p.name)
def test_a_baseline_scores_e_squared_in_everything(protocol):
    b = protocol.baseline
    row = replace(
        ROW,
        protocol=protocol.name,
        latency_ms_mean=b.ms,
        macs_g=b.macs_g,
        params=round(b.params_m * 1e6),
    )
    assert scores(row) == pytest.approx([7.3891] * 4, abs=1e-4)
    assert sum(protocol.weights) == pytest.approx(1)


def test_a_published_entry_scores_as_its_numbers_say():
    """00_SPAN in results.json of 2026: valid 8.0040 ms, test 7.4688 ms, 9.834 G, 0.150688 M."""
    row = replace(
        ROW,
        protocol="ntire2026",
        latency_ms_mean=(8.0040 + 7.4688) / 2,
        macs_g=9.833807872,
        params=150_688,
    )
    final, runtime, flops, params = scores(row)
    assert (runtime, flops, params) == pytest.approx(
        (math.exp(2 * 7.7364 / 7.74), math.exp(2 * 9.833807872 / 9.83), 7.3586), abs=1e-3
    )
    assert final == pytest.approx(0.8 * runtime + 0.1 * flops + 0.1 * params)


@pytest.mark.parametrize(
    "change",
    [{"params": None}, {"macs_g": None}, {"latency_ms_mean": None}, {"protocol": "ntire2022"}],
)
def test_no_score_without_its_numbers(change):
    assert scores(replace(ROW, **{"protocol": "ntire2026", **change})) is None


def test_a_hopeless_time_is_no_overflow():
    assert scores(replace(ROW, protocol="ntire2026", latency_ms_mean=1e6))[0] == math.inf


@pytest.mark.parametrize(
    "name, ms", [("steady", 2.0), ("trtexec", 2.0), ("ntire2022", 3.0), ("ntire2026", 3.0)]
)
def test_which_time_counts(name, ms):
    assert time_ms(replace(ROW, protocol=name)) == ms


def test_a_run_as_the_challenge_does_it_differs_in_nothing():
    done = replace(
        ROW,
        protocol="ntire2024",
        timer="device events",
        precision="fp32",
        device="NVIDIA GeForce RTX 3090",
        scale=4,
        set="LSDIR_DIV2K_valid_HR",
        test_set="LSDIR_DIV2K_test_HR",
        tiling="whole",
        mem_definition="torch.cuda.max_memory_allocated",
    )
    assert deviations(done) == []
    assert deviations(replace(done, protocol="steady", device="x")) == []
    told = deviations(
        replace(done, backend="onnxruntime", timer="wall clock", set="Set5", tiling="tiled 64x64")
    )
    assert [t.split(",")[0] for t in told] == [
        "run by onnxruntime",
        "timed by wall clock",
        "images Set5",
        "images tiled 64x64",
    ]


def test_a_run_on_a_cpu_and_other_settings_than_the_harness_are_told():
    row = BenchmarkRow(
        "m", "", "torch", protocol="ntire2024", threads=2, settings="eager, NCHW, one CUDA graph"
    )
    on_cpu, driven, *_ = deviations(row)
    assert on_cpu == "measured on a CPU: time and memory are not ntire2024's"
    assert driven == "run as eager, NCHW, one CUDA graph, ntire2024: eager"
    harness = replace(row, threads=None, settings="eager, NCHW, TF32 off")
    assert not [text for text in deviations(harness) if text.startswith(("measured", "run as"))]


def test_names():
    assert (
        set(PROTOCOL_NAMES) == set(PROTOCOLS) - {"trtexec"}
        and get_protocol("steady").name == "steady"
    )
    for name in ("trtexec", "ntire2021"):
        with pytest.raises(InputError, match=f"unknown protocol '{name}'"):
            get_protocol(name)
    with pytest.raises(InputError, match="protocol is 'ntire1999'"):
        protocol_of(replace(ROW, protocol="ntire1999"))


@pytest.mark.parametrize(
    "psnr, set_name, below",
    [
        (26.89, "DIV2K_LSDIR_valid_HR", True),
        (26.9, "DIV2K_LSDIR_valid_HR", False),
        (20, "Set5", False),
    ],
)
def test_the_challenge_ranks_no_entry_below_its_psnr(psnr, set_name, below):
    image = {
        "image": "a",
        "split": "valid",
        "lr_hw": [8, 8],
        "psnr_db": psnr,
        "ssim": 0.9,
        "ms": 1.0,
    }
    row = replace(ROW, protocol="ntire2025", set=set_name, images=(image,))
    assert misses_min_psnr(row) is below
    assert not misses_min_psnr(replace(row, protocol="ntire2022", set="DIV2K_valid"))
