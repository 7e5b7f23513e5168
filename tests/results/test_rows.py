from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.results.rows import (
    BenchmarkRow,
    append_rows,
    drop_partial_line,
    filter_rows,
    read_rows,
)

FULL = BenchmarkRow(
    model="asrn_x4",
    variant="d3",
    backend="torch",
    threads=2,
    input_hw=(256, 512),
    runs=5,
    latency_ms_median=1.5,
    psnr_db=31.9,
    params=10**6,
    uncounted={"matmul": 2},
    latencies_ms=(1.5, 1.25),
    images=(
        {
            "image": "a.png",
            "split": "valid",
            "lr_hw": [4, 5],
            "psnr_db": None,
            "ssim": 1.0,
            "ms": 1.5,
        },
    ),
    warnings=("drift",),
    conditions={"before": {"load_1min": 0.5}, "during": {}},
    error="né",
)


@pytest.mark.smoke
@pytest.mark.smoke
def test_rows_are_appended_and_read_back(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    bare = BenchmarkRow(model="m", variant="", backend="onnxruntime")
    append_rows(path, [FULL])
    append_rows(path, [bare, FULL])
    assert read_rows(path) == [FULL, bare, FULL]
    assert len(path.read_bytes().splitlines()) == 3


def test_a_folder_stands_for_its_rows(tmp_path):
    append_rows(tmp_path / "rows.jsonl", [FULL])
    assert read_rows(tmp_path) == [FULL]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="rows.jsonl: No such file"):
        read_rows(tmp_path / "empty")


def test_missing_is_null_never_zero():
    bare = BenchmarkRow(model="m", variant="", backend="b")
    assert all(
        getattr(bare, k) is None
        for k in (
            "latency_ms_median",
            "mem_peak_mib",
            "params",
            "macs_g",
            "convs",
            "psnr_db",
            "ssim",
        )
    )


TEXT = json.dumps(vars(BenchmarkRow(model="m", variant="", backend="b", latency_ms_median=12.5)))


@pytest.mark.parametrize("text", ["a\nb", "a\u2028b", "a\u0085b", "a\x0cb"])
def test_a_line_break_inside_a_value_stays_inside_it(tmp_path, text):
    row = BenchmarkRow(model="m", variant="", backend="b", error=text)
    append_rows(tmp_path / "r.jsonl", [row, FULL])
    assert read_rows(tmp_path / "r.jsonl") == [row, FULL]


@pytest.mark.parametrize(
    "line, words",
    [
        ("{", "line 2: not valid JSON"),
        ("[]", "line 2: not a row of schema 3"),
        (
            json.dumps({"model": "m", "variant": "", "backend": "b"}),
            "line 2: not a row of schema 3",
        ),
        (
            json.dumps({"model": "m", "variant": "", "backend": "b", "schema": 1}),
            "schema 3; its schema is 1",
        ),
        (
            json.dumps({"model": "m", "variant": "", "backend": "b", "schema": 99}),
            "line 2: not a row of schema 3",
        ),
        (
            json.dumps({"model": "m", "variant": "", "backend": "b", "schema": 2, "psnr": 1}),
            "line 2: unknown key 'psnr'",
        ),
        (
            json.dumps({"model": "m", "variant": "", "schema": 2}),
            "line 2: the key 'backend' is missing",
        ),
        (
            json.dumps({"model": "m", "variant": "", "backend": "b", "schema": 2, "runs": "5"}),
            "line 2: key 'runs': expected int",
        ),
        (
            TEXT.replace("12.5", "NaN"),
            "line 2: not valid JSON: NaN is not allowed; a missing value is null",
        ),
        (TEXT.replace("12.5", "-Infinity"), "line 2: not valid JSON: -Infinity"),
        (
            TEXT.replace("12.5", "-1"),
            "line 2: key 'latency_ms_median': expected more than 0, found -1",
        ),
        ("[" * 100_000, "line 2: not valid JSON"),
        (
            TEXT.replace('"images": []', r'"images": [{"image": "\ud800"}]'),
            "line 2: contains a lone",
        ),
        (TEXT.replace("12.5", "9" * 5000), "line 2: "),
        (TEXT.replace('"images": []', '"images": [3]'), "line 2: key 'images': expected dict"),
        (
            TEXT.replace('"images": []', '"images": [{"image": "a"}]'),
            "line 2: 'split' of an image is missing",
        ),
        (
            TEXT.replace(
                '"images": []',
                '"images": [{"image": "a", "split": "valid", "lr_hw": [1, 1], "psnr_db": null, '
                '"ssim": 1, "ms": "x"}]',
            ),
            "line 2: 'ms' of an image is missing or has the wrong type",
        ),
        (
            TEXT.replace('"deployed": null', '"deployed": {"macs_g": 1}'),
            "line 2: key 'deployed' has no number 'macs'",
        ),
        (json.dumps({"00_SPAN": {"valid_runtime": []}}), "the results.json of a challenge, not"),
        (
            TEXT.replace('"baseline": null', '"baseline": {"ms": 1}'),
            "line 2: key 'baseline' has no 'name'",
        ),
        (
            TEXT.replace('"baseline": null', '"baseline": {"name": "SPAN", "ms": 0}'),
            "line 2: key 'baseline' has no number 'ms' above 0",
        ),
        (
            TEXT.replace('"int8": null', '"int8": {"curve": [{"kept": 1}]}'),
            "line 2: 'curve' of 'int8' has a point without 'kept' and 'loss_db'",
        ),
        (
            TEXT.replace('"int8": null', '"int8": {"curve": 5}'),
            "line 2: 'curve' of 'int8' has a point without 'kept' and 'loss_db'",
        ),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, words):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [FULL])
    with open(path, "a") as f:
        f.write(line + "\n")
    with pytest.raises(InputError, match=words):
        read_rows(path)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(InputError, match="cannot read the rows .*absent"):
        read_rows(tmp_path / "absent.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        append_rows(tmp_path / "file" / "rows.jsonl", [FULL])
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot write .*rows.jsonl"):
        append_rows(tmp_path / "rows.jsonl", [FULL])
    with pytest.raises(InputError, match="cannot read the rows .*rows.jsonl: No such file"):
        read_rows(tmp_path / "rows.jsonl")
    (tmp_path / "file").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not a UTF-8 text file"):
        read_rows(tmp_path / "file")


def test_a_file_as_windows_editors_leave_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode() + b"\r\n  \r\n")
    (row,) = read_rows(path)
    assert row.latency_ms_median == 12.5


@pytest.mark.parametrize("tail, cut", [(TEXT[:40], True), ('{"', True), (TEXT, False), ("", False)])
def test_half_a_line_that_a_killed_run_left_is_taken_away(tmp_path, tail, cut):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [FULL])
    with open(path, "a", encoding="utf-8") as f:
        f.write(tail)
    assert drop_partial_line(path) is cut
    append_rows(path, [FULL])
    assert len(read_rows(path)) == (2 if cut or not tail else 3)
    assert drop_partial_line(path) is False and drop_partial_line(tmp_path / "absent") is False


def test_a_number_that_json_has_not_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        append_rows(
            tmp_path / "rows.jsonl",
            [BenchmarkRow(model="m", variant="", backend="b", ssim=float("nan"))],
        )
    assert not (tmp_path / "rows.jsonl").exists()


A = BenchmarkRow(model="m_x4", variant="c4", backend="torch", threads=2, input_hw=(256, 512))
B = replace(A, variant="c16-nla")


def test_rows_are_chosen_by_their_values():
    graph = replace(A, backend="onnxruntime", input_hw=(8, 8))
    rows = [A, B, graph]
    assert filter_rows(rows, ["backend=torch"]) == [A, B]
    assert filter_rows(rows, ["input_hw=8x8"]) == [graph]
    assert filter_rows(rows, ["variant=c4,c16-nla", "backend=torch", "threads=2"]) == [A, B]
    assert filter_rows(rows, []) == rows
    for condition, words in (
        ("colour=red", "is not a condition"),
        ("backend", "is not a condition"),
        ("backend=trt", "in these rows backend is 'torch'"),
    ):
        with pytest.raises(InputError, match=words):
            filter_rows(rows, [condition])


def test_of_a_sweep_s_cell_the_last_row_counts():
    first, second = replace(A, cell="x", error="crash"), replace(A, cell="x")
    assert filter_rows([first, B, second], []) == [B, second]
