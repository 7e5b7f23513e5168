"""Adaptive networks in INT8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from sr_deploy.core.errors import ExportError, InputError
from sr_deploy.core.routers import RoutedPlan
from sr_deploy.export.part_forms import PlanForm
from sr_deploy.export.parts import PartSpec, checked_part, write_plan
from sr_deploy.runtime.build import engine_from_onnx
from sr_deploy.runtime.opener import open_session
from sr_deploy.runtime.opener.plan import load_plan

cv2 = pytest.importorskip("cv2")


class Router(nn.Module):
    def forward(self, lr):
        return lr.mean((2, 3))[:, :2] * torch.tensor([1.0, 0.5])


def branch():
    """Two convolutions that leave the pixels as they are, and enlarge them."""
    first, last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
    for conv in (first, last):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    with torch.no_grad():
        first.weight[range(3), range(3), 1, 1] = 1
        first.weight[3:, :, 1, 1] = 0.1
        for i in range(12):
            last.weight[i, i // 4, 1, 1] = 1
    return nn.Sequential(first, nn.ReLU(), last, nn.PixelShuffle(2)).eval()


@pytest.fixture(scope="module")
def network():
    plan = RoutedPlan("r_x2", 2, ("a", "b"), (1, 2), 1, 8, "0", overlap=2)
    given = {"inputs": {"lr": ("N", 3, 8, 8)}, "sizes": {"N": (1, 2, 16)}}
    x, decided = (torch.rand(2, 3, 8, 8),), {"outputs": {"logits": ("N", 2)}}
    parts = {
        "router": checked_part(PartSpec(Router(), x, decisions=("logits",), **decided, **given))
    }
    for name in plan.names:
        spec = PartSpec(branch(), x, outputs={"sr": ("N", 3, 16, 16)}, **given)
        parts[name] = checked_part(spec)
    return plan, parts


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hr")
    rng = np.random.default_rng(0)
    for name in "ab":
        small = rng.integers(0, 256, (24, 32, 3), np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(small, (256, 192)))
    return str(folder)


def operators(path, part):
    graph = onnx.load(str(path.parent / part.file)).graph
    return {node.op_type for node in graph.node}


def test_branches_become_int8_and_the_loss_of_the_whole_network_is_recorded(
    network, pictures, tmp_path
):
    lines = []
    form = PlanForm.from_names("cpu", "int8", calibrate=pictures, max_loss_db=1.0)
    path = write_plan(*network, tmp_path / "graphs", form, lines.append)
    assert path.name == "r_x2.int8.routed.json" and "parts in INT8" in lines[-1]
    plan = load_plan(path)
    record = plan.checks["int8"]
    assert record["parts_in_int8"] == ["a", "b"] and record["loss_db"] <= 1.0
    assert plan.psnr_db_vs_fp32 == record["psnr_db_vs_fp32"] > 30
    assert "DequantizeLinear" in operators(path, plan.parts["a"])
    assert "DequantizeLinear" not in operators(path, plan.parts["router"])
    assert [plan.precision_of(role) for role in plan.roles()] == ["fp32", "int8", "int8"]
    (engines,) = engine_from_onnx(path, tmp_path / "engines", target="cpu")
    made = load_plan(engines)
    assert "int8" in made.engine.precision_obtained
    assert made.checks["accuracy"]["psnr_db_vs_graph"] > 40
    assert made.psnr_db_vs_fp32 == record["psnr_db_vs_fp32"]
    with open_session(engines) as session:
        assert "int8" in session.precision
        y = session.run(np.full((1, 3, 10, 12), 0.5, np.float32))
    np.testing.assert_allclose(y, 0.5, atol=0.02)


def test_a_loss_above_the_limit_is_refused_and_nothing_written(network, pictures, tmp_path):
    form = PlanForm.from_names("cpu", "int8", calibrate=pictures, max_loss_db=-1.0)
    with pytest.raises(ExportError, match="r_x2.int8.routed.json: INT8 loses .* limit is -1 dB"):
        write_plan(*network, tmp_path / "out", form)
    assert list((tmp_path / "out").iterdir()) == []


def test_int8_needs_a_target_and_pictures(network, pictures, tmp_path):
    with pytest.raises(InputError, match="follow the rules of a target, and none is given"):
        PlanForm.from_names(None, "int8", calibrate=pictures)
    with pytest.raises(InputError, match="--calibrate and --data are for INT8, not for fp32"):
        PlanForm.from_names("cpu", None, calibrate=pictures)
    with pytest.raises(InputError, match="calibrated with pictures, and none are given"):
        write_plan(*network, tmp_path, PlanForm.from_names("cpu", "int8"))
