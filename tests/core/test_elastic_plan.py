import json
from dataclasses import replace

import pytest
from doubles.plans import with_parts

from sr_deploy.core.budgets import Budget
from sr_deploy.core.elastic_plan import ElasticPlan, read_elastic_plan
from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.quadtree import RATED, TailCost, TileRates

PLAN = ElasticPlan(
    model="e_x4",
    network="n_x4",
    scale=4,
    parent_sha256="0",
    start_macs_px=20,
    gains_macs=1024,
    channels=96,
    tails={"d1": TailCost(1, 19, 2, 4, 39), "d3": TailCost(9, 80, 90, 900, 100)},
    price=0.5,
    rates={"onnxruntime": TileRates(1e-4, dict.fromkeys(RATED, (1e-6, 1e-6)))},
)


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = with_parts(PLAN)
    path = tmp_path / plan.file_name
    path.write_text(to_json(plan))
    assert path.name == "e_x4.elastic.json"
    assert read_elastic_plan(path) == plan
    assert plan.roles() == ["gains", "start", "d1", "d3", "d1.whole", "d3.whole"]
    assert plan.names == ("n_x4.d1", "n_x4.d3") and plan.plain_macs_px == 100


@pytest.mark.parametrize(
    "change, words",
    [
        ({"price": -1}, "its price is -1; expected a number of at least 0"),
        ({"price": float("nan")}, "expected a number below 2"),
        ({"tails": {}}, "depths, margins and costs are inconsistent"),
        ({"tails": {"d1": {"margin": 1}}}, "the key 'px' is missing"),
        ({"start_macs_px": -1}, "depths, margins and costs are inconsistent"),
        (
            {"rates": {"openvino": {"start_ms_px": 1, "ms_of_mac": {"32": [1, 1]}}}},
            "not of its tiles",
        ),
        ({"channels": "many"}, "expected int, found 'many'"),
        ({"network": 5}, "expected str, found 5"),
        ({"graphs": {}}, "was written by an older version"),
        ({"parts": {}}, "its parts are none"),
    ],
)
def test_a_damaged_plan_is_refused(tmp_path, change, words):
    path = tmp_path / "e_x4.elastic.json"
    path.write_text(json.dumps({**json.loads(to_json(with_parts(PLAN))), **change}))
    with pytest.raises(ArtifactError, match=words):
        read_elastic_plan(path)


@pytest.mark.parametrize("d3", [(0, 80, 90, 900, 100), (9, 80, 90, 900, 39), (9, 0, 90, 900, 100)])
def test_depths_cost_more_and_more(tmp_path, d3):
    plan = with_parts(replace(PLAN, tails={**PLAN.tails, "d3": TailCost(*d3)}))
    path = tmp_path / plan.file_name
    path.write_text(to_json(plan))
    with pytest.raises(ArtifactError, match="depths, margins and costs are inconsistent"):
        read_elastic_plan(path)


def test_a_budget_below_the_smallest_depth_is_refused():
    assert PLAN.least_share((320, 320)) == pytest.approx(0.4)
    PLAN.check_budget(0.401)
    PLAN.check_budget(None)
    with pytest.raises(InputError, match="35.0% of 'n_x4.d3' on the whole image is too small") as e:
        PLAN.check_budget(0.35, (320, 320))
    assert e.value.hint == "give 40% or more"
    with pytest.raises(InputError, match="of a tile: 'n_x4.d1' everywhere .* take 50.0%"):
        PLAN.check_budget(0.45, (320, 320), own=0.8)


def test_a_budget_is_of_work_or_of_time():
    with pytest.raises(InputError, match="--max-flops bounds the work and --max-ms the time"):
        Budget(0.5, 10)
    for ms in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="expected a time above 0 ms"):
            Budget(max_ms=ms)
    assert len({str(Budget()), str(Budget(0.5)), str(Budget(max_ms=5))}) == 3
