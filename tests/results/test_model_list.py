from __future__ import annotations

import pytest

from sr_deploy.results.model_list import (
    models_table,
    precisions_table,
    short_licence,
    variants_table,
)

NUMBERS = {
    "psnr_db": 30.375,
    "ssim": 0.86,
    "time_ms": 50.0,
    "fps": 20.0,
    "memory_mib": 180.0,
    "params": 86_339,
    "macs_g": None,
}
MODEL = {
    "name": "net_x4",
    "arch": "asrn",
    "scale": 4,
    "variants": ["d1", "d2", "d3"],
    "licence": "weights: MIT, as their code",
    "trained_on": "DIV2K",
    "notes": "",
    "path": "net_x4.safetensors",
    "measured": {"d1": NUMBERS, "d2": {**NUMBERS, "psnr_db": 31.0, "fps": 10.0}},
}


def test_a_line_has_the_first_and_the_last_measured_variant():
    table = models_table([MODEL], full=False)
    assert table.cells == (("net_x4", "x4", "d1 to d3", "30.38-31.00", "86", "20.0-10.0"),)
    assert "licence of all: weights: MIT, as their code" in table.notes


def test_licences_that_differ_are_a_column_in_short():
    other = {**MODEL, "name": "a_x2", "scale": 2, "licence": "CC0", "measured": {}}
    table = models_table([MODEL, other], full=False)
    assert table.headings[-1] == "licence" and [row[0] for row in table.cells] == ["a_x2", "net_x4"]
    assert [row[-1] for row in table.cells] == ["CC0", "MIT"]
    assert table.cells[0][3:6] == ("", "", ""), "nothing was measured"


def test_all_columns_have_the_whole_licence_and_the_file():
    table = models_table([{**MODEL, "notes": "slow"}], full=True)
    row = dict(zip(table.headings, table.cells[0]))
    assert (row["licence"], row["path"], row["arch"]) == (
        "weights: MIT, as their code",
        "net_x4.safetensors",
        "asrn",
    )
    assert "net_x4: slow" in table.notes


def test_a_variant_that_was_not_measured_has_empty_cells():
    table = variants_table(MODEL)
    assert [row[0] for row in table.cells] == ["net_x4.d1", "net_x4.d2", "net_x4.d3"]
    assert table.cells[2][1:] == ("",) * 7 and "" in table.cells[0]
    assert "licence: weights: MIT, as their code" in table.notes


@pytest.mark.parametrize(
    "text, short",
    [
        ("weights: research and education only, as their images", "research and education only"),
        ("CC BY 4.0", "CC BY 4.0"),
        ("", ""),
    ],
)
def test_short_licence(text, short):
    assert short_licence(text) == short


def test_a_line_for_each_precision_that_was_measured():
    numbers = {"network": "net_x4.d1", "runtime": "openvino", "precision": "int8"}
    numbers = {**numbers, "psnr_db": 30.3, "loss_db": 0.075, "time_ms": 20.0, "fps": 50.0}
    model = {**MODEL, "precisions": [numbers], "precision_conditions": "all in turns"}
    table = precisions_table(model)
    assert table is not None and table.notes == ("all in turns",)
    assert table.cells == (("net_x4.d1", "openvino", "int8", "30.300", "0.075", "20.00", "50.0"),)
    assert precisions_table({**MODEL, "precisions": []}) is None
