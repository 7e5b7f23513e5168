"""Files as the challenges' test_demo.py writes them, with the published names and numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.results.challenge_file import is_challenge_file, published_rows
from sr_deploy.results.published import build_table
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.results.slips import Slip
from sr_deploy.results.tables import bench_table


def entry(psnr, ms, params, macs, acts, convs, mem, *, tested=True):
    """An entry of two valid images and one test image, with the means (valid, test) given."""
    found = {}
    for split, db, time, count in zip(("valid", "test"), psnr, ms, (2, 1)):
        found[f"{split}_runtime"] = [time] * count
        found[f"{split}_psnr"] = [db] * count
        found[f"{split}_memory"] = mem
        found[f"{split}_ave_runtime"] = time
        found[f"{split}_ave_psnr"] = db
    if not tested:
        found = {key: value for key, value in found.items() if key.startswith("valid")}
    counts = {"activations": acts, "num_conv": convs, "flops": macs, "num_parameters": params}
    return {**found, **counts}


# Of the results.txt of 2024 and 2026, with the digits of results.json where they matter.
RLFN = entry((26.955, 27.069), (16.0122, 10.8974), 0.317218, 19.6953, 80.05, 39, 467.70)
SPAN = entry((26.940, 27.012), (8.0040, 7.4688), 0.150688, 9.833807872, 41.680896, 22, 705.24)
VSCI = entry((26.90, 27.03), (54.01, 47.56), 0.051, 3.30, 184.13, 169, 483.96)
YEAR_2026 = {"00_SPAN": SPAN, "         11_VSCINet": VSCI}
# An entrant's own of 2025: no baseline, no test set, one image more.
DSCF = entry((26.965, 0), (30.35, 0), 0.130828, 8.535, 38.93, 22, 24.42, tested=False)

MEASURED = BenchmarkRow(
    model="mynet",
    variant="",
    backend="torch",
    device="CPU",
    protocol="ntire2026",
    latency_ms_mean=700.0,
    params=100_000,
    macs_g=6.0,
    acts_m=30.0,
    convs=20,
    counter="fvcore",
    counted_hw=(256, 256),
    mem_peak_mib=90.0,
    set="DIV2K_LSDIR_valid_HR",
    metric="rgb",
    border_px=4,
    psnr_db=26.91,
    images=(
        {
            "image": "a",
            "split": "valid",
            "lr_hw": [8, 8],
            "psnr_db": 26.91,
            "ssim": 0.7,
            "ms": 700.0,
        },
    ),
)


@pytest.fixture()
def write(tmp_path):
    def file(entries, name="results.json"):
        path = tmp_path / name
        path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
        return path

    return file


def test_a_published_file_gives_rows_with_its_numbers(write):
    span, vsci = published_rows(write(YEAR_2026))
    assert (span.model, span.variant, span.backend, span.protocol) == (
        "00_SPAN",
        "",
        "published",
        "ntire2026",
    )
    assert vsci.model == "11_VSCINet", "the published name begins with spaces"
    assert span.latency_ms_mean == pytest.approx(7.7364) and span.psnr_db == 26.940
    assert (span.params, span.macs_g, span.convs) == (150_688, 9.833807872, 22)
    assert span.counter == "fvcore" and span.counted_hw == (256, 256)
    assert (span.set, span.test_set) == ("DIV2K_LSDIR_valid", "DIV2K_LSDIR_test")
    assert "RTX A6000" in span.device and span.mem_peak_mib == 705.24


@pytest.mark.parametrize(
    "entries, given, found",
    [
        ({"00_RLFN_baseline": RLFN}, None, "ntire2024"),
        (
            {"00_EFDN_baseline": {**SPAN, "num_parameters": 0.276192}, "51_SPAN": SPAN},
            None,
            "ntire2025",
        ),
        (YEAR_2026, "ntire2026", "ntire2026"),
        ({"23_DSCF": DSCF}, "ntire2025", "ntire2025"),
    ],
)
def test_the_baseline_tells_the_year(write, entries, given, found):
    rows = published_rows(write(entries), given)
    assert {row.protocol for row in rows} == {found}


def test_without_a_test_set_the_time_is_that_of_valid(write):
    (row,) = published_rows(write({"23_DSCF": DSCF}), "ntire2025")
    assert (row.test_set, row.latency_ms_mean, len(row.images)) == ("", 30.35, 2)


def test_what_the_harness_writes_of_ssim_and_of_identical_images_is_read(write):
    text = json.dumps({"00_SPAN": {**SPAN, "valid_psnr": [float("inf"), 30.0]}})
    extra = {"valid_ssim": [0.9, 0.8], "valid_ave_ssim": 0.85}
    data = json.loads(text)
    data["00_SPAN"].update(extra, valid_ave_psnr=float("inf"))
    (row,) = published_rows(write(json.dumps(data)))
    assert row.psnr_db is None and row.images[0]["psnr_db"] is None and row.ssim == 0.85


SHORT = {**SPAN, "valid_psnr": [30.0]}


@pytest.mark.parametrize(
    "entries, given, error",
    [
        ("{", None, "not valid JSON"),
        ("[1]", None, "expected a JSON object, found a list"),
        ("{}", None, "has no entries"),
        ({"a": 3}, None, "'a' is no entry of a results.json"),
        ({"a": {"valid_ave_psnr": 3.0}}, None, "it has no list 'valid_runtime'"),
        ({"23_DSCF": DSCF}, None, "has no baseline of a year among its entries"),
        (
            {"00_SPAN": SPAN, "00_RLFN_baseline": RLFN},
            None,
            "has the baselines of ntire2024, ntire2026",
        ),
        (YEAR_2026, "ntire2024", "is of ntire2026, whose baseline is among its entries"),
        ({"00_SPAN": SHORT}, None, "'valid_runtime' has 2 images, 'valid_psnr' has 1"),
        ({"00_SPAN": {**SPAN, "valid_runtime": []}}, None, "'valid_runtime' is no list with"),
        ({"00_SPAN": {**SPAN, "test_psnr": 3}}, None, "'test_psnr' is no list with a number"),
        ({"00_SPAN": {**SPAN, "flops": "9.8"}}, None, "'flops' has '9.8', which is no number"),
        ({"00_SPAN": {**SPAN, "valid_runtime": [0, 1]}}, None, "expected a number above 0"),
        ({"00_SPAN": {**SPAN, "valid_memory": -1}}, None, "'valid_memory' has -1"),
        ({"00_SPAN": SPAN, " ": SPAN}, None, "its name is empty"),
    ],
)
def test_bad_files(write, entries, given, error):
    with pytest.raises(InputError) as e:
        published_rows(write(entries), given)
    assert error in e.value.message and "results.json" in e.value.message


def test_rows_are_not_taken_for_a_results_file(write, tmp_path):
    assert is_challenge_file(write(YEAR_2026))
    assert not is_challenge_file(write('{"schema": 3}', "rows.json"))
    assert not is_challenge_file(tmp_path / "absent.json")


def columns(table):
    return {h: [row[i] for row in table.cells] for i, h in enumerate(table.headings)}


def test_published_times_are_not_ranked_with_measured_ones(write):
    table = build_table([MEASURED, *published_rows(write(YEAR_2026))], "ntire")
    found = columns(table)
    assert found["Model"] == ["mynet", "00_SPAN (published)", "11_VSCINet (published)"]
    assert found["Ave. Time [ms]"] == ["700.00 (1)", "7.74 (1)", "50.78 (2)"]
    assert found["Mem. [M]"] == ["90.00 (1)", "705.24 (2)", "483.96 (1)"]
    assert found["#Params [M]"] == ["0.100 (2)", "0.151 (3)", "0.051 (1)"]
    assert found["PSNR [test]"] == ["", "27.01", "27.03"]
    assert found["Score"][1] == "7.38 (1)"
    notes = "\n".join(table.notes)
    assert "not measured here" in notes and "ranked apart from measured ones" in notes
    assert "RTX A6000, the challenge's" in notes and "bench --score" in notes


def test_other_layouts_mark_and_order_them_too(write):
    theirs = published_rows(write(YEAR_2026))
    names = columns(build_table([*theirs, MEASURED], "srn5"))["Team Name"]
    assert names == ["mynet", "00_SPAN (published)", "11_VSCINet (published)"]
    found = columns(bench_table([MEASURED, *theirs]))
    assert found["Backend"] == ["torch", "published", "published"]
    assert found["From"] == ["random weights", "results.json", "results.json"]


def test_other_images_are_not_compared_with_the_challenge_s(write):
    other = replace(MEASURED, set="Set5")
    with pytest.raises(InputError, match="rows of different set cannot be compared"):
        build_table([other, *published_rows(write(YEAR_2026))], "ntire")


def test_a_slip_of_the_challenge_s_numbers_is_noted(write, monkeypatch):
    slips = [Slip("NTIRE 2026", ("vscinet",), "prints half"), Slip("NTIRE 2025", ("span",), "no")]
    monkeypatch.setattr("sr_deploy.results.conditions.SLIPS", slips)
    notes = bench_table([MEASURED, *published_rows(write(YEAR_2026))]).notes
    assert [n for n in notes if "NTIRE 202" in n] == [
        "note: NTIRE 2026, prints half (11_VSCINet (published))"
    ]
