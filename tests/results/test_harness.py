"""The files as their readers parse them. The formats follow the challenge's harnesses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.results.harness import results_files
from sr_deploy.results.protocols import deviations
from sr_deploy.results.rows import BenchmarkRow

IMAGES = (("valid", 4.0, 30.0), ("valid", 2.0, 28.0), ("test", 1.0, 27.0), ("test", 2.0, 26.0))
ROW = BenchmarkRow(
    model="asrn_x4",
    variant="d3",
    backend="torch",
    protocol="ntire2025",
    latency_ms_mean=2.25,
    params=165_251,
    macs_g=15.6751,
    acts_m=157.2864,
    convs=24,
    mem_peak_mib=1038.7891,
    set="V",
    test_set="T",
    metric="rgb",
    psnr_db=29.0,
    images=tuple(
        {"image": "a", "split": s, "lr_hw": [8, 8], "psnr_db": p, "ssim": 0.9, "ms": ms}
        for s, ms, p in IMAGES
    ),
)


def parsed(text):
    """What someone would read results.txt with: columns between tabs."""
    head, *lines = text.splitlines()
    names = [h.strip() for h in head.split("\t")]
    return names, [dict(zip(names, (cell.strip() for cell in line.split("\t")))) for line in lines]


# How test_demo.py of the organisers (all years) turns results.json into results.txt:
# heading, width, and the text of an entry.
THEIRS = (
    ("Model", 20, lambda name, e: name),
    ("Val PSNR", 10, lambda name, e: f"{e['valid_ave_psnr']:2.2f}"),
    ("Test PSNR", 10, lambda name, e: f"{e['test_ave_psnr']:2.2f}"),
    ("Val Time [ms]", 14, lambda name, e: f"{e['valid_ave_runtime']:3.2f}"),
    ("Test Time [ms]", 14, lambda name, e: f"{e['test_ave_runtime']:3.2f}"),
    (
        "Ave Time [ms]",
        14,
        lambda name, e: f"{(e['valid_ave_runtime'] + e['test_ave_runtime']) / 2:3.2f}",
    ),
    ("Params [M]", 10, lambda name, e: f"{e['num_parameters']:2.3f}"),
    ("FLOPs [G]", 10, lambda name, e: f"{e['flops']:2.2f}"),
    ("Acts [M]", 8, lambda name, e: f"{e['activations']:2.2f}"),
    ("Mem [M]", 8, lambda name, e: f"{e['valid_memory']:2.2f}"),
    ("Conv", 8, lambda name, e: f"{e['num_conv']:4d}"),
)


def read_as_theirs(results_json, *, include_test):
    """What their script writes to results.txt when it finds this results.json."""
    columns = [
        c
        for c in THEIRS
        if include_test or c[0] not in ("Test PSNR", "Test Time [ms]", "Ave Time [ms]")
    ]
    lines = [[heading for heading, *_ in columns]]
    lines += [
        [shown(name, entry) for *_, shown in columns]
        for name, entry in json.loads(results_json).items()
    ]
    return "".join(
        "\t".join(f"{text:{width}s}" for text, (_, width, _) in zip(line, columns)) + "\n"
        for line in lines
    )


@pytest.mark.parametrize(
    "rows",
    [
        [ROW, replace(ROW, variant="d4", latency_ms_mean=9.0)],
        [replace(ROW, test_set="", images=ROW.images[:2])],
    ],
)
def test_their_script_reads_our_json_and_writes_our_text(rows):
    files = results_files(rows)
    assert (
        read_as_theirs(files["results.json"], include_test=bool(rows[0].test_set))
        == files["results.txt"]
    )


# The baseline of 2024 in results.txt and results.json of Amazingren/NTIRE2024_ESR, whose lists hold
# 200 images each.
PUBLISHED_TXT = (
    "Model               \tVal PSNR  \tTest PSNR \tVal Time [ms] \tTest Time [ms]\t"
    "Ave Time [ms] \tParams [M]\tFLOPs [G] \t"
    "Acts [M]\tMem [M] \tConv    \n"
    "00_RLFN_baseline    \t26.96     \t27.07     \t16.01         \t10.90         \t"
    "13.45         \t0.317     \t19.70     \t"
    "80.05   \t467.70  \t  39    \n"
)
PUBLISHED_KEYS = [
    "valid_runtime",
    "valid_psnr",
    "valid_memory",
    "valid_ave_runtime",
    "valid_ave_psnr",
    "test_runtime",
    "test_psnr",
    "test_memory",
    "test_ave_runtime",
    "test_ave_psnr",
    "activations",
    "num_conv",
    "flops",
    "num_parameters",
]


def test_the_published_baseline_s_files_are_ours_for_its_numbers():
    measured = (
        ("valid", 26.955138542968204, 16.012238647937775),
        ("test", 27.069471162517825, 10.897433106899262),
    )
    row = replace(
        ROW,
        model="00_RLFN_baseline",
        variant="",
        protocol="ntire2024",
        params=317_218,
        macs_g=19.695306752,
        acts_m=80.045184,
        convs=39,
        mem_peak_mib=467.6982421875,
        images=tuple(
            {"image": "a", "split": s, "lr_hw": [8, 8], "psnr_db": p, "ssim": 0.7, "ms": ms}
            for s, p, ms in measured
        ),
    )
    files = results_files([row])
    assert files["results.txt"] == PUBLISHED_TXT
    keys = list(json.loads(files["results.json"])["00_RLFN_baseline"])
    assert [
        key for key in keys if "ssim" not in key
    ] == PUBLISHED_KEYS  # with --ssim theirs have those too


def test_results_txt_has_the_harness_s_columns():
    names, (first, second) = parsed(results_files([ROW, replace(ROW, variant="d4")])["results.txt"])
    assert names == [
        "Model",
        "Val PSNR",
        "Test PSNR",
        "Val Time [ms]",
        "Test Time [ms]",
        "Ave Time [ms]",
        "Params [M]",
        "FLOPs [G]",
        "Acts [M]",
        "Mem [M]",
        "Conv",
    ]
    assert first == dict(
        zip(
            names,
            [
                "asrn_x4.d3",
                "29.00",
                "26.50",
                "3.00",
                "1.50",
                "2.25",
                "0.165",
                "15.68",
                "157.29",
                "1038.79",
                "24",
            ],
        )
    )
    assert second["Model"] == "asrn_x4.d4"
    assert (
        results_files([ROW])["results.txt"]
        .splitlines()[0]
        .startswith("Model" + " " * 15 + "\tVal PSNR  \tTest PSNR \t")
    )


def test_without_a_test_set_its_columns_are_left_out():
    row = replace(ROW, test_set="", images=ROW.images[:2])
    names, (first,) = parsed(results_files([row])["results.txt"])
    assert names == [
        "Model",
        "Val PSNR",
        "Val Time [ms]",
        "Params [M]",
        "FLOPs [G]",
        "Acts [M]",
        "Mem [M]",
        "Conv",
    ]
    assert len(parsed(results_files([row, ROW])["results.txt"])[0]) == 8, (
        "one that lacks a test set decides"
    )


def test_results_json_has_the_harness_s_keys_and_lists():
    ((name, entry),) = json.loads(results_files([ROW])["results.json"]).items()
    assert name == "asrn_x4.d3"
    assert set(PUBLISHED_KEYS) <= set(entry)
    assert (entry["valid_runtime"], entry["test_psnr"]) == ([4.0, 2.0], [27.0, 26.0])
    assert (
        entry["valid_ave_runtime"] == sum(entry["valid_runtime"]) / 2
        and entry["valid_ave_psnr"] == 29
    )
    assert (entry["num_conv"], entry["num_parameters"]) == (24, 0.165251)
    # The lines the harness itself makes of such a file.
    assert (
        f"{entry['valid_memory']:2.2f} {entry['flops']:2.2f} {entry['num_conv']:4d}"
        == "1038.79 15.68   24"
    )


def test_what_was_not_measured_is_null_and_blank():
    files = results_files([replace(ROW, params=None, mem_peak_mib=None, convs=None)])
    entry = json.loads(files["results.json"])["asrn_x4.d3"]
    assert (
        entry["num_parameters"] is None
        and entry["valid_memory"] is None
        and entry["num_conv"] is None
    )
    assert (
        parsed(files["results.txt"])[1][0]["Params [M]"],
        parsed(files["results.txt"])[1][0]["Conv"],
    ) == ("", "")


def test_rows_of_two_years_are_not_mixed():
    with pytest.raises(InputError, match="different protocol"):
        results_files([ROW, replace(ROW, protocol="ntire2024")])


def test_scores_follow_the_harness_s_columns_where_the_baseline_was_measured():
    baseline = {"name": "EFDN", "ms": 4.5, "macs_g": 16.7, "params_m": 0.276}
    beside, alone = (
        replace(ROW, variant=v, baseline=b) for v, b in (("d3", baseline), ("d4", None))
    )
    files = results_files([beside, alone])
    names, (first, second) = parsed(files["results.txt"])
    assert names[-3:] == ["Conv", "Score", "Score here"]
    assert float(first["Score here"]) > 0 and second["Score here"] == ""
    entry = json.loads(files["results.json"])["asrn_x4.d3"]
    assert entry["baseline"] == baseline
    assert f"{entry['score_here']:.2f}" == first["Score here"]
    assert "baseline" not in json.loads(files["results.json"])["asrn_x4.d4"]


def test_of_a_repeated_measurement_the_last_counts_with_its_own_score():
    baseline = {"name": "EFDN", "ms": 4.5, "macs_g": 16.7, "params_m": 0.276}
    rows = [ROW, replace(ROW, variant="d4"), replace(ROW, baseline=baseline)]
    _, (first, second) = parsed(results_files(rows)["results.txt"])
    assert (first["Model"], second["Model"]) == ("asrn_x4.d3", "asrn_x4.d4")
    assert first["Score here"] and not second["Score here"]


def test_counts_at_another_size_than_the_challenge_s_are_left_out_and_told():
    (entry,) = json.loads(
        results_files([replace(ROW, counted_hw=(20, 24))])["results.json"]
    ).values()
    assert (entry["flops"], entry["activations"]) == (None, None)
    assert (entry["num_conv"], entry["num_parameters"]) == (24, 0.165251)
    told = deviations(replace(ROW, counted_hw=(20, 24)))
    assert "counted at 20x24, ntire2025: 256x256" in told
    assert not any("counted" in text for text in deviations(ROW))
