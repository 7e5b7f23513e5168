from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sr_deploy.results.rows import BenchmarkRow, append_rows

ROW = BenchmarkRow(
    model="asrn_x4",
    variant="d1",
    backend="onnxruntime",
    target="cpu",
    device="CPU",
    scale=4,
    input_hw=(64, 64),
    set="Set5",
    metric="y",
    border_px=4,
    latency_ms_median=10.0,
    latency_ms_mean=11.0,
    psnr_db=30.4,
    ssim=0.86,
    macs_g=26.6,
    mem_peak_mib=180.0,
    params=86_339,
    acts_m=119.5,
    convs=12,
    counter="hooks",
)
DEEP = replace(ROW, variant="d5", latency_ms_median=40.0, psnr_db=31.2, macs_g=36.9, params=244_163)
DEEP = replace(DEEP, mem_peak_mib=250.0)


@pytest.fixture()
def rows(tmp_path):
    def write(*given):
        path = tmp_path / "rows.jsonl"
        path.unlink() if path.exists() else None
        append_rows(path, given or [ROW, DEEP])
        return path

    return write


@pytest.mark.parametrize("layout", ["bench", "ntire", "srn5", "imdeception2", "imdeception4"])
@pytest.mark.parametrize(
    "form, start", [("markdown", "|"), ("csv", ""), ("latex", r"\begin{tabular}")]
)
def test_layouts_and_formats(run_cli, rows, layout, form, start):
    result = run_cli("table", rows(), "--layout", layout, "--format", form)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(start) and "d1" in result.stdout and "40.00" in result.stdout


def test_mixed_protocols_are_refused_and_one_can_be_chosen(run_cli, fails, rows):
    path = rows(ROW, DEEP, replace(ROW, protocol="ntire2025"))
    error = fails("table", path)
    assert (
        "rows of different protocol cannot be compared: steady, ntire2025" in error
        and "--where protocol=steady" in error
    )
    assert run_cli("table", path, "--where", "protocol=steady").exit_code == 0
    ranks = run_cli("table", path, "--layout", "ranks")
    assert "steady [ms] (rank)" in ranks.stdout


def test_bad_rows(fails, rows, tmp_path):
    assert "cannot read the rows" in fails("table", tmp_path / "absent.jsonl")
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps({"model": "m", "variant": "", "backend": "b", "schema": 1}) + "\n")
    for command in (["table", path], ["select", path, "--target", "cpu", "--max-ms", 5]):
        assert "old.jsonl, line 1: not a row of schema 3; its schema is 1" in fails(*command)
    assert "'split' of an image is missing" in fails(
        "table", rows(replace(ROW, images=({"image": "a"},)))
    )
    assert "is not a condition" in fails("table", rows(), "--where", "colour=red")
    assert "a row's protocol is 'ntire1999'" in fails(
        "table", rows(replace(ROW, protocol="ntire1999"))
    )
    assert "all rows are failed measurements" in fails("table", rows(replace(ROW, error="no GPU")))


def test_what_was_not_run_is_told(run_cli, rows):
    result = run_cli("table", rows(ROW, replace(DEEP, error="SIGSEGV")))
    assert (
        "not run: asrn_x4.d5 (onnxruntime): SIGSEGV" in result.stderr and "d5" not in result.stdout
    )


@pytest.mark.parametrize(
    "limits, best",
    [
        (["--max-ms", 33], "asrn_x4.d1"),
        (["--fps", 20], "asrn_x4.d5"),
        (["--max-flops", 30], "asrn_x4.d1"),
        (["--max-gflops", 30], "asrn_x4.d1"),
        (["--max-memory", "0.5GiB", "--max-ms", 33], "asrn_x4.d1"),
        (["--max-mem", 200], "asrn_x4.d1"),
        (["--max-params", 100], "asrn_x4.d1"),
        (["--min-psnr", 31], "asrn_x4.d5"),
    ],
)
def test_select_names_the_best_on_stdout_and_says_why_on_stderr(run_cli, rows, limits, best):
    result = run_cli("select", rows(), "--target", "cpu", *limits)
    assert (result.exit_code, result.stdout) == (0, best + "\n"), result.stderr
    assert f"{best}: the " in result.stderr
    told = json.loads(run_cli("select", rows(), "--target", "cpu", *limits, "--json").stdout)
    assert told["best"] == best and told["row"]["model"] == "asrn_x4"


def test_select_recommends_nothing_without_rows(run_cli, fails, rows):
    assert "no row was measured for target 'xavier'" in fails(
        "select", rows(), "--target", "xavier", "--max-ms", 33
    )
    assert "unknown target 'xavie'" in fails("select", rows(), "--target", "xavie", "--max-ms", 33)
    assert "no limit is given to select by" in fails("select", rows(), "--target", "cpu")
    assert "none of 2 rows meets the limits" in fails(
        "select", rows(), "--target", "cpu", "--max-ms", 1
    )
    assert run_cli("select", rows(), "--target", "cpu", "--fps", 30, "--max-ms", 33).exit_code == 2


def test_compare_prints_the_ratio_with_its_spread(run_cli, fails, asrn, perfect):
    result = run_cli("compare", f"{asrn}.d1", f"{asrn}.d2", "--size", "16x16", "--rounds", 3)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "median [ms]" in lines[0] and "fps" in lines[0]
    assert lines[2].startswith("| A: tiny-asrn_x2.d1 (") and "| B: tiny-asrn_x2.d2" in lines[3]
    ratio, conditions = lines[5:7]
    assert ratio.startswith("- B takes ") and "half of the rounds" in ratio
    assert conditions.startswith("- 3 alternating rounds; LR 16x16; ")
    text = run_cli(
        *("compare", f"{asrn}.d1", f"{asrn}.d2", "--lr", "16x16", "--rounds", 3),
        *("--format", "text"),
    ).stdout
    assert text.splitlines()[2].startswith("A: tiny-asrn_x2.d1 (") and "B takes " in text
    found = json.loads(run_cli("compare", f"{asrn}.d1", perfect[0], "--rounds", 3, "--json").stdout)
    assert len(found["times_a_ms"]) == len(found["times_b_ms"]) == 3 and found["hw"] == [16, 16]
    assert "names 2 networks; expected one" in fails("compare", asrn, asrn)
    assert "there is no file" in fails("compare", "absent.onnx", "absent.onnx")


def test_a_challenge_s_results_json_is_read_beside_rows(run_cli, fails, rows, tmp_path):
    images = {"valid_runtime": [8.0], "valid_psnr": [26.94]}
    span = {**images, "num_parameters": 0.150688, "flops": 9.83, "activations": 41.68}
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"00_SPAN": span}))
    result = run_cli("table", file, "--layout", "ntire")
    assert result.exit_code == 0 and "00_SPAN (published)" in result.stdout
    file.write_text(json.dumps({"51_SPAN": span}))
    assert "has no baseline of a year among its entries" in fails("table", file)
    result = run_cli("table", file, "--protocol", "ntire2025", "--layout", "ntire")
    assert result.exit_code == 0 and "51_SPAN (published)" in result.stdout
    assert "but none is given" in fails("table", rows(), "--protocol", "ntire2025")
    assert "rows of different protocol cannot be compared" in fails(
        "table", rows(), file, "--protocol", "ntire2025"
    )


def test_without_files_the_rows_of_bench_are_read(run_cli, fails, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "there are none in engines" in fails("table")
    assert "srdeploy bench" in fails("select", "--target", "cpu", "--fps", 30)
    (tmp_path / "engines" / "rows").mkdir(parents=True)
    rows().rename(tmp_path / "engines" / "rows" / "rows.jsonl")
    assert "asrn_x4.d1" in run_cli("table").stdout
    assert run_cli("select", "--target", "cpu", "--fps", 30).stdout == "asrn_x4.d1\n"


@pytest.mark.parametrize("columns", [40, 80, 100])
@pytest.mark.parametrize("layout", ["bench", "ntire", "srn5", "imdeception2", "imdeception4"])
def test_text_fits_the_terminal(run_cli, rows, monkeypatch, layout, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    noisy = replace(DEEP, warnings=("single runs vary by 30% (standard deviation over mean)",))
    result = run_cli("table", rows(ROW, noisy), "--layout", layout, "--format", "text")
    assert result.exit_code == 0, result.stderr
    assert all(len(line) <= columns for line in result.stdout.splitlines()), result.stdout
    assert "warnings: 1: single runs vary" in result.stdout
    assert "--format" in result.stdout and "Set5" in result.stdout
