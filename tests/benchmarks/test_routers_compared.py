"""The choices, budgets and table of `benchmarks/routers.py`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "routers.py"


@pytest.fixture(scope="module")
def routers():
    spec = importlib.util.spec_from_file_location("routers_compared", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_handicap_brings_a_router_to_the_work(routers):
    odds = [np.array([[0.0, 1.0], [0.0, 2.0]]), np.array([[1.0, 0.0]])]
    errors = [np.array([[400.0, 100.0], [800.0, 100.0]]), np.array([[100.0, 50.0]])]
    choices = routers.Choices(odds, errors, [100, 100], (50, 100), 10)
    row = choices.row()
    assert row["patches"] == [1, 2] and row["work"] == pytest.approx(
        (50 + 200) / 300 + 0.1, abs=1e-4
    )
    psnr_db = [10 * np.log10(255**2 * 100 / e) for e in (200, 100)]
    assert row["psnr_db"] == pytest.approx(np.mean(psnr_db), abs=1e-4)
    less = choices.at_work(0.8)
    assert less["patches"] == [2, 1], "the patch that is least certain of the larger branch"
    assert choices.at_work(2.0)["patches"] == [0, 3]


def test_the_table_names_the_training_and_the_reference(routers):
    common = {"images": "crops", "count": 9, "patch": 64, "work": 0.8, "patches": [1, 2]}
    fitted = {"lambda_reg": 2e-3, "oracle_share": 0.75, "reference_psnr_db": 27.2}
    rows = [
        {**common, "name": "w16", "kind": "branch", "psnr_db": 27.1},
        {**common, "name": "labels", "kind": "labels", "psnr_db": 27.3},
        {**common, "name": "m", "kind": "eq. 4, step 2", "psnr_db": 27.25, **fitted},
    ]
    text = routers.table(rows)
    assert "| w16 | whole image |  |  | 27.100 | 80.0% |  |  |" in text
    assert (
        "| m | eq. 4, step 2 | 2.00e-03 | 75.0% | 27.250 | 80.0% | 1/2 | 27.200 (+0.050) |" in text
    )
    assert text.endswith("- images: crops (9), patches of 64\n- PSNR: y, border 4")
