from __future__ import annotations

from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.results.published import TABLE_LAYOUTS, build_table
from sr_deploy.results.rows import BenchmarkRow


def image(split="valid", ms=1.0, psnr_db=30.0):
    return {
        "image": "a.png",
        "split": split,
        "lr_hw": [8, 8],
        "psnr_db": psnr_db,
        "ssim": 0.9,
        "ms": ms,
    }


A = BenchmarkRow(
    model="m_x4",
    variant="c4",
    backend="torch",
    device="CPU",
    threads=2,
    precision="fp32",
    scale=4,
    input_hw=(256, 512),
    warmup=6,
    runs=10,
    latency_ms_median=20.0,
    latency_ms_mean=21.0,
    params=57_124,
    macs_g=3.7308,
    acts_m=57.4,
    convs=58,
    counter="hooks",
    counted_hw=(256, 256),
    uncounted={"aten::add": 6},
    set="Set5",
    metric="y",
    border_px=4,
    psnr_db=30.462,
    ssim=0.86,
    tiling="whole",
    images=(image(),),
    mem_peak_mib=176.8,
)
B = replace(
    A,
    variant="c16-nla",
    latency_ms_median=60.0,
    params=316_552,
    macs_g=20.7,
    psnr_db=30.95,
    uncounted={"aten::matmul": 4},
)
CHALLENGE = [
    replace(
        r,
        protocol="ntire2026",
        counter="fvcore",
        metric="rgb",
        test_set="T",
        images=(image(), image("test", 3.0, 28.0)),
    )
    for r in (A, B)
]


def columns(table):
    return {h: [row[i] for row in table.cells] for i, h in enumerate(table.headings)}


def test_the_challenge_s_table_ranks_and_scores():
    found = columns(build_table(CHALLENGE, "ntire"))
    assert found["Model"] == ["m_x4.c4", "m_x4.c16-nla"]
    assert found["PSNR [val]"] == ["30.46", "30.95"] and found["PSNR [test]"] == ["28.00", "28.00"]
    assert found["#Params [M]"] == ["0.057 (1)", "0.317 (2)"] and found["FLOPs [G]"] == [
        "3.73† (1)",
        "20.70† (2)",
    ]
    assert found["Ave. Time [ms]"] == ["21.00 (1)", "21.00 (1)"], "equal values share a rank"
    assert found["Score"][0].endswith("(1)") and found["#Conv"] == ["58", "58"]
    assert any(
        "0.80 runtime" in note and "SPAN, 7.74 ms" in note
        for note in build_table(CHALLENGE, "ntire").notes
    )
    assert "Score" not in columns(build_table([A, B], "ntire"))
    slow = [replace(CHALLENGE[0], latency_ms_mean=600.0), CHALLENGE[1]]
    assert columns(build_table(slow, "ntire"))["Score"][0] == "1.7e+67 (2)", (
        "on another device a score may be of any size"
    )


def test_counts_at_another_size_are_ranked_apart():
    small = replace(CHALLENGE[1], model="net", variant="", counted_hw=(48, 64))
    found = columns(build_table([*CHALLENGE, small], "ntire"))
    assert found["FLOPs [G]"] == ["3.73† (1)", "20.70† (2)", "20.70† (1)"]
    assert found["#Params [M]"] == ["0.057 (1)", "0.317 (2)", "0.317 (2)"]
    assert found["Score"][2] == "", "the challenge counts at 256x256"


def test_srn_s_table_5_is_sorted_by_time():
    found = columns(build_table([B, A], "srn5"))
    assert found["Team Name"] == ["m_x4.c4", "m_x4.c16-nla"] and found["Ave Time [ms]"] == [
        "20.00",
        "60.00",
    ]
    assert found["Params [M]"] == ["0.057", "0.317"] and found["PSNR [Test]"] == ["", ""]


def test_imdeception_s_table_2_has_a_column_for_each_variant():
    table = build_table([B, A], "imdeception2")
    assert table.headings == ("", "m_x4.c16-nla", "m_x4.c4")
    assert {row[0]: row[1:] for row in table.cells} == {
        "#Params": ("317K", "57K"),
        "FLOPS[G]": ("20.70†", "3.73†"),
        "Act.[M]": ("57", "57"),
        "Runtime[ms]": ("60.00", "20.00"),
        "#Conv2d": ("58", "58"),
        "#Set5 (PSNR)": ("30.95", "30.46"),
    }


def test_imdeception_s_table_4_has_a_column_for_each_device():
    other = replace(
        A,
        device="Xavier",
        threads=None,
        backend="tensorrt",
        target="xavier",
        precision="fp16",
        latency_ms_median=41.9,
    )
    table = build_table([A, B, other], "imdeception4")
    assert table.headings == (
        "Model, input 256x512",
        "CPU, 2 threads: torch fp32 (ms)",
        "Xavier: tensorrt xavier fp16 (ms)",
    )
    assert table.cells == (("m_x4.c4", "20.00", "41.90"), ("m_x4.c16-nla", "60.00", ""))
    with pytest.raises(InputError, match="different input_hw cannot be compared: 256x512, 8x8"):
        build_table([A, replace(B, input_hw=(8, 8))], "imdeception4")
    with pytest.raises(InputError, match="two rows for m_x4.c4"):
        build_table([A, A], "imdeception4")


def test_ranks_by_two_protocols_and_where_they_differ():
    by_year = [
        replace(A, protocol="ntire2025", latency_ms_mean=90.0),
        replace(B, protocol="ntire2025", latency_ms_mean=80.0),
    ]
    alone = replace(A, variant="c8", protocol="ntire2025")
    table = build_table([A, B, *by_year, alone], "ranks")
    assert table.cells == (
        ("m_x4.c4", "20.00 (1)", "90.00 (2)", "differs"),
        ("m_x4.c16-nla", "60.00 (2)", "80.00 (1)", "differs"),
    )
    with pytest.raises(InputError, match="two or more protocols"):
        build_table([A, B], "ranks")
    with pytest.raises(InputError, match="m_x4.c4 was measured at .* and 8x8") as e:
        build_table([A, replace(A, input_hw=(8, 8)), *by_year], "ranks")
    assert "--where input_hw=" in e.value.hint
    assert (
        build_table([A, replace(A, latency_ms_median=90.0), B, *by_year], "ranks").cells[0][1]
        == "90.00 (2)"
    ), "of repeated ones the last"


@pytest.mark.parametrize("layout", [name for name in TABLE_LAYOUTS if name != "ranks"])
@pytest.mark.parametrize("change", [{"protocol": "ntire2022"}, {"set": "Set14"}, {"metric": "rgb"}])
def test_rows_that_do_not_compare_are_refused(layout, change):
    (key,) = change
    if key == "set" and layout in ("cdnsr1", "adadsr2"):
        return  # they have a column for each
    with pytest.raises(InputError, match=f"rows of different {key} cannot be compared") as e:
        build_table([A, replace(B, **change)], layout)
    assert f"--where {key}=" in e.value.hint


@pytest.mark.parametrize("layout", TABLE_LAYOUTS)
def test_nothing_measured(layout):
    with pytest.raises(InputError):
        build_table([replace(A, error="no GPU")], layout)
    with pytest.raises(InputError):
        build_table([], layout)


def test_an_unknown_layout():
    with pytest.raises(InputError, match="unknown table layout 'nitre'") as e:
        build_table([A], "nitre")
    assert "ntire" in e.value.hint


def test_every_table_says_what_it_does_not_count_and_of_whom():
    notes = build_table([A, B], "bench").notes
    assert "† not counted: aten::add (m_x4.c4); aten::matmul (m_x4.c16-nla)" in notes
    assert "† not counted: aten::add" in build_table([A, replace(A, variant="c8")], "bench").notes


def test_the_deployed_graph_s_count_has_a_column_where_there_is_one():
    assert "deployed [G]" not in columns(build_table([A], "bench"))
    found = columns(build_table([A, replace(B, deployed={"macs": 1_500_000_000})], "bench"))
    assert found["deployed [G]"] == ["", "1.50"]


def test_warnings_are_told_below_with_their_rows():
    notes = build_table([A, replace(B, warnings=("single runs vary by 12%",))], "bench").notes
    assert notes[-1] == "note: single runs vary by 12% (m_x4.c16-nla)"


def test_ranks_keep_rows_of_other_settings_apart():
    fast = replace(A, settings="eager, channels-last", latency_ms_median=10.0)
    rows = [
        replace(r, protocol=protocol, latency_ms_mean=r.latency_ms_median)
        for protocol in ("steady", "ntire2025")
        for r in (A, fast)
    ]
    names = [line[0] for line in build_table(rows, "ranks").cells]
    assert names == ["m_x4.c4 (default settings)", "m_x4.c4 (eager, channels-last)"]


def test_imdeception_s_times_of_other_settings_get_a_column_each():
    rows = [A, replace(A, settings="eager, channels-last")]
    headings = build_table(rows, "imdeception4").headings
    assert headings[2] == headings[1].replace(" (ms)", " channels-last (ms)")
