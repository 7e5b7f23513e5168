"""The files as their readers take them; the formats were read off the public harness (see core/protocols.py)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.harness import results_files
from sr_deploy.core.rows import BenchmarkRow

IMAGES = (("valid", 4.0, 30.0), ("valid", 2.0, 28.0), ("test", 1.0, 27.0), ("test", 2.0, 26.0))
ROW = BenchmarkRow(
    model="asrn_x4", variant="d3", backend="torch", protocol="ntire2025", latency_ms_mean=2.25, params=165_251, macs_g=15.6751,
    acts_m=157.2864, convs=24, mem_peak_mib=1038.7891, set="V", test_set="T", metric="rgb", psnr_db=29.0,
    images=tuple({"image": "a", "split": s, "lr_hw": [8, 8], "psnr_db": p, "ssim": 0.9, "ms": ms} for s, ms, p in IMAGES),
)  # fmt: skip


def parsed(text):
    """What someone would read results.txt with: columns between tabs."""
    head, *lines = text.splitlines()
    names = [h.strip() for h in head.split("\t")]
    return names, [dict(zip(names, (cell.strip() for cell in line.split("\t")))) for line in lines]


def test_results_txt_has_the_harness_s_columns():
    names, (first, second) = parsed(results_files([ROW, replace(ROW, variant="d4")])["results.txt"])
    assert names == [
        "Model", "Val PSNR", "Test PSNR", "Val Time [ms]", "Test Time [ms]", "Ave Time [ms]", "Params [M]", "FLOPs [G]", "Acts [M]",
        "Mem [M]", "Conv",
    ]  # fmt: skip
    assert first == dict(zip(names, ["asrn_x4.d3", "29.00", "26.50", "3.00", "1.50", "2.25", "0.165", "15.68", "157.29", "1038.79", "24"]))
    assert second["Model"] == "asrn_x4.d4"
    assert results_files([ROW])["results.txt"].splitlines()[0].startswith("Model" + " " * 15 + "\tVal PSNR  \tTest PSNR \t")


def test_without_a_test_set_its_columns_are_left_out():
    row = replace(ROW, test_set="", images=ROW.images[:2])
    names, (first,) = parsed(results_files([row])["results.txt"])
    assert names == ["Model", "Val PSNR", "Val Time [ms]", "Params [M]", "FLOPs [G]", "Acts [M]", "Mem [M]", "Conv"]
    assert len(parsed(results_files([row, ROW])["results.txt"])[0]) == 8, "one that lacks a test set decides"


def test_results_json_has_the_harness_s_keys_and_lists():
    (name, entry), = json.loads(results_files([ROW])["results.json"]).items()  # fmt: skip
    assert name == "asrn_x4.d3"
    published = {
        "valid_runtime", "valid_psnr", "valid_memory", "valid_ave_runtime", "valid_ave_psnr", "test_runtime", "test_psnr", "test_memory",
        "test_ave_runtime", "test_ave_psnr", "activations", "num_conv", "flops", "num_parameters",
    }  # fmt: skip
    assert published <= set(entry)
    assert (entry["valid_runtime"], entry["test_psnr"]) == ([4.0, 2.0], [27.0, 26.0])
    assert entry["valid_ave_runtime"] == sum(entry["valid_runtime"]) / 2 and entry["valid_ave_psnr"] == 29
    assert (entry["num_conv"], entry["num_parameters"]) == (24, 0.165251)
    # The lines the harness itself makes of such a file.
    assert f"{entry['valid_memory']:2.2f} {entry['flops']:2.2f} {entry['num_conv']:4d}" == "1038.79 15.68   24"


def test_what_was_not_measured_is_null_and_blank():
    files = results_files([replace(ROW, params=None, mem_peak_mib=None, convs=None)])
    entry = json.loads(files["results.json"])["asrn_x4.d3"]
    assert entry["num_parameters"] is None and entry["valid_memory"] is None and entry["num_conv"] is None
    assert (parsed(files["results.txt"])[1][0]["Params [M]"], parsed(files["results.txt"])[1][0]["Conv"]) == ("", "")


def test_rows_of_two_years_are_not_mixed():
    with pytest.raises(InputError, match="different protocol"):
        results_files([ROW, replace(ROW, protocol="ntire2024")])
