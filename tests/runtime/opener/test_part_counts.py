from __future__ import annotations

from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.parts import PlanEngine
from sr_deploy.runtime.opener.part_counts import counts_of_parts
from sr_deploy.runtime.opener.plan import load_plan


def test_each_graph_of_a_plan_is_counted_on_the_whole_image(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")
    from doubles.part_graph import write_depth_plan

    counts = counts_of_parts(str(write_depth_plan(tmp_path)), (8, 16))
    channels = {"map": 3 * 4, "whole": 3 * 3, "head": 3 * 4, "end": 4 * 3, "b1": 4 * 4}
    for role, weights in channels.items():
        record = counts[role]()
        assert (record["macs"], record["params"]) == (8 * 16 * weights, weights), role
        assert (record["convs"], record["hw"]) == (1, [8, 16])
    assert list(counts) == list(channels)


def test_parts_of_adadsr_add_up(depth_plan_path):
    counts = counts_of_parts(str(depth_plan_path), (16, 24))
    macs = {role: count()["fvcore"]["macs"] for role, count in counts.items()}
    steps = [macs[role] for role in macs if role not in ("map", "whole")]
    assert sum(steps) == macs["whole"]


def test_a_router_and_its_branches(small_router):
    path = str(small_router.path)
    counts = {name: count() for name, count in counts_of_parts(path).items()}
    assert list(counts) == ["router", "tiny_x4.d1", "tiny_x4.d2"]
    assert counts["tiny_x4.d2"]["params"] - counts["tiny_x4.d1"]["params"] == 39_456
    assert all(record["hw"] == [16, 16] for record in counts.values())
    larger = counts_of_parts(path, (32, 32))
    assert larger["tiny_x4.d1"]()["macs"] == 4 * counts["tiny_x4.d1"]["macs"]


def test_engines_cannot_be_counted(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")
    from doubles.part_graph import write_depth_plan

    path = write_depth_plan(tmp_path)
    engine = PlanEngine("cpu", "onnxruntime", "fp32", {}, "srdeploy build-engine", {})
    path.write_text(to_json(replace(load_plan(path), engine=engine)))
    with pytest.raises(InputError, match="engines, which cannot be counted"):
        counts_of_parts(str(path))


def test_a_plan_of_patches_is_counted_on_a_patch(small_router, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs the graphs")
    from sr_deploy.export.plans import plan_from_router

    path = str(plan_from_router(small_router, tmp_path))
    counts = {name: count() for name, count in counts_of_parts(path).items()}
    assert {tuple(record["hw"]) for record in counts.values()} == {(16, 16)}
    with pytest.raises(InputError, match="takes patches of 16x16, not 32x32"):
        counts_of_parts(path, (32, 32))
